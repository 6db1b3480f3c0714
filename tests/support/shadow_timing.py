"""How much faster stacked shadows are than one training after another.

Same models, same recipe, same pool. CPU seconds of this process, because a clock lies on a busy
machine; and seconds of a clock, for a quiet one, where one training after another has all cores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice, repeat
from multiprocessing import get_context

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from primum_pipelines.attacks.pool import Pool
from primum_pipelines.attacks.shadow_groups import group_of
from primum_pipelines.attacks.shadows import Recipe, complementary_halves, logits_of, train_stacked
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingTask,
)


@dataclass(frozen=True, slots=True)
class ShadowTimes:
    """CPU seconds for the same number of shadow models.

    Args:
        models: How many.
        stacked_seconds: As one batched program.
        sequential_seconds: One after another, extrapolated from ``sequential_models`` of them.
        sequential_models: How many were really trained one after another.
        stacked_accuracy: Share of the pool that the stacked models classify rightly, their mean.
        sequential_accuracy: The same of those trained one after another.
    """

    models: int
    stacked_seconds: float
    sequential_seconds: float
    sequential_models: int
    stacked_accuracy: float
    sequential_accuracy: float

    @property
    def speedup(self) -> float:
        """Sequential over stacked."""
        return self.sequential_seconds / self.stacked_seconds


def compare_shadows(
    build: Callable[[], nn.Module],
    pool: Pool,
    recipe: Recipe,
    *,
    algorithm: TrainingAlgorithm,
    models: int,
    sequential_models: int,
    seed: int,
) -> ShadowTimes:
    """Train shadows both ways and time them; stacked ones in the groups that audits train.

    Args:
        build: Makes a fresh module.
        pool: The records.
        recipe: The recipe of both.
        algorithm: Trains the sequential ones, as a Study would.
        models: Number of shadows, even.
        sequential_models: How many to train one after another; the rest is extrapolated.
        seed: Of the stacked program's halves, sampling and noise.
    """
    generator = torch.Generator().manual_seed(seed)
    halves = complementary_halves(models, len(pool.labels), generator=generator)
    train_stacked(build, pool, halves[:2], _short(recipe), generator=generator)  # Warm-up.
    size = group_of(pool.inputs.dim() - 1, pool.inputs.device)
    start = time.process_time()
    parts = [
        train_stacked(build, pool, group, recipe, generator=generator)
        for group in halves.split(size)
    ]
    stacked = time.process_time() - start
    stack = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    _train_one(build, pool, halves[0], _short(recipe), algorithm)
    start = time.process_time()
    trained = [
        _train_one(build, pool, had, recipe, algorithm) for had in halves[:sequential_models]
    ]
    each = (time.process_time() - start) / sequential_models
    with torch.no_grad():
        alone = torch.stack([module(pool.inputs) for module in trained])
    return ShadowTimes(
        models,
        stacked,
        each * models,
        sequential_models,
        stacked_accuracy=_accuracy(logits_of(build(), stack, pool.inputs), pool),
        sequential_accuracy=_accuracy(alone, pool),
    )


@dataclass(frozen=True, slots=True)
class ShadowWalls:
    """Seconds of a clock for 64 models, with every core of the machine.

    Args:
        opacus: A loop of Opacus with its hooks, one model after another on all cores.
        sequential: Our own training, one model after another on all cores.
        stacked: Groups of stacked models, a process of one thread per core.
    """

    opacus: float
    sequential: float
    stacked: float


def clock_shadows(
    build: Callable[[], nn.Module],
    pool: Pool,
    recipe: Recipe,
    *,
    algorithm: TrainingAlgorithm,
    models: int,
    sample: int,
    cores: int,
) -> ShadowWalls:
    """Time 64 shadows as somebody waits for them; meaningful on a quiet machine alone.

    Args:
        build: Makes a fresh module; importable, for other processes build it too.
        pool: The records.
        recipe: The recipe of all.
        algorithm: Of our own sequential training.
        models: Number of shadows.
        sample: How many to train one after another; the rest is extrapolated.
        cores: Of the machine.
    """
    generator = torch.Generator().manual_seed(7)
    halves = complementary_halves(models, len(pool.labels), generator=generator)
    groups = halves.split(group_of(pool.inputs.dim() - 1, pool.inputs.device))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as workers:
        ready = [workers.submit(_group, build, pool, halves[:2], _short(recipe)) for _ in groups]
        for one in ready:
            one.result()
        stacked = _clock(
            lambda: list(workers.map(_group, repeat(build), repeat(pool), groups, repeat(recipe)))
        )
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        _train_one(build, pool, halves[0], _short(recipe), algorithm)
        _opacus(build, pool, halves[0], _short(recipe))
        sequential = _clock(
            lambda: [_train_one(build, pool, had, recipe, algorithm) for had in halves[:sample]]
        )
        opacus = _clock(lambda: [_opacus(build, pool, had, recipe) for had in halves[:sample]])
    finally:
        torch.set_num_threads(threads)
    return ShadowWalls(opacus * models / sample, sequential * models / sample, stacked)


def opacus_seconds(
    build: Callable[[], nn.Module], pool: Pool, recipe: Recipe, *, models: int, sample: int
) -> float:
    """CPU seconds of a loop of Opacus over so many models, extrapolated from some."""
    generator = torch.Generator().manual_seed(7)
    halves = complementary_halves(models, len(pool.labels), generator=generator)
    _opacus(build, pool, halves[0], _short(recipe))
    start = time.process_time()
    for had in halves[:sample]:
        _opacus(build, pool, had, recipe)
    return (time.process_time() - start) * models / sample


def _group(
    build: Callable[[], nn.Module], pool: Pool, members: torch.Tensor, recipe: Recipe
) -> None:
    torch.set_num_threads(1)
    train_stacked(build, pool, members, recipe, generator=torch.Generator().manual_seed(1))


def _clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _opacus(build: Callable[[], nn.Module], pool: Pool, had: torch.Tensor, recipe: Recipe) -> None:
    """One training as Opacus' own examples write it: hooks, Poisson batches."""
    from opacus import PrivacyEngine

    module = build()
    data = TensorDataset(pool.inputs[had], pool.labels[had])
    module, optimizer, batches = PrivacyEngine().make_private(
        module=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=recipe.learning_rate),
        data_loader=DataLoader(data, batch_size=round(recipe.sample_rate * len(data))),
        noise_multiplier=recipe.noise_multiplier,
        max_grad_norm=recipe.max_grad_norm,
    )
    left = recipe.steps
    while left:
        for inputs, labels in islice(batches, left):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
            left -= 1


def _accuracy(logits: torch.Tensor, pool: Pool) -> float:
    """Over models and records; logits ``(M, n, classes)``."""
    return float((logits.argmax(dim=2) == pool.labels).float().mean())


def _short(recipe: Recipe) -> Recipe:
    return Recipe(
        noise_multiplier=recipe.noise_multiplier,
        sample_rate=recipe.sample_rate,
        steps=2,
        max_grad_norm=recipe.max_grad_norm,
        learning_rate=recipe.learning_rate,
    )


def _train_one(
    build: Callable[[], nn.Module],
    pool: Pool,
    had: torch.Tensor,
    recipe: Recipe,
    algorithm: TrainingAlgorithm,
) -> nn.Module:
    module = build()

    def loss(trained: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(trained(inputs), labels, reduction="none")

    algorithm.fit(
        TrainingTask(
            module=module,
            inputs=(pool.inputs[had], pool.labels[had]),
            loss=loss,
            expected_units=int(had.sum()),
            mechanism=MechanismParameters(
                noise_multiplier=recipe.noise_multiplier,
                sample_rate=recipe.sample_rate,
                steps=recipe.steps,
                max_grad_norm=recipe.max_grad_norm,
            ),
            learning_rate=recipe.learning_rate,
            optimizer=recipe.optimizer,
            momentum=recipe.momentum,
        )
    )
    return module
