"""Conditions as a status shows them, and the two shapes of status: standing and bounded.

The vocabulary and how conditions are merged belong to ``primum.domain.conditions``; here is only
their wire form.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from primum.domain.conditions import Status
from primum.resources.fields import WORD_PATTERN, Part

CONDITIONS_MAX = (
    32  # More than twice the types there are; an unbounded list costs the CEL estimate dearly.
)


class ConditionModel(Part):
    """One observation about the resource."""

    type: str = Field(
        max_length=316,
        description="type is what the condition is about, such as Planned or Succeeded. Required.",
    )
    status: Status = Field(description="status is True, False, or Unknown. Required.")
    reason: str = Field(
        min_length=1,
        max_length=1024,
        pattern=WORD_PATTERN,
        description="reason is one CamelCase word of the documented set. Required.",
    )
    message: str = Field(
        max_length=32_768,
        description="message is for people and holds no record-level value. Required.",
    )
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=2**53)] = Field(
        default=0, description="observedGeneration is the generation that was looked at. Optional."
    )
    last_transition_time: str = Field(
        max_length=40,
        description="lastTransitionTime is when status last moved, RFC 3339. Required.",
        json_schema_extra={"format": "date-time"},
    )


class StatusModel(Part):
    """What every status has."""

    conditions: Annotated[list[ConditionModel], Field(max_length=CONDITIONS_MAX)] = Field(
        default_factory=list,
        description="conditions are the observations so far, one per type. Optional.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    observed_generation: Annotated[int, Field(strict=True, ge=0, le=2**53)] = Field(
        default=0,
        description=(
            "observedGeneration is the spec's generation that this status is about. Optional."
        ),
    )


class StandingStatus(StatusModel):
    """Status of a standing kind, summarized by the condition Ready."""


class BoundedStatus(StatusModel):
    """Status of a bounded kind, summarized by the condition Succeeded."""
