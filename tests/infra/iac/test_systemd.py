"""The units agree with the code that they start: its commands, its settings, the time that a drain takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from prefect.settings import Settings

from infra.iac.tools import INFRA
from trimtab_blocks.settings import unknown
from trimtab_work_pools.worker import GpuProcessWorker

FOLDER = INFRA / "systemd"
UNITS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.service"))}
SERVERS = [name for name in UNITS if name != "trimtab-worker.service"]
EXAMPLES = {
    path.name.removesuffix(".example"): dict(
        line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#")
    )
    for path in sorted(FOLDER.glob("*.example"))
}
#: Servers are told secrets by these; a new one has to be added here, and to the search of tests/infra/security.
SECRET = re.compile(r"AUTH_STRING|PASSWORD|SECRET|TOKEN|ENCRYPTION_KEY|ACCESS_KEY|REDIS\w*URL|DOCKET_URL|USERNAME")


def values(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNITS[unit], re.MULTILINE)


def _value(unit: str, key: str) -> str:
    (found,) = values(unit, key)
    return found


def variables(unit: str) -> Mapping[str, str]:
    """What a unit's program is told, secrets without their values."""
    own = dict(pair.split("=", 1) for line in values(unit, "Environment") for pair in line.split())
    files = [Path(file).name for file in values(unit, "EnvironmentFile")]
    return own | {name: text for file in files for name, text in EXAMPLES.get(file, {}).items()}


def test_the_worker_is_started_by_the_type_that_it_registers() -> None:
    assert f"--type {GpuProcessWorker.type}" in _value("trimtab-worker.service", "ExecStart")


def test_systemd_waits_longer_than_a_drain() -> None:
    example = EXAMPLES["worker.env"]
    drain_s = int(example["TRIMTAB_DRAIN_SECONDS"]) + int(example["TRIMTAB_STOP_GRACE_SECONDS"])
    assert int(_value("trimtab-worker.service", "TimeoutStopSec")) >= drain_s + 30
    assert _value("trimtab-worker.service", "KillSignal") == "SIGTERM"


def test_gpu_devices_stay_visible_to_the_worker() -> None:
    unit = UNITS["trimtab-worker.service"]
    assert not re.search(r"^(PrivateDevices|DevicePolicy|MemoryDenyWriteExecute)=", unit, re.MULTILINE)


def test_flows_have_a_tmp_that_is_theirs_as_long_as_they_run() -> None:
    """A strict system is read-only; what is private goes with the worker, and a run may outlive it."""
    assert _value("trimtab-worker.service", "ReadWritePaths").split() == ["/tmp", "/var/tmp"]
    assert values("trimtab-worker.service", "PrivateTmp") == []


@pytest.mark.parametrize("unit", UNITS)
def test_every_setting_is_one_that_the_program_reads(unit: str) -> None:
    told = variables(unit)
    assert unknown({name: "" for name in told if name.startswith("TRIMTAB_")}) == []
    prefect = {name for name in told if name.startswith("PREFECT_") and "REDIS" not in name}
    assert prefect <= prefect_settings(), prefect - prefect_settings()
    assert {name for name in told if name.startswith("PREFECT_REDIS")} <= redis_settings()
    assert {name for name in told if name.startswith("MLFLOW_")} <= mlflow_settings()


def prefect_settings() -> set[str]:
    """Names of Prefect's settings, and of the key, which it reads by itself."""
    found, classes = {"PREFECT_SERVER_ENCRYPTION_KEY"}, [Settings]
    while classes:
        model = classes.pop()
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                classes.append(field.annotation)
            prefix = str(model.model_config.get("env_prefix", ""))
            alias = getattr(field.validation_alias, "choices", None) or [f"{prefix}{name}"]
            found |= {str(one).upper() for one in (*alias, f"{prefix}{name}")}
    return found


def redis_settings() -> set[str]:
    """As prefect_redis names them."""
    from prefect_redis.cleanup_queue import RedisWorkerCleanupQueueSettings
    from prefect_redis.client import RedisMessagingSettings

    names: set[str] = set()
    for each in (RedisMessagingSettings, RedisWorkerCleanupQueueSettings):
        names |= {f"{each.model_config.get('env_prefix', '')}{name}".upper() for name in each.model_fields}
    return names


def mlflow_settings() -> set[str]:
    """Names of variables in MLflow's own source."""
    import mlflow

    folder = Path(mlflow.__file__).parent
    texts = [folder / "environment_variables.py", folder / "server" / "constants.py", folder / "cli" / "__init__.py"]
    texts += sorted((folder / "server" / "auth").glob("*.py"))
    return set(re.findall(r"\bMLFLOW_[A-Z0-9_]+\b", "\n".join(path.read_text() for path in texts if path.exists())))


def test_no_secret_stands_in_a_unit_or_an_example() -> None:
    for name, told in EXAMPLES.items():
        if name.endswith(".secret"):
            assert set(told.values()) == {""}, f"{name} has values"
            assert all(SECRET.search(variable) for variable in told), name
        else:
            assert not [variable for variable in told if SECRET.search(variable)], name
    for name, unit in UNITS.items():
        assert not re.search(rf"^Environment=.*({SECRET.pattern})", unit, re.MULTILINE), name
        # systemd leaves $$ to a shell, which asks only whether there is a value.
        assert not re.search(rf"^Exec\w+=.*(?<!\$)\$\{{?\w*({SECRET.pattern})", unit, re.MULTILINE), (
            f"{name}: a command line"
        )


@pytest.mark.parametrize(
    ("unit", "secrets"),
    [
        ("trimtab-prefect-migrate.service", ("PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_SERVER_API_AUTH_STRING")),
        ("trimtab-mlflow.service", ("MLFLOW_AUTH_ADMIN_PASSWORD",)),
    ],
)
def test_no_server_starts_without_its_locks(unit: str, secrets: tuple[str, ...]) -> None:
    (asked,) = (line for line in values(unit, "ExecStartPre") if line.startswith("/bin/sh -c"))
    script = asked.removeprefix("/bin/sh -c ").strip("'").replace("$$", "$")
    told = dict.fromkeys(secrets, "x")
    assert subprocess.run(["/bin/sh", "-c", script], env=told).returncode == 0
    for name in secrets:
        done = subprocess.run(["/bin/sh", "-c", script], env=told | {name: ""}, capture_output=True, text=True)
        assert done.returncode != 0
        assert f"{name}: is not set in /etc/trimtab/" in done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_secret_comes_from_a_file_of_its_own(unit: str) -> None:
    files = values(unit, "EnvironmentFile")
    assert [file for file in files if file.endswith(".secret")]
    assert all(Path(file).name in EXAMPLES or file.endswith("/worker.secret") for file in files)
    assert any("0600" in line for line in UNITS[unit].splitlines() if line.startswith("#"))


@pytest.mark.parametrize("unit", SERVERS)
def test_servers_listen_on_loopback_and_have_a_user_of_their_own(unit: str) -> None:
    command = _value(unit, "ExecStart")
    assert "--host 127.0.0.1" in command or not re.search(r"\b(prefect server start|mlflow server)\b", command)
    user = _value(unit, "User")
    assert user != _value("trimtab-worker.service", "User"), "flows could read its secrets in /proc"
    assert re.search(rf"^u {user}\b", (FOLDER / "sysusers.conf").read_text(), re.MULTILINE)


def test_the_target_wants_every_server() -> None:
    wanted = set(re.findall(r"trimtab-[\w-]+(?:@\d+)?\.service", (FOLDER / "trimtab.target").read_text()))
    assert {re.sub(r"@\d+", "@", name) for name in wanted} == set(SERVERS)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units in a folder, with /bin/true for programs that are not installed here."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("not checked: systemd units (no systemd-analyze)")
    folder = tmp_path_factory.mktemp("units") / "systemd"
    shutil.copytree(FOLDER, folder)
    for path in folder.glob("*.service"):
        path.write_text(re.sub(r"^(Exec\w+)=\S+", r"\1=/bin/true", path.read_text(), flags=re.MULTILINE))
    return folder


def test_systemd_understands_them_and_warns_of_nothing(installed: Path) -> None:
    units = [path.name for path in installed.iterdir() if path.suffix in (".service", ".target") and path.is_file()]
    instances = [name.replace("@.", "@4202.") for name in units]
    done = subprocess.run(
        ["systemd-analyze", "verify", *instances],
        cwd=installed,
        env={"SYSTEMD_UNIT_PATH": f"{installed}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_makes_their_users(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("not checked: users of the units (no systemd-sysusers)")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(FOLDER / "sysusers.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, re.findall("not a valid.*", done.stderr)) == (0, [])
    made = {line.partition(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    assert made == {_value(unit, "User") for unit in UNITS}


@pytest.mark.parametrize("unit", UNITS)
def test_they_are_hardened(installed: Path, unit: str) -> None:
    """By systemd's own measure, from 0 (best) to 10. The worker's runs need devices and compilers."""
    most = 55 if unit == "trimtab-worker.service" else 20
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", f"./{unit}"]
    done = subprocess.run(command, cwd=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr
