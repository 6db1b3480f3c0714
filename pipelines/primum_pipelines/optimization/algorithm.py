"""The TrainingAlgorithm protocol: what a training plug-in is given and what it owes.

Registered under the entry-point group ``primum.training_algorithms``. The mechanism self-test runs
the very same ``fit`` on toy tasks whose answer is known, so an algorithm that reports one mechanism
and runs another is caught. Must not import torch at module level: the planner reads ``name`` and
``reviewed`` without paying for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from primum_pipelines.optimization.settings import (
    ClippingRule,
    Defenses,
    Descent,
    GradientMode,
    Precision,
)

if TYPE_CHECKING:
    import torch

    from primum_pipelines.datasets.units import UnitRows
    from primum_pipelines.optimization.augmentation import Augmentation
    from primum_pipelines.optimization.checkpoints import Checkpoints
    from primum_pipelines.optimization.distributed import Group
    from primum_pipelines.optimization.stopping import StoppingRule


@dataclass(frozen=True, slots=True)
class IndividualFilter:
    """One Renyi filter per unit: how long a unit takes part depends on what it really contributes.

    Args:
        bound_steps: What a unit may pay, in steps of a unit that saturates the clipping bound.
        orders: Whole Renyi orders at which that is counted; all must hold.
    """

    bound_steps: int
    orders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MechanismParameters:
    """The planned mechanism: subsampled Gaussian with Poisson sampling over units.

    Args:
        noise_multiplier: Noise standard deviation on the sum of clipped unit gradients, over
            ``max_grad_norm``.
        sample_rate: Probability that a unit takes part in a step.
        steps: Number of steps.
        max_grad_norm: Clipping bound C in L2.
        individual: The filter of each unit, or ``None``: every unit may take part in every step.
            Given only to algorithms that read ``individualFilter``.
        clipping: How a unit's gradient is brought to the bound.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int
    max_grad_norm: float
    individual: IndividualFilter | None = None
    clipping: ClippingRule = ClippingRule.FLAT

    @property
    def filter_orders(self) -> tuple[int, ...]:
        """Renyi orders of the individual filters; empty without filters."""
        return () if self.individual is None else self.individual.orders


@dataclass(frozen=True, slots=True)
class TrainingTask:
    """What is trained on what. One row is one privacy unit unless ``units`` says otherwise.

    Args:
        module: The model to train in place; maps a batch ``(B, ...)`` to per-row losses through
            ``loss``.
        inputs: Tensors with one row per example, e.g. ``(features, labels, canary_ids)``.
        loss: ``loss(module, *batch_rows) -> (B,)`` tensor of per-unit losses; never mixes rows.
        expected_units: Public number of units that the divisor uses (expected batch size = rate x
            this).
        mechanism: The planned mechanism.
        learning_rate: Step size.
        optimizer: ``SGD`` or ``Adam``.
        momentum: For SGD.
        seed: Entropy for sampling and noise; ``None`` draws from the operating system.
        on_step: Called after each step with (steps done, steps planned).
        units: The rows of each unit; ``None`` for one row each. A unit's loss is the mean of its
            rows' losses.
        gradients: How unit gradients are computed; changes cost, never the result.
        rows_at_once: Most rows of a virtual batch; ``None`` leaves it to what fits.
        descent: What is done with the noisy sums: all of it is post-processing.
        augmentation: Copies of each row whose gradients are averaged before clipping.
        bias_aware: Lambda of bias-aware minimization; 0 for none.
        checkpoints: Where the state is kept, so that a lost worker loses little; ``None`` for
            nowhere. Never with a ``seed``.
        reported_sums: Names of the parameters whose sums are to be reported; ``None`` for all.
        precision: In which numbers the model is passed through; clipping and noise do not change.
        stopping: Looks at the model on the way and may end the training; ``None`` for never.
        defenses: For training without a mechanism alone: they mix units.
        group: The workers that train together; ``inputs`` and ``units`` are then those of this
            worker alone, and ``seed`` and ``stopping`` are used by the first. ``None`` for one
            worker.
        on_begin: Called before each step with (number of this step, steps planned): it counts as
            executed from then on. Whoever says ``announces`` calls it; what it raises ends the
            training before the step.
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    loss: Callable[..., torch.Tensor]
    expected_units: int
    mechanism: MechanismParameters
    learning_rate: float
    optimizer: str = "SGD"
    momentum: float = 0.0
    seed: int | None = None
    on_step: Callable[[int, int], None] | None = None
    units: UnitRows | None = None
    gradients: GradientMode = GradientMode.AUTO
    rows_at_once: int | None = None
    descent: Descent = field(default_factory=Descent)
    augmentation: Augmentation | None = None
    bias_aware: float = 0.0
    reported_sums: frozenset[str] | None = None
    checkpoints: Checkpoints | None = None
    precision: Precision = Precision.FLOAT32
    stopping: StoppingRule | None = None
    defenses: Defenses | None = None
    group: Group | None = None
    on_begin: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What an algorithm says it did: the receipt is written from this.

    Args:
        executed: ``(noise_multiplier, sample_rate, steps)`` runs in order, as executed.
        max_grad_norm: The clipping bound used.
        sampling: ``Poisson``, or whatever it really was.
        generator: What drew the noise, e.g. ``torch default generator seeded by the operating
            system``.
        update_sums: For each named parameter the sum over steps of the noisy summed gradients, for
            white-box audits. With individual filters over the first ``bound_steps`` steps: a unit
            that saturates the clipping bound, as a canary does, takes part in no later one.
        presence: For each parameter of ``reported_sums``, over the same steps, how much the noisy
            sums speak for a unit that pulls a coordinate by the clipping bound: the summed
            log-likelihood ratio. Empty where the algorithm does not say, or adds no noise.
        diagnostics: Restricted figures such as the share of clipped units; decimal strings.
        individual: The filter that was enforced on each unit, or ``None``.
        clipping: The clipping rule used.
        gradients: How unit gradients were computed, in words.
        iterates: States of the model that were kept on the way, oldest first.
        stopped: Why it ended before the planned steps, in words without figures; empty if it did
            not. The steps are those executed; the weights are of no use.
        looks: Looks that the stopping rule took; the weights are good if it ended the training.
        workers: How many workers trained together. The other figures are those of the first.
        lost: Of the executed steps those that a lost worker may have run and that are not in the
            weights.
        cut_off: Whether it was stopped by the loss of another worker, so that it may go on from its
            checkpoint.
    """

    executed: tuple[tuple[float, float, int], ...]
    max_grad_norm: float
    sampling: str
    generator: str
    update_sums: Mapping[str, torch.Tensor] = field(default_factory=dict)
    presence: Mapping[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    individual: IndividualFilter | None = None
    clipping: ClippingRule = ClippingRule.FLAT
    gradients: str = ""
    iterates: tuple[Mapping[str, torch.Tensor], ...] = ()
    stopped: str = ""
    looks: int = 0
    workers: int = 1
    lost: int = 0
    cut_off: bool = False


def fields_read(algorithm: object) -> frozenset[str]:
    """The fields of ``spec.job.train`` that a training algorithm, or its class, says it obeys.

    What is not there would be ignored without a word, so no plan asks for it.
    """
    return frozenset(str(name) for name in getattr(algorithm, "reads", ()))


def runs_mechanism(algorithm: object) -> bool:
    """Whether a training algorithm, or its class, runs a mechanism at all."""
    return getattr(algorithm, "private", True) is not False


def announces(algorithm: object) -> bool:
    """Whether a reviewed training algorithm, or its class, calls ``on_begin`` before each step.

    Of one that does not nobody knows what a lost worker had run; of an unreviewed one nobody has
    looked whether it does what it says, and no self-test runs where the worker is lost.
    """
    said = (getattr(algorithm, name, False) for name in ("announces", "reviewed"))
    return all(value is True for value in said)


class TrainingAlgorithm(Protocol):
    """One way of training privately.

    Every algorithm obeys noise multiplier, sampling rate, steps, clipping bound and learning rate.
    What it obeys beside them it names in an optional attribute ``reads``, by the names of the
    Study's fields (``individualFilter``, ``schedule``, ``units`` for several rows per unit, ...);
    a Study that sets another one is refused when it is planned. One that runs no mechanism at all
    says ``private = False``; only a Study that asks for none gets it. One that calls ``on_begin``
    before each step and goes on from ``checkpoints`` says ``announces = True`` and counts if it is
    reviewed; where another one's worker is lost, all is charged.
    """

    name: str
    reviewed: bool  # Unreviewed algorithms run only where the policy allows them by name.

    def fit(self, task: TrainingTask) -> TrainingReport:
        """Train ``task.module`` in place under the planned mechanism.

        Returns:
            What was really done.
        """
