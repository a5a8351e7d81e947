"""The events that Trimtab sends and that Prefect automations act on, as values.

The automation itself is declared with the retrain deployment (``triggers`` in prefect.yaml): a decision is announced
here, and whoever runs the platform says what follows from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event

__all__ = ["RETRAIN_REQUESTED", "RetrainRequested"]

#: A decision to retrain a model.
RETRAIN_REQUESTED = "trimtab.retrain.requested"


@dataclass(frozen=True)
class RetrainRequested:
    """A decision to retrain, as an event: the model is the resource, the rest its payload.

    ``attempt`` counts how often the same decision was announced: 1, and more when the run it led to was lost.
    """

    model: str
    recipe: str
    windows: str
    decision: str
    reasons: tuple[str, ...]
    attempt: int = 1

    @property
    def event_id(self) -> UUID:
        """The same announcement has the same id, so that sending it twice is one event."""
        return uuid5(NAMESPACE_URL, f"{RETRAIN_REQUESTED}/{self.decision}/{self.attempt}")

    @property
    def resource(self) -> dict[str, str]:
        """The model, as Prefect names resources."""
        return {"prefect.resource.id": f"trimtab.model.{self.model}", "prefect.resource.name": self.model}

    @property
    def payload(self) -> dict[str, Any]:
        """What the automation passes on to the retrain deployment."""
        return {
            "recipe": self.recipe,
            "windows": self.windows,
            "decision": self.decision,
            "reasons": list(self.reasons),
            "attempt": self.attempt,
        }

    def send(self) -> None:
        """Send the event to the Prefect server of this process's settings."""
        emit_event(RETRAIN_REQUESTED, resource=self.resource, payload=self.payload, id=self.event_id)
