"""One Renyi filter per unit (Feldman & Zrnic 2021): who may still take part in a training.

What a unit has paid is a function of private records. It lives in this object while the training
runs, and in a checkpoint in the steward's zone until it has ended: it must not be shown, logged or
put into a receipt, and how many units were left out is Restricted evidence at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.accounting.individual import FULL_STEP, step_prices
from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from primum_pipelines.optimization.algorithm import IndividualFilter


class RenyiFilter:
    """The filters of all units of a training with one noise multiplier and one sampling rate.

    Guarantees:
        At every order, at every time, the sum of what a unit was charged is at most
        ``bound_steps`` full steps; a unit that was refused once never takes part again.

    Args:
        units: Number of units.
        sample_rate: Poisson rate of every step.
        noise_multiplier: Of every step, relative to the clipping bound.
        rule: How many full steps a unit may pay, and at which orders that is counted.
    """

    def __init__(
        self, *, units: int, sample_rate: float, noise_multiplier: float, rule: IndividualFilter
    ) -> None:
        if rule.bound_steps < 1:
            raise InvalidValue("bound_steps", "must be at least 1", rule.bound_steps)
        self._prices = step_prices(
            sample_rate=sample_rate, noise_multiplier=noise_multiplier, orders=rule.orders
        )
        self._limit = rule.bound_steps * FULL_STEP
        self._paid = np.zeros((units, len(rule.orders)), dtype=np.int64)
        self._active = np.ones(units, dtype=bool)

    def __repr__(self) -> str:
        """Nothing about any unit."""
        return f"RenyiFilter({len(self._prices.orders)} orders)"

    @property
    def active(self) -> NDArray[np.int64]:
        """Numbers of the units that may still take part, rising. Restricted."""
        return np.flatnonzero(self._active)

    @property
    def dropped(self) -> int:
        """How many units were left out. Restricted."""
        return int(len(self._active) - self._active.sum())

    def admit(self, units: NDArray[np.int64], norms: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Charge units for a step, drawn or not, and leave out those that cannot pay.

        Args:
            units: Numbers of active units, each once.
            norms: Norm of what each would contribute at this very step's model, unclipped, over
                the clipping bound. A norm of another model is not sound.

        Returns:
            Whether each takes part if it was drawn.
        """
        after = self._paid[units] + self._prices.charges(norms)
        admitted: NDArray[np.bool_] = self._active[units] & (after <= self._limit).all(axis=1)
        self._paid[units[admitted]] = after[admitted]
        self._active[units[~admitted]] = False
        return admitted

    def forfeit(self, steps: int) -> None:
        """Charge every unit for whole steps that may have been run and of which nothing is known.

        Args:
            steps: How many.
        """
        self._paid += steps * FULL_STEP
        self._active &= (self._paid <= self._limit).all(axis=1)

    def state(self) -> dict[str, torch.Tensor]:
        """What a later process needs to go on. Restricted."""
        return {"paid": torch.from_numpy(self._paid), "active": torch.from_numpy(self._active)}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state that ``state`` gave."""
        self._paid = state["paid"].numpy().copy()
        self._active = state["active"].numpy().copy()
