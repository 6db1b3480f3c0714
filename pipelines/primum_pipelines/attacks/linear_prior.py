"""The best linear guess behind a noisy observation, from what such records look like.

The Wiener filter in the basis of a population's principal components: closed form, no training, and
the optimal linear prior. It stands between reconstruction from scratch and learned priors
(Schwethelm, Kaiser, Knolle et al., *Visual Privacy Auditing with Diffusion Models*, 2024; methods,
section 7.5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.figures import Array


@dataclass(frozen=True, slots=True, repr=False)
class LinearPrior:
    """Mean and principal components of a population.

    Args:
        mean: ``(d,)``.
        axes: ``(r, d)``, orthonormal rows.
        variances: ``(r,)`` along them.
    """

    mean: Array
    axes: Array
    variances: Array

    @classmethod
    def of(cls, population: Array) -> LinearPrior:
        """The prior of records that the adversary has, ``(n, d)``; not those that are attacked.

        Raises:
            InvalidValue: If there are fewer than two.
        """
        if len(population) < 2:  # noqa: PLR2004 - a variance needs two
            raise InvalidValue("population", "must be two records at least", str(len(population)))
        mean = population.mean(axis=0)
        _, spread, axes = np.linalg.svd(population - mean, full_matrices=False)
        variances = spread**2 / (len(population) - 1)
        kept = variances > variances[0] * 1e-12 if variances[0] > 0 else variances > 0
        return cls(mean, axes[kept], variances[kept])

    def denoise(self, observed: Array, *, std: float) -> Array:
        """The least expected squared error of any linear guess.

        Args:
            observed: Records plus Gaussian noise, ``(n, d)``.
            std: Of the noise, known to the adversary.

        Returns:
            ``(n, d)``; the mean alone where the noise says everything.
        """
        shrink = self.variances / (self.variances + std**2)
        along = (observed - self.mean) @ self.axes.T
        result: Array = self.mean + (along * shrink) @ self.axes
        return result
