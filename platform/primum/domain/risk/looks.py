"""Planned looks at an audit that is under way, and what each of them may spend of its confidence.

An audit that stops as soon as its verdict is certain looks at its figures several times. Each look
is one more chance to be wrong, and is paid for: looks and shares are planned before anything is
seen. Pure; numbers about models that are not trained yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from primum.domain.errors import InvalidValue

_EARLY_SHARE = Decimal("0.1")  # A broken mechanism is seen at once; the last look keeps the power.
_FRACTIONS = (4, 2, 1)  # Looks at a quarter, a half, and all of the models.
_FIRST_MIN = 8  # Fewer shadows fix no threshold worth a look.


@dataclass(frozen=True, slots=True)
class Look:
    """One planned look.

    Args:
        models: Models that are trained by then.
        share: What it may spend of the audit's error probability, above 0 and at most 1.
    """

    models: int
    share: Decimal


def planned_looks(models: int, *, group: int) -> tuple[Look, ...]:
    """The looks of an audit with so many models.

    Args:
        models: Models in all, at least 1.
        group: Models that are trained together, at least 1; looks come after whole groups.

    Guarantees:
        Shares add up to 1, and the last look has all models. If at each look a statement is made
        that is wrong with probability at most ``share * alpha``, whatever the other looks say, then
        what is stated at whichever look the audit stops is wrong with probability at most
        ``alpha``, however the decision to stop depends on the data:
        ``P(wrong at the last look taken) <= P(wrong at some look) <= sum of share * alpha``
        (Boole). This is alpha spending with looks fixed in advance (Lan & DeMets, *Discrete
        sequential boundaries for clinical trials*, 1983) without their use of the dependence
        between looks, which nobody knows here: later looks attack with more shadows, on the same
        records.

    Raises:
        InvalidValue: If a number is below 1.
    """
    for name, value in (("models", models), ("group", group)):
        if value < 1:
            raise InvalidValue(name, "must be at least 1", value)
    counts = []
    for fraction in _FRACTIONS:
        groups = -(-models // (fraction * group))
        count = min(models, groups * group)
        if count not in counts and (count >= _FIRST_MIN or count == models):
            counts.append(count)
    early = len(counts) - 1
    shares = [_EARLY_SHARE] * early + [1 - early * _EARLY_SHARE]
    return tuple(Look(count, share) for count, share in zip(counts, shares, strict=True))
