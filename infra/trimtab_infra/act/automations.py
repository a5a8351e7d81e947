"""Bring the automations of a Prefect server in line with what is declared, and say what differs. Only ours are touched.

An automation is ours if it has the tag ``trimtab:MODEL``; one that people made, under whatever name, is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound

from trimtab_blocks.paging import PAGE, all_by_offset
from trimtab_flows.automations import Rule
from trimtab_infra.act.telling import blocks_of
from trimtab_infra.errors import UserError

__all__ = ["Change", "NoDeployment", "apply", "compare", "plan", "remove"]


class NoDeployment(UserError):
    """A rule runs a deployment that is not there."""


@dataclass(frozen=True)
class Change:
    """One automation that differs: ``make``, ``change`` or ``remove``, and each field with its old and new value."""

    what: Literal["make", "change", "remove"]
    name: str
    fields: tuple[tuple[str, Any, Any], ...] = ()
    id: Any = None
    wanted: AutomationCore | None = None


async def plan(model: str, rules: Sequence[Rule]) -> list[Change]:
    """What would have to change; nothing is.

    Raises:
        NoDeployment: a rule's deployment is not on the server.
        NoSuchBlock: a rule tells by a notification block that is not there.
    """
    async with get_client() as client:
        # The server gives them in the order of their names.
        there = await all_by_offset(lambda offset: client.read_automations(limit=PAGE, offset=offset))
        ours = [each for each in there if _tag(model) in each.tags]
        others = {each.name for each in there} - {each.name for each in ours}
        # One of this name that `prefect deploy` made of a deployment's triggers does the same: two would run it twice.
        wanted = [await _wanted(client, model, rule) for rule in rules if rule.name not in others]
        return compare(wanted, ours)


async def apply(model: str, rules: Sequence[Rule]) -> list[Change]:
    """Make, change and remove automations until they are as declared; a second time changes nothing.

    Raises:
        NoDeployment, NoSuchBlock: what a rule names is not on the server; then nothing is changed.
    """
    changes = await plan(model, rules)
    async with get_client() as client:
        for change in changes:
            await _carry_out(client, change)
    return changes


async def remove(model: str) -> list[Change]:
    """Remove all automations that were made for a model."""
    return await apply(model, ())


def compare(wanted: Sequence[AutomationCore], there: Sequence[Automation]) -> list[Change]:
    """The changes from what is there to what is wanted, in order of names; of two of one name the second is removed."""
    changes: list[Change] = []
    by_name: dict[str, Automation] = {}
    for each in there:
        if each.name in by_name or each.name not in {one.name for one in wanted}:
            changes.append(Change("remove", each.name, id=each.id))
        else:
            by_name[each.name] = each
    for one in wanted:
        known = by_name.get(one.name)
        if known is None:
            changes.append(Change("make", one.name, wanted=one))
            continue
        old, new = _plain(known), _plain(one)
        fields = tuple(
            (name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)
        )
        if fields:
            changes.append(Change("change", one.name, fields, known.id, one))
    return sorted(changes, key=lambda change: (change.name, change.what))


def _tag(model: str) -> str:
    return f"trimtab:{model}"


async def _wanted(client: PrefectClient, model: str, rule: Rule) -> AutomationCore:
    actions = [await _run(client, rule)] if rule.deployment else await _messages(client, rule)
    return AutomationCore.model_validate(
        {
            "name": rule.name,
            "description": rule.description,
            "tags": ["trimtab", _tag(model)],
            "trigger": rule.when.trigger(model),
            "actions": actions,
        }
    )


async def _run(client: PrefectClient, rule: Rule) -> dict[str, Any]:
    try:
        deployment = await client.read_deployment_by_name(rule.deployment)
    except ObjectNotFound:
        raise NoDeployment(
            f"automation {rule.name!r} runs {rule.deployment}, and the Prefect server has no such deployment; "
            "`prefect deploy --all` makes it"
        ) from None
    return {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": deployment.id,
        "parameters": dict(rule.parameters),
        "schedule_after": timedelta(seconds=rule.after_s),
    }


async def _messages(client: PrefectClient, rule: Rule) -> list[dict[str, Any]]:
    blocks = await blocks_of(client, rule.tell)
    message = {"type": "send-notification", "subject": rule.subject, "body": rule.body}
    return [{**message, "block_document_id": block} for block in blocks]


async def _carry_out(client: PrefectClient, change: Change) -> None:
    if change.what == "remove":
        await client.delete_automation(change.id)
    elif change.what == "make" and change.wanted is not None:
        await client.create_automation(change.wanted)
    elif change.wanted is not None:
        await client.update_automation(change.id, change.wanted)


def _plain(automation: AutomationCore) -> dict[str, Any]:
    """What people see of an automation, field by field, with dots; without ids that the server gives."""
    fields = automation.model_dump(
        mode="json", exclude={"id", "created", "updated", "owner_resource"}, exclude_none=True
    )
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            for place, inner in enumerate(value):
                walk(f"{prefix}[{place}]", inner)
        elif value not in ([], {}, ""):
            # Prefect keeps names of events as a set.
            flat[prefix] = sorted(value) if isinstance(value, list) else value

    walk("", fields)
    return {name: value for name, value in flat.items() if not name.endswith(".id") or name.endswith("resource.id")}
