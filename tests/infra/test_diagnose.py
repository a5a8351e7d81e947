"""`trimtab diagnose` as a person or a script calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CASES = Path(__file__).parents[1] / "cases" / "diagnosis" / "logs"
OOM = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB."


def ask(*arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "trimtab_infra", "diagnose", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False, timeout=60)


def answer(*arguments: str, given: bytes = b"") -> dict[str, Any]:
    done = ask("--json", *arguments, given=given)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"\n") == 1
    found = json.loads(done.stdout)
    assert list(found) == ["cause", "line", "line_number", "confidence", "next"]
    return dict(found)


def test_a_person_reads_cause_evidence_and_what_is_next() -> None:
    done = ask(str(CASES / "OutOfGpuMemory--torchrun-two-ranks.log"))
    said = done.stdout.decode()
    assert done.returncode == 0
    assert [line.split()[0] for line in said.splitlines()[:4]] == ["cause", "evidence", "confidence", "next"]
    assert "OutOfGpuMemory" in said
    assert "(line 9)" in said
    assert "larger: A worker starts it again" in said


def test_a_program_reads_one_line() -> None:
    assert answer("-", given=b"fine\n" + OOM) == {
        "cause": "OutOfGpuMemory",
        "line": OOM.decode(),
        "line_number": 2,
        "confidence": "high",
        "next": "larger",
    }
    assert answer("-")["cause"] is None
    assert answer("--exit-code", "137", "-")["cause"] == "OutOfMemory"
    assert answer("--exit-code=-9", "-")["cause"] == "OutOfMemory"
    assert answer("--signal", "kill", "-", given=b"Killed\n")["confidence"] == "high"
    assert answer("--exit-code", "0", "-", given=OOM)["cause"] is None


def test_large_and_odd_files(tmp_path: Path) -> None:
    large = tmp_path / "large.log"
    with large.open("wb") as file:
        for _ in range(40):
            file.write(b"step 1 loss 0.3, GPU memory 3 GiB\n" * 20_000)
        file.write(OOM)
    found = answer(str(large))
    assert (found["cause"], found["line_number"]) == ("OutOfGpuMemory", 800_001)
    junk = tmp_path / "junk"
    junk.write_bytes(bytes(range(256)) * 4000 + b"\r\n\x1b[31m" + OOM + b"\x1b[0m\r\n\x00\xff")
    assert answer(str(junk))["cause"] == "OutOfGpuMemory"
    one_line = tmp_path / "line"
    one_line.write_bytes(b"out of memory error cuda " * 400_000)
    answer(str(one_line))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such.log"], "no-such.log cannot be read: No such file or directory"),
        (["/tmp"], "/tmp is a folder: give the log file itself"),
        (["--signal", "SIGNONE", "-"], "there is no signal 'SIGNONE'"),
        (["--exit-code", "many", "-"], "Invalid value for '--exit-code'"),
        (["--exit-code", "999", "-"], "Invalid value for '--exit-code'"),
        ([], "Missing argument 'LOGFILE'"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], said: str) -> None:
    done = ask("--json", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
