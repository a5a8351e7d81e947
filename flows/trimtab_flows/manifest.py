"""What a run needs to be run again, and which parts of that differ between two runs.

ManifestError (ValueError)
├── UnknownSchema        written by another version of Trimtab
└── CorruptManifest      not what was written, or no manifest at all
ManifestNotFound (KeyError)
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from trimtab_blocks.stores import BlobNotFound, InvalidKey, Store
from trimtab_flows.recipe_source import RecipeSource, find_file, read_source
from trimtab_flows.surroundings import Code, Devices, Environment, Gpu, read_code, read_devices, read_environment

__all__ = [
    "CorruptManifest",
    "Difference",
    "Manifest",
    "ManifestError",
    "ManifestNotFound",
    "UnknownSchema",
    "collect",
    "compare",
    "compare_metrics",
    "load",
    "save",
]

#: Of the JSON form. A reader takes it and those before it, and refuses any other.
SCHEMA = 2

#: Fields that a schema added to the one before it, with what they are in a manifest that has them not.
_ADDED: dict[int, dict[str, Any]] = {2: {"recipe_modules": {}}}


class ManifestError(ValueError):
    """A manifest that cannot be made or read."""


class UnknownSchema(ManifestError):
    """A manifest that another version of Trimtab wrote."""


class CorruptManifest(ManifestError):
    """A text that is no manifest, or not as it was written."""


class ManifestNotFound(KeyError):
    """No manifest has this id."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Manifest:
    """What a run needs to be run again.

    Attributes:
        id: SHA-256 of all the rest, 64 hexadecimal characters.
        stage: ``train``, ``score`` ...
        recipe: ``module:attribute``.
        recipe_digest: SHA-256 of the source file of the recipe's module.
        recipe_modules: SHA-256 of the file of each module of the recipe's own project that it imports, by the module's
            name (``recipe_source``); empty in a manifest of schema 1.
        code: checkout of the recipe, and Trimtab itself.
        parameters: plain JSON.
        seed: of everything random.
        environment: Python, platform, installed distributions.
        inputs: digests of the snapshots read, by name, in the order they were read.
        devices: processor, threads, GPUs.
        created_at: ISO 8601, UTC.
        flow_run_id: of Prefect, if there was a flow run.
    """

    id: str
    stage: str
    recipe: str
    recipe_digest: str
    code: Code
    parameters: dict[str, Any]
    seed: int
    environment: Environment
    inputs: dict[str, tuple[str, ...]]
    devices: Devices
    created_at: str
    flow_run_id: str | None = None
    recipe_modules: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The manifest as JSON, for people and for ``from_json``, in the schema that it was written in."""
        return json.dumps(_fields(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """Read what ``to_json`` wrote.

        Raises:
            UnknownSchema: another version of Trimtab wrote it.
            CorruptManifest: it is no manifest, or was changed since.
        """
        try:
            fields = json.loads(text)
            schema = fields.pop("schema")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CorruptManifest(f"this is no manifest: {type(error).__name__}: {error}") from None
        if schema not in range(1, SCHEMA + 1):
            raise UnknownSchema(
                f"manifest {fields.get('id')} has schema {schema!r}, and this version of Trimtab reads 1 to {SCHEMA}: "
                "use the version that wrote it (it is named in the manifest under code, package_version)"
            )
        try:
            manifest = _from_fields({**fields, **_later_fields(schema), "schema": schema})
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CorruptManifest(
                f"manifest {fields.get('id')} lacks a part: {type(error).__name__}: {error}"
            ) from None
        if _identified(manifest).id != manifest.id:
            raise CorruptManifest(
                f"manifest {manifest.id} was changed after it was written: its content has another id"
            )
        return manifest


@dataclass(frozen=True)
class Difference:
    """One part that two runs do not share; None stands for a part that is not there."""

    part: str
    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        what = f"{self.part} {self.name}".rstrip()
        return f"{what} {self.old or 'absent'} -> {self.new or 'absent'}"


def collect(
    *,
    stage: str,
    recipe: str,
    parameters: Mapping[str, Any],
    seed: int,
    inputs: Mapping[str, tuple[str, ...]],
    threads: int | None = None,
    flow_run_id: str | None = None,
) -> Manifest:
    """The manifest of work that is about to start in this process. Takes a few hundredths of a second.

    Args:
        stage: ``train``, ``score`` ...
        recipe: ``module:attribute``.
        parameters: anything that JSON can hold.
        seed: of everything random.
        inputs: digests of the snapshots that will be read, by name.
        threads: the work may use; by default one for each core.
        flow_run_id: of Prefect.

    Raises:
        ManifestError: a parameter is not plain JSON, or the recipe's module has no source file.
    """
    file, source = _source_of(recipe)
    manifest = Manifest(
        id="",
        stage=stage,
        recipe=recipe,
        recipe_digest=dict(source.modules)[recipe.partition(":")[0]],
        recipe_modules=dict(source.modules),
        code=read_code(file),
        parameters={str(name): _plain(value, str(name)) for name, value in parameters.items()},
        seed=int(seed),
        environment=read_environment(),
        inputs={name: tuple(digests) for name, digests in inputs.items()},
        devices=read_devices(threads),
        created_at=datetime.now(UTC).isoformat(),
        flow_run_id=flow_run_id,
    )
    return _identified(manifest)


def save(manifest: Manifest, store: Store) -> str:
    """Store a manifest under its id, once, and return its key."""
    key = _key(manifest.id)
    store.write_once(key, manifest.to_json().encode())
    return key


def load(id: str, store: Store) -> Manifest:
    """The manifest with this id.

    Raises:
        ManifestNotFound: there is none.
        UnknownSchema, CorruptManifest: it cannot be used.
    """
    try:
        manifest = Manifest.from_json(store.read(_key(id)))
    except (BlobNotFound, InvalidKey):
        raise ManifestNotFound(f"manifest {id!r} is not in {store}") from None
    if manifest.id != id:
        raise CorruptManifest(f"what is stored as manifest {id} is manifest {manifest.id}")
    return manifest


def compare(old: Manifest, new: Manifest) -> tuple[Difference, ...]:
    """Each part that differs, in the order of the manifest's fields. Time and flow run are no parts."""
    return tuple(
        difference
        for differences in (
            _changed("stage", {"": old.stage}, {"": new.stage}),
            _changed("recipe", {"": old.recipe}, {"": new.recipe}),
            _changed("recipe source", {"": old.recipe_digest[:12]}, {"": new.recipe_digest[:12]}),
            _modules_changed(old, new),
            _code_changed(old.code, new.code),
            _changed("parameter", dict(_leaves(old.parameters)), dict(_leaves(new.parameters))),
            _changed("seed", {"": str(old.seed)}, {"": str(new.seed)}),
            _changed("python", {"": old.environment.python_version}, {"": new.environment.python_version}),
            _changed("platform", {"": old.environment.platform}, {"": new.environment.platform}),
            _changed("package", _versions(old.environment), _versions(new.environment)),
            _changed("input", _numbered(old.inputs), _numbered(new.inputs)),
            _changed("device", _device_parts(old.devices), _device_parts(new.devices)),
        )
        for difference in differences
    )


def compare_metrics(old: Mapping[str, float], new: Mapping[str, float]) -> tuple[Difference, ...]:
    """Each metric that is not the same bit for bit, or on one side only. Any NaN is the same as any other."""

    def bits(value: float) -> bytes:
        return struct.pack("<d", math.nan if math.isnan(value) else value)

    names = [
        name for name in {**old, **new} if not (name in old and name in new and bits(old[name]) == bits(new[name]))
    ]
    return tuple(
        Difference(
            "metric",
            name,
            repr(float(old[name])) if name in old else None,
            repr(float(new[name])) if name in new else None,
        )
        for name in names
    )


def _changed(part: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Difference]:
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            yield Difference(part, name, old.get(name), new.get(name))


def _modules_changed(old: Manifest, new: Manifest) -> Iterator[Difference]:
    """Modules beside the recipe's own, where both manifests know of them."""
    if min(old.schema, new.schema) < 2:
        return

    def shown(manifest: Manifest) -> dict[str, str]:
        own = manifest.recipe.partition(":")[0]
        return {name: digest[:12] for name, digest in manifest.recipe_modules.items() if name != own}

    yield from _changed("recipe module", shown(old), shown(new))


def _code_changed(old: Code, new: Code) -> Iterator[Difference]:
    """The commit, and what is not in it; then Trimtab's own version and source files."""

    def shown(code: Code, other: Code) -> str:
        text = code.git_sha[:12] if code.git_sha else "outside git"
        if not code.dirty:
            return text
        both = f" {(code.diff_digest or '')[:12]}" if other.dirty else ""
        return f"{text} (with uncommitted changes{both})"

    if (old.git_sha, old.diff_digest) != (new.git_sha, new.diff_digest):
        yield Difference("code", "", shown(old, new), shown(new, old))
    yield from _changed("trimtab", {"version": old.package_version}, {"version": new.package_version})
    yield from _changed("trimtab", {"source": old.package_digest[:12]}, {"source": new.package_digest[:12]})


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested parameters with its path, as canonical JSON: 1, 1.0 and true are different."""
    if isinstance(value, dict) and (value or not path):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
    else:
        yield path, json.dumps(value, sort_keys=True)


def _versions(environment: Environment) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in environment.packages:
        name, _, version = package.partition("==")
        found[name] = f"{found[name]}, {version}" if name in found else version
    return found


def _numbered(inputs: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {f"{name}[{place}]": digest[:12] for name, digests in inputs.items() for place, digest in enumerate(digests)}


def _device_parts(devices: Devices) -> dict[str, str]:
    parts = {"cpu": devices.cpu_model, "cores": str(devices.cores), "threads": str(devices.threads)}
    if devices.gpu_driver is not None:
        parts["gpu driver"] = devices.gpu_driver
    return parts | {f"gpu[{place}]": f"{gpu.name} ({gpu.uuid})" for place, gpu in enumerate(devices.gpus)}


def _plain(value: Any, path: str) -> Any:
    """A parameter as plain JSON: what is read back is what was written."""
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real() if math.isfinite(value):
            return float(value)
        case Mapping():
            return {str(name): _plain(inner, f"{path}.{name}") for name, inner in value.items()}
        case list() | tuple():
            return [_plain(inner, f"{path}[{place}]") for place, inner in enumerate(value)]
    raise ManifestError(
        f"parameter {path} is {value!r} ({type(value).__name__}), which JSON cannot hold: "
        "use text, finite numbers, true, false, null, lists and mappings of those"
    )


def _source_of(recipe: str) -> tuple[Path, RecipeSource]:
    """File and source of the module that a recipe's reference names; nothing is run for this."""
    module = recipe.partition(":")[0]
    try:
        file, source = find_file(module), read_source(module)
    except (ImportError, ValueError) as error:
        raise ManifestError(
            f"recipe {recipe!r}: {error}; write module:attribute, for a module with a source file"
        ) from None
    return file, source


def _identified(manifest: Manifest) -> Manifest:
    """The manifest with the id that its content has."""
    fields = _fields(replace(manifest, id=""))
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return replace(manifest, id=hashlib.sha256(text.encode()).hexdigest())


def _later_fields(schema: int) -> dict[str, Any]:
    """What came after a schema."""
    return {name: value for later, added in _ADDED.items() if later > schema for name, value in added.items()}


def _fields(manifest: Manifest) -> dict[str, Any]:
    """The fields of a manifest, those of its own schema."""
    fields = asdict(manifest)
    later = _later_fields(manifest.schema)
    return {"schema": fields.pop("schema")} | {name: value for name, value in fields.items() if name not in later}


def _from_fields(fields: dict[str, Any]) -> Manifest:
    environment, devices = fields["environment"], fields["devices"]
    return Manifest(
        **{
            **fields,
            "code": Code(**fields["code"]),
            "environment": Environment(**{**environment, "packages": tuple(environment["packages"])}),
            "inputs": {name: tuple(digests) for name, digests in fields["inputs"].items()},
            "devices": Devices(**{**devices, "gpus": tuple(Gpu(**gpu) for gpu in devices["gpus"])}),
        }
    )


def _key(id: str) -> str:
    return f"manifests/{id}.json"
