"""Lives a series window by window under one retraining rule: score, measure, decide, train, gate, promote.

The order is the product's: a window is scored with the champion that was there before it; then the rule decides; a
challenger is trained on all windows so far less the holdout; and the gate compares it with the champion on rows that
neither was trained on. Every rule but the oracle goes through this gate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from trimtab_flows.drift.decision import Challenge, Decision, Evidence, Policy, Seen, decide
from trimtab_flows.drift.gain import observed_loss
from trimtab_flows.drift.gate import gate
from trimtab_flows.drift.streams import errors_of
from trimtab_infra.bench.trigger_series import Series

__all__ = ["Life", "Retrain", "Rule", "adwin", "decided", "every", "live", "never", "oracle", "psi_above", "spread"]


@dataclass(frozen=True)
class Retrain:
    """A retraining: after which window, whether the gate let it through, and why it was decided."""

    after: int
    promoted: bool
    gain: float | None
    reasons: tuple[str, ...] = ()


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
        promoted, gain, error = judged(series, window, champion)
        challenges.append(_challenge(now, promoted, gain, error))
        life.retrains.append(Retrain(window, promoted, gain, reasons))
        champion = window if promoted else champion
    return life


def judged(series: Series, challenger: int, champion: int) -> tuple[bool, float | None, float]:
    """Whether the gate lets a challenger through; its gain on the rows held back, and the standard error of that."""
    key = (challenger, champion)
    if key not in series.verdicts:
        series.verdicts[key] = _judged(series, challenger, champion)
    return series.verdicts[key]


def _judged(series: Series, challenger: int, champion: int) -> tuple[bool, float | None, float]:
    new, old = series.held_back(challenger, challenger), series.held_back(challenger, champion)
    metric = series.loaded.recipe.metrics[0]
    verdict = gate(new.labels, old.scores, new.scores, (metric,), policy=series.gate, groups=new.days)
    first = verdict.comparisons[0]
    error = 0.0
    if first.ci_low is not None and first.ci_high is not None:
        # As many standard errors wide as a normal interval of this confidence: 3.29 at 90 %.
        error = (first.ci_high - first.ci_low) / (2 * NormalDist().inv_cdf((1 + series.gate.confidence) / 2))
    return verdict.promote, first.difference, error


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
    cut = series.windows[champion].end_time - series.loaded.recipe.holdout
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
        champion_age=now.window - series.holdout(champion),
        ordinal=now.window,
        as_of=period.end_time.replace(tzinfo=UTC).isoformat(),
        window_days=(period.end - period.start).days,
        champion_age_days=(period.end_time - cut) / timedelta(days=1),
        last_retrain_at=None if last is None else series.windows[last].end_time.replace(tzinfo=UTC).isoformat(),
        training_rows=series.training_rows(champion),
        # What a challenger would have more than the champion: its own holdout is left out of it.
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
            place - series.holdout(model),
            series.labelled_rows(place, place),
        )
        for place, model in zip(places, now.life.champions, strict=False)
    )


def _challenge(now: Now, promoted: bool, gain: float | None, error: float) -> Challenge:
    series = now.series
    return Challenge(
        window=series.windows[now.window].label,
        gain=gain,
        gain_se=error,
        rows=series.training_rows(now.window),
        champion_rows=series.training_rows(now.champion),
        champion_age=now.window - series.holdout(now.champion),
        champion_loss=observed_loss(evidence(now)),
        promoted=promoted,
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
