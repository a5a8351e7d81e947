"""`python -m trimtab_work_pools.inventory`: what this host would offer, as a table or as JSON."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from trimtab_work_pools.inventory.host import LABELS_VARIABLE, LabelError, parse_labels
from trimtab_work_pools.inventory.reader import open_reader
from trimtab_work_pools.inventory.show import as_json, print_table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    label: Annotated[
        list[str] | None, typer.Option(help=f"key=value; may be repeated. Also read from {LABELS_VARIABLE}.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where runs write: its file system is the disk.")] = Path(),
    name: Annotated[str, typer.Option(help="Name of the node; the host's name without it.")] = "",
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """What this host has, read once: CPUs, memory, disk, GPUs and their health. A host without GPUs is fine."""
    try:
        labels = parse_labels(label or (), os.environ)
    except LabelError as error:
        raise typer.BadParameter(str(error)) from None
    reader = open_reader(folder.resolve(), name=name, labels=labels)
    try:
        reading = reader.read()
    finally:
        reader.close()
    if json:
        typer.echo(as_json(reading))
    else:
        print_table(reading)


if __name__ == "__main__":
    app()
