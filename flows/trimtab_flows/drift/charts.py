"""Drift as a picture: bars in a Markdown table for the Prefect UI, and a small SVG for MLflow and HTML pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from trimtab_flows.drift.decision import Decision, Evidence
from trimtab_flows.drift.signals import PREDICTION, Signal

__all__ = ["drift_markdown", "drift_svg", "evidence_markdown", "evidence_svg"]

#: Characters of the longest bar in Markdown, and pixels of the longest in SVG.
_WIDTH, _PIXELS = 24, 360
_EIGHTHS = " ▏▎▍▌▋▊▉"
#: How PSI is usually read (Siddiqi, Credit Risk Scorecards, 2006): from the first on as a shift, then as a large one.
_SHIFT, _LARGE = 0.1, 0.25
#: Bars end here, or one column measured in another unit would leave the others no length.
_LONGEST = 1.0
_COLOURS = {"large": "#b42318", "shift": "#b25e09", "": "#2563a8"}


@dataclass(frozen=True)
class _Row:
    """One column's figures."""

    column: str
    psi: float
    by_chance: float
    js: float

    @property
    def word(self) -> str:
        """How its PSI is usually read; nothing for what chance may have done in a small window."""
        if self.psi < 2 * self.by_chance:
            return ""
        return "large" if self.psi >= _LARGE else "shift" if self.psi >= _SHIFT else ""


def drift_markdown(signals: Sequence[Signal], top: int = 15) -> str:
    """A table with a bar for the PSI of each column: the predictions, then the inputs, worst first.

    Args:
        signals: of one window.
        top: how many columns are shown; the table says how many are not.
    """
    rows, hidden = _rows(signals, top)
    if not rows:
        return "Nothing was measured."
    longest = _longest(rows)
    lines = ["| column | PSI | | JS |", "|---|---:|---|---:|"]
    for row in rows:
        bar = _bar(min(row.psi, longest) / longest)
        name = row.column.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {row.psi:.3f} | {f'`{bar}` {row.word}'.strip() if bar else ''} | {row.js:.3f} |")
    if hidden:
        lines.append(f"\n{hidden} more columns drifted less.")
    lines.append(f"\nPSI from {_SHIFT:g} is usually read as a shift, from {_LARGE:g} as a large one.")
    return "\n".join(lines)


def drift_svg(signals: Sequence[Signal], top: int = 15) -> str:
    """The same as horizontal bars, 640 pixels wide: one element that needs nothing else, fit to be put into a page.

    Args:
        signals: of one window.
        top: how many columns are shown.
    """
    rows, _ = _rows(signals, top)
    longest = _longest(rows)
    parts = []
    for place, row in enumerate(rows):
        y, width = 8 + place * 20, _PIXELS * min(row.psi, longest) / longest
        name = row.column if len(row.column) <= 24 else f"{row.column[:23]}…"
        parts.append(
            f'<text x="150" y="{y + 11}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="160" y="{y}" width="{max(width, 0.5):.1f}" height="14" fill="{_COLOURS[row.word]}">'
            f"<title>{escape(row.column)}: PSI {row.psi:.4f}, JS {row.js:.4f}</title></rect>"
            f'<text x="{166 + width:.1f}" y="{y + 11}">{row.psi:.3f}</text>'
        )
    if not rows:
        parts.append('<text x="160" y="19">Nothing was measured.</text>')
    height = 16 + 20 * max(len(rows), 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" width="640" height="{height}" role="img" '
        f'font-family="sans-serif" font-size="11" fill="#344054"><title>Drift by column (PSI)</title>'
        f"{''.join(parts)}</svg>"
    )


def _rows(signals: Sequence[Signal], top: int) -> tuple[list[_Row], int]:
    """The columns to show, and how many are not."""
    js = {signal.column: signal.value for signal in signals if signal.kind == "js"}
    rows = [
        _Row(signal.column, signal.value, signal.by_chance, js.get(signal.column, 0.0))
        for signal in signals
        if signal.kind == "psi"
    ]
    rows.sort(key=lambda row: (row.column != PREDICTION, -row.psi, row.column))
    return rows[:top], max(len(rows) - top, 0)


def _longest(rows: Sequence[_Row]) -> float:
    """The PSI that has the longest bar."""
    return min(max((row.psi for row in rows), default=0.0), _LONGEST) or _LONGEST


def _bar(share: float) -> str:
    """A bar of so much of the width, to an eighth of a character."""
    full, part = divmod(round(share * _WIDTH * 8), 8)
    return "█" * full + (_EIGHTHS[part] if part else "")


def evidence_markdown(evidence: Evidence, decision: Decision) -> str:
    """A decision with its reasons and figures, and performance over the windows as bars, for the Prefect UI."""
    lines = [*(f"- {reason}" for reason in decision.reasons), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in _figures(evidence, decision)]
    seen = [(each.window, each.performance) for each in evidence.history][-12:]
    bars = [(window, value) for window, value in [*seen, (evidence.window, evidence.performance)] if value is not None]
    if bars:
        longest = max(abs(value) for _, value in bars) or 1.0
        lines += ["", f"| window | {evidence.metric} | |", "|---|---:|---|"]
        lines += [f"| {window} | {value:.4f} | `{_bar(abs(value) / longest)}` |" for window, value in bars]
    return "\n".join(lines)


def _figures(evidence: Evidence, decision: Decision) -> list[tuple[str, str]]:
    """Name and value of what is known."""
    found: list[tuple[str, object]] = [
        ("verdict", decision.verdict),
        ("at", decision.at),
        ("confidence", decision.confidence),
        ("expected gain", decision.expected_gain),
        ("needs approval", "yes" if decision.needs_approval else None),
        (evidence.metric, evidence.performance),
        ("its standard error", evidence.performance_se or None),
        ("when the champion was made", evidence.reference_performance),
        (f"{evidence.metric} estimated without labels", evidence.estimated_performance),
        ("labelled rows", evidence.labelled_rows),
        ("PSI of predictions", evidence.prediction_psi),
        (f"worst PSI of an input against the season ({evidence.season})", _worst(evidence.seasonal_psi)),
        ("PSI of predictions against the season", evidence.seasonal_prediction_psi),
        (f"{evidence.metric} at the same time a season ago", evidence.seasonal_performance),
        ("AUC of window against training rows", evidence.domain_auc),
        ("detectors in alarm", ", ".join(evidence.stream_alarms) or None),
        ("days since the champion's data ended", evidence.champion_age_days),
        ("last decision to retrain", evidence.last_retrain_at),
        ("orders", "; ".join(str(order) for order in evidence.orders) or None),
        ("policy", decision.policy),
    ]
    return [
        (name, f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|"))
        for name, value in found
        if value is not None
    ]


def _worst(figures: Sequence[tuple[str, float]]) -> float | None:
    return max((value for _, value in figures), default=None)


def evidence_svg(evidence: Evidence, decision: Decision) -> str:
    """Performance over the windows with two standard errors, the reference as a line, 640 pixels wide."""
    points = [(each.window, each.performance, each.performance_se) for each in evidence.history][-23:]
    points.append((evidence.window, evidence.performance, evidence.performance_se))
    known = [(window, value, error) for window, value, error in points if value is not None]
    reference = evidence.reference_performance
    ends = [value + sign * 2 * error for _, value, error in known for sign in (-1, 1)]
    ends += [] if reference is None else [reference]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return 170 - 140 * (value - low) / span

    parts = [f'<text x="8" y="18">{escape(evidence.metric)}: {escape(decision.verdict)}</text>']
    if reference is not None:
        parts.append(f'<line x1="60" x2="620" y1="{y(reference):.1f}" y2="{y(reference):.1f}" stroke="#98a2b3"/>')
    for place, (window, value, error) in enumerate(known):
        x = 70 + 540 * place / max(len(known) - 1, 1)
        colour = _COLOURS["large"] if place == len(known) - 1 and decision.alarmed else _COLOURS[""]
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y(value - 2 * error):.1f}" y2="{y(value + 2 * error):.1f}" '
            f'stroke="{colour}"/><circle cx="{x:.1f}" cy="{y(value):.1f}" r="4" fill="{colour}">'
            f"<title>{escape(window)}: {value:.4f}</title></circle>"
        )
    for value in {low, high} if ends else ():
        parts.append(f'<text x="54" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 190" width="640" height="190" role="img" '
        f'font-family="sans-serif" font-size="11" fill="#344054"><title>After {escape(evidence.window)}</title>'
        f"{''.join(parts)}</svg>"
    )
