"""When something was read from the server last, and whether it is to be read again. Pure."""

from __future__ import annotations

__all__ = ["Freshness"]


class Freshness:
    """Of one thing that is read now and then. Only a call that was answered counts, and news that came while the answer
    was on its way makes it due again. Times are seconds of any one clock.
    """

    def __init__(self) -> None:
        self.read_s = 0.0
        self._news, self._known = 1, 0

    def spoil(self) -> None:
        """It has changed: what was read before, or is being read now, does not count."""
        self._news += 1

    def due(self, now_s: float, every_s: float) -> bool:
        """Whether it has changed, or was read longer than `every_s` ago."""
        return self._known != self._news or now_s - self.read_s > every_s

    @property
    def asked(self) -> int:
        """To be taken before the call, for `answered`."""
        return self._news

    def answered(self, asked: int, now_s: float) -> None:
        """The call that was made at `asked` has been answered; it was made at `now_s`."""
        self._known, self.read_s = asked, now_s
