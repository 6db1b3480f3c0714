"""The TPR at the smallest FPR that the samples resolve, beside the mechanism's bound. Light."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from primum.domain.accounting import rdp
from primum.domain.accounting.events import Event
from primum.domain.quantities import Neighbors
from primum.domain.risk import gaussian, rero, tradeoff
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import FAIL_CONFIDENCE, LowTail
from primum_pipelines.audits.subject import PlannedMechanism

_SEARCH_ORDERS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
_AUC_CELLS = 1000  # Upper sums of a rising curve: at most 0.001 too much.


def smallest_fpr(
    *,
    present: Sequence[float],
    absent: Sequence[float],
    mechanism: Subsampled,
    share: Decimal = Decimal(1),
) -> LowTail | None:
    """The TPR just above the largest score of all that were left out: FPR 0 of n, resolved as 1/n.

    The threshold is an order statistic of the absent scores alone, so it is fixed without the
    present ones, and the FPR at it is Beta(1, n) distributed.

    Args:
        present: Scores of members, independent of those of non-members.
        absent: Scores of non-members.
        mechanism: What trained the model; gives the bound.
        share: What this figure may spend of the error probability, where it is one of several.

    Returns:
        The figure at ``FAIL_CONFIDENCE``, or ``None`` where one side has no sample.
    """
    if not absent or not present:
        return None
    tail = float((1 - FAIL_CONFIDENCE) * share) / 2
    threshold = max(absent)
    limits = clopper_pearson_one_sided(
        successes=sum(score > threshold for score in present),
        trials=len(present),
        tail_probability=tail,
    )
    fpr_upper = 1 - tail ** (1 / len(absent))
    return LowTail(tpr_lower=limits["lower"], bound=tpr_bounds(mechanism, fprs=[fpr_upper])[0])


class Subsampled(Protocol):
    """The facts of a subsampled Gaussian mechanism that its trade-off curve depends on."""

    @property
    def noise_multiplier(self) -> float:
        """Relative to the add-or-remove sensitivity."""

    @property
    def sample_rate(self) -> float:
        """Poisson rate; 1 takes everybody."""

    @property
    def steps(self) -> int:
        """How often."""

    @property
    def filter_orders(self) -> tuple[int, ...]:
        """Renyi orders of individual filters; empty without filters."""


def tpr_bounds(mechanism: Subsampled, *, fprs: Sequence[float]) -> list[float]:
    """The largest TPR that a planned mechanism allows at each FPR.

    Also the reconstruction-robustness bound, where the FPR is kappa (privacy-theory, 3.2 and 5).

    Args:
        mechanism: The planned mechanism.
        fprs: Each from 0 to 1.
    """
    if not mechanism.noise_multiplier:
        return [1.0] * len(fprs)  # Without noise nothing is bounded.
    if isinstance(mechanism, PlannedMechanism) and mechanism.searched is not None:
        return _renyi_bounds(_searched_curve(mechanism.searched), fprs)
    if mechanism.filter_orders:
        return _filtered_bounds(mechanism, fprs)
    if mechanism.sample_rate == 1:
        # Nothing is subsampled: the composition is one Gaussian, exactly.
        psi = math.sqrt(mechanism.steps) / mechanism.noise_multiplier
        return [gaussian.tpr_at_fpr(psi=psi, fpr=fpr) for fpr in fprs]
    curve = tradeoff.dpsgd_curve(
        q=mechanism.sample_rate,
        noise_multiplier=mechanism.noise_multiplier,
        steps=mechanism.steps,
        fpr=fprs,
    )
    return [float(rate) for rate in curve["tpr"]]


def _filtered_bounds(mechanism: Subsampled, fprs: Sequence[float]) -> list[float]:
    """With individual filters only the Renyi curve of the bound is proved, at the filters' orders.

    Balle, Cherubin & Hayes 2022 at each order; looser than the curve of the bound itself, which is
    no bound here.
    """
    if mechanism.sample_rate == 1:
        costs = [order / (2 * mechanism.noise_multiplier**2) for order in mechanism.filter_orders]
    else:
        grid = tuple(float(order) for order in mechanism.filter_orders)
        costs = list(rdp.poisson_curve(mechanism.sample_rate, mechanism.noise_multiplier, grid))
    curve = [
        (order, mechanism.steps * cost)
        for order, cost in zip(mechanism.filter_orders, costs, strict=True)
    ]
    return _renyi_bounds(curve, fprs)


@functools.lru_cache(maxsize=8)
def _searched_curve(event: Event) -> tuple[tuple[float, float], ...]:
    """The Renyi curve of a whole search, whatever its trials were selected by."""
    costs = rdp.rdp_curve(event, _SEARCH_ORDERS, Neighbors.ADD_OR_REMOVE_ONE)
    return tuple(zip(_SEARCH_ORDERS, costs, strict=True))


def _renyi_bounds(curve: Sequence[tuple[float, float]], fprs: Sequence[float]) -> list[float]:
    return [
        min(rero.from_rdp(order=order, rdp=cost, kappa=fpr) for order, cost in curve)
        for fpr in fprs
    ]


def auc_bound(mechanism: Subsampled) -> float:
    """The largest AUC that a planned mechanism allows."""
    if not mechanism.noise_multiplier:
        return 1.0
    searched = isinstance(mechanism, PlannedMechanism) and mechanism.searched is not None
    if searched or mechanism.filter_orders:
        # The curve rises, so its upper sums are above its area.
        rates = [cell / _AUC_CELLS for cell in range(1, _AUC_CELLS + 1)]
        return math.fsum(tpr_bounds(mechanism, fprs=rates)) / _AUC_CELLS
    if mechanism.sample_rate == 1:
        return gaussian.auc(math.sqrt(mechanism.steps) / mechanism.noise_multiplier)
    return tradeoff.dpsgd_auc(
        q=mechanism.sample_rate,
        noise_multiplier=mechanism.noise_multiplier,
        steps=mechanism.steps,
    )
