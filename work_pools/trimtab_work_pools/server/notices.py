"""Advertisements as Prefect variables: one of each worker, and more where one is too short for all that it says.

The others bear the name of the first, the generation and their number. They are written before the first and taken
away after it, so that the first always tells of parts that are there; a renewal writes only the first.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any, Protocol

import httpx

from trimtab_work_pools.advertise import Advertisement, Board
from trimtab_work_pools.rules.parts import Parts

__all__ = ["Notices"]

_PAGE = 200
_OVERLAP = 20
"""Of two pages: a variable that is taken away meanwhile moves those behind it, and none is to be missed."""
_AGAIN_S = 60.0
"""All parts are written again now and then: somebody may have taken one away."""


class Call(Protocol):
    """Asks the Prefect server; None if `missing_is_fine` and it has no such thing. Raises httpx.HTTPError."""

    async def __call__(
        self, method: str, path: str, body: dict[str, Any] | None, missing_is_fine: bool = False
    ) -> httpx.Response | None: ...


class Notices:
    """Of one work pool on one server."""

    def __init__(self, call: Call, pool: str, kind: str = "node") -> None:
        """`kind`: "node" of those that offer their node; "gone" of those that have left, which nobody plans with."""
        self._call, self._pool, self._kind = call, pool, kind
        self._tag = f"trimtab-fleet:{pool}" if kind == "node" else f"trimtab-{kind}:{pool}"
        self._written: dict[str, tuple[str, float]] = {}
        self._parts: dict[str, set[str]] = {}

    async def publish(self, advertisement: Advertisement) -> None:
        """Writes the variables of this worker. Raises httpx.HTTPError."""
        name, parts = self.name_of(advertisement.worker), advertisement.to_parts()
        generation, written_s = self._written.get(name, ("", 0.0))
        if generation != parts.generation or time.monotonic() - written_s > _AGAIN_S:
            await self._rewrite(name, parts)
        else:
            await self._put(name, parts.head)

    async def _rewrite(self, name: str, parts: Parts) -> None:
        rest = {f"{name}-{parts.generation[:8]}-{number}": value for number, value in parts.rest}
        before = self._parts.get(name)
        if before is None and (rest or name not in self._written):  # an earlier worker of that name may have left some
            before = await self._parts_of(name)
        for part, value in rest.items():
            await self._put(part, value, _part_tag(name))
        await self._put(name, parts.head)
        self._written[name] = (parts.generation, time.monotonic())
        self._parts[name] = {*rest, *(before or ())}
        for part in self._parts[name] - rest.keys():
            await self._call("DELETE", f"/variables/name/{part}", None, missing_is_fine=True)
        self._parts[name] = set(rest)

    async def withdraw(self, worker: str) -> None:
        """Takes the variables of a worker away. Raises httpx.HTTPError."""
        name = self.name_of(worker)
        await self._call("DELETE", f"/variables/name/{name}", None, missing_is_fine=True)
        for part in await self._parts_of(name):
            await self._call("DELETE", f"/variables/name/{part}", None, missing_is_fine=True)
        self._written.pop(name, None)
        self._parts.pop(name, None)

    async def board(self) -> Board:
        """All that are on the server, expired or not. Raises httpx.HTTPError."""
        return Board.read(await self._values([self._tag]))

    def name_of(self, worker: str) -> str:
        """Of the first variable of a worker."""
        readable = re.sub(r"[^a-z0-9]+", "-", f"{self._pool}-{worker}".lower())[:60].strip("-")
        digest = hashlib.sha256(f"{self._pool}/{worker}".encode()).hexdigest()[:10]
        return f"trimtab-{self._kind}-{readable}-{digest}"

    async def _parts_of(self, name: str) -> set[str]:
        return set(await self._values([_part_tag(name)]))

    async def _put(self, name: str, value: str, *tags: str) -> None:
        response = await self._call("PATCH", f"/variables/name/{name}", {"value": value}, missing_is_fine=True)
        if response is None:
            body = {"name": name, "value": value, "tags": ["trimtab", self._tag, *tags]}
            await self._call("POST", "/variables/", body)

    async def _values(self, tags: list[str]) -> dict[str, str]:
        """By name of the variable."""
        found: dict[str, str] = {}
        offset = 0
        while True:
            body = {"variables": {"tags": {"all_": tags}}, "limit": _PAGE, "offset": offset}
            response = await self._call("POST", "/variables/filter", body)
            rows = response.json() if response is not None else []
            found |= {str(row["name"]): str(row["value"]) for row in rows}
            if len(rows) < _PAGE:
                return found
            offset += _PAGE - _OVERLAP


def _part_tag(name: str) -> str:
    return f"trimtab-part-of:{name}"
