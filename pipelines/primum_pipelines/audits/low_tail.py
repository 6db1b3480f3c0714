"""The TPR at the smallest FPR that the samples resolve, beside the mechanism's bound. Light."""

from __future__ import annotations

from collections.abc import Sequence

from primum.domain.risk import tradeoff
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import CONFIDENCE, LowTail
from primum_pipelines.audits.subject import PlannedMechanism


def smallest_fpr(
    *, present: Sequence[float], absent: Sequence[float], mechanism: PlannedMechanism
) -> LowTail | None:
    """The TPR just above the largest score of all that were left out: FPR 0 of n, resolved as 1/n.

    The threshold is an order statistic of the absent scores alone, so it is fixed without the
    present ones, and the FPR at it is Beta(1, n) distributed.

    Args:
        present: Scores of members, independent of those of non-members.
        absent: Scores of non-members.
        mechanism: What trained the model; gives the bound.

    Returns:
        The figure at 95 % confidence, or ``None`` where one side has no sample.
    """
    if not absent or not present:
        return None
    tail = float(1 - CONFIDENCE) / 2
    threshold = max(absent)
    limits = clopper_pearson_one_sided(
        successes=sum(score > threshold for score in present),
        trials=len(present),
        tail_probability=tail,
    )
    fpr_upper = 1 - tail ** (1 / len(absent))
    return LowTail(tpr_lower=limits["lower"], bound=tpr_bounds(mechanism, fprs=[fpr_upper])[0])


def tpr_bounds(mechanism: PlannedMechanism, *, fprs: Sequence[float]) -> list[float]:
    """The largest TPR that a planned mechanism allows at each FPR (privacy-theory, 3.2)."""
    curve = tradeoff.dpsgd_curve(
        q=mechanism.sample_rate,
        noise_multiplier=mechanism.noise_multiplier,
        steps=mechanism.steps,
        fpr=fprs,
    )
    return [float(rate) for rate in curve["tpr"]]
