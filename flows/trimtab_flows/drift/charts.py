"""Drift as a picture: bars in a Markdown table for the Prefect UI, and a small SVG for MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from trimtab_flows.drift.signals import PREDICTION, Signal

__all__ = ["drift_markdown", "drift_svg"]

_WIDTH = 24
#: How PSI is usually read (Siddiqi, Credit Risk Scorecards, 2006): below, little change; from it on, a shift; a large one.
_SHIFT, _LARGE = 0.1, 0.25


def drift_markdown(signals: Sequence[Signal], top: int = 15) -> str:
    """A table, worst first, predictions on top."""
    rows = _rows(signals, top)
    longest = max((psi for _, psi, _ in rows), default=0.0) or 1.0
    lines = ["| column | PSI | | JS |", "|---|---:|---|---:|"]
    for column, psi, js in rows:
        bar = "█" * max(round(_WIDTH * psi / longest), 0)
        lines.append(f"| {column} | {psi:.3f} | `{bar or ' '}` {_word(psi)} | {js:.3f} |")
    return "\n".join([*lines, "", f"PSI from {_SHIFT:g} is usually read as a shift, from {_LARGE:g} as a large one."])


def drift_svg(signals: Sequence[Signal], top: int = 15) -> str:
    """The same as horizontal bars, 640 pixels wide."""
    rows = _rows(signals, top)
    longest = max(max((psi for _, psi, _ in rows), default=0.0), _LARGE)
    parts = []
    for place, (column, psi, _) in enumerate(rows):
        y = 20 + place * 20
        color = "#b42318" if psi >= _LARGE else "#b25e09" if psi >= _SHIFT else "#2563a8"
        parts.append(
            f'<text x="150" y="{y + 12}" text-anchor="end">{escape(column)}</text>'
            f'<rect x="160" y="{y}" width="{400 * psi / longest:.1f}" height="14" fill="{color}"/>'
            f'<text x="{166 + 400 * psi / longest:.1f}" y="{y + 12}">{psi:.3f}</text>'
        )
    height = 30 + 20 * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="sans-serif" font-size="11">'
        f"<title>Drift by column, PSI</title>{''.join(parts)}</svg>"
    )


def _rows(signals: Sequence[Signal], top: int) -> list[tuple[str, float, float]]:
    psi = {signal.column: signal.value for signal in signals if signal.kind == "psi"}
    js = {signal.column: signal.value for signal in signals if signal.kind == "js"}
    order = sorted(psi, key=lambda column: (column != PREDICTION, -psi[column], column))
    return [(column, psi[column], js.get(column, 0.0)) for column in order[:top]]


def _word(psi: float) -> str:
    return "large" if psi >= _LARGE else "shift" if psi >= _SHIFT else ""
