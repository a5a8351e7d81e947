"""A run that has ended names the node and the GPUs of every attempt; `trimtab runs` finds who had a GPU."""

from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

import nvml_driver
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.workers.process import ProcessWorker

from trimtab_infra.device_history import read_since
from trimtab_infra.errors import UserError
from trimtab_work_pools.runs.device_record import attempts_of
from trimtab_work_pools.worker import prefect_hooks

from .conftest import Pool, until

pytestmark = pytest.mark.timeout(300)


def trimtab(pool: Pool, *command: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "trimtab")
    return subprocess.run([program, *command], env=pool.env, capture_output=True, text=True, timeout=60)


def test_a_run_names_its_devices_for_good(pool: Pool, tmp_path: Path) -> None:
    try:
        driver = nvml_driver.Driver(nvml_driver.build(tmp_path), tmp_path)
    except nvml_driver.NoCompiler as error:
        pytest.skip(f"the stand-in NVIDIA driver cannot be built: {error}")
    driver.set(nvml_driver.gpu(0), nvml_driver.gpu(1))
    body = {"name": f"trimtab-policy-{pool.name}", "value": {"min_run_s": 0.5}}
    pool.client._client.post("/variables/", json=body)
    modest, urgent = pool.deploy("modest", gpus=2, preemptible=True), pool.deploy("urgent", gpus=2, priority=5)
    pool.worker("node-a", driver.variables())
    first = pool.run(modest, seconds=6)
    pool.await_started(first)
    second = pool.run(urgent, seconds=0.5)
    for run_id in (first, second):
        pool.await_state(run_id, "Completed", 120)

    def ended() -> bool:
        return all(one.to_s for run_id in (first, second) for one in attempts_of(pool.state(run_id).labels))

    until(ended, 20, "the ends are written down")
    attempts = attempts_of(pool.state(first).labels)
    assert [(one.number, one.node, one.gpus) for one in attempts] == [(n, "node-a", ("GPU-0", "GPU-1")) for n in (1, 2)]
    (between,) = attempts_of(pool.state(second).labels)
    assert attempts[0].from_s <= (attempts[0].to_s or 0) <= between.from_s <= (between.to_s or 0) <= attempts[1].from_s

    def logged() -> list[str]:
        found = pool.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[uuid.UUID(first)])))
        return [one.message for one in found if "given " in one.message]

    assert (
        until(lambda: len(logged()) == 2 and logged(), 20, "the lines in its log")
        == ["given GPU-0, GPU-1 on node-a"] * 2
    )
    listed = trimtab(pool, "runs", "--gpu", "GPU-1", "--since", "1h").stdout
    assert listed.count(first) == 2
    assert listed.count(second) == 1
    assert "node-a" in listed
    assert (
        "3 attempts on GPU GPU-1 and node node-a" in trimtab(pool, "runs", "--gpu", "GPU-1", "--node", "node-a").stdout
    )
    assert "0 attempts on GPU GPU-9" in trimtab(pool, "runs", "--gpu", "GPU-9").stdout


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ((), "say which: --gpu UUID, --node NAME"),
        (("--node", "a", "--since", "soon"), "--since 'soon' must be so many"),
    ],
)
def test_what_cannot_be_asked_is_said(pool: Pool, command: tuple[str, ...], said: str) -> None:
    done = trimtab(pool, "runs", *command)
    assert done.returncode == 2
    assert said in done.stderr


def test_since() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert read_since("90m", now) == datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
    assert read_since("2w", now) == datetime(2026, 2, 15, 12, tzinfo=UTC)
    assert read_since("2026-02-28", now) == datetime(2026, 2, 28, tzinfo=UTC)
    for wrong in ("", "d", "1y", "-1h", "9999999d"):
        with pytest.raises(UserError, match="--since"):
            read_since(wrong, now)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_prefect_s_own_labels_are_written_with_ours(pool: Pool) -> None:
    """In one call instead of two; fails when Prefect's worker begins to write others."""
    run_id = uuid.UUID(pool.run(pool.deploy("any")))
    worker = ProcessWorker(pool.name, name="w")
    async with get_client() as client:
        worker._client, worker._work_pool = client, await client.read_work_pool(pool.name)
        before = (await client.read_flow_run(run_id)).labels
        await worker._give_worker_labels_to_flow_run(run_id)
        after = (await client.read_flow_run(run_id)).labels
    assert {name: value for name, value in after.items() if name not in before} == prefect_hooks.worker_labels(worker)
