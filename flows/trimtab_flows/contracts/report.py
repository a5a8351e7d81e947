"""A verdict for a person (Markdown) and for a machine (plain data)."""

from __future__ import annotations

from typing import Any

from trimtab_flows.contracts.contract import CheckFailure, Verdict

__all__ = ["to_markdown", "to_record"]


def to_markdown(verdict: Verdict) -> str:
    """The report that the Prefect UI shows: the verdict in a sentence, then a row for each failed check."""
    lines = [f"## {verdict.table}: {verdict.status}", "", _sentence(verdict)]
    if verdict.extra_columns:
        lines += ["", f"Columns that the contract does not name, left out: {', '.join(verdict.extra_columns)}."]
    if verdict.failures:
        lines += ["", "| column | check | rows | for example |", "|---|---|---:|---|"]
        lines += [_row(failure) for failure in verdict.failures]
    return "\n".join(lines)


def to_record(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain JSON data, without the rows."""
    return {
        "table": verdict.table,
        "status": verdict.status,
        "rows": verdict.rows,
        "accepted": verdict.accepted.height,
        "quarantined": verdict.quarantined.height,
        "extra_columns": list(verdict.extra_columns),
        "failures": [
            {"column": each.column, "check": each.check, "count": each.count, "samples": list(each.samples)}
            for each in verdict.failures
        ],
    }


def _sentence(verdict: Verdict) -> str:
    match verdict.status:
        case "ok":
            return f"All {verdict.rows:,} rows passed."
        case "quarantined":
            held = verdict.quarantined.height
            return f"{verdict.accepted.height:,} of {verdict.rows:,} rows passed; {held:,} are in quarantine."
    return f"None of the {verdict.rows:,} rows may be handed on."


def _row(failure: CheckFailure) -> str:
    cells = (failure.column, failure.check, f"{failure.count:,}", ", ".join(failure.samples))
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
