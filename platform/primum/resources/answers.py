"""What a Study's block ``answers`` may be: how its released model answers.

None of it costs privacy; what is possible is decided by the kind's plan.
"""

from __future__ import annotations

import enum
from decimal import Decimal

from pydantic import ConfigDict, Field, field_validator

from primum.resources.fields import Part, Share, broken, cel, with_rules

_HALF = Decimal("0.5")


class Temperature(enum.StrEnum):
    """What the released model's probabilities are adjusted with."""

    ONE = "One"
    PUBLIC = "Public"


class Answers(Part):
    """How the released model answers. None of it costs privacy."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "!has(self.abstainBelow) || double(self.abstainBelow) > 0.5",
                "abstainBelow must be above 0.5: at one half two answers could win",
            )
        )
    )

    temperature: Temperature = Field(
        default=Temperature.ONE,
        description=(
            "temperature is Public if probabilities are scaled by a temperature that is fitted on "
            "the held-out rows of the Study's public and synthetic inputs. Optional, One."
        ),
    )
    abstain_below: Share | None = Field(
        default=None,
        description=(
            "abstainBelow is the least share of the ensemble's members, above 0.5, that must say "
            "the same; where fewer do, the endpoint answers abstain. Needs ensemble. Optional, the "
            "last weights answer alone."
        ),
    )

    @field_validator("abstain_below")
    @classmethod
    def _one_winner(cls, value: str | None) -> str | None:
        if value is not None and Decimal(value) <= _HALF:
            raise broken("must be above 0.5", value, "At one half two answers could win.")
        return value
