"""Deciding in every worker: claims stay exclusive, and what it costs is bounded."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from trimtab_infra.bench import app
from trimtab_work_pools.simulation.decentral import Setting, arrivals, simulate

SMALL = {"horizon_s": 900.0, "warm_up_s": 300.0}


def test_one_worker_is_the_central_planner_but_for_its_poll_phase() -> None:
    alone, central = simulate(Setting(1, 0.0, **SMALL)), simulate(Setting(1, 0.0, central=True, **SMALL))
    assert alone.lost_claims == 0
    assert alone.allocated == pytest.approx(central.allocated, abs=0.02)


def test_fresh_snapshots_lose_no_claim_and_stale_ones_do() -> None:
    assert simulate(Setting(12, 0.0, **SMALL)).lost_claims == 0
    assert simulate(Setting(12, 20.0, **SMALL)).lost_claims > 0


def test_the_same_setting_gives_the_same_outcome() -> None:
    assert simulate(Setting(6, 10.0, **SMALL)) == simulate(Setting(6, 10.0, **SMALL))


def test_stale_workers_lose_little_allocation() -> None:
    central = simulate(Setting(16, 0.0, central=True, gangs=False, **SMALL))
    spread = simulate(Setting(16, 10.0, gangs=False, **SMALL))
    assert 100 * (central.allocated - spread.allocated) < 3.0


def test_arrivals_keep_to_the_fleet() -> None:
    assert max(run.width for _, run in arrivals(Setting(1, 0.0))) <= 8
    assert all(run.nodes == 1 for _, run in arrivals(Setting(4, 0.0, gangs=False)))


def test_command() -> None:
    result = CliRunner().invoke(app, ["decentral", "--workers", "1", "--staleness", "0,5"])
    assert result.exit_code == 0, result.output
    assert [row["staleness_s"] for row in json.loads(result.output.splitlines()[-1])["settings"]] == [0, 5]
    assert CliRunner().invoke(app, ["decentral", "--workers", "none"]).exit_code == 2
