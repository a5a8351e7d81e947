"""`trimtab automations`, `trimtab policy` and `trimtab webhook`: all talk to the Prefect server of PREFECT_API_URL."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from trimtab_blocks.settings import read as read_settings
from trimtab_infra.errors import UserError

__all__ = ["automations", "policy", "webhook"]

out = Console(highlight=False, emoji=False, soft_wrap=True)

automations = typer.Typer(
    no_args_is_help=True, help="Automations of a model: what differs from those declared, apply, remove."
)
policy = typer.Typer(no_args_is_help=True, help="Retraining policies, as Prefect blocks.")

Recipe = Annotated[str, typer.Argument(help="The recipe, as module:attribute.")]
Policy = Annotated[str | None, typer.Option("--policy", help="Name of the policy block that decides.")]
MaxAge = Annotated[float | None, typer.Option("--max-age-days", help="Decide if nothing was retrained for so long.")]


@automations.command()
def diff(recipe: Recipe, policy: Policy = None, max_age_days: MaxAge = None) -> None:
    """Show what `apply` would change. Exit code 1 if something would."""
    from trimtab_infra.act.automations import plan

    model, rules = _declared(recipe, policy, max_age_days)
    changes = asyncio.run(plan(model, rules))
    _show(model, changes, done=False)
    if changes:
        raise typer.Exit(1)


@automations.command()
def apply(recipe: Recipe, policy: Policy = None, max_age_days: MaxAge = None) -> None:
    """Bring the server in line with what is declared, and remove what is declared no more. Twice is once."""
    from trimtab_infra.act.automations import apply as carry_out

    model, rules = _declared(recipe, policy, max_age_days)
    _show(model, asyncio.run(carry_out(model, rules)), done=True)


@automations.command()
def remove(model: Annotated[str, typer.Argument(help="Name of the model.")]) -> None:
    """Remove every automation that `apply` made for a model."""
    from trimtab_infra.act.automations import remove as carry_out

    _show(model, asyncio.run(carry_out(model)), done=True)


@policy.command()
def save(
    name: Annotated[str, typer.Argument(help="Name of the block: lower-case letters, digits and -.")],
    file: Annotated[Path, typer.Argument(help="The policy: JSON, TOML or YAML.")],
) -> None:
    """Save a policy as a block, with the next revision number. A bad one is refused, naming the field; so is one that
    tells by a notification block which the server does not have."""
    from trimtab_blocks.policy import RetrainPolicy, keep
    from trimtab_flows.drift.policy_file import read_policy

    # The flows' own reading first: what it refuses no flow could use.
    plain = read_policy(file).to_plain()
    asyncio.run(_must_be_told(plain["tell"]))
    try:
        block = RetrainPolicy(**plain)
        revision = keep(name, block)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{file}: policy: field {field}: {first['msg']}") from None
    out.print(f"policy {escape(name)}, revision {revision}")


@policy.command()
def show(name: Annotated[str, typer.Argument(help="Name of the block; NAME-rN for an earlier revision.")]) -> None:
    """Print a policy block as JSON."""
    from trimtab_flows.policies import resolve

    out.print(escape(resolve(name).to_json()))


def webhook(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Listen here, on loopback.")] = 4280,
    host: Annotated[str, typer.Option(help="Address to listen on; put a TLS proxy before any other.")] = "127.0.0.1",
) -> None:
    """Take signed orders of the business over HTTP. The secret is in TRIMTAB_WEBHOOK_SECRET."""
    secret = read_settings().webhook_secret
    if secret is None:
        raise UserError("TRIMTAB_WEBHOOK_SECRET is not set; it holds the secret shared with those who may give orders")
    import uvicorn

    from trimtab_infra.act.webhook import application

    try:
        server = application(secret.get_secret_value().encode())
    except ValueError as error:
        raise UserError(f"TRIMTAB_WEBHOOK_SECRET: {error}") from None
    # What Prefect has not taken by then is answered by nobody, and sent again.
    uvicorn.run(server, host=host, port=port, log_level="warning", timeout_graceful_shutdown=5)


async def _must_be_told(tell: Sequence[str]) -> None:
    from prefect.client.orchestration import get_client

    from trimtab_infra.act.telling import blocks_of

    async with get_client() as client:
        await blocks_of(client, tell)


def _declared(recipe: str, policy: str | None, max_age_days: float | None) -> tuple[str, Sequence[Any]]:
    from trimtab_flows.automations import rules
    from trimtab_flows.loading import load_recipe
    from trimtab_flows.policies import resolve

    tell: Sequence[str] = ()
    if policy is not None:
        chosen = resolve(policy)
        max_age_days, tell = chosen.max_age_days if max_age_days is None else max_age_days, chosen.tell
    name = load_recipe(recipe).recipe.name
    return name, rules(name, recipe, policy, max_age_days, tell=tell)


def _show(model: str, changes: Sequence[Any], done: bool) -> None:
    if not changes:
        out.print(f"The automations of {escape(model)} are as declared.")
    words = {"make": "made", "change": "changed", "remove": "removed"} if done else {}
    signs = {"make": "[green]+[/]", "change": "[yellow]~[/]", "remove": "[red]-[/]"}
    for change in changes:
        out.print(f"{signs[change.what]} {words.get(change.what, change.what)} {escape(change.name)}")
        for name, old, new in change.fields:
            out.print(f"    {escape(name)}: {escape(repr(old))} -> {escape(repr(new))}")
