"""What one noisy step costs one unit by the norm of its own contribution, for individual filters.

A step is priced in *full steps*: its Renyi divergence at each order over that of a unit that
saturates the clipping bound. A filter then needs no budget but a number of steps, and a unit that
saturates every step gets exactly that number. Prices round up. Nothing here keeps a unit's sum:
that is private data and lives in the step that opened the data (privacy-theory.md 7.1).

Why a filter that counts them is sound: ``docs/decisions/0013-individual-filters.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from primum.domain.accounting import rdp
from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Whole orders only: the chord below is proved for them. They hold the default orders of the
# ledger's Renyi filter, so that a filtered plan is charged there what its bound is charged.
FILTER_ORDERS: tuple[int, ...] = (
    *range(2, 17),
    *(18, 20, 22, 24, 28, 32, 40, 48, 64, 96, 128, 256),
)
FULL_STEP = 2**32  # Units of one full step; a billion steps stay below 2^63.
_CELLS = 512  # Chords over the squared norm; a chord's excess is far below a percent.
_SHARE_SLACK = 1e-9  # Relative; floating-point error of a curve is below 1e-10.
_NORM_SLACK = 1e-5  # Relative; a norm that was summed up in single precision.


@dataclass(frozen=True, slots=True, eq=False)
class StepPrices:
    """Prices of one step at each order, by the norm of a unit's contribution.

    Args:
        orders: Whole Renyi orders, each above 1.
        shares: ``(513, orders)``: the cost over that of a full step where the squared norm over
            the squared clipping bound is k/512; from 0 to 1.
    """

    orders: tuple[int, ...]
    shares: NDArray[Any]

    def charges(self, norms: NDArray[Any]) -> NDArray[Any]:
        """What a step charges each unit, whether it was drawn or not.

        Guarantees:
            Divided by ``FULL_STEP`` at least the share that the unit's Renyi divergence of this
            step has in that of a full step, at every order; exactly ``FULL_STEP`` at the clipping
            bound. The chord is above the cost, because at a whole order the exponential of the
            cost is a sum of exponentials of the squared norm with positive weights (Mironov,
            Talwar & Zhang 2019, section 3.3), hence its logarithm convex.

        Args:
            norms: ``(units,)``: norm of the unclipped contribution over the clipping bound, at
                least 0. What is not a number counts as the clipping bound.

        Returns:
            ``(units, orders)`` whole numbers from 0 to ``FULL_STEP``.
        """
        import numpy as np

        known = np.nan_to_num(np.asarray(norms, dtype=np.float64), nan=1.0, posinf=1.0)
        place = np.minimum(known * (1 + _NORM_SLACK), 1.0) ** 2 * _CELLS
        cell = np.minimum(place.astype(np.int64), _CELLS - 1)
        part = (place - cell)[:, None]
        share = (1 - part) * self.shares[cell] + part * self.shares[cell + 1]
        units = np.ceil(share * (1 + _SHARE_SLACK) * FULL_STEP)
        result: NDArray[Any] = np.minimum(units, FULL_STEP).astype(np.int64)
        return result


def step_prices(
    *, sample_rate: float, noise_multiplier: float, orders: tuple[int, ...]
) -> StepPrices:
    """The prices of one Gaussian step with Poisson sampling.

    A unit with norm g under clipping bound C pays as for noise multiplier sigma C / g.

    Args:
        sample_rate: Above 0, at most 1.
        noise_multiplier: Above 0, relative to the clipping bound.
        orders: Whole Renyi orders, each above 1.

    Returns:
        The prices.

    Raises:
        InvalidValue: If an argument is out of range.
    """
    import numpy as np

    if not 0 < sample_rate <= 1:
        raise InvalidValue("sample_rate", "must be above 0 and at most 1", sample_rate)
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise InvalidValue("noise_multiplier", "must be finite and above 0", noise_multiplier)
    if not orders or any(order != int(order) or order < 2 for order in orders):  # noqa: PLR2004
        raise InvalidValue("orders", "must be whole numbers above 1", str(orders)[:80])
    squares = np.arange(_CELLS + 1) / _CELLS
    if sample_rate == 1:  # The cost is order x squared norm / (2 sigma^2): its share is the square.
        shares = np.repeat(squares[:, None], len(orders), axis=1)
        return StepPrices(tuple(orders), shares)
    grid = tuple(float(order) for order in orders)
    costs = np.zeros((_CELLS + 1, len(orders)))
    for cell in range(1, _CELLS + 1):
        noise = noise_multiplier / math.sqrt(squares[cell])
        costs[cell] = rdp.poisson_curve(sample_rate, noise, grid)
    return StepPrices(tuple(orders), costs / costs[-1])
