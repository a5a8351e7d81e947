"""Lives a series window by window under one retraining rule: score, measure, decide, train, gate, promote.

The order is the product's: a window is scored with the champion that was there before it; then the rule decides; a
challenger is trained on all windows so far less the holdout; and the gate compares it with the champion on rows that
neither was trained on. Every rule but the oracle goes through this gate, which knows what the retrainings before gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from trimtab_flows.drift.decision import Challenge, Decision, Evidence, Policy, Seen, decide
from trimtab_flows.drift.gain import expected_of, observed_loss
from trimtab_flows.drift.gate import Comparison, compare, judge
from trimtab_flows.drift.streams import errors_of
from trimtab_infra.bench.trigger_series import Series

__all__ = ["Life", "Retrain", "Rule", "adwin", "decided", "every", "live", "never", "oracle", "psi_above", "spread"]


@dataclass(frozen=True)
class Retrain:
    """A retraining: after which window, whether the gate let it through, why it was decided, what the gate said."""

    after: int
    promoted: bool
    gain: float | None
    reasons: tuple[str, ...] = ()
    gate: str = ""


@dataclass
class Life:
    """What came of each window under one rule. ``champions[i]`` served window ``first + i``."""

    name: str
    champions: list[int] = field(default_factory=list)
    retrains: list[Retrain] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)


@dataclass(frozen=True)
class Now:
    """What a rule may look at after a window: the champion, and what happened before."""

    series: Series
    window: int
    champion: int
    life: Life
    challenges: tuple[Challenge, ...]


Rule = Callable[[Now], tuple[bool, tuple[str, ...]]]


def live(series: Series, name: str, rule: Rule, tell: Callable[[str, float], None] | None = None) -> Life:
    """The series under a rule; the last window is not followed by a decision, since nothing would come of it."""
    life, champion = Life(name), series.bootstrap - 1
    challenges: list[Challenge] = []
    last = len(series.windows) - 1
    for window in range(series.first, len(series.windows)):
        life.champions.append(champion)
        if tell is not None:
            tell(name, (window - series.first + 1) / (len(series.windows) - series.first))
        if window == last:
            break
        now = Now(series, window, champion, life, tuple(challenges))
        wanted, reasons = rule(now)
        if not wanted:
            continue
        challenge, why = judged(now)
        challenges.append(challenge)
        life.retrains.append(Retrain(window, challenge.promoted, challenge.gain, reasons, why))
        champion = window if challenge.promoted else champion
    return life


def judged(now: Now) -> tuple[Challenge, str]:
    """The challenge of a model trained after this window by the champion, with the gate's verdict, and its reason."""
    series, known = now.series, evidence(now)
    challenge = _challenge(now, known)
    rows, comparison = _compared(series, now.window, now.champion)
    verdict = judge((comparison,), rows, series.gate, expected_of(known, challenge))
    gain, error = comparison.difference, comparison.standard_error or 0.0
    return replace(challenge, gain=gain, gain_se=error, promoted=verdict.promote), verdict.reason


def _compared(series: Series, challenger: int, champion: int) -> tuple[int, Comparison]:
    """How many rows both are compared on, and the deciding metric of both."""
    key = (challenger, champion)
    if key not in series.compared:
        new, old = series.held_back(challenger, challenger), series.held_back(challenger, champion)
        metric = series.loaded.recipe.metrics[0]
        found = compare(new.labels, old.scores, new.scores, (metric,), policy=series.gate, groups=new.days)
        series.compared[key] = (new.labels.size, found[0])
    return series.compared[key]


def never(now: Now) -> tuple[bool, tuple[str, ...]]:
    """Keeps the first model."""
    return False, ()


def every(windows: int) -> Rule:
    """Retrains each so many windows."""

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        return (now.window - now.series.first + 1) % windows == 0, ()

    return rule


def spread(count: int, steps: int) -> Rule:
    """Retrains so many times in ``steps`` windows, as evenly as whole windows allow, the last time at their end or
    before: ``every`` with a k that need not be whole."""

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        done = now.window - now.series.first + 1
        # Half a stretch is left after the last one: a model made in the last window would serve none.
        return math.floor(done * count / steps + 0.5) > math.floor((done - 1) * count / steps + 0.5), ()

    return rule


def psi_above(limit: float) -> Rule:
    """Retrains when the PSI of any input, or of the scores, is above a limit."""

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        inputs, scores = now.series.drift(now.champion, now.window)
        return max([*inputs.values(), scores]) > limit, ()

    return rule


def adwin() -> Rule:
    """Retrains when ADWIN on the stream of absolute errors finds a change to larger ones; starts anew with a model."""
    from river.drift import ADWIN

    state: dict[str, Any] = {"reader": ADWIN(), "champion": None}  # type: ignore[no-untyped-call]

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        if state["champion"] != now.champion:
            state.update(reader=ADWIN(), champion=now.champion)  # type: ignore[no-untyped-call]
        rows = now.series.rows(now.champion, now.window)
        errors = errors_of(rows.labels, rows.scores)
        scale = max(float(np.quantile(errors, 0.99)), 1e-12) if errors.size else 1.0
        state.setdefault("scale", scale)
        alarm = False
        for error in np.clip(errors / state["scale"], 0, 1).tolist():
            before = state["reader"].estimation
            state["reader"].update(error)
            alarm |= bool(state["reader"].drift_detected) and state["reader"].estimation > before
        return alarm, ()

    return rule


def decided(policy: Policy) -> Rule:
    """Ours: evidence as the monitor flow gathers it, and the pure decision."""

    def rule(now: Now) -> tuple[bool, tuple[str, ...]]:
        previous = now.life.decisions[-1] if now.life.decisions else None
        decision = decide(evidence(now), previous, policy)
        now.life.decisions.append(decision)
        return decision.retrain, decision.reasons

    return rule


def evidence(now: Now) -> Evidence:
    """What is known after a window."""
    series, champion = now.series, now.champion
    period = series.windows[now.window]
    inputs, scores = series.drift(champion, now.window)
    reference, reference_error = series.reference_of(champion)
    last = now.life.retrains[-1].after if now.life.retrains else None
    metric = series.loaded.recipe.metrics[0]
    return Evidence(
        window=period.label,
        labelled_rows=series.labelled_rows(now.window, now.window),
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        performance=series.metric_of(champion, now.window),
        performance_se=series.error_of(champion, now.window),
        reference_performance=reference,
        reference_se=reference_error,
        input_psi=tuple(sorted(inputs.items())),
        prediction_psi=scores,
        windows_since_retrain=None if last is None else now.window - last,
        champion_age=now.window - series.unseen_from(champion),
        ordinal=now.window,
        as_of=period.end_time.replace(tzinfo=UTC).isoformat(),
        window_days=(period.end - period.start).days,
        champion_age_days=(period.end_time - series.data_end(champion)) / timedelta(days=1),
        fresh_age_days=(period.end_time - series.data_end(now.window)) / timedelta(days=1),
        last_retrain_at=None if last is None else series.windows[last].end_time.replace(tzinfo=UTC).isoformat(),
        training_rows=series.training_rows(champion),
        # What a model trained now would have more than the champion.
        new_labelled_rows=series.training_rows(now.window) - series.training_rows(champion),
        history=_history(now),
        challenges=now.challenges,
    )


def _history(now: Now) -> tuple[Seen, ...]:
    series = now.series
    places = range(series.first, now.window)
    return tuple(
        Seen(
            series.windows[place].label,
            series.metric_of(model, place),
            series.error_of(model, place),
            place - series.unseen_from(model),
            series.labelled_rows(place, place),
        )
        for place, model in zip(places, now.life.champions, strict=False)
    )


def _challenge(now: Now, known: Evidence) -> Challenge:
    """What will be compared: with a refit, the models that are judged in place of those that serve."""
    series = now.series
    newer = series.data_end(now.window, serves=False) - series.data_end(now.champion, serves=False)
    return Challenge(
        window=series.windows[now.window].label,
        gain=None,
        rows=series.training_rows(now.window, serves=False),
        champion_rows=series.training_rows(now.champion, serves=False),
        champion_age=known.champion_age,
        champion_loss=observed_loss(known),
        newer_days=newer / timedelta(days=1),
    )


def oracle(series: Series, budget: int | None) -> Life:
    """The best mean metric that any choice of windows to retrain after can give, known in hindsight.

    Dynamic programming over the window and the model in service, with at most ``budget`` retrainings (None: as many as
    there are windows). The models are the same as everybody's; each goes into service without a gate. It reads the
    labels of the windows to come, chance included: no rule that does not can be expected to reach it.
    """
    first, last = series.first, len(series.windows) - 1
    count = last - first if budget is None else min(budget, last - first)
    value: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(first - 1, count): (0.0, ())}
    for window in range(first, last + 1):
        grown: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (model, left), (total, path) in value.items():
            worth = series.sign * series.metric_of(model, window)
            after = total + (worth if math.isfinite(worth) else 0.0), (*path, model)
            options = [(model, left)]
            if left and window < last:
                options.append((window, left - 1))
            for option in options:
                if option not in grown or grown[option][0] < after[0]:
                    grown[option] = after
        value = grown
    _, path = max(value.values(), key=lambda each: each[0])
    life = Life("oracle", champions=list(path))
    life.retrains = [Retrain(new, True, None) for old, new in pairwise(path) if new != old]
    return life
