"""When a gang goes on, when it starts again, and when it has failed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ENDS_WITHIN_S", "GATHERS_WITHIN_S", "Member", "Step", "Verdict", "leader_ended", "members_say"]

GATHERS_WITHIN_S = 60.0
"""All members have started by then, or the gang gives its nodes back: half a gang only keeps others waiting."""
ENDS_WITHIN_S = 30.0
_TRIES = 3


class Step(StrEnum):
    GO_ON = "go on"
    AGAIN = "again"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Member:
    """A member beside rank 0: `state` is the type of its state on the server, `began` whether it has ever run."""

    name: str
    state: str
    began: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    text: str = ""


def members_say(members: Sequence[Member], expected: int, waited_s: float, broken_before: int) -> Verdict:
    """What rank 0 is to do. A member whose own code failed fails the gang: it would fail again. One that was lost (its
    process crashed, or it waits again) breaks it, and all start again, three times at most.
    """
    failed = [one for one in members if one.state == "FAILED"]
    if failed:
        return Verdict(Step.FAIL, f"{failed[0].name} failed: {failed[0].message}")
    lost = [one for one in members if one.state in ("CRASHED", "CANCELLED") or (one.began and one.state == "SCHEDULED")]
    late = [one for one in members if not one.began and one.state in ("SCHEDULED", "PENDING")]
    missing = expected - len(members)
    if lost:
        why = f"{lost[0].name} was lost ({lost[0].state.lower()}): {lost[0].message}"
    elif missing > 0 and waited_s > 0:
        why = f"{missing} of its {expected} members are not there any more"
    elif late and waited_s > GATHERS_WITHIN_S:
        why = f"{late[0].name} has not started within {GATHERS_WITHIN_S:g} s: {late[0].message}"
    else:
        return Verdict(Step.GO_ON)
    if broken_before >= _TRIES:
        return Verdict(Step.FAIL, f"{why}. The gang was started again {broken_before} times before")
    return Verdict(Step.AGAIN, why)


def leader_ended(state: str, since_s: float) -> str:
    """Why a member is to stop; "" while it is not. `state`: the type of rank 0's ("" if there is no such run), which it
    has been in for `since_s`. After a good end the others have a while to come to theirs.
    """
    if state in ("PENDING", "RUNNING", "PAUSED") or (state == "COMPLETED" and since_s < ENDS_WITHIN_S):
        return ""
    if state == "COMPLETED":
        return f"rank 0 of its gang completed {ENDS_WITHIN_S:g} s ago"
    return f"rank 0 of its gang is {state.lower() or 'not there any more'}"
