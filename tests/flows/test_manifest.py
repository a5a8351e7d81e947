"""The manifest: what is collected, that it is read back unchanged, and that every difference is named."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trimtab_flows.windows
from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.manifest import (
    CorruptManifest,
    Manifest,
    ManifestError,
    ManifestNotFound,
    UnknownSchema,
    collect,
    compare,
    compare_metrics,
    load,
    save,
)
from trimtab_flows.surroundings import Code, Devices, Environment, Gpu, read_environment

RECIPE = "trimtab_flows.windows:Window"  # any module with a source file will do
A, B, C = "a" * 64, "b" * 64, "c" * 64

OLD = Manifest(
    id="0" * 64,
    stage="train",
    recipe="flights:flights",
    recipe_digest="d" * 64,
    code=Code("1a2b3c" + "0" * 34, False, None, "0.1.0", "e" * 64),
    parameters={"num_leaves": 31, "nested": {"rates": [0.1, 0.2]}, "empty": {}},
    seed=7,
    environment=Environment("CPython 3.11.7", "Linux", ("lightgbm==4.6.0", "polars==2.1.0"), "f" * 64),
    inputs={"training": (A, B), "weather": (C,)},
    devices=Devices("AMD EPYC", 2, 1, (Gpu("A100", "GPU-1"),), "550.1"),
    created_at="2026-01-01T00:00:00+00:00",
    flow_run_id="run-1",
)


def collected(**changed: Any) -> Manifest:
    given = {"stage": "train", "recipe": RECIPE, "parameters": {}, "seed": 0, "inputs": {}}
    return collect(**{**given, **changed})


def words(new: Manifest, old: Manifest = OLD) -> list[str]:
    return [str(difference) for difference in compare(old, new)]


def test_collects_what_is_there() -> None:
    manifest = collected(parameters={"x": 1}, seed=7, inputs={"training": (A, B)}, threads=1, flow_run_id="run")
    assert (manifest.stage, manifest.recipe, manifest.seed) == ("train", RECIPE, 7)
    assert manifest.inputs == {"training": (A, B)}
    assert manifest.parameters == {"x": 1}
    assert manifest.flow_run_id == "run"
    assert manifest.devices.threads == 1
    assert len(manifest.id) == len(manifest.recipe_digest) == len(manifest.code.package_digest) == 64
    assert datetime.fromisoformat(manifest.created_at).utcoffset() is not None
    assert f"polars=={pl.__version__}" in manifest.environment.packages


def test_the_recipe_digest_is_that_of_its_source_file() -> None:
    source = Path(str(trimtab_flows.windows.__file__)).read_bytes()
    assert collected().recipe_digest == hashlib.sha256(source).hexdigest()


def test_is_collected_in_under_half_a_second() -> None:
    read_environment.cache_clear()
    started = time.perf_counter()
    collected()
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize("recipe", ["no_such_module:x", "no_such.module:x", "sys:x", ":x", "..:x"])
def test_a_recipe_without_source_is_refused(recipe: str) -> None:
    with pytest.raises(ManifestError, match="recipe"):
        collected(recipe=recipe)


def test_parameters_become_plain_json() -> None:
    manifest = collected(parameters={"a": np.int32(3), "b": np.float64(0.5), "c": (1, None), "d": {"e": True}})
    assert manifest.parameters == {"a": 3, "b": 0.5, "c": [1, None], "d": {"e": True}}
    assert [type(value) for value in manifest.parameters.values()] == [int, float, list, dict]


@pytest.mark.parametrize("value", [math.nan, math.inf, datetime(2013, 1, 1), {1, 2}, b"x", object()])
def test_a_parameter_that_json_cannot_hold_is_named(value: object) -> None:
    with pytest.raises(ManifestError, match=r"parameter outer\.inner\[1\] is"):
        collected(parameters={"outer": {"inner": [0, value]}})


def test_is_read_back_unchanged(tmp_path: Path) -> None:
    manifest = collected(parameters={"x": [1, 0.1, "Grüße", None]}, inputs={"training": (A, B)})
    assert Manifest.from_json(manifest.to_json()) == manifest
    store = DirectoryStore(path=tmp_path)
    assert save(manifest, store) == f"manifests/{manifest.id}.json"
    save(manifest, store)
    assert list(store.keys()) == [f"manifests/{manifest.id}.json"]
    assert load(manifest.id, store) == manifest


def test_every_collection_has_its_own_id() -> None:
    assert collected().id != collected().id


@pytest.mark.parametrize("missing", ["0" * 64, "../x", ""])
def test_a_manifest_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    store = DirectoryStore(path=tmp_path)
    with pytest.raises(ManifestNotFound) as caught:
        load(missing, store)
    assert str(caught.value) == f"manifest {missing!r} is not in {store}"


def test_a_manifest_under_another_id_is_refused(tmp_path: Path) -> None:
    store = DirectoryStore(path=tmp_path)
    manifest = collected()
    store.write_once(f"manifests/{A}.json", manifest.to_json().encode())
    with pytest.raises(CorruptManifest, match=f"what is stored as manifest {A} is manifest {manifest.id}"):
        load(A, store)


def test_another_schema_is_refused() -> None:
    fields = json.loads(collected().to_json())
    with pytest.raises(UnknownSchema, match=r"has schema 7, and this version of Trimtab reads 1 to 2: "):
        Manifest.from_json(json.dumps({**fields, "schema": 7, "future": "part"}))


def test_a_manifest_of_schema_1_is_read_as_it_was_written() -> None:
    text = (Path(__file__).parent.parent / "cases/manifests/schema_1.json").read_text()
    manifest = Manifest.from_json(text)
    assert (manifest.schema, manifest.recipe_modules) == (1, {})
    assert json.loads(manifest.to_json()) == json.loads(text)
    assert Manifest.from_json(json.dumps({**json.loads(text), "recipe_modules": {"flights": A}})) == manifest
    new = replace(manifest, schema=2, recipe_modules={"flights": A, "prepare": B})
    assert compare(manifest, new) == ()
    assert words(replace(new, recipe_modules={"prepare": C}), new) == [
        "recipe module prepare bbbbbbbbbbbb -> cccccccccccc"
    ]


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"schema": 1}', '{"schema": 1, "environment": 3, "devices": 4}', b"\xff"]
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(CorruptManifest):
        Manifest.from_json(text)


def test_a_changed_manifest_is_refused() -> None:
    fields = json.loads(collected(seed=1).to_json())
    for name, value in (("seed", 2), ("stage", "score"), ("inputs", {"x": [A]}), ("flow_run_id", "other")):
        with pytest.raises(CorruptManifest, match="was changed after it was written"):
            Manifest.from_json(json.dumps({**fields, name: value}))


def test_time_and_flow_run_are_no_difference() -> None:
    assert compare(OLD, OLD) == ()
    assert compare(OLD, replace(OLD, id=A, created_at="2027", flow_run_id=None)) == ()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"stage": "score"}, ["stage train -> score"]),
        ({"recipe": "mine:mine"}, ["recipe flights:flights -> mine:mine"]),
        ({"recipe_digest": A}, ["recipe source dddddddddddd -> aaaaaaaaaaaa"]),
        ({"seed": 8}, ["seed 7 -> 8"]),
        (
            {"parameters": {"num_leaves": 63, "nested": {"rates": [0.1, 0.3]}, "empty": {}, "new": None}},
            [
                "parameter num_leaves 31 -> 63",
                "parameter nested.rates [0.1, 0.2] -> [0.1, 0.3]",
                "parameter new absent -> null",
            ],
        ),
        ({"parameters": {**OLD.parameters, "num_leaves": 31.0}}, ["parameter num_leaves 31 -> 31.0"]),
        ({"inputs": {"training": (A, C), "weather": (C,)}}, ["input training[1] bbbbbbbbbbbb -> cccccccccccc"]),
        (
            {"inputs": {"training": (B, A), "weather": (C,)}},
            ["input training[0] aaaaaaaaaaaa -> bbbbbbbbbbbb", "input training[1] bbbbbbbbbbbb -> aaaaaaaaaaaa"],
        ),
        (
            {"inputs": {"training": (A,)}},
            ["input training[1] bbbbbbbbbbbb -> absent", "input weather[0] c{12} -> absent"],
        ),
    ],
)
def test_names_what_differs(changed: dict[str, Any], expected: list[str]) -> None:
    assert words(replace(OLD, **changed)) == [text.replace("c{12}", "c" * 12) for text in expected]


def test_names_packages_one_by_one() -> None:
    new = replace(
        OLD.environment,
        python_version="CPython 3.12.1",
        platform="Darwin",
        packages=("lightgbm==4.7.0", "numpy==2.4.6"),
    )
    assert words(replace(OLD, environment=new)) == [
        "python CPython 3.11.7 -> CPython 3.12.1",
        "platform Linux -> Darwin",
        "package lightgbm 4.6.0 -> 4.7.0",
        "package polars 2.1.0 -> absent",
        "package numpy absent -> 2.4.6",
    ]


def test_names_devices() -> None:
    new = Devices("Xeon", 4, 2, (Gpu("A100", "GPU-2"), Gpu("A100", "GPU-3")), "560.0")
    assert words(replace(OLD, devices=new)) == [
        "device cpu AMD EPYC -> Xeon",
        "device cores 2 -> 4",
        "device threads 1 -> 2",
        "device gpu driver 550.1 -> 560.0",
        "device gpu[0] A100 (GPU-1) -> A100 (GPU-2)",
        "device gpu[1] absent -> A100 (GPU-3)",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {"git_sha": "4d5e6f" + "0" * 34}, ["code 1a2b3c000000 -> 4d5e6f000000"]),
        (
            {},
            {"git_sha": "4d5e6f" + "0" * 34, "dirty": True, "diff_digest": A},
            ["code 1a2b3c000000 -> 4d5e6f000000 (with uncommitted changes)"],
        ),
        (
            {"dirty": True, "diff_digest": A},
            {"dirty": True, "diff_digest": B},
            [
                "code 1a2b3c000000 (with uncommitted changes aaaaaaaaaaaa) -> "
                "1a2b3c000000 (with uncommitted changes bbbbbbbbbbbb)"
            ],
        ),
        ({}, {"git_sha": None}, ["code 1a2b3c000000 -> outside git"]),
        (
            {},
            {"package_version": "0.2.0", "package_digest": A},
            ["trimtab version 0.1.0 -> 0.2.0", "trimtab source eeeeeeeeeeee -> aaaaaaaaaaaa"],
        ),
    ],
)
def test_names_code(old: dict[str, Any], new: dict[str, Any], expected: list[str]) -> None:
    before, after = replace(OLD.code, **old), replace(OLD.code, **new)
    assert words(replace(OLD, code=after), replace(OLD, code=before)) == expected


def test_metrics_are_compared_bit_for_bit() -> None:
    other_nan = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]
    assert compare_metrics({"auc": 0.666, "f1": math.nan}, {"f1": other_nan, "auc": 0.666}) == ()
    nearly = math.nextafter(0.666, 1)
    assert [str(difference) for difference in compare_metrics({"auc": 0.666, "a": 1.0}, {"auc": nearly, "b": 2})] == [
        "metric auc 0.666 -> 0.6660000000000001",
        "metric a 1.0 -> absent",
        "metric b absent -> 2.0",
    ]
    assert len(compare_metrics({"x": 0.0}, {"x": -0.0})) == 1
    assert len(compare_metrics({"x": math.nan}, {"x": 0.0})) == 1


@given(st.dictionaries(st.text(), st.floats()), st.dictionaries(st.text(), st.floats()))
def test_metrics_that_differ_are_those_whose_text_differs(old: dict[str, float], new: dict[str, float]) -> None:
    named = {difference.name for difference in compare_metrics(old, new)}
    assert named == {name for name in {*old, *new} if repr(old.get(name)) != repr(new.get(name))}
