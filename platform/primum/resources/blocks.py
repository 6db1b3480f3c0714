"""Blocks in resources: how a budget divides its dataset, and which blocks a Study asks for.

Only what people write and how it may change. What a block is, ``primum.domain.budget.layout`` says.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from primum.domain.budget.layout import WHOLE, BlockLayout, BlockSelection, Division, Period
from primum.domain.errors import InvalidValue
from primum.resources.fields import Day, Part, ShortText, broken, cel, refuse_repeats, with_rules

VALUES_MAX = 256  # Cohorts or sites; the API server compares every old one with every new one.
_NAME_LENGTH_MAX = 64
_NAME_RULE = (
    f"must have 1 to {_NAME_LENGTH_MAX} printable characters, without spaces at the ends, and not "
    f"be {WHOLE}"
)


def _block_name(value: object) -> object:
    if not isinstance(value, str):
        raise broken("must be text", value, "Quote it.")
    proper = 0 < len(value) <= _NAME_LENGTH_MAX and value.isprintable() and value == value.strip()
    if not proper or value == WHOLE:
        raise broken(_NAME_RULE, value)
    return value


BlockName: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_NAME_LENGTH_MAX,
        pattern=r"^[^\s]([^\n]{0,62}[^\s])?$",
        json_schema_extra=with_rules(
            cel(f"self != '{WHOLE}'", f"the name {WHOLE} stands for a dataset without blocks")
        ),
    ),
    BeforeValidator(_block_name),
]
BlockNames: TypeAlias = Annotated[list[BlockName], Field(min_length=1, max_length=VALUES_MAX)]

_SET: dict[str, Any] = {"x-kubernetes-list-type": "set"}
_BY_TIME = "self.by == 'Time'"


class Blocks(Part):
    """How a dataset is divided into blocks with a budget each."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(f"has(self.values) != ({_BY_TIME})", "values must be given exactly unless by Time"),
            cel(f"has(self.period) == ({_BY_TIME})", "period must be given exactly by Time"),
            cel(f"has(self.start) == ({_BY_TIME})", "start must be given exactly by Time"),
            cel(f"!has(self.end) || {_BY_TIME}", "end must be absent unless by Time"),
            cel(
                "!has(self.end) || !has(self.start) || self.end > self.start",
                "end must be after start",
            ),
            cel(
                "self.by == oldSelf.by && self.column == oldSelf.column",
                "blocks.by and blocks.column are immutable; declare another PrivacyBudget",
            ),
            cel(
                "has(self.period) == has(oldSelf.period) && "
                "(!has(self.period) || self.period == oldSelf.period)",
                "blocks.period is immutable; declare another PrivacyBudget",
            ),
            cel(
                "has(self.start) == has(oldSelf.start) && "
                "(!has(self.start) || self.start == oldSelf.start)",
                "blocks.start is immutable; declare another PrivacyBudget",
            ),
            cel(
                "!has(oldSelf.values) || "
                "(has(self.values) && oldSelf.values.all(x, x in self.values))",
                "blocks.values can only be added to; what was spent on a block stays spent",
            ),
            cel(
                "!has(oldSelf.end) || (has(self.end) && self.end >= oldSelf.end)",
                "blocks.end can only be moved on; what was spent on a block stays spent",
            ),
        )
    )

    by: Division = Field(
        description="by is what blocks are made by: Time, Cohort, or Site. Required; immutable."
    )
    column: ShortText = Field(
        description=(
            "column names the column that places a unit: an ISO 8601 date by Time, one of values "
            "otherwise. Required; immutable."
        )
    )
    values: BlockNames | None = Field(
        default=None,
        description=(
            "values are the public cohorts or sites, one block each. Optional; required unless by "
            "Time. Values may be added."
        ),
        json_schema_extra=_SET,
    )
    period: Period | None = Field(
        default=None,
        description=(
            "period is how long a block by Time is: Day, Week, Month, Quarter, or Year. Optional; "
            "required by Time; immutable."
        ),
    )
    start: Day | None = Field(
        default=None,
        description=(
            "start is the first day, rounded down to the beginning of its period. Optional; "
            "required by Time; immutable."
        ),
    )
    end: Day | None = Field(
        default=None,
        description=(
            "end is the first day that no block covers, rounded up to the end of its period. "
            "Optional, a block for every period to come; may be added or moved on."
        ),
    )

    @field_validator("values")
    @classmethod
    def _values_once(cls, value: list[str] | None) -> list[str] | None:
        refuse_repeats(value or [], "must name each block once")
        return value

    @model_validator(mode="after")
    def _fields_of_the_division(self) -> Blocks:
        by_time = self.by is Division.TIME
        for name in ("values", "period", "start"):
            given, wanted = getattr(self, name) is not None, by_time is (name != "values")
            if given != wanted:
                rule = f"must have {'' if wanted else 'no '}{name}, because it is by {self.by}"
                raise broken(rule, name if given else "none")
        if self.end is not None and not by_time:
            raise broken(f"must have no end, because it is by {self.by}", self.end)
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise broken(f"must end after it starts on {self.start}", self.end)
        try:
            self.layout()
        except InvalidValue as error:  # What the domain refuses is refused before it is stored.
            raise broken(f"must have {error.field}: {error.rule}", error.found) from None
        return self

    def layout(self) -> BlockLayout:
        """What the domain reads."""
        return BlockLayout(
            by=self.by,
            column=self.column,
            values=tuple(self.values or ()),
            period=self.period,
            start=_date(self.start),
            end=_date(self.end),
        )


class ChosenBlocks(Part):
    """Which blocks of a budget a Study reads and pays for."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "has(self.values) != (has(self.from) || has(self.until))",
                "either values, or from and until, must be given",
            ),
            cel(
                "!has(self.from) || !has(self.until) || self.until > self.from",
                "until must be after from",
            ),
        )
    )

    values: BlockNames | None = Field(
        default=None,
        description="values name cohorts or sites. Optional; for a budget by Cohort or Site.",
        json_schema_extra=_SET,
    )
    first: Day | None = Field(
        default=None,
        alias="from",
        description=(
            "from is the first day wanted; the block that it lies in is taken whole. Optional, "
            "from the first block on; for a budget by Time."
        ),
    )
    until: Day | None = Field(
        default=None,
        description=(
            "until is the first day no longer wanted; the block that it lies in is taken whole, "
            "unless it is that block's first day. Optional, up to the newest block; for a budget "
            "by Time."
        ),
    )

    @field_validator("values")
    @classmethod
    def _values_once(cls, value: list[str] | None) -> list[str] | None:
        refuse_repeats(value or [], "must name each block once")
        return value

    @model_validator(mode="after")
    def _one_way_of_choosing(self) -> ChosenBlocks:
        by_day = self.first is not None or self.until is not None
        if by_day == (self.values is not None):
            raise broken("must have either values, or from and until", "both" if by_day else "none")
        if self.first is not None and self.until is not None and self.until <= self.first:
            raise broken(f"must have until after from {self.first}", self.until)
        return self

    def selection(self) -> BlockSelection:
        """What the domain reads."""
        return BlockSelection(tuple(self.values or ()), _date(self.first), _date(self.until))


def check_blocks_change(old: Any, new: Any) -> tuple[str, str, object]:
    """What of a change of ``spec.blocks`` is not allowed.

    Args:
        old: The wire form as stored, or ``None``.
        new: The wire form that is to take its place, or ``None``.

    Returns:
        The field below ``spec.blocks``, the rule and what was found; empty where all is well.
    """
    if old is None or new is None:
        found = "none" if new is None else "blocks added later"
        return ("", "", "") if old is new else ("", "must stay as declared", found)
    for name in ("by", "column", "period", "start"):
        if old.get(name) != new.get(name):
            return f".{name}", "must stay as declared", new.get(name, "none")
    gone = [value for value in old.get("values", ()) if value not in new.get("values", ())]
    if gone:
        return (
            ".values",
            "must keep every value; what was spent on a block stays spent",
            (f"a list without {gone[0]}"),
        )
    before, after = old.get("end"), new.get("end")
    if before is not None and (after is None or after < before):
        return (
            ".end",
            f"must be {before} or later; what was spent on a block stays spent",
            (after or "none"),
        )
    return "", "", ""


def _date(day: str | None) -> datetime.date | None:
    return None if day is None else datetime.date.fromisoformat(day)
