"""A verdict for a person (Markdown) and for a machine (plain data)."""

from __future__ import annotations

import re
from typing import Any

from trimtab_flows.contracts.contract import CheckFailure, Verdict

__all__ = ["to_markdown", "to_record"]


def to_markdown(verdict: Verdict) -> str:
    """The report that the Prefect UI shows: the verdict in a sentence, then a row for each failed check.

    Whatever comes from the data or the schema is shown as code, so that no value of a table is read as markup.
    """
    lines = [f"## {_code(verdict.table)}: {verdict.status}", "", _sentence(verdict)]
    if verdict.extra_columns:
        names = ", ".join(_code(column) for column in verdict.extra_columns)
        lines += ["", f"Columns that the contract does not name, left out: {names}."]
    if verdict.failures:
        lines += ["", "| column | check | rows | for example |", "|---|---|---:|---|"]
        lines += [_row(failure) for failure in verdict.failures]
    return "\n".join(lines)


def to_record(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain JSON data, without the rows: ``accepted`` and ``quarantined`` are numbers of rows."""
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
    rows = "1 row" if verdict.rows == 1 else f"{verdict.rows:,} rows"
    match verdict.status:
        case "ok":
            return f"All of {rows} passed."
        case "quarantined":
            held = verdict.quarantined.height
            return f"{verdict.accepted.height:,} of {rows} passed; {held:,} in quarantine ({held / verdict.rows:.2%})."
    return f"Refused: none of {rows} may be handed on."


def _row(failure: CheckFailure) -> str:
    samples = ", ".join(_code(sample) for sample in failure.samples)
    return f"| {_code(failure.column)} | {_code(failure.check)} | {failure.count:,} | {samples} |"


def _code(text: str) -> str:
    """Text as a Markdown code span that survives backticks, line breaks, and the bars of a table."""
    text = re.sub(r"\s+", " ", text).replace("|", "\\|") or " "
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence} {text} {fence}" if text.startswith("`") or text.endswith("`") else f"{fence}{text}{fence}"
