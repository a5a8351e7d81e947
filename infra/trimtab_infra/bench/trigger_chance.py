"""Is a rule's timing better than chance? Its gain among those of other timings with as many retrainings.

Two kinds of timings: every even calendar (each phase that gives another one), and timings drawn at random. All go
through the same gate, with the same models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from trimtab_flows.drift.policy import Policy
from trimtab_infra.bench.trigger_replay import Life, Now, Rule, live
from trimtab_infra.bench.trigger_report import figures
from trimtab_infra.bench.trigger_series import Series

__all__ = ["at", "chance", "even", "sentence"]

#: Phases that are tried; more give the same calendars again.
_PHASES = 24


def at(windows: Sequence[int]) -> Rule:
    """Retrains after these windows."""
    places = frozenset(windows)

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        return now.window in places, ()

    return rule


def even(count: int, first: int, steps: int) -> list[tuple[int, ...]]:
    """The even calendars with so many retrainings after ``first`` to ``first + steps - 1``, by phase."""
    found: dict[tuple[int, ...], None] = {}
    for number in range(_PHASES):
        phase = (number + 0.5) / _PHASES
        due = [
            math.floor((done + 1) * count / steps + phase) - math.floor(done * count / steps + phase)
            for done in range(steps)
        ]
        windows = tuple(first + done for done, times in enumerate(due) if times)
        if len(windows) == count:
            found[windows] = None
    return list(found)


def chance(series: Series, life: Life, policy: Policy, draws: int, scale: tuple[float, float]) -> dict[str, Any]:
    """The life's gain and cost among those of other timings with as many retrainings.

    Args:
        series: that was lived.
        life: under our rule.
        policy: for the cost.
        draws: how many timings are drawn at random.
        scale: mean metric of no retraining, and of the oracle: gains are told as a share between them.
    """
    count, steps = len(life.retrains), len(series.windows) - series.first - 1
    random = np.random.default_rng(0)
    places = range(series.first, series.first + steps)
    drawn = [tuple(sorted(random.choice(places, count, replace=False).tolist())) for _ in range(draws)]
    own = _figures(series, life, policy, scale)
    timings = {"even": even(count, series.first, steps), "random": drawn}
    return {
        "retrains": count,
        "gain": own[0],
        "cost": own[1],
        **{kind: _place(own, [_lived(series, each, policy, scale) for each in some]) for kind, some in timings.items()},
    }


def _lived(series: Series, windows: Sequence[int], policy: Policy, scale: tuple[float, float]) -> tuple[float, float]:
    return _figures(series, live(series, "timing", at(windows)), policy, scale)


def _figures(series: Series, life: Life, policy: Policy, scale: tuple[float, float]) -> tuple[float, float]:
    found = figures(series, life, policy)
    return (found["mean_metric"] - scale[0]) / (scale[1] - scale[0]), found["total_cost"]


def _place(own: tuple[float, float], others: list[tuple[float, float]]) -> dict[str, Any]:
    """How many others, what they gain and cost, and the share of them that are beaten (equal ones count half)."""
    gains, costs = [gain for gain, _ in others], [cost for _, cost in others]
    return {
        "timings": len(others),
        "gain": fmean(gains),
        "gain_sd": pstdev(gains),
        "gain_5_95": [float(each) for each in np.quantile(gains, [0.05, 0.95])],
        "cost": fmean(costs),
        "beaten_in_gain": fmean((own[0] > gain) + 0.5 * (own[0] == gain) for gain in gains),
        "beaten_in_cost": fmean((own[1] < cost) + 0.5 * (own[1] == cost) for cost in costs),
    }


def sentence(found: dict[str, Any], currency: str) -> str:
    """The same for people."""
    parts = [f"{found['gain']:.1%} of the oracle's gain, {found['cost']:,.0f} {currency}. As often"]
    for kind in ("even", "random"):
        each = found[kind]
        parts.append(
            f"{each['timings']} {kind}: {each['gain']:.1%} (sd {each['gain_sd']:.1%}), {each['cost']:,.0f} {currency}; "
            f"ours is better than {each['beaten_in_gain']:.0%}, cheaper than {each['beaten_in_cost']:.0%}"
        )
    return ". ".join(parts) + "."
