"""In which order runs are considered: business priority, then what is due, then fair share, then least expected work.

Within a priority the *urgent* go first, in order of due time (earliest due first, so none starves among them): runs
whose deadline presses, and runs that have waited out their patience. The rest go by team (the team with the least of
its entitlement in hand) and, within a team, by Gittins index x width: the least expected GPU-seconds per completion.

Bound (tested): a run of priority p that has waited k of its patiences, and is admitted under `Policy.overdue_share`,
is at level p + k - 1 among the urgent. Before it go only runs of a higher level, and of its level those due earlier:
no later submission of the same priority and no shorter patience overtakes it any more.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from trimtab_work_pools.queue.workload import Policy, Run, Running

__all__ = ["Key", "Ranked", "order", "outranks", "running_key", "waited_s"]

Key = tuple[int, int, float, float, str]
"""(-level, 0 urgent or 1, due time (s) or cost (GPU s), submitted (s), id): ascending is better; total."""

_HOPELESS = -0.5  # slack in units of the work left below which a deadline is given up: no point in others paying for it


class Ranked(NamedTuple):
    """A queued run and where it stands."""

    key: Key
    run: Run

    @property
    def level(self) -> int:
        return -self.key[0]

    @property
    def urgent(self) -> bool:
        return self.key[1] == 0


def waited_s(run: Run, now_s: float) -> float:
    """Time in the system without progress, not counting the time before its scheduled start."""
    return max(0.0, now_s - max(run.submitted_s, run.not_before_s) - run.attained_s)


def order(
    queue: Iterable[Run], running: Sequence[Running], fleet_width: float, policy: Policy, now_s: float
) -> list[Ranked]:
    """All of `queue`, best first; the same for any order of the arguments."""
    keys: dict[str, Key] = {}
    overdue: list[tuple[Key, Run]] = []
    runs = list(queue)
    fresh_s = now_s - policy.patience_s  # no patience is shorter: most runs need no look at their wait
    for run in runs:
        keys[run.id] = (-run.priority, 1, run.index_s * run.width, run.submitted_s, run.id)
        if run.submitted_s <= fresh_s:
            waited = waited_s(run, now_s)
            patience_s = policy.patience_of(run, fleet_width)
            lifts = int(waited // patience_s)
            if lifts:
                overdue.append((_urgent(run, run.priority + lifts - 1, now_s - waited + patience_s), run))
        if run.deadline_s is not None and _pressing(run, run.deadline_s, policy, now_s):
            keys[run.id] = _urgent(run, run.priority, run.deadline_s - run.left_s)
    for key, run in _admitted(overdue, running, fleet_width, policy):
        keys[run.id] = min(keys[run.id], key)
    ranked = sorted(((keys[run.id], run) for run in runs), key=itemgetter(0))
    if len({run.team for run in runs}) > 1:
        ranked = _share(ranked, running, policy)
    return [Ranked(key, run) for key, run in ranked]


def running_key(running: Running, fleet_width: float, policy: Policy, now_s: float) -> Key:
    """Where a running run stands: its wait ended when it started; its expected work changes as it runs."""
    run = running.run
    attained_s = running.attained_s(now_s)
    ahead = Run(run.id, run.demand, run.submitted_s, run.expected_s, sigma=run.sigma, attained_s=attained_s)
    key = (-run.priority, 1, ahead.index_s * run.width, run.submitted_s, run.id)
    waited = waited_s(run, running.started_s)
    patience_s = policy.patience_of(run, fleet_width)
    lifts = int(waited // patience_s)
    if lifts:
        key = _urgent(run, run.priority + lifts - 1, running.started_s - waited + patience_s)
    if run.deadline_s is not None and now_s + ahead.left_s <= run.deadline_s:
        key = min(key, _urgent(run, run.priority, run.deadline_s - ahead.left_s))
    return key


def outranks(key: Key, victim: Key, factor: float) -> bool:
    """Whether a run may take the place of a running one: a higher level, urgent over not, or `factor` times cheaper.

    A strict partial order for factor >= 1, so no chain of preemptions leads back to its start.
    """
    if key[0] != victim[0]:
        return key[0] < victim[0]
    if key[1] != victim[1]:
        return key[1] < victim[1]
    return key[1] == 1 and key[2] * factor <= victim[2] and key[2] < victim[2]


def _urgent(run: Run, level: int, due_s: float) -> Key:
    return (-level, 0, due_s, run.submitted_s, run.id)


def _pressing(run: Run, deadline_s: float, policy: Policy, now_s: float) -> bool:
    slack_s = deadline_s - now_s - run.left_s
    return _HOPELESS * run.left_s <= slack_s <= policy.deadline_margin * run.left_s


def _admitted(
    overdue: list[tuple[Key, Run]], running: Sequence[Running], fleet_width: float, policy: Policy
) -> list[tuple[Key, Run]]:
    """The overdue runs that go ahead of the rest: in order of falling due, as long as their share lasts."""
    if not overdue:
        return []
    held = sum(
        one.run.width
        for one in running
        if one.stopping_until_s is None and waited_s(one.run, one.started_s) >= policy.patience_of(one.run, fleet_width)
    )
    admitted: list[tuple[Key, Run]] = []
    for key, run in sorted(overdue, key=itemgetter(0)):
        if held and held + run.width > policy.overdue_share * fleet_width:
            break  # strictly in order: a narrow run must not overtake a wide one here for ever
        held += run.width
        admitted.append((key, run))
    return admitted


def _share(ranked: list[tuple[Key, Run]], running: Sequence[Running], policy: Policy) -> list[tuple[Key, Run]]:
    """Deal the turns of one level to the team with the least in hand per entitlement; the urgent keep their places."""
    entitlement = dict(policy.shares)
    held: dict[str, float] = defaultdict(float)
    for one in running:
        if one.stopping_until_s is None:
            held[one.run.team] += one.run.width / entitlement.get(one.run.team, 1.0)
    dealt: list[tuple[Key, Run]] = []
    start = 0
    while start < len(ranked):
        end = start
        while end < len(ranked) and ranked[end][0][:2] == ranked[start][0][:2]:
            end += 1
        dealt += _deal(ranked[start:end], held, entitlement, keep=ranked[start][0][1] == 0)
        start = end
    return dealt


def _deal(
    block: list[tuple[Key, Run]], held: dict[str, float], entitlement: dict[str, float], keep: bool
) -> list[tuple[Key, Run]]:
    lines: dict[str, list[tuple[Key, Run]]] = defaultdict(list)
    for entry in reversed(block):
        lines[entry[1].team].append(entry)
    dealt: list[tuple[Key, Run]] = []
    for position in range(len(block)):
        poorest = min(lines, key=lambda name: (held[name], lines[name][-1][0]))
        team = block[position][1].team if keep else poorest
        entry = lines[team].pop()
        held[team] += entry[1].width / entitlement.get(team, 1.0)
        if not lines[team]:
            del lines[team]
        dealt.append(entry)
    return dealt
