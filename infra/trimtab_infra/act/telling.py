"""Who is told of a decision to retrain: Prefect's notification blocks, by `type/name`, as in the policy's field `tell`.

Prefect sends the message itself (the automation action send-notification), so a block's secrets stay on its server.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from trimtab_infra.errors import UserError

__all__ = ["NoSuchBlock", "blocks_of"]


class NoSuchBlock(UserError):
    """A policy names somebody to tell whom the Prefect server cannot tell."""


async def blocks_of(client: PrefectClient, tell: Sequence[str]) -> list[UUID]:
    """Ids of the notification blocks of these names.

    Raises:
        NoSuchBlock: one is no name of a block, is not on the server, or cannot notify.
    """
    return [await _block(client, name) for name in tell]


async def _block(client: PrefectClient, name: str) -> UUID:
    kind, _, document = name.partition("/")
    if not kind or not document:
        hint = "for mail, save a block sendgrid-email/NAME and name that" if "@" in name else "like slack-webhook/NAME"
        raise NoSuchBlock(f"policy: field tell: {name!r} is no Prefect notification block, TYPE/NAME; {hint}")
    try:
        found = await client.read_block_document_by_name(document, kind, include_secrets=False)
    except ObjectNotFound:
        raise NoSuchBlock(
            f"policy: field tell: the Prefect server has no block {name!r}; make it (in the UI under Blocks) first"
        ) from None
    able = found.block_schema.capabilities if found.block_schema is not None else []
    if "notify" not in able:
        raise NoSuchBlock(
            f"policy: field tell: the block {name!r} cannot notify anybody; name one like slack-webhook/NAME"
        )
    identity: UUID = found.id
    return identity
