"""Membership and copying attacks on released samples (methods, section 8). Needs samples alone.

Rows are vectors in [0, 1]. Whoever attacks compares with real records that the generator never saw;
without them a score measures how typical a record is, not whether it was used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.figures import Array
from primum_pipelines.sample_filters.search import SelfMatch, nearest

_COMPONENTS_MAX = 10  # A density in more dimensions says nothing at these sample sizes.
_ROWS_PER_COMPONENT = 10
_KERNEL_ROWS_MAX = 2000
_SEED = 11  # Of the rows that a density is made of; it protects nobody.
_DISTANCE_MIN = 1e-6  # Exact copies: their logarithm must stay finite.


def calibrated_distance(records: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> Array:
    """How much nearer the samples are than real records (GAN-leaks, Chen et al. 2020, calibrated).

    Args:
        records: ``(n, ...)`` in [0, 1].
        samples: The released ones.
        reference: Real records that the generator never saw, not among ``records``.

    Returns:
        Log distance to the nearest reference minus that to the nearest sample; higher means member.
    """
    near = np.maximum(nearest(records, samples).distances, _DISTANCE_MIN)
    usual = np.maximum(nearest(records, reference).distances, _DISTANCE_MIN)
    result: Array = np.log(usual) - np.log(near)
    return result


def density_ratio(records: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> Array:
    """``log p_samples(x) - log p_reference(x)`` (DOMIAS, van Breugel et al. 2023).

    Gaussian kernel densities on at most ten principal components of samples and reference.

    Raises:
        InvalidValue: If there are too few rows for a density.
    """
    from scipy.stats import gaussian_kde

    known = [_flat(part) for part in (samples, reference)]
    count = min(_COMPONENTS_MAX, min(len(part) for part in known) // _ROWS_PER_COMPONENT)
    if count < 1:
        found = f"{len(samples)} samples and {len(reference)} reference records"
        raise InvalidValue("densities", f"must have {_ROWS_PER_COMPONENT} rows each", found)
    both = np.concatenate(known)
    center = both.mean(axis=0)
    _, spread, axes = np.linalg.svd(both - center, full_matrices=False)
    axes = axes[: min(count, int((spread > spread[0] * _DISTANCE_MIN).sum()))]
    densities = [gaussian_kde(((_some(part) - center) @ axes.T).T) for part in known]
    points = ((_flat(records) - center) @ axes.T).T
    logs = [density.logpdf(points) for density in densities]
    floor = np.log(np.finfo(np.float64).tiny)
    result: Array = np.maximum(logs[0], floor) - np.maximum(logs[1], floor)
    return result


@dataclass(frozen=True, slots=True)
class Copying:
    """How near samples come to training records, beside records that the generator never saw.

    Args:
        samples: How many were looked at.
        nearer: Share of samples that are nearer to a training record than to any of equally many
            held-out ones; one half is expected where nothing was copied.
        copies: Samples nearer to a training record than any two training records are to each other
            (exact copies among those aside).
        control_copies: The same with held-out records in the training records' place.
        authentic: Share of samples whose nearest training record has a nearer neighbor of its own
            (Alaa et al. 2022).
    """

    samples: int
    nearer: float
    copies: int
    control_copies: int
    authentic: float


def copying(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, seed: int) -> Copying:
    """Distances of samples to equally many training and held-out records.

    Args:
        samples: ``(n, ...)`` in [0, 1].
        train: What the generator was trained on.
        held_out: Of the same distribution, never seen.
        seed: Chooses the training records where there are more of them.

    Raises:
        InvalidValue: If either side has fewer than two records.
    """
    train, held_out = _distinct(train), _distinct(held_out)
    count = min(len(train), len(held_out))
    if count < 2 or not len(samples):  # noqa: PLR2004 - a distance within needs two
        found = f"{len(train)} training and {len(held_out)} held-out records"
        raise InvalidValue("copying", "must have two records on either side", found)
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(train))[:count]
    train, held_out = train[chosen], held_out[:count]
    to_train, to_others = nearest(samples, train), nearest(samples, held_out)
    within = nearest(train, train, self_match=SelfMatch.EXCLUDED).distances
    limit = float(within.min())
    ties = to_train.distances == to_others.distances
    return Copying(
        samples=len(samples),
        nearer=float(((to_train.distances < to_others.distances) + ties / 2).mean()),
        copies=int((to_train.distances < limit).sum()),
        control_copies=int((to_others.distances < limit).sum()),
        authentic=float((to_train.distances > within[to_train.nearest]).mean()),
    )


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Rows without exact copies, in their order: between copies there is no distance."""
    _, first = np.unique(rows.reshape(len(rows), -1), axis=0, return_index=True)
    kept: np.ndarray = rows[np.sort(first)]
    return kept


def _some(rows: Array) -> Array:
    """At most as many rows as a kernel density takes, from everywhere: samples may be in order."""
    order = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(rows))
    return rows[order[:_KERNEL_ROWS_MAX]]


def _flat(rows: np.ndarray) -> Array:
    flat: Array = rows.reshape(len(rows), -1).astype(np.float64)
    return flat
