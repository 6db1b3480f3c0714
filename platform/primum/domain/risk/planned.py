"""What planned events allow an adversary who knows everything but whether the target took part.

Figures of a whole composition at its exact curve where there is one: a Gaussian in closed form, a
privacy loss distribution otherwise (privacy-theory, 2 and 3.2). Where only a Renyi curve is proved,
or only one (epsilon, delta), figures say so and are looser. H0 is "the target is absent".
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.accounting import pld, rdp
from primum.domain.accounting.events import Event, Gaussian, flatten
from primum.domain.quantities import Neighbors
from primum.domain.risk import gaussian, rero, tradeoff

if TYPE_CHECKING:
    from primum.domain.accounting.pld import LossMasses

_ADD_OR_REMOVE = Neighbors.ADD_OR_REMOVE_ONE
_ORDERS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0, 24.0, 32.0, 48.0, 64.0)
_CELLS = 1000  # Of sums over a curve that is not known between its points.


class CurveKind(enum.StrEnum):
    """What a curve is, from the tightest to the loosest."""

    GAUSSIAN = "Gaussian"  # exact, in closed form
    LOSS_DISTRIBUTION = "LossDistribution"  # exact up to a grid that errs upwards
    RENYI = "Renyi"  # an upper bound from Renyi divergences
    CLAIM = "Claim"  # an upper bound from one epsilon and delta


@dataclass(frozen=True, slots=True)
class PlannedCurve:
    """The trade-off curve of planned events.

    Args:
        kind: What it is.
        epsilon: Of the claim; infinite without one.
        delta: Of the claim.
        psi: Of a Gaussian.
        masses: Of a loss distribution.
        renyi: Orders with their divergences.
    """

    kind: CurveKind
    epsilon: float
    delta: float
    psi: float = 0.0
    masses: LossMasses | None = field(default=None, repr=False)
    renyi: tuple[tuple[float, float], ...] = ()

    def true_positives(self, fprs: Sequence[float]) -> list[float]:
        """The largest true positive rate of any test at each false positive rate, rising.

        Also the reconstruction-robustness bound, where the rate is kappa.
        """
        match self.kind:
            case CurveKind.GAUSSIAN:
                return [gaussian.tpr_at_fpr(psi=self.psi, fpr=fpr) for fpr in fprs]
            case CurveKind.LOSS_DISTRIBUTION if self.masses is not None:
                import numpy as np

                false, true = tradeoff.roc_of(self.masses)
                return [float(rate) for rate in np.interp(np.asarray(fprs), false, true)]
            case CurveKind.RENYI:
                bounds = [
                    min(
                        rero.from_rdp(order=order, rdp=cost, kappa=fpr)
                        for order, cost in self.renyi
                    )
                    for fpr in fprs
                ]
                return [min(a, b) for a, b in zip(bounds, self._claimed(fprs), strict=True)]
            case _:
                return self._claimed(fprs)

    def advantage(self) -> float:
        """The largest difference of true and false positive rate; guessing has none."""
        if self.kind is CurveKind.GAUSSIAN:
            return gaussian.advantage(self.psi)
        grid = [cell / _CELLS for cell in range(_CELLS + 1)]
        if self.kind is CurveKind.LOSS_DISTRIBUTION and self.masses is not None:
            return tradeoff.delta_of(self.masses, epsilon=0.0)
        # Between two points the true rate is at most that of the next one.
        rates = self.true_positives(grid)
        return max(after - fpr for fpr, after in zip(grid, rates[1:], strict=False))

    def sure_at_most(self, *, prior: float, share: float) -> float | None:
        """How sure the best adversary is of a member, at most, in a share of all outcomes.

        Args:
            prior: What it believed before.
            share: Of the outcomes when the target took part.

        Returns:
            The posterior at that quantile of the privacy loss; ``None`` where the distribution of
            losses is not known.
        """
        loss = self._loss_quantile(share)
        if loss is None:
            return None
        return tradeoff.posterior_upper_pure(epsilon=loss, prior=prior)

    def _loss_quantile(self, share: float) -> float | None:
        if self.kind is CurveKind.GAUSSIAN:
            from scipy import special

            return self.psi**2 / 2 + self.psi * float(special.ndtri(share))
        if self.kind is CurveKind.LOSS_DISTRIBUTION and self.masses is not None:
            import numpy as np

            # What lies above each loss, without bound included; falling.
            masses = self.masses.masses
            above = self.masses.infinity_mass + np.append(np.cumsum(masses[::-1])[-2::-1], 0.0)
            enough = np.flatnonzero(above <= 1 - share)
            return float(self.masses.losses[enough[0]]) if len(enough) else math.inf
        return None

    def _claimed(self, fprs: Sequence[float]) -> list[float]:
        return [
            tradeoff.tpr_upper_epsilon_delta(epsilon=self.epsilon, delta=self.delta, fpr=fpr)
            for fpr in fprs
        ]


def planned_curve(event: Event, *, epsilon: Decimal, delta: Decimal) -> PlannedCurve:
    """The tightest proved curve of everything that is charged to one dataset.

    Args:
        event: The composition of its planned events.
        epsilon: Of the claim for it; infinite where there is none.
        delta: Of the claim.
    """
    bare = PlannedCurve(CurveKind.CLAIM, epsilon=float(epsilon), delta=float(delta))
    leaves = flatten(event)
    if all(isinstance(leaf, Gaussian) for leaf, _ in leaves):
        squares = [
            count / float(leaf.noise_multiplier) ** 2
            for leaf, count in leaves
            if isinstance(leaf, Gaussian)
        ]
        return replace(bare, kind=CurveKind.GAUSSIAN, psi=math.sqrt(math.fsum(squares)))
    if pld.unsupported_by_pld(event, _ADD_OR_REMOVE) is None:
        return replace(bare, kind=CurveKind.LOSS_DISTRIBUTION, masses=pld.event_masses(event))
    if rdp.unsupported_by_rdp(event, _ADD_OR_REMOVE) is None:
        costs = rdp.rdp_curve(event, _ORDERS, _ADD_OR_REMOVE)
        return replace(bare, kind=CurveKind.RENYI, renyi=tuple(zip(_ORDERS, costs, strict=True)))
    return bare
