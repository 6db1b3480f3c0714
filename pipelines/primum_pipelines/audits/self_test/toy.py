"""The toy task of the self-test, and what a mechanism's updates on it show.

A linear toy whose per-unit gradients are known: units of a group all push that group's coordinate
with a huge gradient, so that each participation moves it by exactly the clipping bound; single
units own a coordinate each; many coordinates get no gradient and show the noise alone. The learning
rate undoes the division by the expected batch size, so that every step moves the parameters by
minus the noisy sum.

The mechanism is seen from outside only: through the parameters after each step. What an algorithm
says about itself is not believed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from primum_pipelines.audits.self_test.statistics import Array
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.settings import AUTOMATIC_STABILITY, ClippingRule

HUGE = 1000.0  # Gradient norm of every unit, in clipping bounds: clipping is always active.
LAYERS = 3  # With trainable parameters: own, twin and still.
SINGLES = 256  # Units that own a coordinate; as many coordinates have no unit.
NOISE_INPUTS, NOISE_OUTPUTS = 31, 32  # With biases 1,024 noise coordinates, a power of two.
GROUPS = 32
GROUPS_FEW = 8  # Where noise is large, so that the toy stays small.
BATCH_MIN = 256  # Expected batch: above usual micro-batches, so that noise per micro-batch shows.
BATCH_EASY = 1024  # Above it the toy uses fewer groups.
BATCH_MAX = 4096  # Above it the self-test would take too long.
SIGNAL_TO_NOISE = 5.0  # Variance that sampling adds to a group's sum, over the noise's.


@dataclass(frozen=True, slots=True)
class ToyShape:
    """How large the toy is, decided by the planned mechanism alone.

    Args:
        groups: Number of groups.
        group_units: Units per group.
        singles: Units that own a coordinate.
    """

    groups: int
    group_units: int
    singles: int

    @property
    def units(self) -> int:
        """All units of the toy."""
        return self.groups * self.group_units + self.singles


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen, in units of the clipping bound. One row per step of every run.

    Args:
        noise: Coordinates without gradient, ``(runs * steps, 1024)``.
        groups: Each group's sum, ``(runs * steps, groups)``; expectation rate x group units.
        present: Coordinates owned by one unit, ``(runs * steps, singles)``.
        absent: Coordinates that no unit owns, ``(runs * steps, singles)``.
        steps: Steps per run.
        reports: What the algorithm says it did.
    """

    noise: Array
    groups: Array
    present: Array
    absent: Array
    steps: int
    reports: tuple[TrainingReport, ...]


class UnobservableError(Exception):
    """The algorithm did not show its steps: parameters or ``on_step`` calls are missing."""


def toy_shape(*, noise_multiplier: float, sample_rate: float) -> ToyShape:
    """The smallest toy in which the sampling shows above the noise.

    Args:
        noise_multiplier: Planned noise multiplier.
        sample_rate: Planned sampling rate.

    Returns:
        The shape; expected batches lie between ``BATCH_MIN`` and about ``BATCH_MAX``.
    """
    spread = sample_rate * (1 - sample_rate)
    # Without subsampling there is nothing to resolve.
    wanted = SIGNAL_TO_NOISE * noise_multiplier**2 / spread if spread > 0 else 0.0
    groups = GROUPS if wanted * sample_rate * GROUPS <= BATCH_EASY else GROUPS_FEW
    least = BATCH_MIN / sample_rate / groups
    most = BATCH_MAX / sample_rate / groups
    return ToyShape(groups, math.ceil(min(max(wanted, least), most)), SINGLES)


def pushed(mechanism: MechanismParameters) -> float:
    """By how many clipping bounds a unit of a group moves its group's sum each time it takes part.

    A unit's gradient lies in two of the toy's three layers, with ``HUGE`` bounds in each.
    """
    match mechanism.clipping:
        case ClippingRule.FLAT:
            return 1.0
        case ClippingRule.PER_LAYER:
            return math.sqrt(2 / LAYERS)
        case ClippingRule.AUTOMATIC:
            norm = math.sqrt(2) * HUGE * mechanism.max_grad_norm
            return norm / (norm + AUTOMATIC_STABILITY)


class ToyModule(nn.Module):  # type: ignore[misc] # torch is not typed here
    """Linear layers with known gradients; groups lie in two tensors to show per-tensor clipping."""

    def __init__(self, shape: ToyShape) -> None:
        super().__init__()
        self.own = nn.Linear(shape.groups + 2 * shape.singles, 1, bias=False)
        self.twin = nn.Linear(shape.groups, 1, bias=False)
        self.still = nn.Linear(NOISE_INPUTS, NOISE_OUTPUTS)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, own: torch.Tensor, twin: torch.Tensor, still: torch.Tensor) -> torch.Tensor:
        """Per-row sums ``(B,)``; ``still`` is all zeros and its outputs weigh nothing."""
        pushed = self.own(own).squeeze(-1) + self.twin(twin).squeeze(-1)
        unmoved: torch.Tensor = self.still(still).sum(-1) * 0.0
        return pushed + unmoved


def observe(
    algorithm: TrainingAlgorithm, mechanism: MechanismParameters, *, shape: ToyShape, runs: int
) -> Observed:
    """Run the algorithm on the toy and read its noisy sums off the parameters.

    Args:
        algorithm: What a Study trains with.
        mechanism: The Study's noise multiplier, sampling rate and clipping bound; steps of the toy.
        shape: The toy.
        runs: Independent runs with entropy of the operating system.

    Returns:
        Sums per step in units of the clipping bound.

    Raises:
        UnobservableError: If the algorithm does not call ``on_step`` after each step, or
            trains a copy.
    """
    seen = [_one_run(algorithm, mechanism, shape) for _ in range(runs)]
    sums = [part for part, _ in seen]
    own = np.concatenate([part["own"] for part in sums])
    twin = np.concatenate([part["twin"] for part in sums])
    still = np.concatenate([part["still"] for part in sums])
    g, s = shape.groups, shape.singles
    return Observed(
        noise=still,
        # A unit's gradient lies in both tensors; along the diagonal each participation counts one
        # bound.
        groups=(own[:, :g] + twin) / math.sqrt(2),
        present=own[:, g : g + s],
        absent=own[:, g + s :],
        steps=mechanism.steps,
        reports=tuple(report for _, report in seen),
    )


def _one_run(
    algorithm: TrainingAlgorithm, mechanism: MechanismParameters, shape: ToyShape
) -> tuple[dict[str, Array], TrainingReport]:
    module = ToyModule(shape)
    snapshots = [_flat(module)]

    def on_step(_done: int, _planned: int) -> None:
        snapshots.append(_flat(module))

    task = TrainingTask(
        module=module,
        inputs=(torch.arange(shape.units),),
        loss=_loss_of(shape, mechanism.max_grad_norm),
        expected_units=shape.units,
        mechanism=mechanism,
        learning_rate=mechanism.sample_rate * shape.units / mechanism.max_grad_norm,
        on_step=on_step,
    )
    report = algorithm.fit(task)
    if len(snapshots) != mechanism.steps + 1:
        raise UnobservableError("on_step must be called once after each step")
    path = np.stack(snapshots)
    # Gradient descent moves against the sum, hence the sign.
    sums = -np.diff(path, axis=0)
    if not np.isfinite(sums).all() or not sums.any():
        raise UnobservableError("the module given must be trained in place, step by step")
    own_size, twin_size = shape.groups + 2 * shape.singles, shape.groups
    return {
        "own": sums[:, :own_size],
        "twin": sums[:, own_size : own_size + twin_size],
        "still": sums[:, own_size + twin_size :],
    }, report


def _flat(module: nn.Module) -> Array:
    parts = [parameter.detach().reshape(-1) for parameter in module.parameters()]
    result: Array = torch.cat(parts).to("cpu", torch.float64).numpy()
    return result


def _loss_of(shape: ToyShape, max_grad_norm: float) -> Callable[..., torch.Tensor]:
    """The per-unit loss: rows are unit numbers; what they push is decided from the number alone."""
    grouped = shape.groups * shape.group_units
    own_columns = torch.arange(shape.groups + 2 * shape.singles)
    twin_columns = torch.arange(shape.groups)
    scale = HUGE * max_grad_norm

    def loss(module: nn.Module, units: torch.Tensor) -> torch.Tensor:
        in_group = units < grouped
        # Interleaved, so that a contiguous block of rows never is one group.
        group = units % shape.groups
        column = torch.where(in_group, group, shape.groups + units - grouped)
        own = (column[..., None] == own_columns).to(torch.float32) * scale
        twin = ((group[..., None] == twin_columns) & in_group[..., None]).to(torch.float32) * scale
        still = torch.zeros((*units.shape, NOISE_INPUTS))
        result: torch.Tensor = module(own, twin, still)
        return result

    return loss
