"""When a gang starts, when it goes on, when it starts again, and when it has failed. Pure.

It starts in two phases, so that no rank begins while another has no place. Each member is *wanted* (a run for its
node), *reserved* (claimed: it holds its devices) and *confirmed* (its worker waits for the word). When all are, rank 0
gives the word, all others have *started*, and rank 0 begins last. Whatever is missing by then ends the try: all devices
are free again, and rank 0 waits in the queue. Only rank 0 decides, and nobody waits for longer than is said here: two
gangs that hold what the other one needs both let go, and the plan says who is first.

The loss of one rank makes the others fail: their connection to it breaks, and their own code raises. So a failure is
judged only when it is clear that nobody was lost at the same time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "CONFIRMED",
    "ENDS_WITHIN_S",
    "FOLLOWS_WITHIN_S",
    "GATHERING",
    "GATHERS_WITHIN_S",
    "REFUSED",
    "RESERVES_WITHIN_S",
    "SETTLES_WITHIN_S",
    "WORD",
    "WORD_WITHIN_S",
    "Member",
    "Stage",
    "Step",
    "Verdict",
    "follows",
    "gathered",
    "leader_ended",
    "leader_failed",
    "members_say",
    "stage_of",
    "word_given",
]

GATHERING, WORD, CONFIRMED = "Gathering", "GangStarts", "Reserved"
"""Names of states of type PENDING: of rank 0 while it waits for the others, and when it has given the word; of a member
that waits for it."""
REFUSED = ("AwaitingResources", "NoNodeFits", "BadResources")
"""Names of the state of a member whose node has no place for it now."""

RESERVES_WITHIN_S = 30.0
"""All members are confirmed by then, or rank 0 gives up."""
_REFUSED_AFTER_S = 3.0
"""A member that is told that there is no place for it may have been told so by old news."""
FOLLOWS_WITHIN_S = 20.0
"""From the word until all others have started."""
WORD_WITHIN_S = 75.0
"""A member waits for it no longer. Well above what rank 0 takes at most to give it, and below the 120 s that a claim
counts without a process."""

GATHERS_WITHIN_S = 60.0
"""The processes of all members have begun by then, or the gang gives its nodes back."""
ENDS_WITHIN_S = 30.0
SETTLES_WITHIN_S = 6.0
"""From the failure of a rank until it is known whether another had been lost: its worker sees that at once."""
_TRIES = 3


class Stage(StrEnum):
    """Of a member on its way."""

    WANTED = "wanted"
    RESERVED = "reserved"
    CONFIRMED = "confirmed"
    STARTED = "started"
    GONE = "gone"


class Step(StrEnum):
    GO_ON = "go on"
    START = "start"
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
    state_name: str = ""

    @property
    def stage(self) -> Stage:
        return stage_of(self.state, self.state_name)


@dataclass(frozen=True, slots=True)
class Verdict:
    step: Step
    text: str = ""


def stage_of(state: str, name: str) -> Stage:
    """By the type and the name of its state."""
    if state == "SCHEDULED":
        return Stage.WANTED
    if state == "PENDING":
        return {CONFIRMED: Stage.CONFIRMED, "Pending": Stage.RESERVED}.get(name, Stage.STARTED)
    return Stage.STARTED if state in ("RUNNING", "COMPLETED") else Stage.GONE


def gathered(members: Sequence[Member], expected: int, waited_s: float) -> Verdict:
    """Before rank 0 gives the word: START gives it, GO_ON waits, AGAIN lets all go."""
    for one in members:
        if one.stage in (Stage.GONE, Stage.STARTED):
            return Verdict(Step.AGAIN, f"{one.name} is {one.state.lower()}: {one.message}")
    if len(members) < expected:
        return Verdict(Step.AGAIN, f"{expected - len(members)} of its {expected} other members are not there")
    missing = [one for one in members if one.stage is not Stage.CONFIRMED]
    if waited_s >= RESERVES_WITHIN_S:
        one = (missing or list(members))[0]
        return Verdict(Step.AGAIN, f"{one.name} had no place within {RESERVES_WITHIN_S:g} s: {one.message}")
    for one in missing:
        if one.state_name in REFUSED and waited_s >= _REFUSED_AFTER_S:
            return Verdict(Step.AGAIN, f"{one.name} has no place: {one.message}")
    return Verdict(Step.GO_ON if missing else Step.START)


def follows(members: Sequence[Member], expected: int, since_word_s: float) -> Verdict:
    """When rank 0 has given the word: START begins rank 0 too, AGAIN ends those that have started."""
    for one in members:
        if one.stage in (Stage.GONE, Stage.WANTED):
            return Verdict(Step.AGAIN, f"{one.name} is {one.state.lower()}: {one.message}")
    if len(members) < expected:
        return Verdict(Step.AGAIN, f"{expected - len(members)} of its {expected} other members are not there")
    waiting = [one for one in members if one.stage is not Stage.STARTED]
    if waiting and since_word_s >= FOLLOWS_WITHIN_S:
        return Verdict(Step.AGAIN, f"{waiting[0].name} did not start within {FOLLOWS_WITHIN_S:g} s of the word")
    return Verdict(Step.GO_ON if waiting else Step.START)


def word_given(own: str, leader: str, leader_name: str, waited_s: float) -> Verdict:
    """For a member that is confirmed, by the types of its own state and of rank 0's ("": there is none), and the name
    of that: START starts it, AGAIN lets its devices go.
    """
    if own != "PENDING":
        return Verdict(Step.AGAIN, f"it was called off ({own.lower() or 'it is not there any more'})")
    if leader == "RUNNING" or (leader == "PENDING" and leader_name not in ("Pending", GATHERING)):
        return Verdict(Step.START)
    if leader != "PENDING":
        return Verdict(Step.AGAIN, f"rank 0 of its gang is {leader.lower() or 'not there any more'}")
    if waited_s >= WORD_WITHIN_S:
        return Verdict(Step.AGAIN, f"rank 0 of its gang gave no word within {WORD_WITHIN_S:g} s")
    return Verdict(Step.GO_ON)


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
