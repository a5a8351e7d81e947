"""Lists of servers, read to their end: MLflow gives pages with a token, Prefect pages by offset, its events a link.

Every list that may be longer than a page is read through one of these; ``tests/test_paging.py`` looks for others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["PAGE", "Page", "all_by_offset", "by_link", "by_offset", "by_token"]

#: Things in an answer of a Prefect server; it gives no more at a time.
PAGE = 200

#: Of a page that are asked for again with the next: what went from the list meanwhile has moved the rest forward.
_OVERLAP = 20

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Page(Protocol[T_co]):
    """A page of MLflow's (``mlflow.store.entities.PagedList``)."""

    token: str | None

    def __iter__(self) -> Iterator[T_co]: ...


def by_token(ask: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """All of a list of MLflow's: ``ask(None)`` is the first page, ``ask(page.token)`` the one after it."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def by_offset(ask: Callable[[int], Sequence[T]]) -> Iterator[T]:
    """All of a list of Prefect's, each once: ``ask(offset)`` gives up to ``PAGE`` of them from there on.

    They must come in an order that does not change, or things may be missed: sort by id.
    """
    seen: set[str] = set()
    offset = 0
    while True:
        rows = ask(offset)
        for row in rows:
            if _new(row, seen):
                yield row
        if len(rows) < PAGE:
            return
        offset += PAGE - _OVERLAP


async def all_by_offset(ask: Callable[[int], Awaitable[Sequence[T]]]) -> list[T]:
    """As ``by_offset``, of a client that is awaited."""
    seen: set[str] = set()
    found: list[T] = []
    offset = 0
    while True:
        rows = await ask(offset)
        found += [row for row in rows if _new(row, seen)]
        if len(rows) < PAGE:
            return found
        offset += PAGE - _OVERLAP


def by_link(ask: Callable[[str | None], Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """All events of a filter: ``ask(None)`` is the first page, ``ask(link)`` what its ``next_page`` leads to."""
    link: str | None = None
    while True:
        page = ask(link)
        yield from page["events"]
        link = page["next_page"]
        if not link:
            return


def _new(row: Any, seen: set[str]) -> bool:
    identity = str(row["id"] if isinstance(row, Mapping) else row.id)
    if identity in seen:
        return False
    seen.add(identity)
    return True
