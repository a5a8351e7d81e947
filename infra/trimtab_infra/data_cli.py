"""`trimtab data`: where data lies and what that costs, moving it, and removing what nothing needs.

They act on the server of PREFECT_API_URL where that is set, else on the local stack.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab_infra.errors import UserError
from trimtab_infra.stack.stack import Stack

if TYPE_CHECKING:
    from trimtab_blocks.tiering_rules import TieringRules
    from trimtab_flows.tiering.decision import Plan

__all__ = ["app"]

app = typer.Typer(name="data", help="Where data lies and what it costs: tiers, prices, garbage.", no_args_is_help=True)
out = Console(highlight=False, emoji=False, soft_wrap=True)

StateOption = Annotated[Path, typer.Option("--state", envvar="TRIMTAB_STATE", help="Folder of the local stack.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
STATE = Path(".trimtab")


@app.command()
def policy(
    file: Annotated[Path, typer.Argument(help="YAML with tiers and rules; blocks/STORES.md shows one.")],
    state: StateOption = STATE,
) -> None:
    """Check a tiering policy and save it as the Prefect block that the flows use."""
    _connect(state)
    from trimtab_blocks.tiering import TieringPolicy
    from trimtab_blocks.tiering_rules import TieringRules
    from trimtab_flows import runtime

    try:
        rules = TieringRules.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"{file}: {_first_fault(error)}") from None
    saved = TieringPolicy(rules=rules)
    saved.over(runtime.hot_store(), repr)  # its stores are there
    saved.save(runtime.BLOCKS, overwrite=True)
    out.print(f"Saved as trimtab-tiering-policy/{runtime.BLOCKS}. Next: trimtab data tier --dry-run")


@app.command()
def tier(dry_run: DryRun = False, state: StateOption = STATE) -> None:
    """Move data between hot, warm and cold storage as the policy says. Exit code 1 if some of it is corrupt."""
    _connect(state)
    from trimtab_flows import tier as flows

    rules = flows.policy()
    if dry_run:
        _show(flows.plan(rules), rules)
        return
    done = flows.tier()
    out.print(f"{done.done} of {done.moves} moves done. A month costs {_money(done.saves_month, rules)} less.")
    for fault in done.faults:
        out.print(f"[red]{escape(fault)}[/]")
    if done.faults:
        raise typer.Exit(1)


@app.command()
def gc(
    dry_run: DryRun = False,
    grace_days: Annotated[int, typer.Option(min=1, help="What was written or used since then stays.")] = 7,
    superseded_days: Annotated[
        int | None, typer.Option(min=0, help="Catalog entries that were replaced need nothing when they are older.")
    ] = None,
    state: StateOption = STATE,
) -> None:
    """Remove snapshots that no registered model, manifest, catalog entry or retention rule needs."""
    _connect(state)
    from trimtab_flows import gc as flows

    found = flows.gc(dry_run, grace_days, superseded_days)
    out.print(flows.describe(found, dry_run))


@app.command()
def price(
    recipe: Annotated[str, typer.Argument(help="Recipe, as module:attribute.")],
    windows: Annotated[str, typer.Argument(help="For example 2013-01..2013-06.")],
    state: StateOption = STATE,
) -> None:
    """Say what a training on these windows would pay and wait for data that lies colder. Nothing is read."""
    _connect(state)
    from trimtab_blocks.tiered import TieredStore
    from trimtab_flows import locality, runtime
    from trimtab_flows import tier as flows
    from trimtab_flows.tiering.fetching import quote, say

    rules, store = flows.policy(), runtime.uncached()
    assert isinstance(store, TieredStore)
    found = quote(store, rules, locality.reads(recipe, windows))
    out.print(say(found, rules) if found.snapshots else "All of it is hot: nothing to pay or to wait for.")


@app.command()
def fetch(
    recipe: Annotated[str, typer.Argument(help="Recipe, as module:attribute.")],
    windows: Annotated[str, typer.Argument(help="For example 2013-01..2013-06.")],
    state: StateOption = STATE,
) -> None:
    """Bring the features of these windows back to hot storage, whatever it costs."""
    _connect(state)
    from trimtab_blocks.tiered import HOT, TieredStore
    from trimtab_flows import locality, runtime
    from trimtab_flows import tier as flows
    from trimtab_flows.tiering.fetching import quote, say

    rules, store = flows.policy(), runtime.uncached()
    assert isinstance(store, TieredStore)
    digests = locality.reads(recipe, windows)
    found = quote(store, rules, digests)
    if found.snapshots:
        out.print(say(found, rules))
    library = runtime.library()
    moved = sum(store.move(library.file_of(digest), HOT) for digest in dict.fromkeys(digests))
    out.print(f"{moved} snapshots came back to hot storage.")


def _connect(state: Path) -> None:
    """Become a client of the server that is meant. Called before anything that reads Prefect's settings is imported."""
    if not os.environ.get("PREFECT_API_URL"):
        os.environ.update(Stack(state, Path()).environment())
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _show(plan: Plan, rules: TieringRules) -> None:
    table = Table("snapshot", "MiB", "from", "to", "saves a month", "costs once", "why")
    for move in plan.moves:
        size = f"{move.bytes / 2**20:.1f}"
        money = _money(move.saves_month, rules), _money(move.costs_once, rules)
        table.add_row(move.digest[:12], size, move.source, move.target, *money, escape("; ".join(move.reasons)))
    if plan.moves:
        Console(highlight=False, emoji=False, width=None if out.is_terminal else 200).print(table)
    for digest, why in plan.spared:
        out.print(f"{digest[:12]} stays although its time is over: {escape(why)}")
    out.print(
        f"{len(plan.moves)} of {plan.snapshots} snapshots would move. A month costs {_money(plan.month_before, rules)} "
        f"now and {_money(plan.month_after, rules)} after: {_money(plan.saves_month, rules)} less. The moves cost "
        f"{_money(plan.costs_once, rules)} once."
    )


def _money(amount: float, rules: TieringRules) -> str:
    return f"{amount:,.4f} {rules.currency}" if abs(amount) < 1 else f"{amount:,.2f} {rules.currency}"


def _first_fault(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
