"""Every setting of Trimtab: what it is called, what it may be, and what it is without being set.

A setting comes from the environment (`TRIMTAB_...`), else from a file in the folder of secrets (`TRIMTAB_SECRETS_DIR`,
as Docker and Kubernetes mount them), else from the file `trimtab.toml` (of the working directory, or the one that
`TRIMTAB_CONFIG` names), else it has its default. Defaults are those of the embedded stack; production is the same code
with other settings.

Secrets that runs need are in blocks of the Prefect server; those below only fill the blocks (`trimtab setup`).
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

__all__ = ["CONFIG", "PREFIX", "SECRETS", "TOLD", "SettingError", "Settings", "read", "table", "unknown", "variable"]

PREFIX = "TRIMTAB_"

#: Where settings are looked for besides the environment.
CONFIG, SECRETS = f"{PREFIX}CONFIG", f"{PREFIX}SECRETS_DIR"
_FILE = "trimtab.toml"

#: Variables that Trimtab sets for what it starts, and that nobody else does; the last two are of the init container
#: that reads a Kubernetes node's labels, which has nothing but the standard library.
TOLD = (
    "NODE",
    "CLAIM",
    "STACK_ID",
    "GPU_SHARE",
    "GPU_MEMORY_MIB",
    "GPU_MEMORY_FRACTION",
    "LABELS_FROM",
    "ACCOUNT_DIR",
)

_Address = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")]
_Seconds = Annotated[float, Field(ge=0, lt=1e9)]
_Amount = Annotated[float, Field(gt=0, lt=1e9)]


class SettingError(ValueError):
    """A setting is wrong; the text names it, says where it comes from, and what is allowed."""


class Settings(BaseSettings):
    """What can be set. See the module for where it is looked for; ``read`` says what is wrong in one line."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    stack: Literal["embedded", "production"] = Field(
        default="embedded",
        description="Which stack `trimtab` speaks to: the one it starts itself on this machine, or the one that "
        "PREFECT_API_URL and the blocks of that server name.",
        json_schema_extra={"allowed": "embedded or production"},
    )
    state: Path = Field(default=Path(".trimtab"), description="Folder that holds all state of the embedded stack.")
    blocks: str = Field(
        default="default",
        min_length=1,
        description="Name of the blocks that flows use, so that one Prefect server can serve several teams.",
        json_schema_extra={"allowed": "a name"},
    )
    pool: str = Field(
        default="trimtab",
        min_length=1,
        description="Work pool that `trimtab setup` makes, and that workers serve.",
        json_schema_extra={"allowed": "a name"},
    )

    mlflow_tracking_uri: _Address | None = Field(
        default=None,
        description="MLflow server, for the block that `trimtab setup` saves.",
        json_schema_extra={"allowed": "an address, like http://mlflow:5000"},
    )
    store_bucket: str | None = Field(default=None, description="S3 bucket of the store, for the block. It must exist.")
    store_prefix: str = Field(default="", description="Beginning of the names of the store's objects.")
    store_endpoint_url: _Address | None = Field(
        default=None,
        description="S3 server; none: Amazon's.",
        json_schema_extra={"allowed": "an address, like https://s3.example.org"},
    )
    store_region: str | None = Field(default=None, description="Region of the bucket.")
    store_ca_bundle: Path | None = Field(default=None, description="Certificates to trust for the S3 server.")
    store_access_key_id: SecretStr | None = Field(
        default=None, description="Kept in the block, encrypted; none: boto3's standard chain."
    )
    store_secret_access_key: SecretStr | None = Field(default=None, description="Belongs to the access key.")

    node_name: str = Field(default="", description="Name of this host among the workers; empty: the host's own.")
    node_cpus: _Amount | None = Field(
        default=None, description="CPUs that are offered; none: all.", json_schema_extra={"allowed": "a number above 0"}
    )
    node_memory_mib: _Amount | None = Field(
        default=None,
        description="Memory that is offered; none: all.",
        json_schema_extra={"allowed": "a number above 0"},
    )
    node_labels: str = Field(default="", description="Labels of the host, `region=eu-1,tier=gold`.")
    node_domain: str = Field(default="", description="What fails together with this host: a rack.")
    node_address: str = Field(
        default="", description="By which the other ranks of a gang reach this host; empty: found out."
    )
    host_dir: Path | None = Field(
        default=None,
        description="Where the claims of this host's devices are; workers of several users need one that they share. "
        "None: one in the temporary folder, by user.",
    )
    api_auth_string: SecretStr | None = Field(
        default=None,
        description="What workers show the Prefect server, in the place of PREFECT_API_AUTH_STRING. From a file in the "
        "folder of secrets it is read again when the server refuses it, so that it can be changed while runs go on.",
    )
    host_lost_seconds: _Seconds = Field(
        default=300,
        description="How long nobody holds a run before it counts as lost, and starts elsewhere.",
        json_schema_extra={"allowed": "a number of seconds"},
    )
    device_seconds: _Amount = Field(
        default=10,
        description="How long a call to the driver of the GPUs, or to the disk, may take before that GPU or disk "
        "counts as silent: it is given to nobody, and asked again from time to time.",
        json_schema_extra={"allowed": "a number of seconds"},
    )
    launch: Literal["fork", "process"] = Field(
        default="fork",
        description="How a worker starts runs: forked from a process that has Prefect imported, or as Prefect does.",
        json_schema_extra={"allowed": "fork or process"},
    )
    drain_seconds: _Seconds = Field(
        default=60,
        description="How long a worker that is stopped waits for runs that are not preemptible.",
        json_schema_extra={"allowed": "a number of seconds"},
    )
    stop_grace_seconds: _Seconds = Field(
        default=30,
        description="How long a run that is told to stop has to write its checkpoint.",
        json_schema_extra={"allowed": "a number of seconds"},
    )

    cache_dir: str = Field(
        default="", description="Directory on a local disk that keeps data files of the store; empty: none is kept."
    )
    cache_gib: str = Field(default="", description="GiB that the data files of one store may take there; empty: 100.")

    metric_outbox: Path = Field(
        default=Path("metric-outbox"), description="Folder that the MLflow plugin writes to and the sender reads."
    )
    metric_prefixes: str = Field(
        default="drift/,performance/",
        description="Metrics that become events, by how their names begin, comma separated.",
    )

    metric_spool: Path | None = Field(
        default=None,
        description="Folder on a disk of this host where metrics of trainings wait for MLflow; none: one in the "
        "temporary folder, by user.",
    )

    webhook_secret: SecretStr | None = Field(
        default=None, description="Shared with who signs orders of the business for `trimtab webhook`."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the strongest first."""
        secrets = [SecretsSettingsSource(settings_cls, folder)] if (folder := os.environ.get(SECRETS)) else []
        return (init_settings, env_settings, *secrets, TomlConfigSettingsSource(settings_cls, _file()))


def read() -> Settings:
    """The settings as they are now.

    Raises:
        SettingError: one of them is wrong, or a file that was named is not there.
    """
    named = os.environ.get(CONFIG)
    if named and not Path(named).is_file():
        raise SettingError(f"{CONFIG} names {named!r}, which is no file")
    folder = os.environ.get(SECRETS)
    if folder and not Path(folder).is_dir():
        raise SettingError(f"{SECRETS} names {folder!r}, which is no folder")
    try:
        return Settings()
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{_file()} is no TOML: {error}") from None
    except OSError as error:
        raise SettingError(f"{error.filename} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingError(_explain(str(first["loc"][0]), first["input"])) from None


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def unknown(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like a setting and are none: a misspelled one has no effect, and nobody would notice."""
    known = {variable(name) for name in (*Settings.model_fields, *TOLD)} | {CONFIG, SECRETS}
    return sorted(name for name in environment if name.upper().startswith(PREFIX) and name.upper() not in known)


def table() -> str:
    """All settings, as a table for people (Markdown)."""
    lines = ["| setting | default | |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        lines.append(f"| `{variable(name)}` | {default} | {field.description} |")
    return "\n".join(lines)


def _file() -> Path:
    return Path(os.environ.get(CONFIG) or _FILE)


def _explain(name: str, given: object) -> str:
    """What is wrong with a value. A value is shown only where it cannot be a secret."""
    field = Settings.model_fields.get(name)
    if field is None:
        return f"{_file()} sets {name!r}, which is no setting; there are {', '.join(Settings.model_fields)}"
    where = variable(name) if variable(name) in os.environ else f"{name} in {os.environ.get(SECRETS) or _file()}"
    extra = field.json_schema_extra
    allowed = extra.get("allowed") if isinstance(extra, dict) else None
    shown = "" if "secret" in name or "key" in name else f", not {given!r}"
    return f"{where} must be {allowed or 'a text'}{shown}"


if __name__ == "__main__":
    print(table())  # noqa: T201 - what the document is made from
