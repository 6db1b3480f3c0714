"""Predictive multiplicity: how many patients are told what an equally good model would not say.

Models trained on the same data by the same recipe differ by chance. Where they disagree about a
patient, the answer is arbitrary; an ensemble that abstains there is not (Lockfisch et al. 2025).
Knows nothing of charges: members must be iterates of one charged run, or trained on released data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation.figures import Figure, Floats, Ints, wilson

MARGIN = 0.01  # Equally good: within one point of the best, the epsilon-level set of the paper.
_MEMBERS_MIN = 2


@dataclass(frozen=True, slots=True)
class Multiplicity:
    """How much equally good models disagree, and what abstention leaves of it.

    Args:
        members: Models in the level set.
        ambiguity: Share of rows on which some pair of them disagrees.
        discrepancy: Largest share of rows on which one of them differs from the best one.
        coverage: Share of rows that the abstaining ensemble answers.
        selective_accuracy: Its accuracy on those.
        ambiguity_left: What is left after abstention: over 20 ways to halve the ensemble, the
            largest share of rows that both halves answer, and differently, among those both answer.
    """

    members: int
    ambiguity: Figure
    discrepancy: Figure
    coverage: Figure
    selective_accuracy: Figure
    ambiguity_left: Figure

    def to_json(self) -> dict[str, JSON]:
        """Decimal strings."""
        return {
            "members": self.members,
            "margin": decimal_text(MARGIN),
            "ambiguity": self.ambiguity.to_json(),
            "discrepancy": self.discrepancy.to_json(),
            "coverage": self.coverage.to_json(),
            "selectiveAccuracy": self.selective_accuracy.to_json(),
            "ambiguityLeft": self.ambiguity_left.to_json(),
        }


ABSTAIN = -1
"""The answer of an ensemble that leaves a patient to an expert."""

_HALVES = 20
_SEED = 20251  # Of the ways to halve; it protects nobody.


def votes(probabilities: Floats) -> Ints:
    """What each member says, ``(members, n)``, from ``(members, n, classes)``."""
    found: Ints = probabilities.argmax(axis=2)
    return found


def abstaining(said: Ints, *, agreement: float) -> Ints:
    """The answers of an ensemble that abstains unless enough members say the same.

    Args:
        said: ``(members, n)`` class numbers.
        agreement: Least share of members behind an answer, above 0.5 and at most 1.

    Returns:
        ``(n,)`` class numbers, or ``ABSTAIN``.

    Raises:
        InvalidValue: If the agreement is out of range: at one half two answers could win.
    """
    if not 0.5 < agreement <= 1:  # noqa: PLR2004 - see Raises
        raise InvalidValue("agreement", "must be above 0.5 and at most 1", str(agreement))
    classes = int(said.max()) + 1 if said.size else 1
    counts = np.stack([(said == number).sum(axis=0) for number in range(classes)])
    enough = counts.max(axis=0) >= agreement * len(said) - 1e-9
    answers: Ints = np.where(enough, counts.argmax(axis=0), ABSTAIN)
    return answers


def multiplicity(
    probabilities: Floats, labels: Ints, *, agreement: float, margin: float = MARGIN
) -> Multiplicity:
    """Disagreement of equally good members, and what an abstaining ensemble of all leaves of it.

    Args:
        probabilities: ``(members, n, classes)`` on held-out rows, one row per unit.
        labels: ``(n,)``.
        agreement: See ``abstaining``.
        margin: How far below the best accuracy a member may be to count as equally good.

    Raises:
        InvalidValue: If there are fewer than two members, or no rows.
    """
    if len(probabilities) < _MEMBERS_MIN or not len(labels):
        found = f"{len(probabilities)} members and {len(labels)} rows"
        raise InvalidValue("ensemble", "must have two members and one row at least", found)
    said = votes(probabilities)
    accuracy = (said == labels).mean(axis=1)
    best = int(accuracy.argmax())
    level = said[accuracy >= accuracy[best] - margin]
    rows = len(labels)
    answers = abstaining(said, agreement=agreement)
    answered = answers != ABSTAIN
    differing = (level != said[best]).sum(axis=1)
    return Multiplicity(
        members=len(level),
        ambiguity=wilson(int((level != level[0]).any(axis=0).sum()), rows),
        discrepancy=wilson(int(differing.max()), rows),
        coverage=wilson(int(answered.sum()), rows),
        selective_accuracy=wilson(int((answers == labels)[answered].sum()), int(answered.sum())),
        ambiguity_left=_left(said, agreement=agreement),
    )


def _left(said: Ints, *, agreement: float) -> Figure:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    found = []
    for _ in range(_HALVES):
        order = generator.permutation(len(said))
        halves = [abstaining(said[part], agreement=agreement) for part in _halves(order)]
        both = (halves[0] != ABSTAIN) & (halves[1] != ABSTAIN)
        found.append(wilson(int((halves[0] != halves[1])[both].sum()), int(both.sum())))
    known = [figure for figure in found if not math.isnan(figure.estimate)]
    return max(known, key=lambda figure: figure.estimate, default=wilson(0, 0))


def _halves(order: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    middle = len(order) // 2
    return order[:middle], order[middle:]
