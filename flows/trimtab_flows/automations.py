"""The events that Trimtab sends, and the automations that act on them, as values.

``rules`` is what one model is to have; ``trimtab automations apply`` brings a Prefect server in line with it. The one
that turns a decision into a run is declared in prefect.yaml too, with its deployment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from prefect.events import emit_event

__all__ = [
    "DECISION_MADE",
    "LABELS_ARRIVED",
    "LEADS",
    "LEADS_EVERY_S",
    "METRIC_LOGGED",
    "MODEL_TRAINED",
    "ORDERS",
    "RETRAIN_FAILED",
    "RETRAIN_REQUESTED",
    "RetrainRequested",
    "Rule",
    "When",
    "resource_of",
    "rules",
]

#: A decision to retrain a model, now or at a later time.
RETRAIN_REQUESTED = "trimtab.retrain.requested"
#: Any decision about a model.
DECISION_MADE = "trimtab.decision.made"
#: A model was retrained, whatever the gate said of it.
MODEL_TRAINED = "trimtab.model.trained"
#: A retraining ended without a verdict of the gate: failed, crashed or cancelled (``retrain_ended``).
RETRAIN_FAILED = "trimtab.retrain.failed"
#: A window has labels enough to judge a model by; its monitoring sends it, and anyone may.
LABELS_ARRIVED = "trimtab.labels.arrived"
#: A point of a metric in MLflow (infra/METRIC_EVENTS.md).
METRIC_LOGGED = "trimtab.metric.logged"
#: Orders of the business, from outside.
ORDERS = tuple(f"trimtab.business.{kind}" for kind in ("force", "forbid", "postpone", "withdraw"))

_KIND = "event.event | replace('trimtab.business.', '')"

#: Label of a metric event: ``yes`` for one a burst and ``LEADS_EVERY_S`` seconds, so that few have to be matched.
LEADS = "trimtab.leads"
LEADS_EVERY_S = 1.0

#: Seconds that metric events are gathered for before a decision: a storm makes one decision each.
GATHER_S = 5


def resource_of(model: str) -> dict[str, str]:
    """A model, as Prefect names resources."""
    return {"prefect.resource.id": f"trimtab.model.{model}", "prefect.resource.name": model}


@dataclass(frozen=True)
class RetrainRequested:
    """A decision to retrain, as an event: the model is the resource, the rest its payload.

    ``at`` is when the run shall start, ``resources`` what it asks for by the policy. ``attempt`` counts how often the
    same decision was announced: 1, and more when the run it led to was lost. ``again`` counts the times that nothing at
    all came of it: Prefect fires once for an event, and looks at one of the same id no more for half an hour.
    """

    model: str
    recipe: str
    windows: str
    decision: str
    reasons: tuple[str, ...]
    attempt: int = 1
    at: str | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    needs_approval: bool = False
    again: int = 0

    @property
    def event_id(self) -> UUID:
        """The same announcement has the same id, so that sending it twice is one event."""
        again = f"/{self.again}" if self.again else ""
        return uuid5(NAMESPACE_URL, f"{RETRAIN_REQUESTED}/{self.decision}/{self.attempt}{again}")

    @property
    def resource(self) -> dict[str, str]:
        """The model, as Prefect names resources."""
        return resource_of(self.model)

    @property
    def payload(self) -> dict[str, Any]:
        """What the automation passes on."""
        return {
            "recipe": self.recipe,
            "windows": self.windows,
            "decision": self.decision,
            "reasons": list(self.reasons),
            "attempt": self.attempt,
            "model": self.model,
            "at": self.at,
            "resources": dict(self.resources),
            "needs_approval": self.needs_approval,
        }

    def send(self) -> None:
        """Send the event to the Prefect server of this process's settings."""
        emit_event(RETRAIN_REQUESTED, resource=self.resource, payload=self.payload, id=self.event_id)


@dataclass(frozen=True)
class When:
    """What sets a rule off.

    Attributes:
        events: names of events about the model.
        labels: what the event's resource must be labelled with, each a pattern or several; ``!`` negates.
        within_s: of ``Reactive`` ones, those that follow within so many seconds set off nothing; ``Proactive``: no such
            event came for so long.
        posture: ``Reactive`` or ``Proactive``.
        all_of: instead of events: all of these, within ``within_s``.
    """

    events: tuple[str, ...] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    within_s: float = 0
    posture: Literal["Reactive", "Proactive"] = "Reactive"
    all_of: tuple[When, ...] = ()

    def trigger(self, model: str) -> dict[str, Any]:
        """As Prefect's automations API and ``prefect.yaml`` have it."""
        if self.all_of:
            parts = [part.trigger(model) for part in self.all_of]
            return {"type": "compound", "require": "all", "within": self.within_s, "triggers": parts}
        return {
            "type": "event",
            "posture": self.posture,
            "match": {"prefect.resource.id": f"trimtab.model.{model}", **self.labels},
            "expect": list(self.events),
            "threshold": 1,
            "within": self.within_s,
        }


@dataclass(frozen=True)
class Rule:
    """One automation: when it is set off, a deployment runs, or people are told.

    Attributes:
        name: unique on the server; it begins with the model's name.
        description: for people.
        when: what sets it off.
        deployment: ``flow/deployment``; empty: people are told instead.
        parameters: of the run; ``{{ event... }}`` is filled in and keeps its type (not in ``all_of`` rules).
        after_s: seconds that the run waits, so that what comes in the meantime is in its evidence.
        tell: Prefect notification blocks, ``type/name``.
        subject, body: of the message, with ``{{ event... }}`` filled in.
    """

    name: str
    description: str
    when: When
    deployment: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    after_s: float = 0
    tell: tuple[str, ...] = ()
    subject: str = ""
    body: str = ""


def rules(
    model: str,
    recipe: str,
    policy: str | None = None,
    max_age_days: float | None = None,
    gather_s: float = GATHER_S,
    both_within_days: float = 14,
    tell: Sequence[str] = (),
) -> tuple[Rule, ...]:
    """The automations of one model.

    Args:
        model: its name, which its deployments have too.
        recipe: ``module:attribute``.
        policy: name of the policy block that decides; the defaults, when not given.
        max_age_days: decide if no retraining ended for so long (the policy still has the say); None: no such rule.
        gather_s: metric events that follow within so many seconds are decided on together; below ``LEADS_EVERY_S``
            each of them sets the rule off.
        both_within_days: how near to each other drift and labels must come to count as one.
        tell: Prefect notification blocks, ``type/name``, that tell of each decision to retrain and of each
            retraining's end; none: no such rules.
    """
    given = {"recipe": recipe, "policy": policy}
    found = [
        _on_metrics(model, given, gather_s),
        _dispatch(model),
        _on_drift_with_labels(model, given, gather_s, both_within_days),
        _on_orders(model, given),
    ]
    if max_age_days is not None:
        found.append(_on_age(model, given, max_age_days))
    if tell:
        found += [_telling(model, tuple(tell)), _telling_of_ends(model, tuple(tell))]
    return tuple(found)


#: What our own monitoring logs, it has decided on itself.
_FOREIGN: Mapping[str, Any] = {"trimtab.stage": "!monitor"}


def _of_bursts(gather_s: float) -> tuple[dict[str, Any], float]:
    """Labels of the metric events to look at, and for how many seconds one that set a rule off swallows others.

    The run begins ``gather_s`` after the first. One that leads may be swallowed just before that is over; what follows
    it without the label has to be there when the run begins.
    """
    if gather_s < LEADS_EVERY_S:
        return dict(_FOREIGN), gather_s
    return {**_FOREIGN, LEADS: "yes"}, gather_s - LEADS_EVERY_S


def _on_metrics(model: str, given: Mapping[str, Any], gather_s: float) -> Rule:
    labels, within_s = _of_bursts(gather_s)
    return Rule(
        f"{model}: decide on metrics",
        "A drift or performance metric that anyone logged to MLflow leads to a decision.",
        When((METRIC_LOGGED,), labels, within_s=within_s),
        f"decide/{model}",
        {**given, "because": "{{ event.resource['trimtab.metric'] }} was logged"},
        after_s=gather_s,
    )


def _dispatch(model: str) -> Rule:
    fields = ("recipe", "windows", "decision", "model", "resources", "at", "needs_approval", "attempt")
    return Rule(
        f"{model}: dispatch decisions",
        "A decision to retrain becomes a retrain run, with the priority, deadline and regions of the policy.",
        When((RETRAIN_REQUESTED,)),
        f"dispatch/{model}",
        {name: f"{{{{ event.payload.{name} }}}}" for name in fields},
    )


def _on_drift_with_labels(model: str, given: Mapping[str, Any], gather_s: float, within_days: float) -> Rule:
    labels, _ = _of_bursts(gather_s)
    drift = When((METRIC_LOGGED,), {**labels, "trimtab.metric": "drift/*"}, within_s=60)
    return Rule(
        f"{model}: decide on drift with labels",
        "Drift, and labels enough to judge by, lead to a decision.",
        When(all_of=(drift, When((LABELS_ARRIVED,), within_s=60)), within_s=within_days * 86400),
        f"decide/{model}",
        {**given, "because": "inputs drifted and labels arrived"},
        after_s=gather_s,
    )


def _on_orders(model: str, given: Mapping[str, Any]) -> Rule:
    # Whoever emits the event may leave out all but its name.
    order = {
        "kind": f"{{{{ {_KIND} }}}}",
        "issued": "{{ event.payload.issued | default(event.occurred | string, true) }}",
        **{name: f"{{{{ event.payload.{name} | default('') }}}}" for name in ("until", "reason", "source")},
    }
    return Rule(
        f"{model}: follow the business",
        "An order to force, forbid or postpone a retraining is kept, and decided on.",
        When(ORDERS),
        f"decide/{model}",
        {**given, "order": order, "because": f"the business said {{{{ {_KIND} }}}}"},
    )


def _on_age(model: str, given: Mapping[str, Any], days: float) -> Rule:
    return Rule(
        f"{model}: decide on age",
        f"No retraining for {days:g} days leads to a decision.",
        When((MODEL_TRAINED,), within_s=days * 86400, posture="Proactive"),
        f"decide/{model}",
        {**given, "because": f"no retraining in {days:g} days"},
    )


def _telling(model: str, tell: tuple[str, ...]) -> Rule:
    return Rule(
        f"{model}: tell of decisions",
        "Whom the policy names is told of each decision to retrain, now or later.",
        When((DECISION_MADE,), {"trimtab.verdict": ["retrain", "later"]}),
        tell=tell,
        subject=f"{model}: retrain {{{{ 'at ' + event.payload.at if event.payload.at else 'now' }}}}",
        body=f"{model}, window {{{{ event.payload.window }}}}: {{{{ event.payload.reasons | join(' ') }}}}"
        "{% if event.payload.needs_approval %} It waits for somebody to approve: its dispatch run in Prefect, Resume."
        "{% endif %}",
    )


def _telling_of_ends(model: str, tell: tuple[str, ...]) -> Rule:
    return Rule(
        f"{model}: tell of retrainings",
        "Whom the policy names is told how each retraining ended: promoted or kept out, with the figures, or failed.",
        When((MODEL_TRAINED, RETRAIN_FAILED)),
        tell=tell,
        subject=f"{model}: "
        "{% if event.payload.outcome == 'promoted' %}version {{ event.payload.version }} is in service"
        "{% elif event.payload.outcome == 'kept' %}the champion stays, version {{ event.payload.version }} was refused"
        "{% elif event.payload.outcome == 'Cancelled' %}a retraining was cancelled"
        "{% else %}a retraining failed{% endif %}",
        body=f"{model}, {{{{ event.payload.windows }}}}: {{{{ event.payload.reason }}}}"
        "{% if event.payload.figures %} {{ event.payload.figures | join('; ') }}.{% endif %}",
    )
