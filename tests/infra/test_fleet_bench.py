"""`trimtab bench fleet` finds nothing lost and nothing doubled, undisturbed and under random faults."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from trimtab_infra.bench.fleet_parts import Stretch, violations

ROOT = Path(__file__).parent.parent.parent


def stretch(run: str, from_s: float, to_s: float, share: float = 1.0, ended: bool = True, gpu: str = "G") -> Stretch:
    return Stretch(run, "n", (gpu,), share, from_s, to_s, ended)


def test_what_is_wrong_is_found() -> None:
    fine = [stretch("a", 0, 1), stretch("b", 1, 2, 0.5), stretch("c", 1.5, 3, 0.5), stretch("d", 3, 4, ended=False)]
    assert violations([*fine, stretch("d", 5, 6)], {"a", "b", "c", "d"}) == []
    assert violations(fine, {"a", "b", "c", "d"}) == ["run d came to its end 0 times"]
    assert violations([stretch("a", 0, 1), stretch("a", 2, 3)], {"a"}) == ["run a came to its end 2 times"]
    assert "was given 1.5 times" in violations([stretch("a", 0, 2), stretch("b", 1, 2, 0.5)], {"a", "b"})[0]
    twice = violations([stretch("a", 0, 2, ended=False), stretch("a", 1, 3, gpu="H")], {"a"})
    assert twice == ["run a ran twice at once"]


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.skipif(shutil.which("initdb") is None, reason="PostgreSQL (initdb) is not installed")
@pytest.mark.parametrize("more", [["--runs", "300"], ["--runs", "200", "--faults", "7"]], ids=["calm", "faults"])
def test_a_fleet_loses_nothing_and_doubles_nothing(outside: dict[str, str], more: list[str]) -> None:
    done = subprocess.run(
        ["trimtab", "bench", "fleet", *more], capture_output=True, text=True, env=outside, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (found["violations"], found["left"]) == (0, 0)
    assert bool(found["faults"]) == ("--faults" in more)
