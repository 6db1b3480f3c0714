"""Blocks of data with a budget each, and the rules by which a block's budget becomes available.

A rule only says how much more to unlock; every unlock is a value that becomes a ledger entry. No
rule may take back what it unlocked.

Amounts are whole units of 1e-12 (``domain.accounting.charges``). A key whose capacity is not
positive is held at ``NEVER``, so that it certifies nothing, not even a demand of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Protocol

import numpy as np
import numpy.typing as npt

from primum.domain.accounting.charges import NEVER, Charge, same_keys
from primum.domain.accounting.policy import AccountingPolicy, zero
from primum.domain.errors import InvalidValue

Amounts = npt.NDArray[np.int64]
_PARTS_MAX = 2**31  # Keeps (amount mod parts) * part within 64 bits.


@dataclass(frozen=True, slots=True)
class FilterShape:
    """When a privacy filter still has room: some group of keys has room at each of its keys.

    Renyi: a group per order. Basic composition and Gaussian DP: one group. A mixture: the groups of
    its filters.

    Args:
        keys: Sorted.
        groups: The group of each key: 0, ..., without gaps, members next to each other.
    """

    keys: tuple[str, ...]
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.keys or list(self.keys) != sorted(set(self.keys)):
            raise InvalidValue("keys", "must be sorted, each key once, at least one", self.keys)
        steps = [
            after - before for before, after in zip(self.groups, self.groups[1:], strict=False)
        ]
        if len(self.groups) != len(self.keys) or self.groups[0] or not set(steps) <= {0, 1}:
            raise InvalidValue("groups", "must count up from 0, one per key", self.groups)

    @classmethod
    def of(cls, policy: AccountingPolicy) -> FilterShape:
        """The shape of an accounting policy's filter."""
        keys = tuple(key for key, _ in zero(policy).amounts)
        names = [_group_name(policy.name, key) for key in keys]
        return cls(keys, tuple(sorted(set(names)).index(name) for name in names))

    @property
    def starts(self) -> tuple[int, ...]:
        """The first key of each group."""
        return tuple(i for i, g in enumerate(self.groups) if i == 0 or self.groups[i - 1] != g)

    def has_room(self, room: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Whether some group has room at each of its keys.

        Args:
            room: ... x keys.

        Returns:
            The leading axes.
        """
        groups = len(self.starts)
        if groups == len(self.keys):
            return np.asarray(room.any(axis=-1))
        if groups == 1:
            return np.asarray(room.all(axis=-1))
        return np.asarray(np.logical_and.reduceat(room, self.starts, axis=-1).any(axis=-1))

    def usable(self, capacity: Amounts) -> npt.NDArray[np.bool_]:
        """The keys that can certify: all capacities of their group are positive."""
        whole = np.asarray(np.logical_and.reduceat(capacity > 0, self.starts, axis=-1))
        return np.asarray(np.take(whole, self.groups, axis=-1), dtype=np.bool_)


def _group_name(policy: str, key: str) -> str:
    """A name by which the keys of one filter sort together."""
    part, _, rest = key.partition(".") if policy == "Mixture" else (policy, "", key)
    return f"{part}.{rest}" if part == "RDP" else part


@dataclass(frozen=True, slots=True)
class Block:
    """One block of data and its budget.

    Args:
        block_id: Unique.
        shape: When its guarantee still holds.
        capacity: What the guarantee has room for; ``NEVER`` where a key is of no use.
        unlocked: What has become available so far.
        used: Reserved plus charged; may pass the capacity at keys that no longer certify.
    """

    block_id: str
    shape: FilterShape
    capacity: Charge
    unlocked: Charge
    used: Charge

    def __post_init__(self) -> None:
        same_keys(self.capacity, self.unlocked, self.used)
        if tuple(key for key, _ in self.capacity.amounts) != self.shape.keys:
            raise InvalidValue("capacity", f"must have the keys {self.shape.keys}", self.capacity)
        rows = zip(self.capacity.amounts, self.unlocked.amounts, strict=True)
        for (key, most), (_, amount) in rows:
            if amount > most or (most <= 0 and amount != NEVER):
                raise InvalidValue(f"unlocked[{key}]", f"must be at most {most}", amount)

    @classmethod
    def new(cls, *, block_id: str, shape: FilterShape, capacity: Charge) -> Block:
        """A block of which nothing is unlocked or used."""
        locked = {key: 0 if amount > 0 else NEVER for key, amount in capacity.amounts}
        useful = {key: amount if amount > 0 else NEVER for key, amount in capacity.amounts}
        nothing = Charge.of(dict.fromkeys(locked, 0))
        return cls(block_id, shape, Charge.of(useful), Charge.of(locked), nothing)


class UnlockingRule(Protocol):
    """How a block's budget becomes available; amounts are blocks x keys, never negative.

    The sum of all unlocks of a block stays at most its capacity at every key.
    """

    def on_claim(self, capacity: Amounts, unlocked: Amounts, demand: Amounts) -> Amounts:
        """What to unlock because a claim with that demand arrived."""
        ...

    def on_time(self, capacity: Amounts, unlocked: Amounts, elapsed: int) -> Amounts:
        """What to unlock at that age of the block."""
        ...


def _portion(capacity: Amounts, part: int, parts: int) -> Amounts:
    """Capacity * part / parts, rounded down, without leaving 64 bits."""
    quotient, remainder = np.divmod(np.maximum(capacity, 0), parts)
    return np.asarray(quotient * part + remainder * part // parts)


def _up_to(capacity: Amounts, unlocked: Amounts, target: Amounts) -> Amounts:
    """What is missing to a target; nothing where the capacity is not positive."""
    more = np.minimum(target, capacity) - unlocked
    return np.where(capacity > 0, np.maximum(more, 0), 0)


def _require_parts(name: str, value: int) -> None:
    if not 1 <= value < _PARTS_MAX:
        raise InvalidValue(name, f"must be in [1, {_PARTS_MAX})", value)


@dataclass(frozen=True, slots=True)
class Immediate:
    """Everything is available from the beginning."""

    def on_claim(self, capacity: Amounts, unlocked: Amounts, demand: Amounts) -> Amounts:  # noqa: ARG002 - part of the protocol
        """All that is still locked."""
        return _up_to(capacity, unlocked, capacity)

    def on_time(self, capacity: Amounts, unlocked: Amounts, elapsed: int) -> Amounts:  # noqa: ARG002 - part of the protocol
        """All that is still locked."""
        return _up_to(capacity, unlocked, capacity)


class Hardening(StrEnum):
    """What an arriving claim unlocks at most."""

    DEMAND = "Demand"  # No more than it asks for: dust unlocks dust (ledger.md 2.5, trap T4).
    PUBLISHED = "Published"  # A full fair share whatever it asks for, as published; to compare.


@dataclass(frozen=True, slots=True)
class PerClaim:
    """Each arriving claim unlocks a fair share, the capacity / N, of every block it asks for.

    Guarantees:
        With ``DEMAND``, claims of total demand D unlock at most D. Under DPF a claim within the
        first N of its blocks that asks for at most the fair share is granted when it arrives, in
        both modes (Luo et al. 2021, theorem 1; a fair claim unlocks all that it needs).

    Args:
        count: N, at least 1.
        hardening: What a claim unlocks at most.
    """

    count: int
    hardening: Hardening = Hardening.DEMAND

    def __post_init__(self) -> None:
        _require_parts("count", self.count)

    def fair_share(self, capacity: Amounts) -> Amounts:
        """The capacity / N, rounded down; 0 where a key is of no use."""
        return _portion(capacity, 1, self.count)

    def on_claim(self, capacity: Amounts, unlocked: Amounts, demand: Amounts) -> Amounts:
        """The fair share or what the claim asks for, whichever is less."""
        share = self.fair_share(capacity)
        if self.hardening is Hardening.DEMAND:
            share = np.minimum(share, demand)
        return _up_to(capacity, unlocked, unlocked + share)

    def on_time(self, capacity: Amounts, unlocked: Amounts, elapsed: int) -> Amounts:  # noqa: ARG002 - part of the protocol
        """Nothing: time does not unlock."""
        return np.zeros_like(capacity)


@dataclass(frozen=True, slots=True)
class PerTime:
    """The budget becomes available evenly over a lifetime.

    Args:
        lifetime: In the same whole units as ``elapsed``.
    """

    lifetime: int

    def __post_init__(self) -> None:
        _require_parts("lifetime", self.lifetime)

    def on_claim(self, capacity: Amounts, unlocked: Amounts, demand: Amounts) -> Amounts:  # noqa: ARG002 - part of the protocol
        """Nothing: claims do not unlock."""
        return np.zeros_like(capacity)

    def on_time(self, capacity: Amounts, unlocked: Amounts, elapsed: int) -> Amounts:
        """Up to elapsed / lifetime of the capacity. A clock that went back unlocks nothing."""
        part = min(max(elapsed, 0), self.lifetime)
        return _up_to(capacity, unlocked, _portion(capacity, part, self.lifetime))


@dataclass(frozen=True, slots=True)
class Rounds:
    """Unlocking by scheduling rounds, faster at first: a step of (1 + slack), later (1 - slack).

    Kuechler et al. 2024, section 5; their evaluation has 12 steps and slack 0.4.

    Args:
        count: Steps until everything is unlocked; even.
        slack: In [0, 1], at most 6 digits.
    """

    count: int
    slack: Decimal = Decimal("0.4")

    def __post_init__(self) -> None:
        if not 0 <= self.slack <= 1 or Fraction(self.slack).denominator > 10**6:
            raise InvalidValue("slack", "must be in [0, 1] with at most 6 digits", self.slack)
        if self.count < 1 or self.count % 2 or self.count > 2**10:
            raise InvalidValue("count", "must be even, in [2, 1024]", self.count)

    def on_claim(self, capacity: Amounts, unlocked: Amounts, demand: Amounts) -> Amounts:  # noqa: ARG002 - part of the protocol
        """Nothing: claims do not unlock."""
        return np.zeros_like(capacity)

    def on_time(self, capacity: Amounts, unlocked: Amounts, elapsed: int) -> Amounts:
        """Up to the portion after ``elapsed`` rounds."""
        done = min(max(elapsed, 0), self.count)
        early = min(done, self.count // 2)
        slack = Fraction(self.slack)
        portion = (early * (1 + slack) + (done - early) * (1 - slack)) / self.count
        return _up_to(
            capacity, unlocked, _portion(capacity, portion.numerator, portion.denominator)
        )
