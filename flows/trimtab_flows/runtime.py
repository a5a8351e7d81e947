"""Where a flow run finds its store and its MLflow server: the Prefect blocks that ``trimtab up`` saves."""

from __future__ import annotations

from functools import cache
from typing import Any

import mlflow
from prefect import runtime as prefect_runtime
from prefect.settings import get_current_settings

from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.settings import read as read_settings
from trimtab_blocks.stores import DirectoryStore, Store
from trimtab_flows.catalog import Catalog
from trimtab_flows.snapshots.library import SnapshotLibrary
from trimtab_flows.snapshots.lineage import Lineage

__all__ = ["NotConfigured", "catalog", "connect_mlflow", "flow_run_id", "flow_run_url", "library", "lineage", "store"]

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
def store() -> Store:
    """The store that holds snapshots, lineage and manifests: in S3 where a block says so, else in a directory."""
    try:
        loaded: Store = _block(S3Store)
    except NotConfigured:
        loaded = _block(DirectoryStore)
    return loaded


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
