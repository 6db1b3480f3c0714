"""Whether an attack does better than it did the last time: one word, by a stated rule. Pure.

The figures that are compared stay Restricted; the word may be shown, as a verdict may.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from primum.domain.canonical import JSON
from primum.domain.governance.evidence import Evidence
from primum.domain.risk.intervals import clopper_pearson_one_sided

_TAIL = 0.025  # On either side of a 95 % interval.


class Comparison(enum.StrEnum):
    """How an audit compares with the one before it; of Worse somebody should look at."""

    FIRST_RUN = "FirstRun"
    UNCHANGED = "Unchanged"
    BETTER = "Better"
    WORSE = "Worse"
    NOT_COMPARABLE = "NotComparable"


@dataclass(frozen=True, slots=True, repr=False)
class Figure:
    """The figure by which an attack is compared, higher for an attack that does better. Restricted.

    Args:
        name: Which one.
        lower: Lower end of its 95 % interval.
        upper: Upper end.
    """

    name: str
    lower: float
    upper: float


def compared(now: Evidence | None, before: Evidence | None) -> Comparison:
    """One audit against the one before it.

    Worse (for the patients) where the whole 95 % interval lies above the whole interval of before,
    Better where it lies below, Unchanged where they meet. Between runs of the same strength without
    any change, intervals of equal width miss each other in 0.6 % of pairs.

    Args:
        now: The attack's evidence now; ``None`` where it left none.
        before: That of the run before; ``None`` for the first one.
    """
    if before is None:
        return Comparison.FIRST_RUN
    new, old = figure(now), figure(before)
    if new is None or old is None or new.name != old.name:
        return Comparison.NOT_COMPARABLE
    if new.lower > old.upper:
        return Comparison.WORSE
    return Comparison.BETTER if new.upper < old.lower else Comparison.UNCHANGED


def figure(evidence: Evidence | None) -> Figure | None:
    """The figure by which an attack is compared.

    The area under its ROC curve where it has one, else the share of trials in which it was right.

    Returns:
        ``None`` where it left no such figure with an interval.
    """
    if evidence is None:
        return None
    area = evidence.restricted.get("auc")
    if isinstance(area, Mapping):
        return _interval("auc", area)
    for name, hits, trials in _SHARES:
        found = _share(evidence, name, hits=hits, trials=trials)
        if found is not None:
            return found
    return None


_SHARES = (
    ("canaries guessed", "correct", "guesses"),
    ("records identified", "identified", "trials"),
    ("records identified", "identifiedByGradient", "trials"),
    ("samples that are copies", "copies", "samples"),
)  # What to call it, the count of successes, the count of trials.


def _interval(name: str, value: Mapping[str, JSON]) -> Figure | None:
    try:
        lower, upper = Decimal(str(value["lower"])), Decimal(str(value["upper"]))
    except (KeyError, InvalidOperation):
        return None
    return Figure(name, float(lower), float(upper)) if lower <= upper else None


def _share(evidence: Evidence, name: str, *, hits: str, trials: str) -> Figure | None:
    record = {**evidence.public, **evidence.restricted}
    found, of = record.get(hits), record.get(trials)
    if not isinstance(found, int) or not isinstance(of, int) or not 0 <= found <= of or not of:
        return None
    limits = clopper_pearson_one_sided(successes=found, trials=of, tail_probability=_TAIL)
    return Figure(name, limits["lower"], limits["upper"])
