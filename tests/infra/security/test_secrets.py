"""Every secret of a production stack is planted, a model is taken through its life, things go wrong: then all that is
left behind is searched for them, however they may be written."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from blocks import s3_server
from infra.security import locked
from infra.security.locked import Locked
from infra.security.planted import CommandLines, Find, Planted, plant, spellings
from topology.parts import missing
from topology.test_topology import take_through
from trimtab_infra.act.webhook import sign

HERE = Path(__file__).parent
RECIPE, MODEL = "planted_recipe:guarded", "guarded"

#: Where a secret may be: whose, the place, and why. Files must be readable by their owner alone.
ALLOWED = (
    ("S3 access key id|S3 secret key", r"secrets/trimtab_store_.*", "the file that a person fills the block from"),
    ("Redis password", r"redis/redis\.conf", "Redis' own settings"),
)


@pytest.mark.parametrize("secret", [plant("planted"), "user:pass/word+1", 'quote"d\\and%spaces '])
def test_a_secret_is_found_however_it_is_written(secret: str) -> None:
    """Else the search below would find nothing, and prove nothing."""
    import base64
    import gzip
    import io
    import zipfile
    from urllib.parse import quote

    planted = Planted({"it": secret})
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", f"x{secret}y")
    basic = [base64.b64encode(f"{'u' * length}:{secret}".encode()) for length in range(4)]
    inside = [base64.b64encode(b"\0" * length + secret.encode() + b"more of it") for length in range(6)]
    spelt = [
        secret.encode(),
        quote(secret, safe="").encode(),
        json.dumps(secret).encode(),
        secret.encode().hex().encode(),
    ]
    for content in (*basic, *inside, *spelt, packed.getvalue(), gzip.compress(secret.encode())):
        assert [
            find.secret for find in planted.in_bytes(b"head " * (content[:2] not in (b"PK", b"\x1f\x8b")) + content, "")
        ]
    assert not list(planted.in_bytes(secret[:-1].encode() + base64.b64encode(secret[1:].encode())[2:], ""))
    assert all(len(one) > 6 for one in spellings(secret))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    """The stack with its locks, and a model that was taken through its life on it."""
    absent = missing()
    if absent:
        pytest.skip(f"needs {', '.join(absent)} (apt-get install postgresql redis-server nginx-light)")
    if reason := s3_server.why_not():
        pytest.skip(reason)
    project = tmp_path_factory.mktemp("project")
    shutil.copy(HERE.parents[1] / "toy_recipe.py", project)
    shutil.copy(HERE / "planted_recipe.py", project)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_server, "ACCESS_KEY", "")
        patch.setattr(s3_server, "SECRET_KEY", "")
        made = locked.make(tmp_path_factory.mktemp("locked"), project)
        patch.setattr("topology.production.ACCESS_KEY", made["S3 access key id"])
        patch.setattr("topology.production.SECRET_KEY", made["S3 secret key"])
        made.run("trimtab_infra", "init", RECIPE, cwd=project)
        try:
            yield made
        finally:
            made.down()


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_no_secret_is_left_where_it_does_not_belong(stack: Locked) -> None:
    looking = CommandLines(stack.planted)
    looking.start()
    stack.up()
    with ThreadPoolExecutor(1) as beside:
        refused = beside.submit(refused_by_a_database, stack)
        a_whole_life(stack)
        orders_by_webhook(stack)
        things_go_wrong(stack)
        refused.result()
    found = looking.stop() | set(everything_left(stack))
    left = sorted({(find.place, find.secret) for find in found if not allowed(stack, find)})
    assert left == [], "\n".join(f"{secret}: {place}" for place, secret in left)
    # The search looked where they are allowed to be, and at enough.
    assert {find.secret for find in found} >= {"S3 secret key", "Redis password"}
    assert len(looking.seen) > 20


def allowed(stack: Locked, find: Find) -> bool:
    for whose, place, _ in ALLOWED:
        if re.fullmatch(whose, find.secret) and re.fullmatch(place, find.place):
            assert (stack.folder / find.place).stat().st_mode & 0o077 == 0, f"others may read {find.place}"
            return True
    return False


def a_whole_life(stack: Locked) -> None:
    """A champion, a decision with somebody to tell, a retraining through the automation, a replay, a doctor's visit."""
    block = {
        "name": "told",
        "url": "http://127.0.0.1:9/{{token}}",
        "secrets": {"token": stack["a notification block's"]},
    }
    kind = stack.ask("/block_types/slug/custom-webhook")["id"]
    schema = stack.ask("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind]}}})[0]["id"]
    document = {"name": "team-ml", "data": block, "block_type_id": kind, "block_schema_id": schema}
    stack.ask("/block_documents/", document)
    (stack.project / "policy.json").write_text(json.dumps({"tell": ["custom-webhook/team-ml"], "cooldown": 0}))
    for name, *command in (
        ("policy", "policy", "save", "guarded", "policy.json"),
        ("automations", "automations", "apply", RECIPE, "--policy", "guarded"),
    ):
        done = stack.noted(name, "trimtab_infra", *command)
        assert done.returncode == 0, done.stderr
    run = take_through(stack, RECIPE, MODEL, "2024-05-02T00:00:00")
    assert stack.await_run(run, 600).startswith("COMPLETED"), stack.parts["node-0"].tail()
    for name, *command in (
        ("replay", "replay", f"{MODEL}/1"),
        ("lineage", "lineage", f"{MODEL}/1"),
        ("doctor", "doctor"),
    ):
        done = stack.noted(name, "trimtab_infra", *command)
        # What the doctor thinks of this machine is another test's matter.
        assert done.returncode == 0 or name == "doctor", done.stdout + done.stderr


def orders_by_webhook(stack: Locked) -> None:
    """One that is taken, one that is signed wrongly, one that says nothing, and one while Prefect is away."""
    port = s3_server.free_ports(("webhook",))["webhook"]
    url, secret = f"http://127.0.0.1:{port}", stack["webhook secret"].encode()
    command = ["trimtab_infra", "webhook", "--port", str(port)]
    variables = {"TRIMTAB_WEBHOOK_SECRET": secret.decode(), "PREFECT_CLIENT_MAX_RETRIES": "0"}
    part = stack.server("webhook", command, lambda: httpx.get(f"{url}/health").is_success, **variables)

    def order(body: bytes, signed_with: bytes = secret) -> int:
        now = str(int(time.time()) + 1)
        headers = {"X-Trimtab-Timestamp": now, "X-Trimtab-Signature": sign(signed_with, now, body)}
        return httpx.post(f"{url}/orders", content=body, headers=headers, timeout=60).status_code

    good = json.dumps({"model": MODEL, "kind": "forbid", "until": "2024-01-01T00:00:00+00:00"}).encode()
    assert (order(good), order(b"{}"), order(good, signed_with=b"another secret")) == (202, 422, 401)
    stack.parts["gateway"].stop()
    assert order(json.dumps({"model": MODEL, "kind": "withdraw"}).encode()) == 503
    stack.parts["gateway"].start()
    stack.parts["gateway"].ready()
    part.stop()
    assert stack.noted(
        "webhook-bad", "trimtab_infra", "webhook", TRIMTAB_WEBHOOK_SECRET="", TRIMTAB_DRAIN_SECONDS="x"
    ).returncode


def refused_by_a_database(stack: Locked) -> None:
    """MLflow tries again for more than a minute and a half before it gives up, so this goes beside the rest."""
    wrong = stack["a wrong database password"]
    upgrade = ("mlflow", "db", "upgrade", stack.mlflow_database)
    assert stack.noted("wrong-database-mlflow", *upgrade, PGPASSWORD=wrong).returncode != 0
    bad = {**stack.server_env, "PREFECT_SERVER_DATABASE_PASSWORD": wrong}
    upgrade = ("prefect", "server", "database", "upgrade", "-y")
    assert stack.noted("wrong-database-prefect", *upgrade, **bad).returncode != 0


def things_go_wrong(stack: Locked) -> None:
    """Each server is told a wrong secret once, and S3 and MLflow are away once."""
    wrong = {name: stack[f"a wrong {name}"] for name in ("MLflow password", "Prefect auth string")}
    of_prefect = stack.setup_env | {"PREFECT_API_AUTH_STRING": wrong["Prefect auth string"]}
    of_mlflow = {"MLFLOW_TRACKING_PASSWORD": wrong["MLflow password"]}
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(stack.noted, f"wrong-{what}-{command[0]}", "trimtab_infra", *command, **variables)
            for what, variables, *commands in (
                ("prefect", of_prefect, ("doctor",), ("setup",), ("policy", "show", "guarded")),
                ("mlflow", of_mlflow, ("replay", f"{MODEL}/1"), ("doctor",)),
            )
            for command in commands
        ]
        assert [one.result().returncode != 0 for one in asked] == [True] * 5, "a wrong secret was taken"
    with_wrong_keys = {
        **stack.setup_env,
        "TRIMTAB_SECRETS_DIR": "",
        "TRIMTAB_STORE_ACCESS_KEY_ID": stack["S3 access key id"],
    }
    for name, variables in (
        ("wrong", {**with_wrong_keys, "TRIMTAB_STORE_SECRET_ACCESS_KEY": stack["a wrong S3 secret key"]}),
        ("chain", {**stack.setup_env, "TRIMTAB_SECRETS_DIR": ""}),
    ):
        assert stack.noted(f"setup-{name}", "trimtab_infra", "setup", **variables).returncode == 0
        assert stack.noted(f"doctor-s3-{name}", "trimtab_infra", "doctor").returncode == 1
        assert ingest(stack, "2024-05").startswith("FAILED")
    stack.run("trimtab_infra", "setup", env=stack.setup_env)
    stack.parts["mlflow"].kill()
    stack.s3.kill()
    with ThreadPoolExecutor(2) as pool:
        for name, *command in (("doctor", "doctor"), ("replay", "replay", f"{MODEL}/1")):
            pool.submit(stack.noted, f"away-{name}", "trimtab_infra", *command)
    stack.s3.start()
    stack.parts["mlflow"].start()
    stack.parts["mlflow"].ready()


def ingest(stack: Locked, window: str) -> str:
    """Runs the ingestion of a window on the worker; how it ended."""
    deployment = stack.ask(f"/deployments/name/ingest/{MODEL}")["id"]
    asked = {"parameters": {"recipe": RECIPE, "window": window}}
    return stack.await_run(stack.ask(f"/deployments/{deployment}/create_flow_run", asked)["id"], 300)


def everything_left(stack: Locked) -> Iterator[Find]:
    """Files of the stack, of PostgreSQL, of runs and people; databases as SQL; objects in S3; answers of Prefect."""
    planted = stack.planted
    for folder in (stack.folder, stack.project, stack.data):
        yield from planted.in_files(folder)
    for database, least in (("prefect", 50_000), ("mlflow", 50_000), ("mlflow_auth", 1_000)):
        dumped = stack.dump(database)
        assert len(dumped) > least
        yield from planted.in_bytes(dumped, f"database {database}")
    yield from planted.in_bytes(stack.roles(), "roles of PostgreSQL")
    client, seen = stack.s3.client(), 0
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=s3_server.BUCKET):
        for one in page.get("Contents", []):
            seen += 1
            content = client.get_object(Bucket=s3_server.BUCKET, Key=one["Key"])["Body"].read()
            yield from planted.in_bytes(content + one["Key"].encode(), f"s3 {one['Key']}")
    assert seen > 20
    for path, question in (
        ("/block_documents/filter", {}),
        ("/flow_runs/filter", {}),
        ("/logs/filter", {}),
        ("/artifacts/filter", {}),
        ("/events/filter", {}),
        ("/variables/filter", {}),
        ("/deployments/filter", {}),
        ("/automations/filter", {}),
    ):
        yield from planted.in_bytes(json.dumps(answer(stack, path, question)).encode(), f"Prefect {path}")


def answer(stack: Locked, path: str, question: dict[str, Any]) -> Any:
    found = stack.ask(path, question)
    assert found or path == "/variables/filter", f"{path} is empty: nothing was searched"
    return found
