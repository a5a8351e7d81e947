"""The units of infra/systemd, installed as their README says, started by systemd with all of their hardening."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from infra.machine.machine import PATH, ROOT, SOURCE, CannotStart, Machine

SYSTEMD = ROOT / "infra" / "systemd"
HERE = f"{SOURCE}/infra/systemd"
RECIPE, MODEL = "toy_recipe:toy", "toy"
SERVERS = (
    "trimtab-prefect-api@4201",
    "trimtab-prefect-api@4202",
    "trimtab-prefect-services",
    "trimtab-mlflow",
    "trimtab-metric-events",
    "trimtab-webhook",
)
AUTH = "trimtab:planted-auth-5e3a91"
SECRETS = {
    "PREFECT_SERVER_API_AUTH_STRING": AUTH,
    "PREFECT_API_AUTH_STRING": AUTH,
    "PREFECT_SERVER_DATABASE_PASSWORD": "planted-prefect-1c77",
    "PREFECT_SERVER_ENCRYPTION_KEY": "cGxhbnRlZC1rZXktb2YtYmxvY2tzLTMyLWJ5dGVzISE=",
    "PREFECT_REDIS_MESSAGING_URL": "redis://default:planted-redis-40ad@127.0.0.1:6379/0",
    "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": "redis://default:planted-redis-40ad@127.0.0.1:6379/0",
    "PREFECT_SERVER_DOCKET_URL": "redis://default:planted-redis-40ad@127.0.0.1:6379/1",
    "PGPASSWORD": "planted-mlflow-9b02",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "planted-admin-77f3a1",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "planted-session-6612",
    "AWS_ACCESS_KEY_ID": "PLANTEDKEYID",
    "AWS_SECRET_ACCESS_KEY": "planted-bucket-d0d0",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": "planted-admin-77f3a1",
    "TRIMTAB_WEBHOOK_SECRET": "planted-webhook-3d3d",
}
#: What belongs to a host of one's own; everything else is as the examples have it.
SETTINGS = {
    "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:8333",
    "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:5001",
    "AWS_DEFAULT_REGION": "us-east-1",
}
CLIENT = {
    "PREFECT_API_URL": "http://127.0.0.1:4201/api",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
    "TRIMTAB_POOL": "trimtab",
    "TRIMTAB_STACK": "production",
    "DO_NOT_TRACK": "true",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    **{
        name: SECRETS[name]
        for name in ("PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    },
}
SETUP = {
    "TRIMTAB_MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
    "TRIMTAB_STORE_BUCKET": "ml-data",
    "TRIMTAB_STORE_PREFIX": "store",
    "TRIMTAB_STORE_ENDPOINT_URL": "http://127.0.0.1:8333",
    "TRIMTAB_STORE_REGION": "us-east-1",
    "TRIMTAB_STORE_ACCESS_KEY_ID": SECRETS["AWS_ACCESS_KEY_ID"],
    "TRIMTAB_STORE_SECRET_ACCESS_KEY": SECRETS["AWS_SECRET_ACCESS_KEY"],
}
#: As the README has it: `systemctl stop` of the target alone comes back before the servers have ended.
STOP = "systemctl stop trimtab.target 'trimtab-*'"
SMOKE = (
    "http://127.0.0.1:4201 http://127.0.0.1:4202 http://127.0.0.1:5001 http://127.0.0.1:8333 "
    "redis://127.0.0.1:6379 postgresql://127.0.0.1:5432"
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def host() -> Iterator[Machine]:
    """A host with PostgreSQL, Redis, S3 and the units, which are not started yet."""
    made = Machine()
    try:
        made.make()
        made.start()
        foreign(made)
        install(made)
        yield made
    except CannotStart as why:
        pytest.skip(str(why))
    finally:
        made.remove()


def foreign(host: Machine) -> None:
    """What is not ours: PostgreSQL and Redis with passwords, as units of the names that ours wait for, and a bucket."""
    for name, secret in (("prefect", "PREFECT_SERVER_DATABASE_PASSWORD"), ("mlflow", "PGPASSWORD")):
        host.write(f"/srv/databases/{name}_database_password", SECRETS[secret])
    host.write("/srv/redis.conf", "requirepass planted-redis-40ad\nbind 127.0.0.1\ndir /srv\n")
    password = SECRETS["AWS_SECRET_ACCESS_KEY"]
    s3 = (
        "weed mini -ip=127.0.0.1 -ip.bind=127.0.0.1 -dir=/srv/s3 -s3.port=8333 -s3.port.iceberg=0 -s3.port.lance=0 "
        "-webdav=false -admin.ui=false -master.telemetry=false"
    )
    unit(host, "postgresql", "postgres -D /srv/postgres/db -k /tmp -h 127.0.0.1", user="postgres")
    unit(host, "redis-server", "redis-server /srv/redis.conf")
    unit(host, "s3", s3, S3_BUCKET="ml-data", AWS_ACCESS_KEY_ID="PLANTEDKEYID", AWS_SECRET_ACCESS_KEY=password)
    as_postgres = "setpriv --reuid=postgres --regid=postgres --init-groups"
    host.sh(
        "install -d -o postgres /srv/postgres && cd /srv/postgres && ln -s /srv/databases /run/secrets\n"
        f"{as_postgres} initdb -D /srv/postgres/db --auth-local=trust --auth-host=scram-sha-256 >/dev/null\n"
        "systemctl daemon-reload && systemctl start postgresql redis-server s3\n"
        "until pg_isready --quiet --host 127.0.0.1; do sleep 0.1; done\n"
        f"env PGHOST=/tmp POSTGRES_USER=postgres {as_postgres} sh {SOURCE}/infra/postgres/databases.sh\n"
        "until curl --silent --output /dev/null http://127.0.0.1:8333; do sleep 0.1; done\n"
    )


def unit(host: Machine, name: str, command: str, user: str = "root", **variables: str) -> None:
    told = "".join(f"Environment={variable}={value}\n" for variable, value in variables.items())
    service = f"User={user}\nEnvironment=PATH={PATH}\n{told}ExecStart=/usr/bin/env {command}\n"
    host.write(f"/etc/systemd/system/{name}.service", f"[Unit]\nDescription={name}\n[Service]\n{service}")


def commands() -> tuple[str, str]:
    """The README's own: up to where files are to be filled in, and from there on."""
    (block,) = re.findall(r"```sh\n(.*?)```", (SYSTEMD / "README.md").read_text(), re.DOTALL)
    before, unit, after = block.partition("systemctl daemon-reload")
    return f"cd {HERE}\n{before}", unit + after


def install(host: Machine) -> None:
    before, _ = commands()
    host.sh(before)
    for file in sorted((host.root / "etc/trimtab").glob("*.secret")):
        assert file.stat().st_mode & 0o777 == 0o600
        filled = [
            f"{line}{SECRETS[line[:-1]]}" if line.endswith("=") else line for line in file.read_text().splitlines()
        ]
        file.write_text("\n".join(filled) + "\n")
    for file in sorted((host.root / "etc/trimtab").glob("*.env")):
        pairs = [line.partition("=") for line in file.read_text().splitlines()]
        file.write_text("".join(f"{name}{sign}{SETTINGS.get(name, text)}\n" for name, sign, text in pairs))
    auth = host.root / "etc/trimtab/basic_auth.ini"
    auth.write_text(auth.read_text().replace("@postgres/", "@127.0.0.1/"))


def state(host: Machine, unit: str, *names: str) -> list[str]:
    said = host("systemctl", "show", unit, *(f"--property={name}" for name in names)).stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    return [found[name] for name in names]


def told(variables: dict[str, str]) -> str:
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


def test_they_start_and_are_sound(host: Machine) -> None:
    _, enable = commands()
    began = time.monotonic()
    host.sh(enable, seconds=500)
    host.took["all servers"] = time.monotonic() - began
    for unit in SERVERS:
        assert state(host, unit, "ActiveState", "NRestarts", "Result") == ["active", "0", "success"], host.sick()
    asked = host.sh(told(CLIENT) + f"{SOURCE}/infra/smoke.sh {SMOKE}")
    assert asked.count("ok ") == 6, asked
    assert host.sh("curl --silent --fail http://127.0.0.1:4280/health")
    print({name: round(seconds, 1) for name, seconds in host.took.items()})


@pytest.mark.parametrize("unit", SERVERS)
def test_the_hardening_is_in_force(host: Machine, unit: str) -> None:
    """As the kernel says it of the process itself."""
    (process,) = state(host, unit, "MainPID")
    said = dict(line.split(":\t", 1) for line in host.sh(f"cat /proc/{process}/status").splitlines() if ":\t" in line)
    assert (said["NoNewPrivs"], said["Seccomp"], int(said["CapBnd"], 16)) == ("1", "2", 0)
    assert host.sh(f"stat --format %U /proc/{process}").strip() == state(host, unit, "User")[0]
    for path in ("/etc/trimtab/x", "/usr/x", "/var/lib/x"):
        refused = host("nsenter", f"--target={process}", "--mount", "touch", path)
        assert "Read-only file system" in refused.stderr, path


def test_a_model_is_taken_through_its_life_by_the_worker(host: Machine) -> None:
    """It trains, its model goes through MLflow to S3, its metrics become events: nothing of that is filtered away."""
    host.write("/opt/project/toy_recipe.py", (ROOT / "tests/toy_recipe.py").read_text())
    host.sh(told(CLIENT | SETUP) + f"trimtab setup && cd /opt/project && trimtab init {RECIPE}")
    worker = {
        **CLIENT,
        "TRIMTAB_DRAIN_SECONDS": "0",
        "TRIMTAB_STOP_GRACE_SECONDS": "3",
        "PREFECT_LOGGING_LEVEL": "INFO",
    }
    secret = {name: worker.pop(name) for name in list(worker) if name in SECRETS}
    host.write("/etc/trimtab/worker.env", "".join(f"{name}={value}\n" for name, value in worker.items()))
    host.write("/etc/trimtab/worker.secret", "".join(f"{name}={value}\n" for name, value in secret.items()), 0o600)
    host.sh("systemctl enable --now trimtab-worker")
    host.sh(told(CLIENT) + "cd /opt/project && prefect --no-prompt deploy --all")
    asked = host.sh(
        told(CLIENT) + f"prefect deployment run lifecycle/{MODEL} --param recipe={RECIPE} "
        "--param as_of=2024-04-02T00:00:00 --watch --watch-interval 1",
        seconds=500,
    )
    assert "Completed" in asked or "finished successfully" in asked, asked + journal(host, "trimtab-worker")[-3000:]
    ask = "curl --silent --fail --user \"$PREFECT_API_AUTH_STRING\" -H 'Content-Type: application/json'"
    wanted = json.dumps({"filter": {"event": {"name": ["trimtab.metric.logged"]}}, "limit": 1})
    end = time.monotonic() + 60
    while not json.loads(host.sh(told(CLIENT) + f"{ask} -d '{wanted}' $PREFECT_API_URL/events/filter"))["events"]:
        assert time.monotonic() < end, journal(host, "trimtab-metric-events")[-3000:]
        time.sleep(0.5)
    assert state(host, "trimtab-worker", "ActiveState", "NRestarts") == ["active", "0"]
    began = time.monotonic()
    host.sh("systemctl stop trimtab-worker")
    assert time.monotonic() - began < 60
    assert state(host, "trimtab-worker", "ActiveState", "Result") == ["inactive", "success"]


def test_a_server_that_is_killed_comes_back_and_the_target_stops_and_starts_all(host: Machine) -> None:
    (process,) = state(host, SERVERS[0], "MainPID")
    host.sh(f"kill -KILL {process}")
    end = time.monotonic() + 120
    while state(host, SERVERS[0], "ActiveState", "NRestarts") != ["active", "1"]:
        assert time.monotonic() < end, host.sick()
        time.sleep(0.5)
    host.sh(STOP)
    for unit in SERVERS:
        assert state(host, unit, "ActiveState") == ["inactive"], unit
        assert state(host, unit, "Result") == ["success"], f"{unit}: {journal(host, unit)[-2000:]}"
    host.sh("systemctl start trimtab.target", seconds=500)
    assert host.sh(told(CLIENT) + f"{SOURCE}/infra/smoke.sh {SMOKE}").count("ok ") == 6


def test_without_its_key_no_server_starts_and_no_secret_was_written_down(host: Machine) -> None:
    file = host.root / "etc/trimtab/server.secret"
    whole = file.read_text()
    host.sh(STOP)
    file.write_text(re.sub(r"^(PREFECT_SERVER_ENCRYPTION_KEY)=.*$", r"\1=", whole, flags=re.MULTILINE))
    assert host("systemctl", "start", SERVERS[0]).returncode != 0
    assert "PREFECT_SERVER_ENCRYPTION_KEY: is not set in /etc/trimtab/server.secret" in journal(
        host, "trimtab-prefect-migrate"
    )
    file.write_text(whole)
    written = journal(host)
    assert len(written) > 5_000
    assert [
        name for name, secret in SECRETS.items() if secret not in ("admin", "PLANTEDKEYID") and secret in written
    ] == []


def journal(host: Machine, unit: str = "") -> str:
    return host("journalctl", "--no-pager", "--output=cat", *([f"--unit={unit}"] if unit else [])).stdout
