"""Measure one scored window, log drift and performance to MLflow, and decide whether to retrain, with evidence."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from mlflow.entities import Run
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_flows import runtime, tracking
from trimtab_flows.drift.charts import to_markdown
from trimtab_flows.drift.decision import Decision, Evidence, Policy, decide
from trimtab_flows.drift.signals import Reference, Signal, measure
from trimtab_flows.faults import RETRIES
from trimtab_flows.history import MONITOR, monitored_windows
from trimtab_flows.ingest import FEATURES
from trimtab_flows.loading import LoadedRecipe, load_recipe
from trimtab_flows.recipe import Recipe
from trimtab_flows.score import PREDICTIONS
from trimtab_flows.steps import fitting
from trimtab_flows.steps.predictions import scored_labels
from trimtab_flows.train import REFERENCE
from trimtab_flows.windows import Window

__all__ = ["Monitored", "monitor"]
