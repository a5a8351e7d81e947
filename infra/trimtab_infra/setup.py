"""Tell a Prefect server what production consists of: the work pool, and blocks made from the settings.

Can be run again: blocks are overwritten, and so a new key or address reaches every flow from its next run on.
"""

from __future__ import annotations

from prefect.client.orchestration import get_client

from trimtab_blocks.mlflow import MlflowTracking
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.settings import Settings, variable
from trimtab_infra.errors import UserError
from trimtab_infra.stack.configure import make_pool

__all__ = ["NotSet", "s3_store", "set_up"]


class NotSet(UserError):
    """A setting that is needed is not there."""


def set_up(settings: Settings) -> list[str]:
    """Make the pool, save the blocks; returns what was made, a line each.

    Raises:
        NotSet: a setting is missing.
    """
    store, uri = s3_store(settings), settings.mlflow_tracking_uri
    if uri is None:
        raise NotSet(f"{variable('mlflow_tracking_uri')} is not set: the address of the MLflow server")
    with get_client(sync_client=True) as client:
        make_pool(client, settings.pool)
    store.save(settings.blocks, overwrite=True)
    MlflowTracking(tracking_uri=uri).save(settings.blocks, overwrite=True)
    return [
        f"work pool {settings.pool}",
        f"trimtab-s3-store/{settings.blocks}: {store}",
        f"trimtab-mlflow-tracking/{settings.blocks}: {uri}",
    ]


def s3_store(settings: Settings) -> S3Store:
    """The store that the settings name.

    Raises:
        NotSet: they name none.
    """
    if settings.store_bucket is None:
        raise NotSet(f"{variable('store_bucket')} is not set: the S3 bucket of the store")
    return S3Store(
        bucket=settings.store_bucket,
        prefix=settings.store_prefix,
        endpoint_url=settings.store_endpoint_url,
        region=settings.store_region,
        ca_bundle=settings.store_ca_bundle,
        access_key_id=settings.store_access_key_id,
        secret_access_key=settings.store_secret_access_key,
    )
