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

from pydantic import TypeAdapter, ValidationError

from trimtab_work_pools.ledger import Holding, Ledger
from trimtab_work_pools.queue.gpu_rooms import Occupant, fleet_of, run_of
from trimtab_work_pools.queue.workload import Fleet
from trimtab_work_pools.resources import Inventory, Node

__all__ = [
    "Advertisement",
    "AdvertisementError",
    "clash",
    "current",
    "fleet_from",
    "later",
    "roll_from_text",
    "roll_to_text",
]

_PLAIN = 4000
"""Characters up to which an advertisement is written as JSON that people can read; a Prefect variable holds 5,000."""
_LONGEST = 5000
_PACKED = "zlib:"


class AdvertisementError(ValueError):
    """What was read is no advertisement; the text says where it came from."""


@dataclass(frozen=True, slots=True)
class Advertisement:
    """`node` has nothing given away; `holdings` say what of it is. Times are seconds since the epoch. Workers that
    share the claims of one machine have the same `host`.
    """

    worker: str
    node: Node
    holdings: tuple[Holding, ...]
    expires_s: float
    draining: bool = False
    host: str = ""

    def to_text(self) -> str:
        """JSON, packed if it is long. At most some 5,000 characters for 16 GPUs with 40 runs; where cached data would
        make it longer, half of that is left out, and half again: it only says where a run would start sooner.
        """
        plain = _ADAPTER.dump_json(self, exclude_defaults=True).decode()
        if len(plain) <= _PLAIN:
            return plain
        packed = _PACKED + base64.b85encode(zlib.compress(plain.encode(), 9)).decode()
        digests = sorted(self.node.cached_digests)
        if len(packed) <= _LONGEST or not digests:
            return packed
        return replace(self, node=replace(self.node, cached_digests=frozenset(digests[: len(digests) // 2]))).to_text()

    @staticmethod
    def from_text(text: str, source: str) -> Advertisement:
        """Raises AdvertisementError if it is none."""
        try:
            if text.startswith(_PACKED):
                text = zlib.decompress(base64.b85decode(text.removeprefix(_PACKED))).decode()
            return _ADAPTER.validate_json(text)
        except (ValidationError, ValueError, zlib.error) as error:
            raise AdvertisementError(f"{source} is no advertisement of a worker: {error}") from None


_ADAPTER = TypeAdapter(Advertisement)


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


def later(on_server: Mapping[str, Advertisement], heard: Mapping[str, Advertisement]) -> dict[str, Advertisement]:
    """By worker: what is on the server, or what was heard since. Who is not on the server any more has gone."""
    newer = (
        one for worker, one in heard.items() if worker in on_server and one.expires_s > on_server[worker].expires_s
    )
    return {**on_server, **{one.worker: one for one in newer}}


def fleet_from(advertisements: Iterable[Advertisement]) -> Fleet:
    """The planner's fleet. A node that is draining is full: what runs there is seen, nothing new is put there.

    A run that two nodes hold (one was away, and does not know yet that it was given to the other) is the later one's;
    what the other has given to it stays taken.
    """
    nodes: list[Node] = []
    occupants: dict[str, Occupant] = {}
    for one in advertisements:
        free = Ledger(one.node, one.holdings).free()
        nodes.append(_full(free) if one.draining else free)
        for holding in () if one.draining else one.holdings:
            run = run_of(holding.run_id, holding.demand, holding.submitted_s, attained_s=holding.attained_s)
            placement = replace(holding.placement, node=one.node.name)
            stopping_s = holding.stopping_until_s
            occupant = Occupant(run, (placement,), holding.started_s, stopping_until_s=stopping_s)
            known = occupants.get(holding.run_id)
            if known is None or known.started_s < occupant.started_s:
                occupants[holding.run_id] = occupant
    return fleet_of(Inventory(tuple(nodes)), occupants.values())


def _full(node: Node) -> Node:
    return replace(node, gpus=(), cpu_total_milli=0, memory_total_mib=0, disk_total_mib=0, cpu_given_milli=0,
                   memory_given_mib=0, disk_given_mib=0)  # fmt: skip
