"""Training without a mechanism, for comparison: nothing here is private, whatever defends it.

Mixup (Zhang et al. 2018) and the distance between outputs on training rows and on rows that are
kept apart (MMD; Li, Li & Ribeiro, *Membership Inference Attacks and Defenses in Classification
Models*, 2021, section 5) make attacks harder and promise nothing: they mix units, so that no
clipping bounds what one of them contributes. Must never be given a Study that claims a guarantee;
the planner sees to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from primum.domain.errors import InvalidValue
from primum_pipelines.models.registry import refuse_batch_statistics
from primum_pipelines.optimization.algorithm import TrainingReport, TrainingTask
from primum_pipelines.optimization.settings import ClippingRule, Defenses

if TYPE_CHECKING:
    import torch

_APART = 10  # Every tenth unit is kept apart from the loss where outputs are compared.
_WIDTHS = (0.1, 0.3, 1.0)  # Of the Gaussian kernels; probabilities differ by at most sqrt(2).


class Ordinary:
    """Stochastic gradient descent on Poisson batches of rows, as attackers and readers know it.

    Guarantees:
        None. What it reports as executed is nothing, because no mechanism ran.
    """

    name = "Ordinary"
    reviewed = True
    private = False
    reads = frozenset(
        {
            "averaging",
            "defenses",
            "ensemble",
            "momentum",
            "optimizer",
            "schedule",
            "units",
            "warmUp",
            "weightDecay",
        }
    )

    def fit(self, task: TrainingTask) -> TrainingReport:
        """Train ``task.module`` in place.

        Returns:
            What was done; no mechanism among it.

        Raises:
            InvalidValue: If the model has batch statistics, so that it could not be compared.
        """
        import torch

        from primum_pipelines.optimization.descent import Mover
        from primum_pipelines.optimization.randomness import poisson_sample, random_source

        refuse_batch_statistics(task.module)
        mechanism, source = task.mechanism, random_source(task.seed)
        named = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        mover = Mover(
            task.module,
            named,
            divisor=1.0,
            units=task.expected_units,
            noise_std=0.0,
            source=source,
            optimizer=task.optimizer,
            learning_rate=task.learning_rate,
            momentum=task.momentum,
            descent=task.descent,
            steps=mechanism.steps,
        )
        defenses = Defenses() if task.defenses is None else task.defenses
        learned, apart = divided(task, defenses)
        stopped, done = "", 0
        for done in range(1, mechanism.steps + 1):
            drawn = poisson_sample(source, rows=len(learned), rate=mechanism.sample_rate)
            loss = _loss(task, defenses, learned[drawn], apart)
            found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            mover.move(
                {
                    name: torch.zeros_like(named[name]) if part is None else part.contiguous()
                    for name, part in zip(named, found, strict=True)
                }
            )
            if not mover.finite():
                stopped = "weights must stay finite; found infinity or NaN. Lower learningRate."
                break
            if task.on_step is not None:
                task.on_step(done, mechanism.steps)
        mover.finish()
        return TrainingReport(
            executed=(),
            max_grad_norm=mechanism.max_grad_norm,
            sampling="Poisson over rows",
            generator="none: no noise",
            clipping=ClippingRule.FLAT,
            gradients="of the batch",
            iterates=tuple(mover.iterates),
            stopped=stopped,
        )


def divided(task: TrainingTask, defenses: Defenses) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that the loss is taken of, and rows of other units that outputs are compared with."""
    import torch

    units = len(task.inputs[0]) if task.units is None else task.units.count
    if not defenses.compares:
        return torch.arange(len(task.inputs[0])), torch.zeros(0, dtype=torch.int64)
    if units < _APART:
        raise InvalidValue("defenses", f"must have {_APART} units at least", units)
    if task.units is None:
        owners = torch.arange(units)
    else:
        owners = torch.arange(units).repeat_interleave(torch.from_numpy(task.units.sizes))
    kept = owners % _APART == _APART - 1
    return (~kept).nonzero().squeeze(1), kept.nonzero().squeeze(1)


def _loss(
    task: TrainingTask, defenses: Defenses, rows: torch.Tensor, apart: torch.Tensor
) -> torch.Tensor:
    import torch

    features, labels = (values[rows] for values in task.inputs[:2])
    expected = task.mechanism.sample_rate * max(1, task.expected_units)
    if defenses.mixup and len(rows):
        share = float(torch.distributions.Beta(defenses.mixup, defenses.mixup).sample())
        other = torch.randperm(len(rows))
        mixed = share * features + (1 - share) * features[other]
        total = share * task.loss(task.module, mixed, labels).sum()
        total = total + (1 - share) * task.loss(task.module, mixed, labels[other]).sum()
    else:
        total = task.loss(task.module, features, labels).sum()
    loss = total / expected
    if defenses.mmd and len(rows):
        drawn = apart[torch.randint(len(apart), (max(1, len(rows)),))]
        distance = _distance_by_class(
            torch.softmax(task.module(features), dim=1),
            labels,
            torch.softmax(task.module(task.inputs[0][drawn]), dim=1),
            task.inputs[1][drawn],
        )
        loss = loss + defenses.mmd * distance
    return loss


def _distance_by_class(
    said: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, other_labels: torch.Tensor
) -> torch.Tensor:
    """Sum over classes of the squared MMD between the outputs of both sides.

    Args:
        said: Probabilities on training rows, ``(n, classes)``.
        labels: Their classes, ``(n,)``.
        others: Probabilities on rows that are kept apart, ``(m, classes)``.
        other_labels: Their classes, ``(m,)``.
    """
    found = said.new_zeros(())
    for number in range(said.shape[1]):
        own, rest = said[labels == number], others[other_labels == number]
        if len(own) and len(rest):
            found = found + _kernel(own, own) + _kernel(rest, rest) - 2 * _kernel(own, rest)
    return found


def _kernel(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean of a sum of Gaussian kernels (Gretton et al. 2012, equation 5)."""
    import torch

    squares = (left[:, None, :] - right[None, :, :]).square().sum(dim=2)
    return torch.stack([torch.exp(squares / (-2 * width**2)).mean() for width in _WIDTHS]).sum()
