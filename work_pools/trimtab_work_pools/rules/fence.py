"""When the runs of a worker that the server has not heard of for long have to stand still, and when they go on.

A peer starts a run anew when nobody has held it for `host_lost_s`. So a worker that could not say for nearly as long
that it holds its runs fences them: they stand still, and keep their memory and devices, before any second copy may
begin. When the server is back, a run that is still its own goes on; one that was given to somebody else is ended. A
server that is away so only pauses what runs, and a host that was cut off never computes a second copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Step", "Verdict", "ask_after_s", "fence", "fence_after_s", "guarded", "renew_after_s"]

_MARGIN_S, _MARGIN_SHARE = 60.0, 0.25
_SETTLES_S = 15.0
"""A peer that saw the run as lost a moment ago has written that down by then."""
_SAME_S = 3.0
"""States of before the fence may bear a time that is so much later: clocks are told in whole seconds."""
_HELD = ("PENDING", "RUNNING", "PAUSED")


class Step(StrEnum):
    STAY = "stay"
    FREEZE = "freeze"
    THAW = "thaw"
    END = "end"


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    why: str = ""


def fence_after_s(host_lost_s: float) -> float:
    """How long (s) a worker may be unheard of before its runs are fenced: a minute before they count as lost, or a
    quarter of that time. Peers begin to count when its advertisement has expired, which is later still.
    """
    return host_lost_s - min(_MARGIN_S, _MARGIN_SHARE * host_lost_s)


def renew_after_s(host_lost_s: float, most_s: float) -> float:
    """How often (s) a worker says that it is there: three times before its runs would be fenced, `most_s` at most."""
    return min(most_s, fence_after_s(host_lost_s) / 3)


def fence(
    unheard_s: float, heard_for_s: float, host_lost_s: float, frozen_at_s: float | None, state: str, changed_s: float
) -> Verdict:
    """Of one run that is here.

    `unheard_s`: since the last renewal that the server took was sent; `heard_for_s`: since the first one of a row
    without such a gap; both by a clock that goes on while the host sleeps. `frozen_at_s`: when the run was fenced, None
    if it is not. `state`: type of its state on the server ("": not asked, or there is none), in which it has been since
    `changed_s`; both times by the server's clock.
    """
    away = unheard_s >= fence_after_s(host_lost_s)
    if frozen_at_s is None:
        why = f"the server has not taken a word of this worker for {unheard_s:.0f} s"
        return Verdict(Step.FREEZE, why) if away else Verdict(Step.STAY)
    if away or heard_for_s < _SETTLES_S or not state:
        return Verdict(Step.STAY)
    if state not in _HELD:
        return Verdict(Step.END, f"it is {state.lower()} on the server")
    if changed_s > frozen_at_s + _SAME_S:  # it stood still: somebody else has claimed it, or begun it
        return Verdict(Step.END, "it was started elsewhere meanwhile")
    return Verdict(Step.THAW, "the server has it still here")


def ask_after_s(host_lost_s: float) -> float:
    """After how long (s) without a word of a run whose worker is dead its heartbeats are asked for: early enough that
    the answer is there when it would be fenced.
    """
    return 0.8 * fence_after_s(host_lost_s)


def guarded(
    renewed_s: float, beats_s: float | None, now_s: float, host_lost_s: float, frozen_at_s: float | None
) -> Verdict:
    """Of one run that is here, whose worker is dead: to be frozen, or left as it is.

    `renewed_s`: when the last renewal of its worker that the server took was sent; `beats_s`: time of the last
    heartbeat of the run itself that the server has, None if it has none or does not answer (peers begin their count
    anew at one, see `lost.alive`); `now_s`: now. All by the server's clock. `frozen_at_s` as in `fence`.
    """
    heard_s = max(renewed_s, beats_s if beats_s is not None else renewed_s)
    verdict = fence(now_s - heard_s, 0.0, host_lost_s, frozen_at_s, "", 0.0)
    if verdict.step is Step.FREEZE:
        return Verdict(
            Step.FREEZE, f"its worker is gone, and the server has heard of neither for {now_s - heard_s:.0f} s"
        )
    return verdict
