"""What a sample filter is worth and what it gives away, measured on real examples.

Sensitivity per perturbation family, specificity on held-out examples, consistency over refits, and
the least epsilon that its decisions force. Every figure here is Restricted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import Verdict
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum.domain.risk.statistics import cohen_kappa
from primum_pipelines.sample_filters.filter import Duplicates, FittedFilter, SampleFilter
from primum_pipelines.sample_filters.perturbations import families

RATE_MIN = (
    0.95  # Worst-family sensitivity and specificity a filter needs, by lower confidence bound.
)
_TAIL = 0.05
_EXAMPLES_MAX = 300  # Per family; a lower bound of 0.99 needs 299 without a miss.
_PROBE_ROWS = 50  # Per family, for the agreement of refits.
_REFITS = 5
_REFIT_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Rate:
    """Successes of independent trials, with one-sided exact bounds at 95 %."""

    successes: int
    trials: int

    @property
    def lower(self) -> float:
        """Lower bound, 0 without trials."""
        return self._bounds()["lower"] if self.trials else 0.0

    @property
    def upper(self) -> float:
        """Upper bound, 1 without trials."""
        return self._bounds()["upper"] if self.trials else 1.0

    def to_json(self) -> dict[str, JSON]:
        """Counts and bounds."""
        return {
            "successes": self.successes,
            "trials": self.trials,
            "lower": decimal_text(self.lower),
            "upper": decimal_text(self.upper),
        }

    def _bounds(self) -> dict[str, float]:
        return clopper_pearson_one_sided(
            successes=self.successes, trials=self.trials, tail_probability=_TAIL
        )


@dataclass(frozen=True, slots=True)
class FilterQuality:
    """The measured quality of one fitted filter.

    Args:
        sensitivity: Rejected share of perturbed training examples, by family.
        specificity: Kept share of held-out examples.
        agreement: Smallest Cohen kappa of two refits' decisions, or 1 where all refits decide
            alike.
    """

    sensitivity: Mapping[str, Rate]
    specificity: Rate
    agreement: float

    @property
    def worst_family(self) -> str:
        """The family with the smallest lower bound."""
        return min(self.sensitivity, key=lambda name: self.sensitivity[name].lower)

    @property
    def verdict(self) -> Verdict:
        """Pass if worst-family sensitivity and specificity are both provably high enough."""
        low = min(self.sensitivity[self.worst_family].lower, self.specificity.lower)
        return Verdict.PASS if low >= RATE_MIN else Verdict.FAIL

    def to_json(self, *, delta: float) -> dict[str, JSON]:
        """The restricted side of the evidence."""
        return {
            "sensitivity": {name: rate.to_json() for name, rate in self.sensitivity.items()},
            "worstFamily": self.worst_family,
            "specificity": self.specificity.to_json(),
            "agreement": decimal_text(self.agreement),
            "epsilonForced": decimal_text(epsilon_forced(self, delta=delta)),
        }


def epsilon_forced(quality: FilterQuality, *, delta: float) -> float:
    """The least epsilon that any guarantee covering the filter's decisions would have.

    If keep-or-reject were (epsilon, delta)-DP for a unit, then ``sens <= e^epsilon fpr + delta``;
    so ``epsilon >= ln((sens - delta) / fpr)``. With the confidence bounds that make
    it
    smallest: the lower one of the sensitivity to exact copies, the upper one of false alarms.

    Returns:
        At least 0.
    """
    sensitivity = quality.sensitivity["exact"].lower
    false_alarms = 1.0 - quality.specificity.lower
    if sensitivity - delta <= false_alarms:
        return 0.0
    return math.log((sensitivity - delta) / false_alarms)


def measure(
    sample_filter: SampleFilter,
    fitted: FittedFilter,
    *,
    reference: np.ndarray,
    held_out: np.ndarray,
    seed: int,
) -> FilterQuality:
    """Measure a fitted filter.

    Args:
        sample_filter: For the refits.
        fitted: What is measured.
        reference: The training examples it was fitted to, one per unit.
        held_out: Examples that it must keep, independent of the reference.
        seed: For choosing examples, perturbing and refitting.

    Returns:
        The quality.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(reference))
    chosen, others = reference[order[:_EXAMPLES_MAX]], reference[order[_EXAMPLES_MAX:]]
    copies = {
        name: perturb(chosen, generator).astype(np.float32)
        for name, perturb in families(chosen).items()
    }
    rejected = _rejected(fitted, held_out)
    few = [rows[:_PROBE_ROWS] for rows in (*copies.values(), held_out)]
    refits = [_refit(sample_filter, chosen, others, held_out, generator) for _ in range(_REFITS)]
    return FilterQuality(
        sensitivity={name: _rejected(fitted, rows) for name, rows in copies.items()},
        specificity=Rate(rejected.trials - rejected.successes, rejected.trials),
        agreement=_agreement(refits, np.concatenate(few)),
    )


def _rejected(fitted: FittedFilter, rows: np.ndarray) -> Rate:
    if not len(rows):
        return Rate(0, 0)
    keep = fitted.decide(fitted.score(rows))
    return Rate(int((~keep).sum()), len(rows))


def _refit(
    sample_filter: SampleFilter,
    chosen: np.ndarray,
    others: np.ndarray,
    held_out: np.ndarray,
    generator: np.random.Generator,
) -> FittedFilter:
    """Fit again to the chosen examples and a random part of the others."""
    kept = generator.permutation(len(others))[: int(_REFIT_SHARE * len(others))]
    return sample_filter.fit(
        np.concatenate([chosen, others[kept]]),
        held_out,
        duplicates=Duplicates.DROP,
        seed=int(generator.integers(2**31)),
    )


def _agreement(refits: Sequence[FittedFilter], probe: np.ndarray) -> float:
    """Smallest pairwise kappa of the refits' decisions on the probe."""
    decisions = [refit.decide(refit.score(probe)).tolist() for refit in refits]
    kappas = [
        cohen_kappa(rater_a=left, rater_b=right)
        for position, left in enumerate(decisions)
        for right in decisions[position + 1 :]
    ]
    # Undefined only where both always give the same single answer: full agreement.
    return min(1.0 if kappa is None else kappa for kappa in kappas)
