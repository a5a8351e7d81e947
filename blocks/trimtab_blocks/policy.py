"""When a model is to be retrained, as a Prefect block: a form in the UI, refused when saved if a field is wrong."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from prefect.blocks.core import Block
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["AllowedHours", "BlackoutTime", "RetrainPolicy", "keep"]

Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_CLOCK = r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$"
_CLASSES = {"low": -1, "normal": 0, "high": 1, "urgent": 3}


class AllowedHours(BaseModel):
    """Hours of some weekdays in which a retraining may start, local to the policy's time zone."""

    model_config = ConfigDict(extra="forbid")

    weekdays: list[Weekday] = Field(default=["mon", "tue", "wed", "thu", "fri", "sat", "sun"], min_length=1)
    start: str = Field(default="00:00", pattern=_CLOCK)
    end: str = Field(default="24:00", pattern=_CLOCK, description="At or before start: on the next day")


class BlackoutTime(BaseModel):
    """A stretch of time in which no retraining may start."""

    model_config = ConfigDict(extra="forbid")

    start: str = Field(description="2026-11-27, or 2026-11-27T18:00:00")
    end: str = Field(description="A date alone means all of that day")
    reason: str = ""

    @field_validator("start", "end")
    @classmethod
    def _is_time(cls, value: str) -> str:
        try:
            datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no date or time like 2026-11-27 or 2026-11-27T18:00:00") from None
        return value

    @model_validator(mode="after")
    def _in_order(self) -> BlackoutTime:
        # A last day counts whole.
        first, last = self.start[:10], self.end[:10]
        if date.fromisoformat(last) < date.fromisoformat(first) or (
            len(self.end) > 10 and len(self.start) > 10 and self.end <= self.start
        ):
            raise ValueError(f"end {self.end!r} must be later than start {self.start!r}")
        return self


class RetrainPolicy(Block):
    """When a model is retrained, what that is worth and costs, and how the run is made (flows/RETRAINING.md)."""

    _block_type_name: ClassVar[str] = "Trimtab retraining policy"
    _block_type_slug: ClassVar[str] = "trimtab-retraining-policy"
    _description: ClassVar[str] = "When a model is retrained, what that is worth and costs, and how the run is made."

    model_config = ConfigDict(extra="forbid")

    enter_loss: float = Field(
        default=0.03, ge=0, description="An alarm begins when performance is worse by this share ..."
    )
    leave_loss: float = Field(default=0.01, ge=0, description="... and ends when it is worse by less than this")
    drifted_enter_loss: float = Field(default=0.02, ge=0, description="The share when predictions have drifted too")
    prediction_psi: float = Field(
        default=0.1, ge=0, description="PSI of the scores from which predictions count as drifted"
    )
    input_psi: float = Field(default=0.25, ge=0, description="PSI from which an input counts as drifted; only reported")
    reference: Literal["training", "season"] = Field(
        default="training", description="What a window is compared with: training rows, or the same season before"
    )
    confidence_z: float = Field(default=1.0, ge=0, description="Standard errors that a loss must have")
    cooldown: int = Field(default=1, ge=0, description="Windows without another decision to retrain")
    min_labelled_rows: int = Field(default=200, ge=1, description="Fewer say nothing about performance")
    max_age: int | None = Field(
        default=3, ge=1, description="Windows after which a champion is retrained; empty: never"
    )
    max_age_days: float | None = Field(default=None, ge=1, description="The same in days")
    cooldown_days: float = Field(default=0.0, ge=0, description="The cooldown in days; both hold")
    min_new_labelled_rows: int = Field(default=0, ge=0, description="Labelled rows that must have come since")
    value_per_point_day: float | None = Field(
        default=None, ge=0, description="Money lost for each point worse, each day"
    )
    point: float = Field(default=0.01, ge=1e-9, description="What a point is, in the metric's own units")
    horizon_days: float = Field(default=28.0, ge=0.01, description="How long a gain is counted")
    min_confidence: float = Field(default=0.57, ge=0, le=0.99, description="How likely it must be that it pays")
    currency: str = Field(default="EUR", min_length=1)
    retrain_cost: float = Field(default=0.0, ge=0, description="Money for one retraining, apart from hours")
    gpu_hours: float = Field(default=0.0, ge=0)
    gpu_hour_price: float = Field(default=0.0, ge=0)
    cpu_hours: float = Field(default=0.0, ge=0)
    cpu_hour_price: float = Field(default=0.0, ge=0)
    timezone: str = Field(default="", description="Allowed hours and black-outs are local to it; empty: the recipe's")
    allowed: list[AllowedHours] = Field(default_factory=list, description="None: always")
    blackouts: list[BlackoutTime] = Field(default_factory=list)
    priority: str = Field(default="normal", description="Class of the retrain run")
    priorities: dict[str, int] = Field(default_factory=lambda: dict(_CLASSES), description="Numbers of the classes")
    deadline_hours: float | None = Field(default=None, ge=0.01, description="Wanted done so long after it may start")
    regions: list[str] = Field(default_factory=list, description="Where the data may be processed; none: anywhere")
    needs_approval: bool = Field(default=False, description="Whether a person has to agree first")
    tell: list[str] = Field(
        default_factory=list, description="Notification blocks that tell people, like slack-webhook/NAME"
    )
    name: str = Field(default="", description="For people")
    format: Literal[1] = 1
    revision: int = Field(default=1, ge=1, description="Counts the changes; `trimtab policy save` does")

    @field_validator("timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value or "UTC")
        except (ValueError, OSError, LookupError):
            raise ValueError(f"timezone {value!r} is no IANA name like Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _together(self) -> RetrainPolicy:
        if self.drifted_enter_loss > self.enter_loss:
            raise ValueError(f"drifted_enter_loss must not be above enter_loss ({self.enter_loss})")
        if self.leave_loss > self.drifted_enter_loss:
            raise ValueError(f"leave_loss must not be above drifted_enter_loss ({self.drifted_enter_loss})")
        for hours, price in (("gpu_hours", "gpu_hour_price"), ("cpu_hours", "cpu_hour_price")):
            if getattr(self, hours) and not getattr(self, price):
                raise ValueError(f"{price} is 0, and {hours} is not; give the price")
        wrong = [name for name, number in self.priorities.items() if not -1000 <= number <= 1000]
        if wrong:
            raise ValueError(f"priorities.{wrong[0]} must be from -1000 to 1000")
        if self.priority not in self.priorities:
            raise ValueError(f"priority is {self.priority!r}; it must be a class: {', '.join(self.priorities)}")
        return self

    def plain(self) -> dict[str, Any]:
        """The policy's own fields, without what a block has besides."""
        fields = {name for name in type(self).model_fields if name != "revision"}
        found: dict[str, Any] = self.model_dump(mode="json", include=fields)
        return found


def keep(name: str, policy: RetrainPolicy) -> int:
    """Save a policy under a name, with the next revision number; the same policy again changes nothing.

    The revision is kept under ``NAME-rN`` too, so that what an earlier decision was made by can be seen.

    Returns:
        The revision that is saved.
    """
    try:
        before: Any = RetrainPolicy.load(name)
    except ValueError:
        before = None
    if before is not None and before.plain() == policy.plain():
        return int(before.revision)
    revision = 1 if before is None else int(before.revision) + 1
    for document in (f"{name}-r{revision}", name):
        # Anew for each: a block that was saved is saved again where it was before, whatever name is given.
        RetrainPolicy(**policy.plain(), revision=revision).save(document, overwrite=True)
    return revision
