"""Automations as declared: made, changed, removed on a real server, and left alone the second time."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

from trimtab_flows.automations import rules
from trimtab_infra.act.automations import NoDeployment, apply, plan, remove

pytestmark = pytest.mark.usefixtures("environment")

FLIGHTS = "trimtab_flows.recipes.flights:flights"
#: What the project's prefect.yaml has made already is not made again.
RULES = [rule for rule in rules("flights", FLIGHTS, max_age_days=90) if "dispatch" not in rule.name]


@pytest.fixture(autouse=True)
def none_of_ours() -> Iterator[None]:
    yield
    asyncio.run(remove("flights"))


def names(tag: str | None = None) -> set[str]:
    async def read() -> set[str]:
        async with get_client() as client:
            return {each.name for each in await client.read_automations() if tag is None or tag in each.tags}

    return asyncio.run(read())


def test_what_is_declared_is_made_once_changed_and_removed() -> None:
    before = names()
    made = asyncio.run(apply("flights", rules("flights", FLIGHTS, max_age_days=90)))
    assert {change.what for change in made} == {"make"}
    assert names("trimtab:flights") == {rule.name for rule in RULES}
    assert asyncio.run(apply("flights", RULES)) == []
    fewer = [replace(rule, after_s=9) for rule in RULES if "age" not in rule.name and "business" not in rule.name]
    changes = asyncio.run(plan("flights", fewer))
    assert sorted((change.what, change.name) for change in changes if change.what == "remove") == [
        ("remove", "flights: decide on age"),
        ("remove", "flights: follow the business"),
    ]
    first = next(change for change in changes if change.name == "flights: decide on metrics")
    assert first.fields == (("actions[0].schedule_after", 5.0, 9.0),)
    assert asyncio.run(apply("flights", fewer)) == changes
    assert asyncio.run(plan("flights", fewer)) == []
    asyncio.run(remove("flights"))
    assert names() == before


def test_what_people_made_is_left_alone_and_what_they_changed_is_seen() -> None:
    async def meddle() -> None:
        async with get_client() as client:
            await client.create_automation(
                AutomationCore.model_validate(
                    {
                        "name": "mine",
                        "trigger": RULES[1].when.trigger("flights"),
                        "actions": [{"type": "do-nothing"}],
                    }
                )
            )
            theirs = next(each for each in await client.read_automations() if each.name == "flights: decide on metrics")
            await client.update_automation(
                theirs.id, AutomationCore(**{**theirs.model_dump(exclude={"owner_resource"}), "enabled": False})
            )

    asyncio.run(apply("flights", RULES))
    asyncio.run(meddle())
    (change,) = asyncio.run(apply("flights", RULES))
    assert change.fields == (("enabled", False, True),)
    asyncio.run(remove("flights"))
    assert "mine" in names()


def test_a_deployment_that_is_not_there_is_named_and_nothing_is_made() -> None:
    before = names()
    with pytest.raises(NoDeployment, match="runs decide/nobody, and the Prefect server has no such deployment"):
        asyncio.run(apply("nobody", rules("nobody", FLIGHTS)))
    assert names() == before


def test_the_command_shows_what_it_does() -> None:
    def trimtab(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trimtab_infra", "automations", *arguments]
        return subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)

    assert trimtab("diff", FLIGHTS).returncode == 1
    applied = trimtab("apply", FLIGHTS)
    assert applied.returncode == 0, applied.stderr
    assert "+ made flights: decide on metrics" in applied.stdout
    again = trimtab("diff", FLIGHTS)
    assert (again.returncode, again.stdout) == (0, "The automations of flights are as declared.\n")
    removed = trimtab("remove", "flights")
    assert "- removed flights: follow the business" in removed.stdout
    bad = trimtab("diff", "nowhere:recipe")
    assert (bad.returncode, "nowhere" in bad.stderr) == (2, True)
