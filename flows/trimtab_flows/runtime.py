"""Where a flow run finds its store and its MLflow server: the Prefect blocks that ``trimtab up`` saves."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import mlflow
from prefect import runtime as prefect_runtime
from prefect.settings import get_current_settings

from trimtab_blocks.cache import CachedStore
from trimtab_blocks.host_cache import DIRECTORY, LIMIT, HostCache
from trimtab_blocks.keys import content_of, digest_of
from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.settings import read as read_settings
from trimtab_blocks.stores import DirectoryStore, Store
from trimtab_blocks.tiered import TieredStore
from trimtab_blocks.tiering import TieringPolicy
from trimtab_flows.catalog import Catalog
from trimtab_flows.snapshots.holdings import tiers_of
from trimtab_flows.snapshots.library import SnapshotLibrary
from trimtab_flows.snapshots.lineage import Lineage
from trimtab_flows.tiering.fetching import Teller

__all__ = [
    "NotConfigured",
    "about_to_read",
    "catalog",
    "connect_mlflow",
    "flow_run_id",
    "flow_run_url",
    "hot_store",
    "library",
    "lineage",
    "store",
    "tiering",
    "uncached",
]

#: Name of the block documents, so that one Prefect server can serve several teams.
BLOCKS = read_settings().blocks


class NotConfigured(LookupError):
    """A Prefect block that this flow needs is not there."""


def _block(kind: type[Any]) -> Any:
    try:
        return kind.load(BLOCKS)
    except ValueError as error:
        slug = kind.get_block_type_slug()
        raise NotConfigured(
            f"the Prefect server has no block {slug}/{BLOCKS}: run `trimtab up`, or save one "
            f"(set TRIMTAB_BLOCKS to use another name)"
        ) from error


@cache
def hot_store() -> Store:
    """The store that holds everything that is written: in S3 where a block says so, else in a directory."""
    try:
        loaded: Store = _block(S3Store)
    except NotConfigured:
        loaded = _block(DirectoryStore)
    return loaded


@cache
def tiering() -> TieringPolicy | None:
    """The tiering policy, where one is saved."""
    try:
        loaded: TieringPolicy = _block(TieringPolicy)
    except NotConfigured:
        return None
    return loaded


@cache
def _tiered() -> tuple[TieredStore, Teller] | None:
    policy = tiering()
    if policy is None:
        return None
    teller = Teller(policy.rules)
    return policy.over(hot_store(), teller), teller


def uncached() -> Store:
    """The store with its colder tiers, without this host's cache."""
    tiered = _tiered()
    return tiered[0] if tiered else hot_store()


@cache
def store() -> Store:
    """The store that holds snapshots, lineage and manifests, behind this host's cache where its data is on S3."""
    given = read_settings()
    whole, cache_here = uncached(), HostCache.from_environment({DIRECTORY: given.cache_dir, LIMIT: given.cache_gib})
    if cache_here is None or not any(isinstance(part, S3Store) for part in tiers_of(whole).values()):
        return whole
    return cache_here.before(whole, content_of)


def about_to_read(digests: Iterable[str]) -> None:
    """Say what fetching these snapshots costs and takes, if some of them lie colder and not in this host's cache.

    Raises:
        TooDear: it costs more than the policy allows.
    """
    tiered, whole = _tiered(), store()
    if tiered is None:
        return
    here = {digest_of(key) for key in whole.cached_keys()} if isinstance(whole, CachedStore) else set()
    tiered[1].before(tiered[0], [digest for digest in digests if digest not in here])


@cache
def connect_mlflow() -> str:
    """Point MLflow's client at the tracking server, once a process, and return its address."""
    uri: str = _block(MlflowTracking).tracking_uri
    mlflow.set_tracking_uri(uri)
    return uri


def library() -> SnapshotLibrary:
    """The snapshots of the store."""
    return SnapshotLibrary(store())


def lineage() -> Lineage:
    """What came from what, in the store."""
    return Lineage(store())


def catalog(subject: str) -> Catalog:
    """Which snapshot stands for which window, for one recipe."""
    return Catalog(store(), subject)


def flow_run_id() -> str | None:
    """Id of the flow run this is called in, or None."""
    found: str | None = prefect_runtime.flow_run.id
    return found


def flow_run_url() -> str | None:
    """Address of the flow run in the Prefect UI, or None."""
    identity = flow_run_id()
    base = get_current_settings().ui_url
    return f"{base}/runs/flow-run/{identity}" if identity and base else None
