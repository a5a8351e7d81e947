"""Words of errors as frameworks, kernel and drivers print them: each has one right answer, and none beats a wrong kind.

`texts.tsv` has short ones (a backslash and n for a new line), `logs/CAUSE--name.log` whole logs; `(none)`: nothing that
a worker has a name for, or nothing at all.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.diagnosis import Cause, Confidence, of_end, of_log

CASES = Path(__file__).parents[1] / "cases" / "diagnosis"
TEXTS = [line.split("\t", 1) for line in (CASES / "texts.tsv").read_text().splitlines()]
LOGS = sorted((CASES / "logs").glob("*.log"))
PREFIXES = [
    "",
    "[rank3]: ",
    "2026-01-02 10:11:12,131 ERROR ",
    "10:11:12.131 | ERROR   | Task run 'fit-0' - ",
    "2026-01-02T10:11:12.131Z stderr F ",
    "(RayTrainWorker pid=77, ip=10.0.0.7) ",
]


def name_of(cause: Cause | None) -> str:
    return cause.value if cause else "(none)"


@pytest.mark.parametrize(("right", "text"), TEXTS, ids=[text[:60] for _, text in TEXTS])
def test_a_text(right: str, text: str) -> None:
    text = text.replace("\\n", "\n").replace("\\t", "\t")
    found = of_log(text)
    assert name_of(found.cause) == right, found
    if found.cause:
        assert found.line
        assert found.line_number
        assert " ".join(found.line.rstrip(".").split())[:40] in " ".join(text.split())


@pytest.mark.parametrize("log", LOGS, ids=[path.stem for path in LOGS])
def test_a_log(log: Path) -> None:
    found = of_log(log.read_text())
    assert name_of(found.cause) == log.name.split("--")[0], found
    if found.line_number:
        assert found.line[:30] in " ".join(log.read_text().splitlines()[found.line_number - 1].split())


@given(st.sampled_from([text for _, text in TEXTS]), st.sampled_from(PREFIXES), st.integers(0, 3))
def test_what_a_logger_puts_before_it_changes_nothing(text: str, prefix: str, before: int) -> None:
    """As long as the text has no level of its own, and is one line."""
    right = {text: right for right, text in TEXTS}[text]
    if "\\n" in text or right == "(none)" or text.startswith(("Killed", "bash", "/entry", "Fatal")):
        return
    found = of_log("a line\n" * before + prefix + text)
    assert name_of(found.cause) == right
    assert found.line_number == before + 1


@given(st.text(), st.integers(-70, 300) | st.none())
def test_nothing_makes_it_raise(text: str, exit_code: int | None) -> None:
    of_end(text, exit_code, None)


@given(st.binary(max_size=3000))
def test_junk_says_nothing(junk: bytes) -> None:
    assert of_log(junk.decode("utf-8", "replace")).cause is None


def out_of_memory() -> None:
    np.empty(1 << 50)


def from_it() -> None:
    try:
        out_of_memory()
    except MemoryError as error:
        raise RuntimeError("the step failed") from error


def while_it() -> None:
    try:
        out_of_memory()
    except MemoryError:
        raise RuntimeError("could not clean up")  # noqa: B904 - that is the case


def own_while_it() -> None:
    try:
        out_of_memory()
    except MemoryError:
        1 / 0  # noqa: B018


def in_a_group() -> None:
    try:
        out_of_memory()
    except MemoryError as error:
        raise ExceptionGroup("two of them", [ValueError("other"), ExceptionGroup("one", [error])]) from None


@pytest.mark.parametrize(
    ("fails", "cause"),
    [
        (out_of_memory, Cause.HOST_MEMORY),
        (from_it, Cause.HOST_MEMORY),
        (while_it, Cause.HOST_MEMORY),
        (own_while_it, None),
        (in_a_group, Cause.HOST_MEMORY),
    ],
)
@pytest.mark.parametrize("prefix", ["", "[rank1]: ", "ERROR 05-07 02:14:18 [core.py:396] "])
def test_the_traceback_of_a_real_exception(fails: Callable[[], None], cause: Cause | None, prefix: str) -> None:
    try:
        fails()
    except BaseException as error:  # noqa: BLE001
        lines = "".join(traceback.format_exception(error)).splitlines()
    assert of_log("\n".join(prefix + line for line in lines)).cause is cause


@pytest.mark.parametrize(
    ("text", "exit_code", "signal", "cause", "confidence"),
    [
        ("", 137, None, Cause.HOST_MEMORY, Confidence.LOW),
        ("", -9, None, Cause.HOST_MEMORY, Confidence.LOW),
        ("", None, 9, Cause.HOST_MEMORY, Confidence.LOW),
        ("Killed", 137, None, Cause.HOST_MEMORY, Confidence.HIGH),
        ("torch.OutOfMemoryError: CUDA out of memory.", 137, None, Cause.GPU_MEMORY, Confidence.HIGH),
        ("", 139, None, Cause.BAD_EXIT, Confidence.MEDIUM),
        ("", 143, None, None, None),
        ("", 1, None, None, None),
        ("ERROR CUDA out of memory", 0, None, None, None),
        ("ValueError: odd", 1, None, None, None),
    ],
)
def test_log_and_exit_code_together(
    text: str, exit_code: int | None, signal: int | None, cause: Cause | None, confidence: Confidence | None
) -> None:
    found = of_end(text, exit_code, signal)
    assert (found.cause, found.confidence) == (cause, confidence)
