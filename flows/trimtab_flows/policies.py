"""Which policy counts: a Prefect block by its name, fields that differ from the defaults, or the defaults."""

from __future__ import annotations

from typing import Any

from trimtab_blocks.policy import RetrainPolicy
from trimtab_flows.drift.decision import Policy
from trimtab_flows.runtime import NotConfigured

__all__ = ["PolicyGiven", "resolve"]

PolicyGiven = dict[str, Any] | str | None


def resolve(policy: PolicyGiven) -> Policy:
    """The policy that a flow's parameter names.

    Raises:
        NotConfigured: there is no block of this name.
        InvalidPolicy: an unknown field, or a value that is not allowed.
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
    return Policy.from_mapping(block.plain())
