"""Tests of Prefect's that are not run with our classes in place, by name, and why."""

from __future__ import annotations

__all__ = ["DOES_NOT_APPLY", "FAILS_WITH_PREFECTS_TOO"]

DOES_NOT_APPLY: dict[str, str] = {}

FAILS_WITH_PREFECTS_TOO: dict[str, str] = {}
