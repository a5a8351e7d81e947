"""What a container prints is shown whole, however it arrives; no engine is needed."""

from __future__ import annotations

import pytest

from trimtab_work_pools.worker.container_output import Shown

TEXT = "first\n" + "\u00e4\u4e16\U0001f600 " * 50 + "\nthe last line, without an end"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("arrived", [0, 1, 9, 200, 10_000])
def test_what_did_not_arrive_is_read_again(size: int, arrived: int) -> None:
    """Cut anywhere, also amid a character, and broken off after any number of bytes."""
    sent = TEXT.encode()
    said: list[str] = []
    asked: list[int] = []

    def everything() -> bytes:
        asked.append(1)
        return sent

    shown = Shown(said.append)
    first = sent[:arrived]
    shown.follow(first[start : start + size] for start in range(0, len(first), size))
    shown.complete(sent[-20:], everything)
    assert "".join(said) == TEXT + "\n"
    assert bool(asked) == (arrived < len(sent))


def test_what_is_no_text_is_marked_and_nothing_is_nothing() -> None:
    said: list[str] = []
    shown = Shown(said.append)
    shown.follow([b"a\xff\xfeb\n", b"\xe4"])
    shown.complete(b"", lambda: b"")
    assert "".join(said) == "a\ufffd\ufffdb\n\ufffd\n"
    said.clear()
    Shown(said.append).complete(b"", lambda: b"")
    assert said == []
