"""Orders of the business, kept with the model they are about: as tags of the registered model in MLflow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from mlflow.exceptions import MlflowException

from trimtab_flows import tracking
from trimtab_flows.drift.decision import InvalidRecord, Order
from trimtab_flows.drift.orders import orders_from

__all__ = ["WITHDRAW", "keep_order", "orders_of"]

_TAG = "trimtab.order."

#: Takes all standing orders back.
WITHDRAW = "withdraw"


def keep_order(model: str, order: Mapping[str, Any]) -> None:
    """Keep an order; the same one again changes nothing. ``{"kind": "withdraw"}`` takes all of them back.

    Args:
        model: a registered model.
        order: fields of ``Order``; ``issued`` is now, where it is not given.

    Raises:
        InvalidRecord: a field that does not exist, or a value that is not allowed.
        NoSuchModel: there is no such model.
    """
    fields = {name: value for name, value in order.items() if value not in (None, "")}
    api = tracking.client()
    if fields.get("kind") == WITHDRAW:
        for name in _tags(model):
            api.delete_registered_model_tag(model, name)
        return
    fields.setdefault("issued", datetime.now(UTC).isoformat())
    try:
        (kept,) = orders_from([fields])
    except InvalidRecord as error:
        raise InvalidRecord(f"{error} (or kind {WITHDRAW}, which takes all orders back)") from None
    _tags(model)
    text = json.dumps(asdict(kept), sort_keys=True)
    name = f"{_TAG}{kept.kind}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    api.set_registered_model_tag(model, name, text)


def orders_of(model: str) -> tuple[Order, ...]:
    """The orders kept for a model, oldest first; whether they stand is for the decision to say."""
    found = orders_from([json.loads(text) for text in _tags(model).values()])
    return tuple(sorted(found, key=lambda order: (order.given, order.kind, order.reason)))


def _tags(model: str) -> dict[str, str]:
    try:
        tags: Mapping[str, str] = tracking.client().get_registered_model(model).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise tracking.NoSuchModel(f"MLflow has no registered model {model!r}, so no order about it is kept") from None
    return {name: text for name, text in tags.items() if name.startswith(_TAG)}
