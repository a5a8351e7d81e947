"""What a worker tells its peers of its node, and what of all that is told still counts. Pure.

An advertisement says what the node has, what of it is free, and who holds the rest until when. It is good until it
expires: the capacity of a worker that has died is gone then, and what it would have picked is planned again.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.queue.gpu_rooms import Occupant, fleet_of, run_of
from trimtab_work_pools.queue.workload import Fleet
from trimtab_work_pools.resources import Inventory, Node
from trimtab_work_pools.rules.parts import Letter, Parts, Sign, from_parts, to_parts, whole

__all__ = [
    "Advertisement",
    "AdvertisementError",
    "Board",
    "clash",
    "current",
    "fleet_from",
    "later",
    "roll_from_text",
    "roll_to_text",
]

_IN_SIGN = {"worker": True, "expires_s": True, "host": True}


class AdvertisementError(ValueError):
    """What was read is no advertisement; the text says where it came from."""


@dataclass(frozen=True, slots=True)
class Advertisement:
    """`node` has nothing given away; `holdings` say what of it is. Times are seconds since the epoch. Workers that
    share the claims of one machine have the same `host`. A node that is `draining` takes no new runs;
    `closed` says why, where it is not its worker that leaves.
    """

    worker: str
    node: Node
    holdings: tuple[Holding, ...]
    expires_s: float
    draining: bool = False
    host: str = ""
    closed: str = ""

    def to_text(self) -> str:
        """All of it in one text, however long."""
        return whole(self._letter())

    def to_parts(self) -> Parts:
        """In values that a Prefect variable holds."""
        return to_parts(self._letter())

    def _letter(self) -> Letter:
        body = _ADAPTER.dump_json(self, exclude_defaults=True, exclude=_IN_SIGN).decode()
        return Letter(Sign(self.worker, self.expires_s, self.host), body)

    @staticmethod
    def from_text(text: str, source: str) -> Advertisement:
        """Raises AdvertisementError if it is none."""
        board = Board.read({source: text})
        if not board.advertisements:
            raise AdvertisementError(board.problems[0])
        return board.advertisements[0]


_ADAPTER = TypeAdapter(Advertisement)


@dataclass(frozen=True, slots=True)
class Board:
    """What all workers of a pool advertise. `silent`: signs of life of those whose words cannot be read, since they are
    damaged, of a newer version, or just being written; `problems` says so for each.
    """

    advertisements: tuple[Advertisement, ...] = ()
    silent: tuple[Sign, ...] = ()
    problems: tuple[str, ...] = ()

    @staticmethod
    def read(values: Mapping[str, str]) -> Board:
        """`values` by the name of what they stood in. Raises nothing."""
        letters, unread = from_parts(values)
        found: list[Advertisement] = []
        silent = [one.sign for one in unread if one.sign is not None]
        problems = [one.why for one in unread]
        for letter in letters:
            try:
                found.append(_advertisement(letter))
            except ValueError as error:  # also pydantic's
                silent.append(letter.sign)
                why = " ".join(str(error).split())
                problems.append(f"what worker {letter.sign.worker!r} says is no advertisement of a worker: {why}")
        return Board(tuple(found), tuple(silent), tuple(problems))


def _advertisement(letter: Letter) -> Advertisement:
    sign = letter.sign
    said = {**json.loads(letter.body), "worker": sign.worker, "expires_s": sign.expires_s, "host": sign.host}
    return _ADAPTER.validate_json(json.dumps(said))


def roll_to_text(expires_s: Mapping[str, float]) -> str:
    """Until when the advertisement of each worker is good, by worker; packed, for every worker is sent it again and
    again: some 6 characters a worker.
    """
    plain = json.dumps({worker: round(until_s, 1) for worker, until_s in sorted(expires_s.items())})
    return base64.b85encode(zlib.compress(plain.encode(), 9)).decode()


def roll_from_text(text: str) -> dict[str, float]:
    """Raises AdvertisementError if it is no roll."""
    try:
        found = json.loads(zlib.decompress(base64.b85decode(text)))
        return {str(worker): float(until_s) for worker, until_s in found.items()}
    except (ValueError, TypeError, AttributeError, zlib.error) as error:
        raise AdvertisementError(f"a roll that was called cannot be read: {error}") from None


def current(advertisements: Iterable[Advertisement], now_s: float) -> tuple[Advertisement, ...]:
    """Those that have not expired; of two of one node the later. In order of their names."""
    latest: dict[str, Advertisement] = {}
    for one in sorted(advertisements, key=lambda one: (one.expires_s, one.worker)):
        if one.expires_s > now_s:
            latest[one.node.name] = one
    return tuple(latest[name] for name in sorted(latest))


def clash(own: Advertisement, fleet: Iterable[Advertisement]) -> str:
    """Why `own` cannot be told from another host's in the `fleet`, and what to do; "" if it can."""
    for one in fleet:
        if one.host in ("", own.host):
            continue
        if one.worker == own.worker:
            return (
                f"a worker named {own.worker!r} is on another host already (node {one.node.name!r}): give this one a"
                " name of its own (--name), or wait 30 s if the other one has gone"
            )
        if one.node.name == own.node.name:
            return (
                f"worker {one.worker!r} on another host offers a node named {own.node.name!r} already: give this host's"
                " node a name of its own (TRIMTAB_NODE_NAME), or wait 30 s if the other one has gone"
            )
    return ""


def later(board: Board, heard: Mapping[str, Advertisement]) -> dict[str, Advertisement]:
    """By worker: what is on the `board`, or what was `heard` since. Who is not there any more has gone. Of one that is
    there and cannot be read, what was heard before still holds.
    """
    known = {one.worker: one for one in board.advertisements}
    for sign in board.silent:
        if sign.worker in heard and sign.worker not in known:
            before = heard[sign.worker]
            known[sign.worker] = replace(before, expires_s=max(before.expires_s, sign.expires_s))
    newer = (one for worker, one in heard.items() if worker in known and one.expires_s > known[worker].expires_s)
    return {**known, **{one.worker: one for one in newer}}


def fleet_from(advertisements: Iterable[Advertisement]) -> Fleet:
    """The planner's fleet. A node that is draining is full: what runs there is seen, nothing new is put there.

    A run that two nodes hold (one was away, and does not know yet that it was given to the other) is the later one's;
    what the other has given to it stays taken.
    """
    nodes: list[Node] = []
    occupants: dict[str, Occupant] = {}
    for one in advertisements:
        ledger = Ledger(one.node, one.holdings)
        nodes.append(_full(ledger.node) if one.draining else ledger.free())
        for holding, fitted in () if one.draining else zip(one.holdings, ledger.fitted(), strict=True):
            run = run_of(holding.run_id, holding.demand, holding.submitted_s, attained_s=holding.attained_s)
            placement = replace(fitted, node=one.node.name)
            stopping_s = holding.stopping_until_s
            occupant = Occupant(run, (placement,), holding.started_s, stopping_until_s=stopping_s)
            known = occupants.get(holding.run_id)
            if known is None or known.started_s < occupant.started_s:
                occupants[holding.run_id] = occupant
    return fleet_of(Inventory(tuple(nodes)), occupants.values())


def _full(node: Node) -> Node:
    return replace(node, gpus=(), cpu_total_milli=0, memory_total_mib=0, disk_total_mib=0, cpu_given_milli=0,
                   memory_given_mib=0, disk_given_mib=0)  # fmt: skip
