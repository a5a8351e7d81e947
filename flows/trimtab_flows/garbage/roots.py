"""What needs snapshots, read from MLflow's registry, the manifests, the catalog. What cannot be read stops it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from mlflow.exceptions import MlflowException

from trimtab_blocks.stores import Store
from trimtab_flows import tracking
from trimtab_flows.snapshots.holdings import CatalogName
from trimtab_flows.snapshots.lineage import Edge

__all__ = ["RootsUnknown", "catalog_roots", "edges", "manifest_roots", "model_roots"]

MODEL, MANIFEST, CATALOG = "a registered model version", "a manifest", "the catalog"
_OURS = "trimtab."
_DIGEST = re.compile(r"[0-9a-f]{64}")
_AT_A_TIME = 16


class RootsUnknown(ValueError):
    """Something that names snapshots cannot be read, so what is needed is not known."""


def model_roots() -> dict[str, str]:
    """Every registered version, and each snapshot that a tag of it or of its training run names: inputs, predictions on
    the holdout, reference rows, and whatever is added to these.
    """
    found: dict[str, str] = {}
    for version in tracking.all_versions():
        found[f"model:{version.name}/{version.version}"] = MODEL
        tags = dict(version.tags)
        if version.run_id:
            tags |= _tags_of(str(version.run_id))
        found |= {value: MODEL for tag, value in tags.items() if tag.startswith(_OURS) and _DIGEST.fullmatch(value)}
    return found


def manifest_roots(store: Store) -> dict[str, str]:
    """The inputs of every manifest.

    Raises:
        RootsUnknown: one of them cannot be read.
    """

    def inputs(key: str) -> list[str]:
        try:
            named: Mapping[str, list[str]] = json.loads(store.read(key))["inputs"]
            return [digest for digests in named.values() for digest in digests]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RootsUnknown(
                f"{key} in {store} cannot be read ({error}), so it is not known what it needs and nothing is removed: "
                "restore it from a copy, or remove it if nobody will replay that run"
            ) from error

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return {digest: MANIFEST for named in pool.map(inputs, list(store.keys("manifests/"))) for digest in named}


def catalog_roots(
    names: Iterable[CatalogName], digests: Iterable[str], now: datetime, superseded_days: int | None
) -> dict[str, str]:
    """What the catalog names; of entries that a later one replaced, those younger than this (None: all)."""
    by_start: dict[str, list[str]] = {}
    for digest in digests:
        by_start.setdefault(digest[:12], []).append(digest)
    windows: dict[tuple[str, str, str], list[CatalogName]] = {}
    for name in names:
        windows.setdefault((name.subject, name.table, name.window), []).append(name)
    found: dict[str, str] = {}
    for entries in windows.values():
        *earlier, newest = sorted(entries, key=lambda name: name.order)
        limit = None if superseded_days is None else f"{now - timedelta(days=superseded_days):%Y%m%dT%H%M%S%f}"
        for name in (*(one for one in earlier if limit is None or one.recorded >= limit), newest):
            found |= dict.fromkeys(by_start.get(name.start_of_digest, ()), CATALOG)
    return found


def edges(store: Store) -> list[tuple[str, tuple[str, ...]]]:
    """Every edge of the lineage: (output, inputs)."""

    def read(key: str) -> tuple[str, tuple[str, ...]]:
        try:
            edge = Edge.from_json(store.read(key))
        except (ValueError, TypeError) as error:
            raise RootsUnknown(
                f"{key} in {store} cannot be read ({error}), so nothing is removed: restore it, or remove it"
            ) from error
        return edge.output, edge.inputs

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(read, list(store.keys("lineage/by-output/"))))


def _tags_of(run_id: str) -> dict[str, str]:
    try:
        return dict(tracking.client().get_run(run_id).data.tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
