"""The figures of a life under a rule, and the table of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from rich.table import Table

from trimtab_flows.drift.policy import Policy
from trimtab_infra.bench.trigger_replay import Life
from trimtab_infra.bench.trigger_series import Series

__all__ = ["figures", "table"]

#: Windows after a retraining in which it must have done better than the model it replaced, or it was a false trigger.
NEXT = 4


def figures(series: Series, life: Life, policy: Policy, changes: Sequence[int] = ()) -> dict[str, Any]:
    """Mean metric, retrainings, false triggers, money, and the delay after each change point.

    A retraining is false if it did not improve the next ``NEXT`` windows: the gate refused it, or the mean metric of
    the new model there is no better than that of the old one. ``loss_money`` is what the champion's distance from the
    best model of each window cost, ``total_cost`` that and the retrainings together.
    """
    places = range(series.first, len(series.windows))
    values = [series.metric_of(model, place) for model, place in zip(life.champions, places, strict=True)]
    lost = sum(_lost(series, model, place, policy) for model, place in zip(life.champions, places, strict=True))
    spent = policy.cost * len(life.retrains)
    return {
        "policy": life.name,
        "mean_metric": fmean(value for value in values if math.isfinite(value)),
        "retrains": len(life.retrains),
        "promoted": sum(each.promoted for each in life.retrains),
        "false_triggers": sum(_is_false(series, life, place) for place in range(len(life.retrains))),
        "retrain_cost": spent,
        "loss_money": lost,
        "total_cost": spent + lost,
        "detection_delay_windows": [_delay(life, change) for change in changes],
        "retrained_after": [series.windows[each.after].label for each in life.retrains],
        "metric_by_window": values,
    }


def _lost(series: Series, model: int, window: int, policy: Policy) -> float:
    """Money that the distance from the best model there could have been cost in a window; 0 if a point has no price."""
    period = series.windows[window]
    worths = [series.sign * series.metric_of(each, window) for each in range(series.first - 1, window)]
    best = max((each for each in worths if math.isfinite(each)), default=math.nan)
    behind = best - series.sign * series.metric_of(model, window)
    points = behind / policy.point if math.isfinite(behind) else 0.0
    return points * (policy.value_per_point_day or 0.0) * (period.end - period.start).days


def _is_false(series: Series, life: Life, place: int) -> bool:
    each = life.retrains[place]
    if not each.promoted:
        return True
    old = life.champions[each.after - series.first]
    after = range(each.after + 1, min(each.after + 1 + NEXT, len(series.windows)))
    gains = [series.sign * (series.metric_of(each.after, window) - series.metric_of(old, window)) for window in after]
    known = [gain for gain in gains if math.isfinite(gain)]
    return not known or fmean(known) <= 0


def _delay(life: Life, change: int) -> int | None:
    """Windows from the first changed one to the decision to retrain: 0 is after that window itself. None: never."""
    return next((each.after - change for each in life.retrains if each.after >= change), None)


def table(title: str, found: Sequence[dict[str, Any]], metric: str, currency: str, higher_is_better: bool) -> Table:
    """All rules beside each other; ``gain`` is the mean gain over never."""
    shown = Table(title=title)
    for name in ("policy", f"mean {metric}", "gain", "of oracle", "retrains", "promoted", "false", f"cost {currency}"):
        shown.add_column(name, no_wrap=True, justify="left" if name == "policy" else "right")
    means = {each["policy"]: each["mean_metric"] for each in found}
    sign = 1 if higher_is_better else -1
    most = sign * (means["oracle"] - means["never"])
    for each in found:
        gain = sign * (each["mean_metric"] - means["never"]) + 0.0
        shown.add_row(
            each["policy"],
            f"{each['mean_metric']:.4f}",
            f"{gain:+.4f}",
            f"{gain / most:.0%}" if most > 0 else "",
            str(each["retrains"]),
            str(each["promoted"]),
            str(each["false_triggers"]),
            f"{each['total_cost']:,.0f}",
        )
    return shown
