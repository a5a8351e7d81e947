"""A node so large that what it advertises fits no single Prefect variable: size has no effect."""

from __future__ import annotations

import dataclasses
import json
import uuid

import pytest
from prefect.client.orchestration import get_client
from prefect.types import MAX_VARIABLE_VALUE_LENGTH

from trimtab_work_pools.advertise import Advertisement, Board, fleet_from
from trimtab_work_pools.ledger import Holding
from trimtab_work_pools.resources import Demand, Gpu, Grant, Node, Placement
from trimtab_work_pools.rules.parts import VALUE_BYTES
from trimtab_work_pools.server.notices import Notices
from trimtab_work_pools.worker.control_plane import ControlPlane
from trimtab_work_pools.worker.peers import Peers

from .conftest import Pool, until

SLICES = 16 * 7


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def large(expires_s: float, runs: int = SLICES) -> Advertisement:
    """16 GPUs of 7 MIG slices, each with a run; nothing of it is like another, so that it cannot be packed well."""
    name = "a-host-with-a-long-name.example.com"
    gpus = tuple(
        Gpu(f"MIG-{uuid.uuid4()}", index, "NVIDIA H200", 16_384 + index, mig_profile="1g.18gb", numa_node=index // 56)
        for index in range(SLICES)
    )
    digests = frozenset(uuid.uuid4().hex[:16] for _ in range(100))
    node = Node(name, 256_000, 2_000_000, gpus, 30_000_000, labels=(("region", "eu-1"),), cached_digests=digests)
    held = tuple(
        Holding(
            str(uuid.uuid4()),
            Demand(
                gpus=1,
                gpu_memory_mib=10_000 + index,
                gpu_mig_profile="1g.18gb",
                gpu_models=frozenset({"NVIDIA H200", f"NVIDIA H{index}"}),
                cpu_milli=1000 + index,
                memory_mib=9000 + index,
                node_labels=(("region", frozenset({"eu-1", f"eu-{index}"})), (f"tier-{index}", frozenset({"gold"}))),
                reads=frozenset(uuid.uuid4().hex[:16] for _ in range(4)),
                team=f"team-{uuid.uuid4()}",
                expected_s=60.0 + index / 7,
            ),
            Placement(name, (Grant(index, 1000, 10_000 + index),), 1000 + index, 9000 + index),
            expires_s - index / 3,
            expires_s - index / 7,
            uuid.uuid4().hex,
        )
        for index in range(runs)
    )
    return Advertisement("large", node, held, expires_s, host=uuid.uuid4().hex[:12])


def test_the_limit_is_the_server_s() -> None:
    assert VALUE_BYTES == MAX_VARIABLE_VALUE_LENGTH


@pytest.mark.anyio
async def test_112_slices_with_112_runs_are_advertised_renewed_changed_and_withdrawn(pool: Pool) -> None:
    async with get_client() as client:
        writer, reader = ControlPlane(client, pool.name), ControlPlane(client, pool.name)
        said = large(writer.now_s() + 30)
        await writer.publish(said)
        assert await reader.board() == Board((said,))
        assert len(fleet_from((said,)).running) == SLICES
        written = await values(reader)
        assert len(written) > 3
        later = dataclasses.replace(said, expires_s=said.expires_s + 10)
        await writer.publish(later)
        assert await reader.board() == Board((later,))
        changed = [name for name, value in (await values(reader)).items() if written[name] != value]
        assert changed == [reader.notices.name_of("large")], "a renewal writes one variable"
        less = large(later.expires_s, runs=80)
        await writer.publish(less)
        assert await reader.board() == Board((less,))
        assert len(await values(reader)) < len(written), "no part of before is left"
        few = dataclasses.replace(less, holdings=less.holdings[:1], node=Node("small", 1000, 1000))
        await ControlPlane(client, pool.name).publish(few)  # the worker was started again
        assert await reader.board() == Board((few,))
        assert len(await values(reader)) == 1
        await writer.publish(said)
        await writer.withdraw("large")
        assert await values(reader) == {}


@pytest.mark.anyio
async def test_a_writer_that_ends_between_two_parts_leaves_what_was_known(pool: Pool) -> None:
    async with get_client() as client:
        control, peers = ControlPlane(client, pool.name), Peers("own", pool.name, ControlPlane(client, pool.name))
        before = large(control.now_s() + 30)
        await control.publish(before)
        assert await peers.now(leads=True) == [before]

        class Gone(Exception):
            """The writer ends here."""

        async def until_the_head(method: str, path: str, body: object, missing_is_fine: bool = False) -> object:
            if path.endswith(control.notices.name_of("large")):
                raise Gone
            return await control._call(method, path, body, missing_is_fine)  # type: ignore[arg-type]

        broken = Notices(until_the_head, pool.name)  # type: ignore[arg-type]
        after = large(control.now_s() + 40)
        with pytest.raises(Gone):
            await broken.publish(after)
        assert await control.board() == Board((before,)), "the first part tells of those of before"
        part = next(name for name in await values(control) if f"-{before.to_parts().generation[:8]}-" in name)
        await client._client.delete(f"/variables/name/{part}")
        board = await control.board()
        assert board.advertisements == ()
        assert [sign.worker for sign in board.silent] == ["large"], "it is alive"
        peers.roll_called({"work_pool": pool.name, "worker": "leader", "roll": ""})
        peers.heard({"work_pool": pool.name, "worker": "other", "advertisement": "changed"})
        assert await peers.now(leads=True) == [before], "what was known of it is kept"
        assert await peers.now(leads=False) == [before]
        await control.publish(after)
        assert await control.board() == Board((after,))
        assert len(await values(control)) == 1 + len(after.to_parts().rest), "of the broken try nothing is left"


async def values(control: ControlPlane) -> dict[str, str]:
    found = await control.notices._values([f"trimtab-fleet:{control._pool}"])
    assert all(len(json.dumps(value)) <= VALUE_BYTES for value in found.values())
    return found


def test_a_worker_whose_runs_ask_for_much_goes_on_picking(pool: Pool) -> None:
    """Before, the server refused its advertisement (422), and it picked nothing more."""
    reads = [uuid.uuid4().hex * 2 for _ in range(800)]
    deployment = pool.deploy("any", cpus=0.01, reads=reads, labels={"tier": [f"level-{n}" for n in range(60)]})
    pool.worker("a", node_cpus=8, node_labels="tier=level-7")
    runs = [pool.run(deployment, seconds=12) for _ in range(5)]
    for run_id in runs:
        pool.await_started(run_id)
    held = until(lambda: fleet_holds(pool, runs), 20, f"all are advertised; {pool.logs()}")
    assert held
    assert "refuses" not in pool.logs()


def fleet_holds(pool: Pool, runs: list[str]) -> bool:
    body = {"variables": {"tags": {"all_": [f"trimtab-fleet:{pool.name}"]}}}
    rows = pool.client._client.post("/variables/filter", json=body).json()
    board = Board.read({row["name"]: row["value"] for row in rows})
    return len(rows) > 1 and {holding.run_id for one in board.advertisements for holding in one.holdings} == set(runs)
