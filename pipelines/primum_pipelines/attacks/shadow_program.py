"""How the shadows of one Study are trained: by its own code, stacked where that is the same.

A recipe that the stacked program can follow is trained by it, many shadows at once; any other one
shadow after another, with the very task and algorithm that the Study's own job was given. Either
way a shadow begins at the Study's public initial weights, pre-training on public and released
inputs included. Never stored, released or charged; seeds are fixed by the caller, so that the same
shadows come out wherever they are trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.federated_shadows import FEDERATED, train_federated
from primum_pipelines.attacks.shadows import Recipe, logits_of, train_stacked
from primum_pipelines.datasets.units import UnitRows, one_row_each
from primum_pipelines.kinds.train import fitting
from primum_pipelines.kinds.train.run_record import EXECUTED
from primum_pipelines.models.registry import build
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.settings import GradientMode, Precision
from primum_pipelines.optimization.stopping import StoppingRule
from primum_pipelines.optimization.written.chain import Stack, layers_of

if TYPE_CHECKING:
    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.optimization.algorithm import TrainingTask

STACKED_ALGORITHM = "DPSGD"
_ASKED_AT_ONCE = 256
_CPU = torch.device("cpu")
_SEED_BITS = 62

# Parameters of a plan that the stacked program follows, or that change no weights. One that is not
# here, such as a later version's, is left to the Study's own code.
_FOLLOWED = frozenset(
    {
        "model", "modelParameters", "algorithm", "reviewed", "epochs", "batchSize", "accountant",
        "noiseMultiplier", "sampleRate", "sampling", "steps", "maxGradNorm", "clipping",
        "unitExamplesMax", "canaries", "learningRate", "momentum", "optimizer", "gradients",
        "schedule", "warmUp", "averaging", "weightDecay", "biasAware", "loss", "trainable",
        "precision", "ensemble", "rowsAtOnce", "publicInputs", "task", "trainUnits", "workers",
        "chargedAsExecuted", "positive", EXECUTED,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a shadow is, as the registry of models builds it.

    Args:
        model: The architecture's name.
        parameters: Its parameters.
        input_shape: Of one record.
        classes: Number of classes.
    """

    model: str
    parameters: Mapping[str, JSON]
    input_shape: tuple[int, ...]
    classes: int

    def build(self) -> nn.Module:
        """A module with random weights."""
        return build(
            self.model, self.parameters, input_shape=self.input_shape, classes=self.classes
        )


@dataclass(frozen=True, slots=True, repr=False)
class Program:
    """How shadows are trained.

    Args:
        parameters: Those of the Study's plan.
        architecture: What a shadow is.
        weights: Where every shadow begins, by name; public.
        device: Where they are trained.
    """

    parameters: Mapping[str, JSON]
    architecture: Architecture
    weights: Mapping[str, torch.Tensor]
    device: torch.device = _CPU

    def fresh(self) -> nn.Module:
        """A module at the initial weights, frozen as the plan says."""
        module = self.architecture.build()
        module.load_state_dict(dict(self.weights))
        fitting.freeze(module, self.parameters)
        return module

    def apart(self, pool: Pool) -> str:
        """Why shadows are trained one after another, in words; empty where they are stacked."""
        if FEDERATED in self.parameters:
            return "each of them is a federation"
        others = sorted(set(self.parameters) - _FOLLOWED)
        if float(str(self.parameters["biasAware"])):
            others.append("biasAware")
        if str(self.parameters["precision"]) != Precision.FLOAT32:
            others.append("precision")
        if self.parameters["algorithm"] != STACKED_ALGORITHM:
            others.append("algorithm")
        if others:
            return f"the recipe sets {others[0]}, which is left to the Study's own code"
        if pool.contributions is not None:
            return "units have several rows"
        try:
            layers_of(self.fresh())
        except InvalidValue as problem:
            return f"{problem.field} {problem.rule}"
        return ""

    def recipe(self) -> Recipe:
        """The planned recipe, for shadows that are stacked."""
        task = self._task(self.fresh(), (torch.zeros(1), torch.zeros(1)), one_row_each(1))
        mechanism = task.mechanism
        return Recipe(
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=mechanism.sample_rate,
            steps=mechanism.steps,
            max_grad_norm=mechanism.max_grad_norm,
            learning_rate=task.learning_rate,
            optimizer=task.optimizer,
            momentum=task.momentum,
            clipping=mechanism.clipping,
            descent=replace(task.descent, samples=0),
            executed=_executed(self.parameters),
        )

    def train(self, pool: Pool, members: torch.Tensor, *, seed: int) -> Stack:
        """Train one shadow per row of ``members``.

        Args:
            pool: The records, and all rows of their units.
            members: Which records each shadow may see, booleans ``(M, n)``.
            seed: Of sampling, views and noise.

        Returns:
            Weights and buffers by name, each ``(M, ...)``; the same ones for the same seed.

        Raises:
            InvalidValue: If a shadow's weights did not stay finite: it says nothing then.
        """
        generator = torch.Generator().manual_seed(seed)
        pool = pool.to(self.device)
        if FEDERATED in self.parameters:
            stack = train_federated(self, pool, members, generator=generator)
        elif not self.apart(pool):
            stack = train_stacked(self.fresh, pool, members, self.recipe(), generator=generator)
        else:
            stack = self._one_by_one(pool, members, generator)
        if not all(bool(torch.isfinite(value).all()) for value in stack.values()):
            rule, remedy = "must stay finite", "Lower learningRate."
            raise InvalidValue("weights of shadow models", rule, "infinity or NaN", remedy)
        return {name: value.cpu() for name, value in stack.items()}

    def answers(self, stack: Stack, inputs: torch.Tensor) -> torch.Tensor:
        """Every shadow's logits on records, ``(M, n, classes)``."""
        skeleton = self.fresh()
        try:
            layers_of(skeleton)
        except InvalidValue:
            return _asked_one_by_one(skeleton, stack, inputs)
        return logits_of(skeleton, stack, inputs)

    def _one_by_one(self, pool: Pool, members: torch.Tensor, generator: torch.Generator) -> Stack:
        found: list[dict[str, torch.Tensor]] = []
        for had in members:
            module, seed = self.fresh().to(self.device), _drawn_seed(generator)
            inputs, units = _rows_of(pool, had.to(self.device))
            task = replace(
                self._task(module, inputs, units),
                expected_units=max(1, int(had.sum())),
                seed=seed,
                gradients=GradientMode.AUTO,
                reported_sums=frozenset(),
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)  # Of the views of augmentations.
                report = fitting.planned_algorithm(self.parameters).fit(task)
            if report.stopped:
                raise InvalidValue("training of shadow models", "must not stop", report.stopped)
            found.append({n: v.detach().clone() for n, v in module.state_dict().items()})
        return {name: torch.stack([state[name] for state in found]) for name in found[0]}

    def _task(
        self, module: nn.Module, inputs: tuple[torch.Tensor, ...], units: UnitRows
    ) -> TrainingTask:
        task = fitting.planned_training(
            module, inputs, parameters=self.parameters, units=units, loss=TaskLoss()
        )
        return replace(
            task,
            descent=replace(task.descent, samples=0),
            stopping=_ended_after(_executed(self.parameters)),
        )


def _executed(parameters: Mapping[str, JSON]) -> int | None:
    """Steps that the Study ran, where it stopped by a rule; its schedule is that of the plan."""
    return int(str(parameters[EXECUTED])) if EXECUTED in parameters else None


def _ended_after(steps: int | None) -> StoppingRule | None:
    """The Study's own way of ending early, at the step at which the Study ended."""
    if steps is None:
        return None
    return StoppingRule(every=steps, patience=1, score=lambda _: -math.inf)


def _rows_of(pool: Pool, had: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], UnitRows]:
    """All rows of the units that a shadow has."""
    if pool.contributions is None:
        return (pool.inputs[had], pool.labels[had]), one_row_each(int(had.sum()))
    own = pool.contributions.of(had)
    counts = torch.bincount(own.owners, minlength=int(had.sum()))
    offsets = torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))
    return (own.inputs, own.labels), UnitRows(offsets.cpu().numpy())


def _asked_one_by_one(module: nn.Module, stack: Stack, inputs: torch.Tensor) -> torch.Tensor:
    module.eval()
    answers = []
    with torch.no_grad():
        for at in range(len(next(iter(stack.values())))):
            module.load_state_dict({name: value[at] for name, value in stack.items()})
            answers.append(torch.cat([module(rows) for rows in inputs.split(_ASKED_AT_ONCE)]))
    return torch.stack(answers)


def _drawn_seed(generator: torch.Generator) -> int:
    return int(torch.randint(1 << _SEED_BITS, (), generator=generator))
