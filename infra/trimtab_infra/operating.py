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

out = Console(highlight=False, soft_wrap=True)
_STYLES = {"ok": "green", "note": "yellow", "FAULT": "bold red"}

StateOption = Annotated[Path | None, typer.Option("--state", help="Folder of the embedded stack [TRIMTAB_STATE].")]


def mount(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (doctor, setup):
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


def _stack(state: Path | None) -> Stack:
    try:
        default = settings.read().state
    except settings.SettingError:
        default = Path(".trimtab")
    return Stack(state or default, Path())
