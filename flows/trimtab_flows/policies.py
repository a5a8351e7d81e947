"""Which policy counts: a Prefect block by its name, fields that differ from the defaults, or the defaults."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from trimtab_blocks.policy import RetrainPolicy
from trimtab_flows.drift.decision import InvalidPolicy, Policy
from trimtab_flows.runtime import NotConfigured

__all__ = ["PolicyGiven", "resolve"]

PolicyGiven = dict[str, Any] | str | None


def resolve(policy: PolicyGiven) -> Policy:
    """The policy that a flow's parameter names.

    Raises:
        NotConfigured: there is no block of this name.
        InvalidPolicy: an unknown field, or a value that is not allowed: the block may have been saved in the Prefect
            UI, whose server knows no more than the types of its fields.
    """
    if not isinstance(policy, str):
        return Policy.from_mapping(policy or {})
    try:
        block: Any = RetrainPolicy.load(policy)
    except ValueError as error:
        raise NotConfigured(
            f"the Prefect server has no block {RetrainPolicy.get_block_type_slug()}/{policy}: "
            f"save one (`trimtab policy save {policy} FILE`)"
        ) from error
    except RuntimeError as error:
        if not isinstance(error.__cause__, ValidationError):
            raise
        first = error.__cause__.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        said = f"field {field}: {first['msg']}" if field else first["msg"].removeprefix("Value error, ")
        raise InvalidPolicy(f"policy block {RetrainPolicy.get_block_type_slug()}/{policy}: {said}") from None
    return Policy.from_mapping(block.plain())
