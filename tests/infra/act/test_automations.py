"""Automations as declared: made, changed, removed on a real server, and left alone the second time."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore

from trimtab_flows.automations import DECISION_MADE, MODEL_TRAINED, RETRAIN_FAILED, Rule, resource_of, rules
from trimtab_infra.act.automations import NoDeployment, apply, plan, remove
from trimtab_infra.act.telling import NoSuchBlock

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


@pytest.fixture
def told() -> Iterator[tuple[str, queue.Queue[bytes]]]:
    """Something that takes notifications over HTTP, and what it took."""
    taken: queue.Queue[bytes] = queue.Queue()

    class Taker(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.put(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Taker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/told", taken
        server.shutdown()


def tell_a_webhook(address: str, name: str) -> list[Rule]:
    """The rules of a policy that names a block with this address; they are applied."""
    text = {"text": "{{subject}}: {{body}}"}
    CustomWebhookNotificationBlock(name=name, url=address, json_data=text).save(name, overwrite=True)
    telling = [rule for rule in rules("flights", FLIGHTS, tell=(f"custom-webhook/{name}",)) if rule.tell]
    asyncio.run(apply("flights", telling))
    return telling


def test_whom_the_policy_names_is_told_of_a_decision(told: tuple[str, queue.Queue[bytes]]) -> None:
    address, taken = told
    telling = tell_a_webhook(address, "team-ml")
    assert asyncio.run(apply("flights", telling)) == []
    payload = {"window": "2013-03", "at": None, "reasons": ["auc is worse.", 'It "pays".'], "needs_approval": True}
    for verdict in ("wait", "retrain"):
        emit_event(
            DECISION_MADE,
            {**resource_of("flights"), "trimtab.verdict": verdict},
            payload={**payload, "verdict": verdict},
        )
    message = json.loads(taken.get(timeout=60))["text"]
    assert message.startswith('flights: retrain now: flights, window 2013-03: auc is worse. It "pays". It waits for')
    assert taken.empty()


def told_of(event: str, payload: dict[str, object], taken: queue.Queue[bytes]) -> str:
    """The message about an event. One that is sent within milliseconds of the automation may come before Prefect has
    loaded it: then another."""
    for _ in range(4):
        emit_event(event, resource_of("flights"), payload=payload)
        with contextlib.suppress(queue.Empty):
            return str(json.loads(taken.get(timeout=15))["text"])
    raise AssertionError(f"nobody was told of {event}")


def test_whom_the_policy_names_is_told_how_a_retraining_ended(told: tuple[str, queue.Queue[bytes]]) -> None:
    address, taken = told
    tell_a_webhook(address, "team-ends")
    known = {"windows": "2013-01..2013-03", "reason": "It is better.", "version": 7}
    figures = ["auc 0.7100, the champion 0.7000 (+0.0100)", "log_loss 0.5000"]
    for event, payload, said in (
        (
            MODEL_TRAINED,
            {**known, "outcome": "promoted", "figures": figures},
            "flights: version 7 is in service: flights, 2013-01..2013-03: It is better. "
            "auc 0.7100, the champion 0.7000 (+0.0100); log_loss 0.5000.",
        ),
        (MODEL_TRAINED, {**known, "outcome": "kept", "figures": []}, "the champion stays, version 7 was refused"),
        (RETRAIN_FAILED, {"windows": "2013-01", "outcome": "Failed", "reason": "It broke."}, "a retraining failed: "),
        (
            RETRAIN_FAILED,
            {"windows": "2013-01", "outcome": "Cancelled", "reason": "No."},
            "a retraining was cancelled: ",
        ),
    ):
        assert said in told_of(event, payload, taken)


def test_a_block_that_cannot_tell_is_named_and_nothing_is_made(tmp_path: Path) -> None:
    Secret(value="tells nobody").save("tells-nobody", overwrite=True)
    before = names()
    for tell, said in (
        ("ml@example.org", "for mail, save a block sendgrid-email/NAME"),
        ("slack-webhook/nobody", "has no block 'slack-webhook/nobody'"),
        ("nothing-of-this-kind/nobody", "has no block 'nothing-of-this-kind/nobody'"),
        ("secret/tells-nobody", "cannot notify anybody"),
    ):
        with pytest.raises(NoSuchBlock, match=said):
            asyncio.run(apply("flights", rules("flights", FLIGHTS, tell=(tell,))))
        (tmp_path / "policy.json").write_text(json.dumps({"tell": [tell]}))
        command = [sys.executable, "-m", "trimtab_infra", "policy", "save", "told", str(tmp_path / "policy.json")]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert (done.returncode, "field tell" in done.stderr, said in done.stderr) == (2, True, True), done.stderr
    assert names() == before
