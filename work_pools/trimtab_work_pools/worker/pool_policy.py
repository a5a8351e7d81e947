"""Reads the policy of a work pool from the plain data that people write for it. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trimtab_work_pools.queue.workload import Policy, WorkloadError

__all__ = ["PolicyError", "read_policy"]


class PolicyError(ValueError):
    """The policy that is written for a pool is wrong; the text names the variable and the field."""


_POLICY = TypeAdapter(Policy)


def read_policy(value: Any, source: str) -> Policy:
    """A Policy from plain data with some of its fields. Raises PolicyError that names the field."""
    allowed = [field.name for field in fields(Policy)]
    if not isinstance(value, dict):
        raise PolicyError(f"{source} must map fields of a policy to values, like {{'preempt': false}}")
    if unknown := sorted(value.keys() - set(allowed)):
        raise PolicyError(f"{source}: {unknown[0]} is no field of a policy (allowed: {', '.join(allowed)})")
    try:
        return _POLICY.validate_python(value)
    except WorkloadError as error:
        raise PolicyError(f"{source}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise PolicyError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
