"""When a gang goes on, when it starts again, and when it has failed. Pure.

The loss of one rank makes the others fail: their connection to it breaks, and their own code raises. So a failure is
judged only when it is clear that nobody was lost at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ENDS_WITHIN_S",
    "GATHERS_WITHIN_S",
    "SETTLES_WITHIN_S",
    "Member",
    "Step",
    "Verdict",
    "leader_ended",
    "leader_failed",
    "members_say",
]

GATHERS_WITHIN_S = 60.0
"""All members have started by then, or the gang gives its nodes back: half a gang only keeps others waiting."""
ENDS_WITHIN_S = 30.0
SETTLES_WITHIN_S = 6.0
"""From the failure of a rank until it is known whether another had been lost: its worker sees that at once."""
_TRIES = 3


class Step(StrEnum):
    GO_ON = "go on"
    AGAIN = "again"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Member:
    """A member beside rank 0: `state` is the type of its state on the server, in which it has been for `since_s`;
    `began` whether it has ever run.
    """

    name: str
    state: str
    began: bool
    message: str = ""
    since_s: float = math.inf


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    text: str = ""


def members_say(members: Sequence[Member], expected: int, waited_s: float, broken_before: int) -> Verdict:
    """What rank 0 is to do. A member that was lost (its process crashed, or it waits again) breaks the gang, and all
    start again, three times at most. One whose own code failed, while nobody was lost, fails it: it would fail again.
    """
    failed = [one for one in members if one.state == "FAILED"]
    late = [one for one in members if not one.began and one.state in ("SCHEDULED", "PENDING")]
    missing = expected - len(members)
    if why := _lost(members):
        return _again(why, broken_before)
    if failed:
        known = max(one.since_s for one in failed) >= SETTLES_WITHIN_S
        return Verdict(Step.FAIL, f"{failed[0].name} failed: {failed[0].message}") if known else Verdict(Step.GO_ON)
    if missing > 0 and waited_s > 0:
        return _again(f"{missing} of its {expected} members are not there any more", broken_before)
    if late and waited_s > GATHERS_WITHIN_S:
        why = f"{late[0].name} has not started within {GATHERS_WITHIN_S:g} s: {late[0].message}"
        return _again(why, broken_before)
    return Verdict(Step.GO_ON)


def leader_failed(members: Sequence[Member], since_s: float, broken_before: int) -> Verdict:
    """What becomes of the gang of a rank 0 that failed, or crashed, `since_s` ago. GO_ON: it is not known yet."""
    if why := _lost(members):
        return _again(why, broken_before)
    if failed := [one for one in members if one.state == "FAILED" and one.since_s > since_s]:
        return Verdict(Step.FAIL, f"{failed[0].name} failed first: {failed[0].message}")
    return Verdict(Step.GO_ON if since_s < SETTLES_WITHIN_S else Step.FAIL)


def leader_ended(state: str, since_s: float) -> str:
    """Why a member is to stop; "" while it is not. `state`: the type of rank 0's ("" if there is no such run), which it
    has been in for `since_s`. After a good end the others have a while to come to theirs; after a bad one nobody is
    stopped until it is known what it was, or who was stopped would look lost.
    """
    within_s = {"COMPLETED": ENDS_WITHIN_S, "FAILED": 2 * SETTLES_WITHIN_S, "CRASHED": 2 * SETTLES_WITHIN_S}
    if state in ("PENDING", "RUNNING", "PAUSED") or since_s < within_s.get(state, 0.0):
        return ""
    if state == "COMPLETED":
        return f"rank 0 of its gang completed {ENDS_WITHIN_S:g} s ago"
    return f"rank 0 of its gang is {state.lower() or 'not there any more'}"


def _lost(members: Sequence[Member]) -> str:
    """Who was lost, or ""."""
    for one in members:
        if one.state in ("CRASHED", "CANCELLED") or (one.began and one.state == "SCHEDULED"):
            return f"{one.name} was lost ({one.state.lower()}): {one.message}"
    return ""


def _again(why: str, broken_before: int) -> Verdict:
    if broken_before >= _TRIES:
        return Verdict(Step.FAIL, f"{why}. The gang was started again {broken_before} times before")
    return Verdict(Step.AGAIN, why)
