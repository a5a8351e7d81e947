"""Where MLflow is."""

from __future__ import annotations

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, field_validator

__all__ = ["MlflowTracking"]


class MlflowTracking(Block):
    """The MLflow tracking server that records models and metrics."""

    _block_type_name: ClassVar[str] = "Trimtab MLflow tracking"
    _block_type_slug: ClassVar[str] = "trimtab-mlflow-tracking"
    _description: ClassVar[str] = "The MLflow tracking server that records models and metrics."

    tracking_uri: str = Field(description="Address of the tracking server, for example http://127.0.0.1:5000")

    @field_validator("tracking_uri")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"tracking_uri is {value!r}; it must start with http:// or https://")
        return value.rstrip("/")
