"""How a budget's room is shared out: unlocking, scheduling, quotas, as a steward writes them.

They may change at any time and promise the people in the data nothing. What they mean is in
``primum.domain.budget.rules``.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from primum.domain.budget import rules as domain
from primum.domain.budget.rules import (
    CLAIMS_MAX,
    QUOTAS_MAX,
    ROUNDS_MAX,
    QuotaScope,
    SchedulerName,
    UnlockingRule,
)
from primum.domain.errors import InvalidValue
from primum.resources.fields import (
    NonNegativeDecimal,
    Part,
    PositiveDecimal,
    ShortText,
    Weight,
    broken,
    cel,
    refuse_repeats,
    with_rules,
)

WAIT_DAYS_DEFAULT = "7"  # Where people queue: long enough for a weekend and a steward's holiday.
_NEEDS = {
    "claims": (UnlockingRule.PER_CLAIM, UnlockingRule.HYBRID),
    "days": (UnlockingRule.PER_TIME, UnlockingRule.ROUNDS, UnlockingRule.HYBRID),
    "rounds": (UnlockingRule.ROUNDS,),
}


def _exactly_with(name: str) -> dict[str, str]:
    listed = ", ".join(f"'{rule}'" for rule in _NEEDS[name])
    with_ = " or ".join(_NEEDS[name])
    return cel(
        f"has(self.{name}) == (self.rule in [{listed}])",
        f"{name} must be given exactly with rule {with_}",
    )


class UnlockingTerms(Part):
    """How the budget of a block becomes available."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            *(_exactly_with(name) for name in _NEEDS),
            cel("!has(self.slack) || self.rule == 'Rounds'", "slack must be absent without Rounds"),
            cel("!has(self.rounds) || self.rounds % 2 == 0", "rounds must be even"),
            cel(
                "!has(self.days) || (double(self.days) >= 0.0001 && double(self.days) <= 36525.0)",
                "days must be at least 0.0001 and at most 36525",
            ),
        )
    )

    rule: UnlockingRule = Field(
        description=(
            "rule is Immediate, PerClaim (each arriving claim unlocks one fair share), PerTime "
            "(evenly over days), Rounds (by rounds, faster at first), or Hybrid (whichever of "
            "PerClaim and PerTime unlocked more). Required."
        )
    )
    claims: Annotated[int, Field(strict=True, ge=1, le=CLAIMS_MAX)] | None = Field(
        default=None,
        description=(
            "claims is the number of fair shares. Optional; required with PerClaim and Hybrid."
        ),
    )
    days: PositiveDecimal | None = Field(
        default=None,
        description=(
            'days is the lifetime, or the length of one round, a quoted decimal such as "365". '
            "Optional; required with PerTime, Hybrid, Rounds."
        ),
    )
    rounds: Annotated[int, Field(strict=True, ge=2, le=ROUNDS_MAX)] | None = Field(
        default=None,
        description="rounds is how many there are, an even number. Optional; required with Rounds.",
    )
    slack: Weight | None = Field(
        default=None,
        description=(
            "slack is how much earlier the first half of the rounds may unlock, a quoted decimal "
            "from 0 to 1. Optional, 0; with Rounds."
        ),
    )

    @model_validator(mode="after")
    def _fields_of_the_rule(self) -> UnlockingTerms:
        for name, with_rules_ in _NEEDS.items():
            given, wanted = getattr(self, name) is not None, self.rule in with_rules_
            if given != wanted:
                rule = f"must have {'' if wanted else 'no '}{name} with rule {self.rule}"
                raise broken(rule, name if given else "none")
        if self.slack is not None and self.rule is not UnlockingRule.ROUNDS:
            raise broken(f"must have no slack with rule {self.rule}", self.slack)
        if self.rounds is not None and self.rounds % 2:
            raise broken("must have an even number of rounds", self.rounds)
        if self.days is not None and not Decimal("0.0001") <= Decimal(self.days) <= domain.DAYS_MAX:
            raise broken(f"must have days from 0.0001 to {domain.DAYS_MAX}", self.days)
        return self


class SchedulingTerms(Part):
    """Who is next among the claims that wait, and how long they wait."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "!has(self.efficiency) || self.scheduler == 'DualPrices'",
                "efficiency must be absent without DualPrices",
            ),
            cel(
                "!has(self.waitDays) || double(self.waitDays) <= 36525.0",
                "waitDays must be at most 36525",
            ),
        )
    )

    scheduler: SchedulerName = Field(
        default=SchedulerName.FCFS,
        description=(
            "scheduler is FirstComeFirstServed, DPF (smallest dominant share first), DPack (most "
            "claims for the room), or DualPrices (the best packing that is found). Optional, "
            "FirstComeFirstServed."
        ),
    )
    efficiency: Weight | None = Field(
        default=None,
        description=(
            "efficiency is the part of the room that goes where it is worth most; the rest goes "
            "by dominant shares. A quoted decimal from 0 to 1. Optional, 1; with DualPrices."
        ),
    )
    wait_days: NonNegativeDecimal | None = Field(
        default=None,
        description=(
            "waitDays is how long a claim that does not fit yet waits, a quoted decimal; 0 "
            f"refuses it at once. Optional; {WAIT_DAYS_DEFAULT} where scheduler is not "
            "FirstComeFirstServed or unlocking is not Immediate, 0 otherwise."
        ),
    )

    @model_validator(mode="after")
    def _fields_of_the_scheduler(self) -> SchedulingTerms:
        if self.efficiency is not None and self.scheduler is not SchedulerName.DUAL_PRICES:
            raise broken(f"must have no efficiency with scheduler {self.scheduler}", "efficiency")
        if self.wait_days is not None and Decimal(self.wait_days) > domain.DAYS_MAX:
            raise broken(f"must have waitDays of at most {domain.DAYS_MAX}", self.wait_days)
        return self


class QuotaTerms(Part):
    """The most epsilon of each block that somebody may take. A quota is not a guarantee."""

    per: QuotaScope = Field(
        description=(
            "per is whose spending is limited: Requester, Group (the namespace), Study, or "
            "Purpose. Required."
        )
    )
    name: ShortText | None = Field(
        default=None,
        description=(
            "name is whose exactly; it goes before a quota without a name. Optional, each one "
            "separately."
        ),
    )
    epsilon: NonNegativeDecimal = Field(
        description=(
            'epsilon is the most of each block, a quoted decimal such as "2.0"; 0 shuts somebody '
            "out. Required."
        )
    )


Quotas = Annotated[list[QuotaTerms], Field(max_length=QUOTAS_MAX)]
QUOTAS_ONCE = cel(
    "self.all(x, self.exists_one(y, y.per == x.per && has(y.name) == has(x.name) && "
    "(!has(x.name) || y.name == x.name)))",
    "each per and name must be given once",
)


def refuse_repeated_quotas(quotas: Sequence[QuotaTerms]) -> None:
    """Refuse two quotas for the same.

    Raises:
        PydanticCustomError: With the first that is repeated.
    """
    named = [f"{quota.per} {quota.name}" if quota.name else str(quota.per) for quota in quotas]
    refuse_repeats(named, "must give each per and name once")


def refuse_impossible_rules(
    unlocking: UnlockingTerms | None,
    scheduling: SchedulingTerms | None,
    quotas: Sequence[QuotaTerms],
) -> None:
    """Refuse before it is stored what the domain would refuse when it is read.

    Raises:
        PydanticCustomError: With the domain's rule.
    """
    try:
        sharing_rules(unlocking, scheduling, quotas)
    except InvalidValue as error:
        raise broken(f"must have {error.field}: {error.rule}", error.found) from None


def sharing_rules(
    unlocking: UnlockingTerms | None,
    scheduling: SchedulingTerms | None,
    quotas: Sequence[QuotaTerms],
) -> domain.Rules:
    """What the domain reads: everything that was left out is as safe and simple as can be."""
    unlocks = domain.Unlocking()
    if unlocking is not None:
        unlocks = domain.Unlocking(
            rule=unlocking.rule,
            claims=unlocking.claims or 0,
            days=Decimal(unlocking.days or "0"),
            rounds=unlocking.rounds or 0,
            slack=Decimal(unlocking.slack or "0"),
        )
    terms = scheduling or SchedulingTerms()
    queues = (
        terms.scheduler is not SchedulerName.FCFS or unlocks.rule is not UnlockingRule.IMMEDIATE
    )
    wait_days = terms.wait_days or (WAIT_DAYS_DEFAULT if queues else "0")
    return domain.Rules(
        unlocking=unlocks,
        scheduling=domain.Scheduling(
            scheduler=terms.scheduler,
            efficiency=Decimal(terms.efficiency or "1"),
            wait_days=Decimal(wait_days),
        ),
        quotas=tuple(
            domain.Quota(per=item.per, epsilon=Decimal(item.epsilon), name=item.name or "")
            for item in quotas
        ),
    )
