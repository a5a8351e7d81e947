"""The report of a model's life so far: a table for the terminal and one HTML page, both from MLflow's records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table
from rich.text import Text

from trimtab_flows.history import WindowRecord

__all__ = ["COLUMNS", "Links", "month_table", "row", "write_html"]

#: Headings of the table, and how each column is set.
COLUMNS = (
    ("window", "left"),
    ("rows", "right"),
    ("held back", "right"),
    ("model", "right"),
    ("metric", "right"),
    ("score PSI", "right"),
    ("worst input PSI", "left"),
    ("decision", "left"),
    ("outcome", "left"),
)


@dataclass(frozen=True)
class Links:
    """Where a person looks next."""

    prefect: str
    mlflow: str
    state: str


def row(record: WindowRecord, metric: str) -> tuple[str, ...]:
    """One window as text, in the order of ``COLUMNS``."""
    column, psi = record.worst_input
    value = record.metrics.get(f"performance/{metric}")
    score_psi = record.metrics.get("drift/psi/prediction")
    return (
        record.window,
        f"{record.rows:,}",
        f"{record.quarantined:,}",
        f"v{record.version}",
        "-" if value is None else f"{value:.3f}",
        "-" if score_psi is None else f"{score_psi:.3f}",
        f"{column} {psi:.2f}" if column else "-",
        "retrain" if record.retrain else f"at {record.at[:16].replace('T', ' ')}" if record.at else "keep",
        _outcome(record),
    )


def _outcome(record: WindowRecord) -> str:
    """What came of the decision, in a few words."""
    if record.outcome is None:
        waits = "under way" if record.retrain else ""
        return waits if record.answer is None else str(record.answer)
    return f"v{record.outcome.version} {'promoted' if record.outcome.promoted else 'refused'}"


def month_table(records: Sequence[WindowRecord], metric: str) -> Table:
    """The windows as a table for the terminal: promotions stand out in green, refusals in yellow."""
    table = Table(header_style="bold")
    for heading, justify in COLUMNS:
        table.add_column(metric.upper() if heading == "metric" else heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for record in records:
        *cells, outcome = row(record, metric)
        style = "green" if outcome.endswith("promoted") else "yellow" if outcome.endswith("refused") else ""
        table.add_row(*cells, Text(outcome, style=style))
    return table


def write_html(path: Path, name: str, records: Sequence[WindowRecord], metric: str, replay: str, links: Links) -> Path:
    """One self-contained page: what happened in each window and why, with a chart of the metric and of drift."""
    environment = Environment(
        loader=PackageLoader("trimtab_infra"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html").render(
        name=name,
        metric=metric,
        headings=[metric.upper() if heading == "metric" else heading for heading, _ in COLUMNS],
        rows=[(record, row(record, metric)) for record in records],
        chart=_chart(records, metric),
        replay=replay,
        links=links,
        written=datetime.now(UTC).astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    path.write_text(page, encoding="utf-8")
    return path


@dataclass(frozen=True)
class Point:
    """A window on the chart, in pixels."""

    x: float
    y: float
    label: str
    value: str
    kind: str


def _chart(records: Sequence[WindowRecord], metric: str) -> dict[str, object]:
    """Pixel positions of the metric's line: 720 wide, 200 high, its own range with a tenth of air above and below."""
    values = [record.metrics.get(f"performance/{metric}") for record in records]
    known = [value for value in values if value is not None]
    if not known:
        return {"points": [], "line": "", "low": "", "high": ""}
    low, high = min(known), max(known)
    air = (high - low or abs(high) or 1.0) / 10
    low, high = low - air, high + air
    points = []
    for index, (record, value) in enumerate(zip(records, values, strict=True)):
        if value is None:
            continue
        kind = "keep" if not record.retrain else "promoted" if record.outcome and record.outcome.promoted else "refused"
        x = 70 + index * (610 / max(len(records) - 1, 1))
        points.append(Point(x, 180 - 160 * (value - low) / (high - low), record.window, f"{value:.4f}", kind))
    line = " ".join(f"{point.x:.1f},{point.y:.1f}" for point in points)
    return {"points": points, "line": line, "low": f"{low:.3f}", "high": f"{high:.3f}"}
