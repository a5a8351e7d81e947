"""A pytest plugin for Prefect's own tests: our worker classes in place of Prefect's, before its tests import them.

`BaseWorker`, `ProcessWorker`, `DockerWorker` are then GpuWorker over BaseWorker, GpuProcessWorker, GpuDockerWorker.
With TRIMTAB_IN_PLACE=0 they stay Prefect's: that is the baseline. test_prefect_suite.py says how it is run.

What is done for Prefect's tests beside that, since they do what no pool does:
- they give a worker a pool of another type: the check of the type, which would refuse it, is left out;
- they call `run()` with a run that nobody picked: it is given a claim on nothing, and told what a run is told;
- they ask a worker for its runs: it plans only then, and not by itself when something happens;
- the host is made large (1,000 CPUs), so that nothing waits for room, and its claims are in a folder of each test.
"""

from __future__ import annotations

import abc
import contextlib
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import prefect
import pytest
from trimtab_exceptions import DOES_NOT_APPLY, FAILS_WITH_PREFECTS_TOO

SOURCE = Path(os.environ["TRIMTAB_PREFECT_SOURCE"]).resolve()
IN_PLACE = os.environ.get("TRIMTAB_IN_PLACE", "1") != "0"
_PATIENCE_S = 90.0
_NODE = {"TRIMTAB_NODE_CPUS": "1000", "TRIMTAB_NODE_MEMORY_MIB": "4000000"}


def _make_prefect_testable() -> None:
    """Its tests expect to lie beside its code, `uvicorn` on the path, and a machine that starts a server in 20 s."""
    import prefect.testing.fixtures as fixtures

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    prefect.__development_base_path__ = SOURCE
    patient = types.ModuleType("anyio")
    patient.__dict__.update(vars(anyio))
    patient.__dict__["move_on_after"] = lambda delay, **more: anyio.move_on_after(max(delay, _PATIENCE_S), **more)
    fixtures.anyio = patient  # type: ignore[attr-defined]


def _put_in_place() -> None:
    import prefect.workers.base as base
    import prefect.workers.process as process

    from trimtab_work_pools.worker import GpuProcessWorker
    from trimtab_work_pools.worker.gpu_worker import GpuWorker

    class GpuBaseWorker(GpuWorker, base.BaseWorker[base.C, base.V, base.R], abc.ABC):  # type: ignore[misc]
        """What a class of its own on our common base would be."""

    _loosen()
    base.BaseWorker = GpuBaseWorker  # type: ignore[misc]
    process.ProcessWorker = GpuProcessWorker  # type: ignore[misc]
    try:
        import prefect_docker.worker as docker
    except ImportError:
        return
    from trimtab_work_pools.worker import GpuDockerWorker

    docker.DockerWorker = GpuDockerWorker


def _loosen() -> None:
    """See above: pools of any type, and runs that were not picked."""
    from trimtab_work_pools.resources import Demand, Placement
    from trimtab_work_pools.worker import admission
    from trimtab_work_pools.worker.dispatcher import Dispatcher
    from trimtab_work_pools.worker.gpu_worker import GpuWorker
    from trimtab_work_pools.worker.host_claims import HostClaim
    from trimtab_work_pools.worker.picking import Queued

    claim_of, pool_type_matters = Dispatcher.claim, admission.admit

    def claim(self: Dispatcher, run_id: UUID) -> HostClaim:
        if str(run_id) not in self._mine:
            node = self._node
            made = self._claim_of(node, Queued(str(run_id), Demand(), 0.0), Placement(node.name, ()))
            self._claims.acquire(made)
            self._mine[str(run_id)] = made
        return claim_of(self, run_id)

    async def admit(client: Any, control: Any, pool: str, worker_type: str, own: Any) -> None:
        from prefect.exceptions import ObjectNotFound

        with contextlib.suppress(ObjectNotFound):
            worker_type = (await client.read_work_pool(pool)).type
        await pool_type_matters(client, control, pool, worker_type, own)

    async def listen(self: GpuWorker) -> None:
        await anyio.sleep(0)

    GpuWorker._listen = listen  # type: ignore[method-assign]
    Dispatcher.claim = claim  # type: ignore[method-assign]
    import trimtab_work_pools.worker.dispatcher as module

    module.admit = admit  # type: ignore[attr-defined]


_make_prefect_testable()
if IN_PLACE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _put_in_place()


@pytest.fixture(autouse=True)
def host_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims of one test are nothing to the next."""
    monkeypatch.setenv("TRIMTAB_HOST_DIR", str(tmp_path_factory.mktemp("host")))
    for name, value in _NODE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TRIMTAB_LAUNCH", os.environ.get("TRIMTAB_LAUNCH", "process"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is not run, with the reason."""
    for item in items:
        name = item.nodeid.partition("::")[2].partition("[")[0]
        why = FAILS_WITH_PREFECTS_TOO.get(name) or (DOES_NOT_APPLY.get(name) if IN_PLACE else None)
        if why:
            item.add_marker(pytest.mark.skip(reason=why))
