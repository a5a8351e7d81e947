"""Commands for who runs the stack: doctor, setup, backup, restore, migrate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from trimtab_blocks import settings
from trimtab_infra.errors import UserError
from trimtab_infra.stack.stack import Stack

__all__ = ["mount"]

out = Console(highlight=False, emoji=False, soft_wrap=True)
_STYLES = {"ok": "green", "note": "yellow", "FAULT": "bold red"}

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder of the embedded stack [TRIMTAB_STATE].")]


def mount(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (doctor, setup, backup, restore, migrate):
        app.command()(command)


def doctor(state: StateOption = None) -> None:
    """Look at this machine and the stack, and say what to do where something is wrong: then exit code 1."""
    from trimtab_infra.doctor.examine import examine

    wrong = 0
    for finding in examine(_stack(state)):
        style = _STYLES[finding.verdict]
        out.print(f"[{style}]{escape(str(finding))}[/]" if out.is_terminal else escape(str(finding)))
        wrong += finding.verdict == "FAULT"
    if wrong:
        raise typer.Exit(1)


def setup() -> None:
    """Make the work pool and the blocks on the Prefect server of PREFECT_API_URL, from the settings (production)."""
    from prefect.settings import get_current_settings

    if not get_current_settings().api.url:
        raise UserError("no Prefect server is named: set PREFECT_API_URL, for example http://prefect:4200/api")
    from trimtab_infra.setup import set_up

    for line in set_up(settings.read()):
        out.print(f"made {escape(line)}")


def backup(
    file: Annotated[Path, typer.Argument(help="File to write, for example trimtab.tar.gz.")],
    state: StateOption = None,
) -> None:
    """Copy the embedded stack into one file, while it runs or not: databases, models, data."""
    from trimtab_infra.backup import backup as write

    count = write(_stack(state).folder, file)
    out.print(f"{count} files in {escape(str(file))} ({file.stat().st_size / 1e6:.1f} MB)")


def restore(
    file: Annotated[Path, typer.Argument(help="File that `trimtab backup` wrote.")],
    state: StateOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is in the state folder.")] = False,
) -> None:
    """Put a backup in place as the state of the embedded stack; every file is compared first."""
    from trimtab_infra.backup import restore as read

    stack = _stack(state)
    count = read(stack, file, overwrite)
    out.print(f"{count} files are back in {escape(str(stack.folder.path))}. Next: trimtab up")


def migrate(
    to: Annotated[str, typer.Option("--to", help="production: the stack that the settings name.")],
    database: Annotated[
        str, typer.Option(envvar="MLFLOW_BACKEND_STORE_URI", help="MLflow's database there: postgresql+psycopg2://...")
    ],
    artifacts: Annotated[
        str, typer.Option(envvar="MLFLOW_ARTIFACTS_DESTINATION", help="MLflow's artifacts there: s3://bucket/prefix.")
    ],
    state: StateOption = None,
) -> None:
    """Move models, metrics, manifests and data of the embedded stack to production; run it again after a failure."""
    from trimtab_infra.migrate import migrate as move
    from trimtab_infra.setup import s3_store

    if to != "production":
        raise UserError(f"--to {to!r}: there is production only")
    store = s3_store(settings.read())
    move(_stack(state).folder, store, database, artifacts, lambda line: out.print(escape(line)))
    out.print("Done. Prefect's own history of runs stays behind.")


def _stack(state: Path | None) -> Stack:
    try:
        default = settings.read().state
    except settings.SettingError:
        default = Path(".trimtab")
    return Stack(state or default, Path())
