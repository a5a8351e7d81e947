"""What a hand-over must satisfy, and what checking it found: frozen values, no I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pandera.polars as pa
import polars as pl

__all__ = ["CheckFailure", "Contract", "ContractRefused", "Verdict"]

Status = Literal["ok", "quarantined", "refused"]

#: How many failures the message of a refusal spells out.
_SHOWN = 10


@dataclass(frozen=True)
class Contract:
    """What one table must be when it passes from one stage to the next.

    Args:
        table: name of the table, used in every message.
        schema: pandera schema or model (polars backend): columns, types, row checks. Rows that fail a row check are
            quarantined; a missing column or a wrong type refuses the table.
        key: columns that identify a row. A null or a repeated key refuses the table. Empty: no key.
        event_time: column with the moment the row speaks of. A value later than the moment the check is made for
            (``as_of``) refuses the table.
        max_quarantined_share: largest share of rows, 0 to 1, that may be quarantined before the table is refused.
        min_rows: fewest rows the table may have, and fewest that may be left once bad rows are in quarantine.

    Raises:
        TypeError: the schema is not one of pandera's polars backend, or ``key`` is a text.
        ValueError: a share or a number of rows out of its range.
    """

    table: str
    schema: pa.DataFrameSchema | type[pa.DataFrameModel]
    key: tuple[str, ...] = ()
    event_time: str | None = None
    max_quarantined_share: float = 0.01
    min_rows: int = 1

    def __post_init__(self) -> None:
        model = isinstance(self.schema, type) and issubclass(self.schema, pa.DataFrameModel)
        if not model and not isinstance(self.schema, pa.DataFrameSchema):
            raise TypeError(
                f"contract {self.table!r}: schema is a {type(self.schema).__module__}.{type(self.schema).__name__}; "
                "it must be a DataFrameSchema or DataFrameModel of pandera.polars"
            )
        if isinstance(self.key, str):
            raise TypeError(f"contract {self.table!r}: key is the text {self.key!r}; write a tuple: ({self.key!r},)")
        if not 0 <= self.max_quarantined_share <= 1:
            raise ValueError(
                f"contract {self.table!r}: max_quarantined_share is {self.max_quarantined_share}; it is a share, 0 to 1"
            )
        if self.min_rows < 0:
            raise ValueError(f"contract {self.table!r}: min_rows is {self.min_rows}; it must be 0 or more")


@dataclass(frozen=True)
class CheckFailure:
    """One check that rows of one column did not pass; ``samples`` are up to three offending values, as text."""

    table: str
    column: str
    check: str
    count: int
    samples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f" (for example {', '.join(self.samples)})" if self.samples else ""
        rows = "1 row" if self.count == 1 else f"{self.count:,} rows"
        return f"table {self.table!r}, column {self.column!r}: {self.check}: {rows}{shown}"


@dataclass(frozen=True)
class Verdict:
    """What checking one table against its contract found.

    ``accepted`` has the contract's columns and the rows that passed. ``quarantined`` has the table's own columns plus
    ``failed_checks`` (text, ``column: check`` joined by ``; ``). Both are empty when the table is refused.
    ``extra_columns`` are the table's columns that the contract does not name; ``accepted`` has none of them.
    """

    table: str
    status: Status
    rows: int
    accepted: pl.DataFrame = field(repr=False)
    quarantined: pl.DataFrame = field(repr=False)
    failures: tuple[CheckFailure, ...] = ()
    extra_columns: tuple[str, ...] = ()

    def accepted_or_raise(self) -> pl.DataFrame:
        """The rows that passed.

        Raises:
            ContractRefused: the table was refused.
        """
        if self.status == "refused":
            raise ContractRefused(self.table, self.failures)
        return self.accepted


class ContractRefused(ValueError):
    """A table that may not be handed on: which checks failed, how often, and on which values."""

    def __init__(self, table: str, failures: tuple[CheckFailure, ...]) -> None:
        self.table = table
        self.failures = failures
        super().__init__(table, failures)

    def __str__(self) -> str:
        shown = [str(failure) for failure in self.failures[:_SHOWN]]
        if len(self.failures) > _SHOWN:
            shown.append(f"and {len(self.failures) - _SHOWN} more failed checks")
        return f"table {self.table!r} refused: " + "; ".join(shown)
