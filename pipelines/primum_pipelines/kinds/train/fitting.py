"""From the plan's parameters to a training that runs: the task of an algorithm, and plain fitting.

Everything that shapes the mechanism was decided by the plan; must not store or report anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from primum import extensions
from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable
from primum.domain.study.steps import WorkRequest
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.datasets.units import unit_rows
from primum_pipelines.kinds.train import comparison
from primum_pipelines.kinds.train.sharing import own_coins, shared_coins, whole_mean
from primum_pipelines.kinds.training import INITIAL_SEED, number, whole
from primum_pipelines.models.artifact import ModelSpec, scale
from primum_pipelines.models.extractor import last_layer
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingAlgorithm,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.augmentation import Augmentation
from primum_pipelines.optimization.checkpoints import (
    Checkpoints,
    Continuation,
    begun_now,
    standing,
)
from primum_pipelines.optimization.distributed import Alone, Group
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.settings import (
    ClippingRule,
    Descent,
    GradientMode,
    LossName,
    Precision,
    ScheduleShape,
)
from primum_pipelines.progress import Progress, local_folder
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.datasets.units import UnitRows
    from primum_pipelines.optimization.stopping import StoppingRule

_PRE_LEARNING_RATE = 0.005
_PRE_BATCH_ROWS = 128
_LOOK_ROWS = 256  # At a time: a U-Net keeps every level of every row.
_PROGRESS_PARTS = 20
_CHECKPOINTS = 20  # A lost worker costs at most a twentieth of the steps.
_CHECKPOINT_LEAST = 10  # Steps; a short training is not slowed down by its checkpoints.
_COINS = "coins"


@dataclass(frozen=True, slots=True)
class Trained:
    """A training's report, and the sealed coins of its canaries if it had any.

    Args:
        report: What the algorithm says it ran.
        sealed: The coins; None without canaries.
    """

    report: TrainingReport
    sealed: canaries.SealedCoins | None


@dataclass(frozen=True, slots=True, repr=False)
class Trial:
    """One training of a search.

    Args:
        sealed: The coins of the canaries, the same ones in every trial: they are units of the data
            that all trials see. ``None`` without canaries.
    """

    sealed: canaries.SealedCoins | None


def tensors(table: UnitTable, spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The training split, scaled by public bounds."""
    features = torch.from_numpy(scale(table.features[table.train], spec))
    return features, torch.from_numpy(table.labels[table.train])


def planned_loss(parameters: Mapping[str, JSON], task: LabelTask) -> TaskLoss:
    """The loss of rows that the plan names."""
    return TaskLoss(task, LossName(str(parameters.get("loss", LossName.CROSS_ENTROPY))))


def fit_ordinary(
    module: nn.Module, table: UnitTable, spec: ModelSpec, *, parameters: Mapping[str, JSON]
) -> None:
    """Plain Adam on released data; what it costs was paid by the Release."""
    features, labels = tensors(table, spec)
    optimizer = torch.optim.Adam(module.parameters(), lr=_PRE_LEARNING_RATE)
    generator = torch.Generator().manual_seed(INITIAL_SEED)
    loss_of = planned_loss(parameters, table.task)
    for _ in range(whole(parameters, "epochs")):
        for rows in torch.randperm(len(labels), generator=generator).split(_PRE_BATCH_ROWS):
            optimizer.zero_grad()
            loss_of(module, features[rows], labels[rows]).mean().backward()
            optimizer.step()


def fit_privately(
    request: WorkRequest,
    parameters: Mapping[str, JSON],
    module: nn.Module,
    table: UnitTable,
    spec: ModelSpec,
    *,
    stopping: StoppingRule | None = None,
    trial: Trial | None = None,
    group: Group | None = None,
    on_begin: Callable[[int, int], None] | None = None,
    training: Continuation | None = None,
) -> Trained:
    """Train under the planned mechanism.

    Args:
        request: The step's request.
        parameters: The plan's parameters.
        module: The model; its weights are changed in place, on the device that they are on.
        table: The private data; of several workers the rows of this one.
        spec: What the model is.
        stopping: What may end the training before its planned steps.
        trial: Which trial of a search this is; it tells no progress and keeps no checkpoint, which
            would show how many there were.
        group: The workers that train together; ``None`` for one.
        on_begin: Called before each step; see ``TrainingTask``.
        training: Which training this is; ``None`` for a new one.

    Returns:
        What the algorithm says it ran, and the canaries' coins.
    """
    features, labels = tensors(table, spec)
    units, loss = unit_rows(table.units[table.train]), planned_loss(parameters, table.task)
    count = whole(parameters, "canaries")
    place = checkpoint_place(request) if trial is None else None
    training = training or begun_now()
    kept = None if place is None else standing(place, key=training.key)
    group = group or Alone()
    sealed = trial.sealed if trial is not None else shared_coins(group, count=count)
    if kept is not None and sealed is not None:
        sealed = canaries.unsealed(kept.extra[_COINS])  # Those that the lost worker had planted.
    trained: nn.Module = canaries.WithCanaries(module, count=count) if count else module
    inputs: tuple[torch.Tensor, ...] = (features, labels)
    if sealed is not None:
        here = own_coins(sealed, group)
        inputs = canaries.add_rows(features, labels, here)
        units = units.with_singles(sum(here.coins))
    device = next(module.parameters()).device
    trained, inputs = trained.to(device), tuple(values.to(device) for values in inputs)
    freeze(module, parameters)
    names = [name for name, _ in trained.named_parameters()]
    task = replace(
        planned_training(
            trained,
            inputs,
            parameters=parameters,
            units=units,
            loss=loss if sealed is None else canaries.MarkedLoss(loss),
        ),
        on_step=_told(Progress(request)) if trial is None and not group.rank else None,
        reported_sums=frozenset(n for n in names if n.endswith(canaries.HEAD_PARAMETER)),
        checkpoints=_checkpoints(place, training, sealed, steps=whole(parameters, "steps")),
        stopping=stopping,
        group=group,
        on_begin=on_begin,
    )
    trained_report = _fitted(task, parameters)
    module.requires_grad_(requires_grad=True)
    if stopping is not None:  # A plug-in may look, and say nothing of it.
        looks = max(trained_report.looks, stopping.taken)
        trained_report = replace(trained_report, looks=looks)
    return Trained(report=trained_report, sealed=sealed)


def _fitted(task: TrainingTask, parameters: Mapping[str, JSON]) -> TrainingReport:
    """Run the planned algorithm; its checkpoint stays for who goes on, and for nobody else."""
    try:
        report = planned_algorithm(parameters).fit(task)
    except Unavailable:  # Another worker is gone.
        raise
    except Exception:
        _forget(task)  # What fails by itself is not run again.
        raise
    if not report.cut_off:
        _forget(task)
    return report


def _forget(task: TrainingTask) -> None:
    if task.checkpoints is not None and (task.group is None or not task.group.rank):
        task.checkpoints.remove()


def planned_training(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    *,
    parameters: Mapping[str, JSON],
    units: UnitRows,
    loss: Callable[..., torch.Tensor],
) -> TrainingTask:
    """The planned training of a model on some rows: the Study's own, and those of its shadows.

    Args:
        module: The model, frozen as planned.
        inputs: Features, labels, and whatever the loss takes beside.
        parameters: The plan's parameters; all that shape the mechanism or the descent are read.
        units: The rows of each unit.
        loss: The loss of each row.

    Returns:
        The task, for the planned number of units, without progress or checkpoints.
    """
    return TrainingTask(
        module=module,
        inputs=inputs,
        loss=loss,
        expected_units=whole(parameters, "trainUnits"),
        mechanism=planned_mechanism(parameters),
        learning_rate=number(parameters, "learningRate"),
        optimizer=_optimizer(parameters),
        momentum=number(parameters, "momentum"),
        units=units,
        gradients=GradientMode(str(parameters["gradients"])),
        descent=_descent(parameters),
        augmentation=_augmentation(parameters),
        bias_aware=number(parameters, "biasAware"),
        precision=Precision(str(parameters["precision"])),
        defenses=comparison.from_plan(parameters),
        rows_at_once=whole(parameters, "rowsAtOnce") if "rowsAtOnce" in parameters else None,
    )


def planned_algorithm(parameters: Mapping[str, JSON]) -> TrainingAlgorithm:
    """The planned training algorithm."""
    algorithm: TrainingAlgorithm = extensions.load(
        "primum.training_algorithms", str(parameters["algorithm"])
    )()
    return algorithm


def freeze(module: nn.Module, parameters: Mapping[str, JSON]) -> None:
    """Leave only the last layer with parameters to train, where the plan says so."""
    if str(parameters["trainable"]) == "Head":
        module.requires_grad_(requires_grad=False)
        last_layer(module).requires_grad_(requires_grad=True)


def checkpoint_place(request: WorkRequest) -> Path | None:
    """Where the training's state is kept: beside the artifacts, if those are on a local disk."""
    folder = local_folder(request.artifacts_uri)
    return None if folder is None else folder / "checkpoints" / "training.pt"


def _checkpoints(
    place: Path | None,
    training: Continuation,
    sealed: canaries.SealedCoins | None,
    *,
    steps: int,
) -> Checkpoints | None:
    if place is None:
        return None
    extra = {} if sealed is None else {_COINS: canaries.sealed_bytes(sealed)}
    return Checkpoints(place, training, max(_CHECKPOINT_LEAST, steps // _CHECKPOINTS), extra)


def planned_mechanism(parameters: Mapping[str, JSON]) -> MechanismParameters:
    """The mechanism that the plan charges."""
    return MechanismParameters(
        noise_multiplier=number(parameters, "noiseMultiplier"),
        sample_rate=number(parameters, "sampleRate"),
        steps=whole(parameters, "steps"),
        max_grad_norm=number(parameters, "maxGradNorm"),
        individual=_individual(parameters),
        clipping=ClippingRule(str(parameters["clipping"])),
    )


def _optimizer(parameters: Mapping[str, JSON]) -> str:
    return str(parameters["optimizer"]).removeprefix("NoiseCorrected")


def _descent(parameters: Mapping[str, JSON]) -> Descent:
    return Descent(
        schedule=ScheduleShape(str(parameters["schedule"])),
        warm_up=number(parameters, "warmUp"),
        averaging=number(parameters, "averaging"),
        weight_decay=number(parameters, "weightDecay"),
        noise_correction=str(parameters["optimizer"]).startswith("NoiseCorrected"),
        samples=whole(parameters, "ensemble") if "ensemble" in parameters else 0,
        temperature=number(records.mapping(parameters["langevin"]), "temperature")
        if "langevin" in parameters
        else 0.0,
    )


def _augmentation(parameters: Mapping[str, JSON]) -> Augmentation | None:
    if "augmentation" not in parameters:
        return None
    given = records.mapping(parameters["augmentation"])
    return Augmentation(
        multiplicity=whole(given, "multiplicity"),
        shift=whole(given, "shift"),
        flip=given["flip"] == "Horizontal",
    )


def _individual(parameters: Mapping[str, JSON]) -> IndividualFilter | None:
    if "individualFilter" not in parameters:
        return None
    rule = records.mapping(parameters["individualFilter"])
    orders = tuple(int(order) for order in records.texts(rule["orders"]))
    return IndividualFilter(bound_steps=whole(rule, "boundSteps"), orders=orders)


def _told(progress: Progress) -> Callable[[int, int], None]:
    """Tells progress in twentieths: a file per step would cost more than the step."""

    def on_step(done: int, total: int) -> None:
        if done == total or done % max(1, total // _PROGRESS_PARTS) == 0:
            progress.update(done, total, "training steps")

    return on_step


def mean_loss(
    module: nn.Module,
    table: UnitTable,
    spec: ModelSpec,
    *,
    parameters: Mapping[str, JSON],
    group: Group | None = None,
) -> float:
    """The mean loss on the training split: a figure of private data."""
    features, labels = tensors(table, spec)
    loss, total = planned_loss(parameters, table.task), 0.0
    module.eval()
    device = next(module.parameters()).device
    with torch.inference_mode():
        for rows in torch.arange(len(labels)).split(_LOOK_ROWS):
            part = features[rows].to(device), labels[rows].to(device)
            total += float(loss(module, *part).double().sum())
    return whole_mean(group or Alone(), total=total, count=len(labels))
