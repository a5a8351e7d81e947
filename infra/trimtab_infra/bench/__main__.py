"""Runs the benchmarks from a checkout: `python -m trimtab_infra.bench`."""

from __future__ import annotations

from trimtab_infra.bench import app

app()
