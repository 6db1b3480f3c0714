"""What an attacker's prior is learned from: published sets, or pictures that show nobody.

A prior is kept in the zone under the digest of all it depends on, so that it is learned once. It
holds nothing of anybody protected; what is kept is bounded, and whatever is damaged is learned
anew. Must not take a record of the attacked Study for a public one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.errors import InvalidValue, NotFound, Tampered
from primum_pipelines import artifacts
from primum_pipelines.attacks.dead_leaves import dead_leaves
from primum_pipelines.attacks.diffusion_prior import (
    Denoiser,
    DiffusionPrior,
    PriorEffort,
    digest_of,
    frozen,
    train_prior,
)
from primum_pipelines.attacks.linear_prior import LinearPrior
from primum_pipelines.models.artifact import scale

if TYPE_CHECKING:
    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec

FOLDER = "priors"
KEPT_MAX = 8
_SUFFIX = ".safetensors"
_SEED = 20_24  # Of made-up pictures and of what is left out; it protects nobody.
_SHARED_MAX = 0.01  # Share of records that may be equal by chance, as in small tables.
_HEX = 64


def made_up(count: int, *, shape: tuple[int, ...]) -> torch.Tensor:
    """Pictures or volumes that show nobody, ``(count, *shape)`` in [-1, 1].

    Raises:
        InvalidValue: If records are no pictures.
    """
    if len(shape) == 1:
        rule = "must name a published set for tables, which cannot be made up"
        raise InvalidValue("spec.audits.parameters.prior", rule, "Synthetic")
    return torch.from_numpy(dead_leaves(count, shape=shape, seed=_SEED))


def published(table: UnitTable, spec: ModelSpec, *, most: int) -> torch.Tensor:
    """Records of a published set as the Study's model takes them, ``(n, *shape)`` in [-1, 1].

    Args:
        table: The published set.
        spec: The attacked model's.
        most: More are sampled.

    Raises:
        InvalidValue: If they have another shape or other columns.
    """
    same = table.features.shape[1:] == tuple(spec.input_shape)
    if not same or tuple(table.feature_names) != tuple(spec.feature_names):
        rule = f"must hold records of the Study's shape {tuple(spec.input_shape)} and columns"
        found = str(tuple(table.features.shape[1:]))
        raise InvalidValue("spec.audits.parameters.prior", rule, found)
    rows = np.random.Generator(np.random.PCG64(_SEED)).permutation(len(table.features))[:most]
    scaled = scale(table.features[np.sort(rows)], spec)
    return torch.from_numpy(np.ascontiguousarray(scaled))


def require_apart(records: torch.Tensor, pool: Pool) -> None:
    """Refuse a prior that was learned from the very records under attack.

    Raises:
        InvalidValue: If more than one record in a hundred is a record of the Study.
    """
    own = {row.tobytes() for row in pool.inputs.numpy()}
    shared = sum(row.tobytes() in own for row in records.numpy())
    if shared > _SHARED_MAX * len(records):
        rule = "must hold no records of the Study"
        raise InvalidValue("spec.audits.parameters.prior", rule, "some of them")


def prior_of(
    records: torch.Tensor,
    effort: PriorEffort,
    *,
    zone_dir: str,
    on_step: Callable[[int, int], None] | None = None,
) -> DiffusionPrior:
    """A prior of public or made-up records: a kept one, or learned now and kept.

    Args:
        records: ``(n, *shape)`` in [-1, 1].
        effort: How long to learn.
        zone_dir: The steward's zone; nothing is kept where the process was told of none.
        on_step: Called after each step of learning.
    """
    digest = digest_of(records, effort)
    known = _kept(zone_dir, digest, tuple(records.shape[1:])) if zone_dir else None
    if known is not None:
        return known
    prior = train_prior(records, effort, on_step=on_step)
    if zone_dir:
        # An audit does not fail because its prior could not be kept.
        with contextlib.suppress(OSError):
            _keep(zone_dir, prior)
    return prior


def _kept(zone_dir: str, digest: str, shape: tuple[int, ...]) -> DiffusionPrior | None:
    for path in (Path(zone_dir) / FOLDER).glob(f"{digest}.*{_SUFFIX}"):
        content = path.name.removeprefix(f"{digest}.").removesuffix(_SUFFIX)
        try:
            data = artifacts.fetch(str(path), digest=f"sha256:{content}")
            denoiser = _read(data, shape)
        except (Tampered, NotFound, ValueError, KeyError, RuntimeError, OSError):
            path.unlink(missing_ok=True)
            continue
        path.touch()
        return DiffusionPrior(denoiser, digest)
    return None


def _keep(zone_dir: str, prior: DiffusionPrior) -> None:
    """Write a prior under its digest and that of its bytes; the least recently used go."""
    from safetensors.torch import save

    from primum.domain.canonical import digest_of_bytes

    weights = {name: value.contiguous() for name, value in prior.denoiser.state_dict().items()}
    data: bytes = save(weights)
    folder = Path(zone_dir) / FOLDER
    name = f"{prior.digest}.{digest_of_bytes(data)[-_HEX:]}{_SUFFIX}"
    artifacts.store(str(folder), name, data, kind="Prior")
    by_age = sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime)
    for path in by_age[:-KEPT_MAX]:
        path.unlink(missing_ok=True)


def _read(data: bytes, shape: tuple[int, ...]) -> Denoiser:
    from safetensors.torch import load

    weights = load(data)
    plain = {name: weights[name].numpy().astype(np.float64) for name in ("axes", "variances")}
    linear = LinearPrior(weights["mean"].numpy().astype(np.float64), **plain)
    denoiser = Denoiser(shape, linear)
    denoiser.load_state_dict(weights, strict=True)
    return frozen(denoiser)
