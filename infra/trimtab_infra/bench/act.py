"""`trimtab bench act`: from a metric that anyone logs to the retrain run it leads to, and a storm of such metrics."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trimtab_infra.errors import PartFailed
from trimtab_infra.init import write
from trimtab_infra.stack.stack import Stack

__all__ = ["act"]


def act(
    rounds: Annotated[int, typer.Option(min=0, help="Metrics followed to their retrain run, one a month of data.")] = 5,
    points: Annotated[int, typer.Option(min=0, help="Points of the storm; 0 leaves it out.")] = 1000,
    over_s: Annotated[float, typer.Option(min=1, help="Seconds that the storm takes.")] = 60,
    gather_s: Annotated[float, typer.Option(min=0, help="Seconds that metrics are gathered before a decision.")] = 5,
) -> None:
    """Measure on a local stack of its own; the last line is JSON, in seconds."""
    said = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="trimtab-act-") as name:
        folder = Path(name)
        write(folder, "trimtab_infra.bench.act_recipe:steady", "steady")
        stack = Stack(folder / "state", folder)
        try:
            stack.up(said.print)
            command = [sys.executable, "-m", "trimtab_infra.bench.act_run"]
            done = subprocess.run(
                [*command, str(rounds), str(points), str(over_s), str(gather_s)],
                env=stack.environment(),
                cwd=folder,
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
        except PartFailed as failed:
            typer.echo(f"bench act: {failed}", err=True)
            raise typer.Exit(1) from None
        finally:
            stack.down()
        if done.returncode:
            raise typer.Exit(1)
        typer.echo(done.stdout.strip().splitlines()[-1])
