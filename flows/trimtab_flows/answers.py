"""What became of a decision that no run of its own came of: kept as a tag of the decision's run in MLflow.

A person said no (by answering, or by cancelling the dispatch run), another decision's run does the same work, or an
order came before it was carried out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from trimtab_flows import tracking

__all__ = ["Answer", "answer_of", "keep_answer"]

_TAG = "trimtab.answer"


@dataclass(frozen=True)
class Answer:
    """What became of a decision.

    Attributes:
        kind: ``refused`` (a person said no: that is its outcome), ``joined`` (its outcome is that of the decision
            ``by``) or ``overtaken`` (an order came, and it was decided anew: nothing came of this one).
        by: who said no, the decision that was joined, or the kind of the order.
        at: when.
    """

    kind: Literal["refused", "joined", "overtaken"]
    by: str = ""
    at: str = ""

    def __str__(self) -> str:
        said = {"refused": "a person said no", "joined": "one with another decision", "overtaken": "overtaken"}[
            self.kind
        ]
        return f"{self.by} said no" if self.kind == "refused" and self.by else said


def answer_of(model: str, decision: str) -> Answer | None:
    """What became of a decision, or None: nothing yet, or it has a run of its own."""
    run = tracking.find_run(tracking.monitoring_experiment(model), decision)
    kept = run.data.tags.get(_TAG) if run is not None else None
    return Answer(**json.loads(kept)) if kept else None


def keep_answer(model: str, decision: str, answer: Answer) -> bool:
    """Keep what became of a decision; what was kept first stands. False: MLflow does not know the decision."""
    run = tracking.find_run(tracking.monitoring_experiment(model), decision)
    if run is None:
        return False
    if _TAG not in run.data.tags:
        known = asdict(answer) | {"at": answer.at or datetime.now(UTC).isoformat()}
        tracking.client().set_tag(run.info.run_id, _TAG, json.dumps(known))
    return True
