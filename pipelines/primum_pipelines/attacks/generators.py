"""Membership in what a generator was trained on, for whoever has the generator itself.

Rows are vectors in [0, 1]. A score alone measures how typical a record is; it is calibrated by real
records that the generator never saw (methods, section 8).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from primum_pipelines.attacks.figures import Array
from primum_pipelines.sample_filters.search import nearest
from primum_pipelines.synthesis.generator import LATENT, ConditionalGenerator, draw
from primum_pipelines.synthesis.merf import FourierFeatures

_DISTANCE_MIN = 1e-6  # Exact copies: their logarithm must stay finite.
_STEP = 0.1
_PRIOR_WEIGHT = 1e-3  # Keeps latent vectors where the generator was trained.
_DRAWN_PER_CLASS = 4096
_SEED = 7  # Of latent vectors and samples, the same for every record; it protects nobody.


def generated_distance(
    generator: ConditionalGenerator,
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    restarts: int,
) -> Array:
    """How near the generator can come to each record: the least distance over its latent vectors.

    The white-box attack of Chen, Yu, Zhang & Fritz, *GAN-Leaks* (2020), equation 7: the loss of the
    best reconstruction stands for the likelihood that an implicit generator does not have.

    Args:
        generator: The generator.
        rows: Records, ``(n, d)`` in [0, 1].
        labels: Their classes, ``(n,)``, known to the adversary.
        steps: Of Adam on the latent vectors.
        restarts: Random starts per record.

    Returns:
        L2 distances ``(n,)``.
    """
    truth = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).flatten(1)
    known = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    source = torch.Generator().manual_seed(_SEED)
    best = torch.full((len(truth),), math.inf)
    for _ in range(restarts):
        start = torch.randn((1, LATENT), generator=source).repeat(len(truth), 1)
        latent = start.requires_grad_()
        optimizer = torch.optim.Adam([latent], lr=_STEP)
        for _ in range(steps):
            optimizer.zero_grad()
            far = (generator(latent, known) - truth).square().sum(dim=1)
            (far + _PRIOR_WEIGHT * latent.square().sum(dim=1)).sum().backward()
            optimizer.step()
        with torch.no_grad():
            found = (generator(latent, known) - truth).norm(dim=1)
        best = torch.minimum(best, found)
    result: Array = best.double().numpy()
    return result


def calibrated_loss(distances: Array, rows: np.ndarray, reference: np.ndarray) -> Array:
    """Log distance to the nearest real record that was never seen, minus that of the generator.

    Args:
        distances: As ``generated_distance`` gives them, ``(n,)``.
        rows: The records, ``(n, ...)``.
        reference: Real records that the generator never saw, not among ``rows``.

    Returns:
        ``(n,)``; higher means member.
    """
    usual = np.maximum(nearest(rows, reference).distances, _DISTANCE_MIN)
    result: Array = np.log(usual) - np.log(np.maximum(distances, _DISTANCE_MIN))
    return result


def embedding_shift(
    generator: ConditionalGenerator,
    features: FourierFeatures,
    records: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
) -> Array:
    """How far a record's features lie in the direction that the generator's mean was moved.

    The release of DP-MERF is a noisy mean of features, so the log likelihood ratio of a record's
    presence is, up to what does not depend on the record, its features times the difference of the
    released mean and the mean without it. The first is what the generator's samples average to, the
    second what other records average to.

    Args:
        generator: Trained on the released mean.
        features: The public features of that release.
        records: ``(n, d)`` in [0, 1] with their classes ``(n,)``.
        reference: Real records that the generator never saw, likewise.

    Returns:
        ``(n,)``; higher means member. 0 for classes of which no reference is known.
    """
    made, classes = draw(generator, count=_DRAWN_PER_CLASS * generator.classes, seed=_SEED)
    phi = _features(features, records[0])
    known = _features(features, reference[0])
    found = np.zeros(len(phi))
    for label in range(generator.classes):
        own, others = records[1] == label, reference[1] == label
        if not others.any():
            continue
        moved = features.embed(made[classes == label]).double().mean(dim=0).numpy()
        found[own] = phi[own] @ (moved - known[others].mean(axis=0))
    return found


def _features(features: FourierFeatures, rows: np.ndarray) -> Array:
    flat = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32)).flatten(1)
    result: Array = features.embed(flat).double().numpy()
    return result
