"""Why a run waits though no node refuses it: something that people have paused, or deleted. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["paused_pool", "queue_says", "schedules_say"]


def paused_pool(pool: str) -> str:
    """Sentence on a pool that is paused."""
    return f"work pool {pool!r} is paused: nothing of it starts until it goes on (prefect work-pool resume {pool})"


def queue_says(queue: str | None, pool: str, queues: Mapping[str, bool], read: Iterable[str] = ()) -> str:
    """What keeps a run of `queue` from being picked; "" if nothing. `queues` of the pool: whether they are paused, by
    name; `read`: those that workers take runs of, if not all.
    """
    if not queue or queue not in queues:
        named = f"its work queue {queue!r} is" if queue else "it is in no work queue: its own was"
        gone = "not there any more" if queue else "deleted"
        return f"{named} {gone}: run its deployment again, in a queue of pool {pool!r}"
    if queues[queue]:
        return f"work queue {queue!r} is paused: resume it (prefect work-queue resume {queue} --pool {pool})"
    wanted = sorted(read)
    if wanted and queue not in wanted:
        return f"no worker takes runs of work queue {queue!r}: those that are there take {', '.join(wanted)}"
    return ""


def schedules_say(name: str, paused: bool, schedules: Iterable[tuple[str, bool]]) -> list[str]:
    """Of a deployment `name`: that it is paused, and its schedules that are not active (what, active)."""
    said = [f"deployment {name!r} is paused: its schedules make no runs"] * paused
    off = [what for what, active in schedules if not active]
    return said + [f"a schedule of {name!r} is paused: {what}" for what in off]
