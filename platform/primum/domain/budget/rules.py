"""The rules by which a budget's room is shared out: unlocking, scheduling, quotas.

They decide who gets what when, nested under the guarantee, and may change at any time: every change
is a ledger entry. None of them is a privacy guarantee, and none can take back what was unlocked or
let anything pass the guarantee. Nothing here may import numpy: a budget is read by every command.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal

QUOTAS_MAX = 64
CLAIMS_MAX = 1_000_000
DAYS_MAX = Decimal(36525)  # A century.
ROUNDS_MAX = 1024
_PART_DIGITS = 6  # Of slack; portions of a capacity are then exact in 64 bits.
_SCOPE_SEPARATOR = "="


class UnlockingRule(enum.StrEnum):
    """How the budget of a block becomes available."""

    IMMEDIATE = "Immediate"
    PER_CLAIM = "PerClaim"  # each arriving claim unlocks a fair share, the capacity / N
    PER_TIME = "PerTime"  # evenly over a lifetime
    ROUNDS = "Rounds"  # by rounds, faster at first (slack)
    HYBRID = "Hybrid"  # whichever of PerClaim and PerTime has unlocked more


class SchedulerName(enum.StrEnum):
    """Who is next among the claims that wait."""

    FCFS = "FirstComeFirstServed"
    DPF = "DPF"
    DPACK = "DPack"
    DUAL_PRICES = "DualPrices"


class QuotaScope(enum.StrEnum):
    """Whose spending a quota limits."""

    REQUESTER = "Requester"
    GROUP = "Group"
    STUDY = "Study"
    PURPOSE = "Purpose"


@dataclass(frozen=True, slots=True)
class Unlocking:
    """How the budget of a block becomes available.

    Args:
        rule: Which rule.
        claims: N, the number of fair shares (PerClaim, Hybrid); 0 otherwise.
        days: The lifetime (PerTime, Hybrid), or the length of a round (Rounds); 0 otherwise.
        rounds: How many rounds (Rounds), even; 0 otherwise.
        slack: In [0, 1] (Rounds).
    """

    rule: UnlockingRule = UnlockingRule.IMMEDIATE
    claims: int = 0
    days: Decimal = Decimal(0)
    rounds: int = 0
    slack: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        by_claims = self.rule in (UnlockingRule.PER_CLAIM, UnlockingRule.HYBRID)
        by_days = self.rule in (UnlockingRule.PER_TIME, UnlockingRule.HYBRID, UnlockingRule.ROUNDS)
        by_rounds = self.rule is UnlockingRule.ROUNDS
        _check_given("claims", self.claims, 1, CLAIMS_MAX, wanted=by_claims, rule=self.rule)
        _check_given("days", self.days, Decimal("0.0001"), DAYS_MAX, wanted=by_days, rule=self.rule)
        _check_given("rounds", self.rounds, 2, ROUNDS_MAX, wanted=by_rounds, rule=self.rule)
        if self.rounds % 2:
            raise InvalidValue("unlocking.rounds", "must be even", self.rounds)
        if not _is_part(self.slack) or (self.slack and not by_rounds):
            rule = f"must be in [0, 1] with at most {_PART_DIGITS} digits, with Rounds"
            raise InvalidValue("unlocking.slack", rule, self.slack)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "rule": self.rule.value,
            "claims": self.claims,
            "days": str(self.days),
            "rounds": self.rounds,
            "slack": str(self.slack),
        }


def _is_part(value: Decimal) -> bool:
    return value.is_finite() and 0 <= value <= 1 and value == round(value, _PART_DIGITS)


def _check_given(
    name: str,
    value: int | Decimal,
    least: int | Decimal,
    most: int | Decimal,
    *,
    wanted: bool,
    rule: UnlockingRule,
) -> None:
    if isinstance(value, bool | float):
        raise InvalidValue(f"unlocking.{name}", "must be an exact number", value)
    if not Decimal(value).is_finite():
        raise InvalidValue(f"unlocking.{name}", "must be finite", value)
    if wanted and not least <= value <= most:
        raise InvalidValue(f"unlocking.{name}", f"must be in [{least}, {most}]", value)
    if not wanted and value:
        raise InvalidValue(f"unlocking.{name}", f"must be absent with {rule.value}", value)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Who is next among the claims that wait, and how long they wait.

    Args:
        scheduler: Which scheduler.
        efficiency: In [0, 1], for DualPrices: the part of the room that goes where it is worth
            most; the rest goes by dominant shares. 0 is fairest.
        wait_days: How long a claim that does not fit yet waits; 0 to refuse it at once.
    """

    scheduler: SchedulerName = SchedulerName.FCFS
    efficiency: Decimal = Decimal(1)
    wait_days: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        if not self.efficiency.is_finite() or not 0 <= self.efficiency <= 1:
            raise InvalidValue("scheduling.efficiency", "must be in [0, 1]", self.efficiency)
        if not self.wait_days.is_finite() or not 0 <= self.wait_days <= DAYS_MAX:
            raise InvalidValue("scheduling.waitDays", f"must be in [0, {DAYS_MAX}]", self.wait_days)

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "scheduler": self.scheduler.value,
            "efficiency": str(self.efficiency),
            "waitDays": str(self.wait_days),
        }


@dataclass(frozen=True, slots=True)
class Quota:
    """The most epsilon that a requester, a group, a Study or a purpose may take of each block.

    Counted by the budget's own accounting policy at the budget's delta. A quota shares out; it
    promises the people in the data nothing.

    Args:
        per: Whose spending.
        epsilon: The most, at least 0; 0 shuts somebody out.
        name: Whose exactly; empty for each one separately. A quota with a name goes before one
            without for whom both would hold.
    """

    per: QuotaScope
    epsilon: Decimal
    name: str = ""

    def __post_init__(self) -> None:
        if not self.epsilon.is_finite() or self.epsilon < 0:
            raise InvalidValue("quotas.epsilon", "must be at least 0", self.epsilon)
        if self.name and not self.name.isprintable():
            raise InvalidValue("quotas.name", "must be printable", "something else")

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {"per": self.per.value, "epsilon": str(self.epsilon), "name": self.name}


class Asker(Protocol):
    """Who asks, for what: what quotas look at."""

    @property
    def requester(self) -> str:
        """Who asks."""
        ...

    @property
    def group(self) -> str:
        """The group that the requester asks for."""
        ...

    @property
    def study(self) -> str:
        """``namespace/name`` of the Study."""
        ...

    @property
    def purpose(self) -> str:
        """The declared purpose."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """How a budget's room is shared out."""

    unlocking: Unlocking = field(default_factory=Unlocking)
    scheduling: Scheduling = field(default_factory=Scheduling)
    quotas: tuple[Quota, ...] = ()

    def __post_init__(self) -> None:
        named = [(quota.per, quota.name) for quota in self.quotas]
        if len(named) > QUOTAS_MAX or len(set(named)) < len(named):
            rule = f"must be at most {QUOTAS_MAX}, each scope and name once"
            raise InvalidValue("quotas", rule, len(named))

    @property
    def queues(self) -> bool:
        """Whether a claim that does not fit yet may wait."""
        return self.scheduling.wait_days > 0

    def quotas_of(self, asker: Asker) -> tuple[tuple[str, Quota], ...]:
        """The quotas that hold for somebody, each with the name under which it is counted."""
        if not self.quotas:
            return ()
        values = {
            QuotaScope.REQUESTER: asker.requester,
            QuotaScope.GROUP: asker.group,
            QuotaScope.STUDY: asker.study,
            QuotaScope.PURPOSE: asker.purpose,
        }
        found: dict[QuotaScope, Quota] = {}
        for quota in sorted(self.quotas, key=lambda item: item.name):
            if quota.name in ("", values[quota.per]):
                found[quota.per] = quota
        return tuple(
            (f"{per.value}{_SCOPE_SEPARATOR}{values[per]}", quota) for per, quota in found.items()
        )

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "unlocking": self.unlocking.to_json(),
            "scheduling": self.scheduling.to_json(),
            "quotas": [quota.to_json() for quota in self.quotas],
        }


def rules_from_json(value: Mapping[str, JSON]) -> Rules:
    """The rules that ``to_json`` gave."""
    unlocking, scheduling = _part(value["unlocking"]), _part(value["scheduling"])
    quotas = value["quotas"]
    return Rules(
        Unlocking(
            UnlockingRule(str(unlocking["rule"])),
            int(str(unlocking["claims"])),
            parse_decimal("unlocking.days", str(unlocking["days"])),
            int(str(unlocking["rounds"])),
            parse_decimal("unlocking.slack", str(unlocking["slack"])),
        ),
        Scheduling(
            SchedulerName(str(scheduling["scheduler"])),
            parse_decimal("scheduling.efficiency", str(scheduling["efficiency"])),
            parse_decimal("scheduling.waitDays", str(scheduling["waitDays"])),
        ),
        tuple(_quota(_part(item)) for item in quotas) if isinstance(quotas, list | tuple) else (),
    )


def _quota(value: Mapping[str, JSON]) -> Quota:
    return Quota(
        QuotaScope(str(value["per"])),
        parse_decimal("quotas.epsilon", str(value["epsilon"])),
        str(value["name"]),
    )


def _part(value: JSON) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise TypeError("expected a JSON object")
    return value
