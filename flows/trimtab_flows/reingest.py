"""Give quarantined rows another chance: check them again after a fix, and add those that pass to their window."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from prefect import flow, get_run_logger, task

from trimtab_flows import runtime
from trimtab_flows.faults import RETRIES
from trimtab_flows.ingest import Ingested, ingest
from trimtab_flows.loading import load_recipe
from trimtab_flows.snapshots.lineage import Edge
from trimtab_flows.windows import Window

__all__ = ["combine", "read_rows", "reingest"]


def combine(accepted: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The accepted rows and the rows to be tried again, as one table of the accepted rows' columns and types.

    Raises:
        ValueError: a column is missing, or a value cannot be read as the column's type.
    """
    missing = [column for column in accepted.columns if column not in rows.columns]
    if missing:
        raise ValueError(f"the mended rows lack the columns {', '.join(missing)}; keep all columns of the quarantine")
    try:
        return pl.concat([accepted, rows.select(accepted.columns).cast(accepted.schema)])
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"the mended rows do not have the table's types: {error}") from error


def read_rows(path: Path) -> pl.DataFrame:
    """Rows from a CSV or Parquet file.

    Raises:
        ValueError: the file is neither, or cannot be read.
    """
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, try_parse_dates=True)
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    raise ValueError(f"{path}: mended rows come as .csv or .parquet")


@task(task_run_name="join {table} {window}", **RETRIES)
def join_rows(recipe: str, window: str, table: str, rows: str | None) -> dict[str, str]:
    """Land the window's raw tables again, with the quarantined (or mended) rows of one of them back in."""
    found = load_recipe(recipe).recipe
    period = Window.parse(window)
    catalog, library = runtime.catalog(found.name), runtime.library()
    landed = {name: catalog.get(f"raw.{name}", period).digest for name in found.raw}
    quarantine = catalog.get(f"quarantine.{table}", period).digest
    again = rows or quarantine
    joined = library.put(combine(library.get(landed[table]), library.get(again))).digest
    edge = Edge(joined, (landed[table], quarantine, *([rows] if rows else [])), "reingest", found.name, period.label,
                runtime.flow_run_id())  # fmt: skip
    runtime.lineage().record(edge)
    return {**landed, table: joined}


@flow(name="reingest", flow_run_name="reingest {table} {window}", persist_result=True)
def reingest(recipe: str, window: str, table: str, mended: str | None = None) -> Ingested:
    """Check the quarantined rows of a raw table again and add those that pass now to the window.

    Use it after the recipe's contract was corrected, or with a file of mended rows. Rows that fail again are in
    quarantine again.

    Args:
        recipe: ``module:attribute``.
        window: a window with rows in quarantine.
        table: the raw table they belong to.
        mended: a .csv or .parquet file of mended rows, in place of the quarantined ones.

    Raises:
        NotIngested: the window, or a quarantine for this table of it, is not in the store.
        ValueError: an unknown table, or a file that does not fit the table.
        ContractRefused: the joined table broke its contract; the window stays as it was.
    """
    found = load_recipe(recipe).recipe
    if table not in found.raw:
        raise ValueError(f"recipe {recipe} has no raw table {table!r}; it has {', '.join(found.raw)}")
    rows = runtime.library().put(read_rows(Path(mended))).digest if mended else None
    landed = join_rows(recipe, window, table, rows)
    ingested = ingest(recipe, window, landed)
    get_run_logger().info("%s %s: %s rows are still in quarantine", found.name, window, ingested.quarantined_rows)
    return ingested
