"""DP-SGD (Abadi et al. 2016, algorithm 1) with Poisson sampling over units, on Opacus.

Per step: every row takes part independently with probability q; each gradient is clipped to C in
L2; the clipped gradients are summed; N(0, (sigma C)^2) is added once; the sum is divided by the
public constant q x expected_units, never by the realized batch size. Must not look at the data in
any other way: no early stopping, no batch statistics, no data-dependent learning rate.

With individual filters every unit that is still in is charged in every step by the norm of its
gradient at that step's model, drawn or not, so each step computes the gradients of all of them:
about 1/q times the work. The number of steps is the planned one, whoever is left: stopping when the
last unit has gone would tell when that was.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from primum.domain.canonical import decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.models.registry import refuse_batch_statistics
from primum_pipelines.optimization.algorithm import TrainingReport, TrainingTask

if TYPE_CHECKING:
    import torch
    from opacus import GradSampleModule

    from primum_pipelines.optimization.individual_filter import RenyiFilter
    from primum_pipelines.optimization.noisy_optimizer import NoisyOptimizer

_GRADIENT_NUMBERS_MAX = (
    2**22
)  # Per-row gradients held at once: 16 MB of float32, activations on top.
_PHYSICAL_ROWS_MAX = 1024


class DPSGD:
    """The reviewed algorithm.

    Guarantees:
        What ``fit`` reports is a ``Repeated(SubsampledGaussian(sigma, q), steps)`` event on the
        rows of the task under add-or-remove-one, whatever the loss is, as long as the loss of a row
        depends on this row and the parameters alone. With individual filters, and beyond the steps
        of the bound, it is an ``IndividuallyFiltered`` event with the bound
        ``Repeated(SubsampledGaussian(sigma, q), bound_steps)``.
    """

    name = "DPSGD"
    reviewed = True
    filters_individually = True

    def fit(self, task: TrainingTask) -> TrainingReport:
        """Train ``task.module`` in place.

        Returns:
            What was really done, with the noisy sums per parameter.

        Raises:
            InvalidValue: If the mechanism, the optimizer or the module breaks a rule.
        """
        from opacus import GradSampleModule

        from primum_pipelines.optimization.noisy_optimizer import NoisyOptimizer
        from primum_pipelines.optimization.randomness import random_source

        _check(task)
        source = random_source(task.seed)
        wrapped = GradSampleModule(task.module, loss_reduction="sum")
        try:
            optimizer = NoisyOptimizer(
                _base_optimizer(task, wrapped),
                noise_multiplier=task.mechanism.noise_multiplier,
                max_grad_norm=task.mechanism.max_grad_norm,
                source=source,
            )
            run = _Run(task, wrapped, optimizer)
            for _ in range(task.mechanism.steps):
                run.step()
            return TrainingReport(
                executed=((optimizer.noise_multiplier, task.mechanism.sample_rate, run.steps),),
                max_grad_norm=optimizer.max_grad_norm,
                sampling="Poisson",
                generator=source.name,
                update_sums=run.update_sums,
                diagnostics=run.diagnostics(),
                individual=task.mechanism.individual,
            )
        finally:
            _unwrap(wrapped)


class _Run:
    """The state of one training: the noisy sums so far and the number of steps really taken."""

    def __init__(
        self, task: TrainingTask, wrapped: GradSampleModule, optimizer: NoisyOptimizer
    ) -> None:
        import torch

        from primum_pipelines.optimization.randomness import random_source

        self._task = task
        self._wrapped = wrapped
        self._optimizer = optimizer
        self._source = random_source(None if task.seed is None else task.seed + 1)
        self._named = {
            name: parameter
            for name, parameter in task.module.named_parameters()
            if parameter.requires_grad
        }
        self._divisor = task.mechanism.sample_rate * task.expected_units
        count = sum(parameter.numel() for parameter in self._named.values())
        self._physical_rows = max(
            1, min(_PHYSICAL_ROWS_MAX, _GRADIENT_NUMBERS_MAX // max(1, count))
        )
        self.update_sums = {name: torch.zeros_like(p) for name, p in self._named.items()}
        self.steps = 0
        self._filter = _unit_filters(task)
        rule = task.mechanism.individual
        self._audited_steps = task.mechanism.steps if rule is None else rule.bound_steps

    def step(self) -> None:
        """One logical batch: sample, clip and sum in physical batches, noise once, divide, move."""
        import torch

        from primum_pipelines.optimization.randomness import poisson_sample

        drawn = poisson_sample(
            self._source,
            rows=len(self._task.inputs[0]),
            rate=self._task.mechanism.sample_rate,
        )
        rows = drawn if self._filter is None else torch.from_numpy(self._filter.active)
        parts = rows.split(self._physical_rows) if len(rows) else (rows,)
        for part in parts[:-1]:
            self._optimizer.signal_skip_step(do_skip=True)
            self._backward(part)
            self._optimizer.takes_part = self._taking_part(part, drawn)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.signal_skip_step(do_skip=False)
        self._backward(parts[-1])
        self._optimizer.takes_part = self._taking_part(parts[-1], drawn)
        self._optimizer.pre_step()
        with torch.no_grad():
            for name, parameter in self._named.items():
                if self.steps < self._audited_steps:
                    self.update_sums[name] += parameter.grad
                parameter.grad /= self._divisor
        self._optimizer.original_optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        if self._task.on_step is not None:
            self._task.on_step(self.steps, self._task.mechanism.steps)

    def diagnostics(self) -> dict[str, str]:
        """Restricted figures over all units; nothing about one of them."""
        seen = max(1, self._optimizer.rows_seen)
        found = {"clippedShare": decimal_text(self._optimizer.rows_clipped / seen)}
        if self._filter is not None:
            share = self._filter.dropped / max(1, len(self._task.inputs[0]))
            found["filteredOutShare"] = decimal_text(share)
        return found

    def _taking_part(
        self, rows: torch.Tensor, drawn: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Charges all rows of a virtual batch by their norms; the drawn ones that can pay count."""
        filters, bound = self._filter, self._task.mechanism.max_grad_norm
        if filters is None:
            return None
        import torch

        def decide(norms: torch.Tensor) -> torch.Tensor:
            ratios = (norms.detach().double() / bound).cpu().numpy()
            admitted = torch.from_numpy(filters.admit(rows.numpy(), ratios))
            return (admitted & torch.isin(rows, drawn)).to(norms.device)

        return decide

    def _backward(self, rows: torch.Tensor) -> None:
        if not len(rows):  # An empty Poisson batch still gets its noise.
            for parameter in self._named.values():
                parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
            return
        batch = [values[rows.to(values.device)] for values in self._task.inputs]
        with warnings.catch_warnings():
            # Opacus' hooks sit on the first layer too, whose input needs no gradient: that is
            # expected.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses = self._task.loss(self._wrapped, *batch)
            losses.sum().backward()


def _unit_filters(task: TrainingTask) -> RenyiFilter | None:
    from primum_pipelines.optimization.individual_filter import RenyiFilter

    rule = task.mechanism.individual
    if rule is None:
        return None
    return RenyiFilter(
        units=len(task.inputs[0]),
        sample_rate=task.mechanism.sample_rate,
        noise_multiplier=task.mechanism.noise_multiplier,
        rule=rule,
    )


def _check(task: TrainingTask) -> None:
    mechanism = task.mechanism
    positive = {
        "noise_multiplier": mechanism.noise_multiplier,
        "max_grad_norm": mechanism.max_grad_norm,
        "learning_rate": task.learning_rate,
        "expected_units": task.expected_units,
        "steps": mechanism.steps,
    }
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidValue(name, "must be finite and above 0", value)
    if not 0 < mechanism.sample_rate <= 1:
        raise InvalidValue("sample_rate", "must be above 0 and at most 1", mechanism.sample_rate)
    refuse_batch_statistics(task.module)


def _base_optimizer(task: TrainingTask, wrapped: GradSampleModule) -> torch.optim.Optimizer:
    import torch

    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    match task.optimizer:
        case "SGD":
            return torch.optim.SGD(parameters, lr=task.learning_rate, momentum=task.momentum)
        case "Adam":
            return torch.optim.Adam(parameters, lr=task.learning_rate)
        case other:
            raise InvalidValue("optimizer", "must be SGD or Adam", other)


def _unwrap(wrapped: GradSampleModule) -> None:
    """Leave the module as plain torch: no hooks, no per-row gradients that outlive training."""
    wrapped.remove_hooks()
    for parameter in wrapped.parameters():
        for name in ("grad_sample", "summed_grad"):
            if hasattr(parameter, name):
                delattr(parameter, name)
        parameter.grad = None
