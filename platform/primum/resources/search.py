"""What a Study's block ``train.search`` may be: which trainings are tried, how many, what decides.

What a search costs is decided by the kind's plan, never here.
"""

from __future__ import annotations

import enum
import re
from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from primum.resources.fields import (
    NonNegativeDecimal,
    Part,
    PositiveDecimal,
    Share,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)
from primum.resources.wording import nearest

TRIALS_MAX = 200
SEARCHABLE = (
    "learningRate",
    "maxGradNorm",
    "batchSize",
    "epochs",
    "momentum",
    "warmUp",
    "averaging",
    "weightDecay",
    "biasAware",
    "schedule",
)
_PARAMETER_PATTERN = f"^({'|'.join(SEARCHABLE)}|modelParameters[.][a-zA-Z][a-zA-Z0-9]{{0,62}})$"
_PARAMETER_LENGTH_MAX = 79


class SearchScale(enum.StrEnum):
    """On which scale values of a range are drawn evenly."""

    LINEAR = "Linear"
    LOG = "Log"


class SearchScore(enum.StrEnum):
    """Whose accuracy decides which trial is the best."""

    PUBLIC = "Public"
    SYNTHETIC = "Synthetic"
    HELD_OUT = "HeldOut"


class TrialsLaw(enum.StrEnum):
    """Which distribution the number of trials is drawn from."""

    TRUNCATED_NEGATIVE_BINOMIAL = "TruncatedNegativeBinomial"
    POISSON = "Poisson"


def _searchable(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(_PARAMETER_PATTERN, value):
        return value
    rule = f"must be one of {', '.join(SEARCHABLE)}, or modelParameters. and a name"
    remedy = nearest(str(value), SEARCHABLE)
    raise broken(rule, value, remedy or "Noise is no matter of search: the plan decides it.")


SearchedName: TypeAlias = Annotated[
    str,
    Field(pattern=_PARAMETER_PATTERN, min_length=1, max_length=_PARAMETER_LENGTH_MAX),
    BeforeValidator(_searchable),
]
SearchedValue: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]


class SearchedParameter(Part):
    """One hyper-parameter: values to choose from, or a range."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.values) != (has(self.low) && has(self.high))",
                "give either values, or low and high",
            ),
            cel(
                "has(self.low) == has(self.high) && (!has(self.scale) || has(self.low))",
                "low, high and scale go together",
            ),
            cel(
                "!has(self.low) || !has(self.high) || double(self.low) < double(self.high)",
                "low must be below high",
            ),
        )
    )

    parameter: SearchedName = Field(
        description=(
            "parameter names a field of train: learningRate, maxGradNorm, batchSize, epochs, "
            "momentum, warmUp, averaging, weightDecay, biasAware, schedule, or modelParameters. "
            "and a name. Required."
        )
    )
    values: Annotated[list[SearchedValue], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="values are all that it may be, as quoted text. Optional; or a range.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    low: NonNegativeDecimal | None = Field(
        default=None, description="low is the least of a range. Optional; or values."
    )
    high: PositiveDecimal | None = Field(
        default=None, description="high is the most of a range. Optional; or values."
    )
    scale: SearchScale | None = Field(
        default=None,
        description="scale is Log or Linear: where a range is drawn evenly. Optional, Linear.",
    )

    @model_validator(mode="after")
    def _values_or_range(self) -> SearchedParameter:
        found = self.model_dump(exclude_none=True, exclude={"parameter"})
        if set(found) - {"scale"} not in ({"values"}, {"low", "high"}) or (
            "values" in found and "scale" in found
        ):
            rule = "must have either values, or low and high with an optional scale"
            raise broken(rule, ", ".join(sorted(found)) or "neither")
        if self.low and self.high and not Decimal(self.low) < Decimal(self.high):
            raise broken(f"must have low below high ({self.high})", self.low)
        if self.values is not None:
            refuse_repeats(self.values, "must name each value once")
        return self


class RandomStopping(Part):
    """A number of trials that nobody is told, drawn from this distribution before the first."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "self.distribution == 'Poisson'"
                " ? has(self.mean) && !has(self.shape) && !has(self.gamma)"
                " : !has(self.mean) && has(self.shape) && has(self.gamma)",
                "give mean for Poisson, shape and gamma otherwise",
            )
        )
    )

    distribution: TrialsLaw = Field(
        description="distribution is TruncatedNegativeBinomial or Poisson. Required."
    )
    shape: NonNegativeDecimal | None = Field(
        default=None,
        description=(
            "shape is eta of the truncated negative binomial, at most 10: 0 is logarithmic and "
            "costs least, 1 is geometric. Required with it, otherwise absent; optional."
        ),
    )
    gamma: Share | None = Field(
        default=None,
        description=(
            "gamma of the truncated negative binomial, from 0.001 to 0.9: less means more trials. "
            "Required with it, otherwise absent; optional."
        ),
    )
    mean: PositiveDecimal | None = Field(
        default=None,
        description="mean of Poisson, 1 to 1000. Required with it, otherwise absent; optional.",
    )

    @model_validator(mode="after")
    def _its_own_numbers(self) -> RandomStopping:
        found = set(self.model_dump(exclude_none=True)) - {"distribution"}
        poisson = self.distribution is TrialsLaw.POISSON
        if found != ({"mean"} if poisson else {"shape", "gamma"}):
            rule = "must have mean for Poisson, shape and gamma otherwise"
            raise broken(rule, ", ".join(sorted(found)) or "none of them")
        return self


class Search(Part):
    """Trains at several points of a space of hyper-parameters and keeps the best."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel("has(self.trials) != has(self.randomStopping)", "give trials or randomStopping"),
            cel(
                "(self.score == 'HeldOut') == has(self.noiseMultiplier)",
                "noiseMultiplier must be given exactly when score is HeldOut",
            ),
        )
    )

    space: Annotated[list[SearchedParameter], Field(min_length=1, max_length=16)] = Field(
        description=(
            "space lists what is searched; every trial is drawn from it independently of all data. "
            "Required."
        ),
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["parameter"],
        },
    )
    trials: Annotated[int, Field(strict=True, ge=2, le=TRIALS_MAX)] | None = Field(
        default=None,
        description=(
            "trials is how many trainings there are; every one is charged. Optional; or "
            "randomStopping."
        ),
    )
    random_stopping: RandomStopping | None = Field(
        default=None,
        description=(
            "randomStopping draws their number and tells it to nobody, so that the best of them "
            "costs little more than one (Papernot & Steinke 2022). Optional; or trials."
        ),
    )
    score: SearchScore = Field(
        description=(
            "score is Public or Synthetic (the held-out part of the Study's own inputs with that "
            "role; free) or HeldOut (private units that are not trained on; charged). Required."
        )
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier is the noise of each trial's score on private held-out units, on the "
            "number of them that are classified right. Required with HeldOut, otherwise absent; "
            "optional."
        ),
    )

    @model_validator(mode="after")
    def _one_number_of_trials(self) -> Search:
        if (self.trials is None) == (self.random_stopping is None):
            found = "neither" if self.trials is None else "both"
            raise broken("must have either trials or randomStopping", found)
        if (self.score is SearchScore.HELD_OUT) != (self.noise_multiplier is not None):
            rule = "must have noiseMultiplier exactly when score is HeldOut"
            raise broken(rule, self.score.value)
        refuse_repeats([item.parameter for item in self.space], "must name each parameter once")
        return self
