"""Train, heavy half: opens the data by its token, trains, stores, and says what really ran.

Everything that shapes the mechanism was decided by the plan. Nothing measured leaves but the noisy
weights: loss, share of clipped gradients and canary scores are Restricted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from primum import extensions
from primum.domain.accounting.events import (
    Composed,
    Event,
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.canonical import JSON, canonical_json, decimal_text, digest_of_bytes
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.study.plan import Access, Treatment
from primum.domain.study.steps import (
    ArtifactRef,
    Receipt,
    StepStatus,
    WorkRequest,
    WorkResult,
)
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import OtherInput, open_others, open_private, token_claims
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.datasets.units import unit_rows
from primum_pipelines.models import artifact as model_file
from primum_pipelines.models import ensemble
from primum_pipelines.models.artifact import ModelSpec, scale
from primum_pipelines.models.registry import build
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingAlgorithm,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.augmentation import Augmentation
from primum_pipelines.optimization.checkpoints import Checkpoints, standing
from primum_pipelines.optimization.settings import (
    ClippingRule,
    Descent,
    GradientMode,
    ScheduleShape,
)
from primum_pipelines.progress import Progress, local_folder
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.datasets.table import UnitTable

_INITIAL_SEED = 0  # Of the initial weights, which are public; sampling and noise never use it.
_PRE_LEARNING_RATE = 0.005
_PRE_BATCH_ROWS = 128
_PROGRESS_PARTS = 20
_CHECKPOINTS = 20  # A lost worker costs at most a twentieth of the steps.
_CHECKPOINT_LEAST = 10  # Steps; a short training is not slowed down by its checkpoints.
_COINS = "coins"


@dataclass(frozen=True, slots=True)
class _Trained:
    """A training's report, and the sealed coins of its canaries if it had any."""

    report: TrainingReport
    sealed: canaries.SealedCoins | None


def train(request: WorkRequest) -> WorkResult:
    """Train the planned model under the planned mechanism.

    Args:
        request: The step's request; its data token opens the one private dataset.

    Returns:
        Model and canaries as artifacts, a receipt of the executed events, and Training evidence.

    Raises:
        Refused: If the data token does not cover the access.
        InvalidValue: If the data is unsound or the model cannot take it.
    """
    seconds = records.stopwatch()
    plan = records.plan_of(request)
    others = open_others(request)
    charged = [a for a in plan.accesses if a.step == "job" and a.treatment is Treatment.CHARGED]
    if not charged:
        return _train_released(request, plan.parameters, others, seconds())
    access = charged[0]
    table = open_private(request, access.name)
    require_sound(table)
    spec = _spec(request, plan.parameters, table)
    module = _fresh(spec)
    _require_classes(table, module, spec)
    for other in others:
        _fit_ordinary(module, other.table, spec, epochs=_whole(plan.parameters, "epochs"))
    trained = _fit_privately(request, plan.parameters, module, table, spec)
    if trained.report.stopped:
        executed = sum(count for _, _, count in trained.report.executed)
        return records.report(
            message=f"training stopped after {executed} steps: {trained.report.stopped}",
            seconds=seconds(),
            # Without a step there is nothing to state; without a receipt all is charged.
            receipts=[_receipt(request, access, trained.report)] if executed else [],
            status=StepStatus.FAILED,
            reason=Reason.STEP_FAILED,
        )
    stored = [
        artifacts.store(
            request.artifacts_uri,
            model_file.FILE_NAME,
            model_file.to_bytes(module, spec),
            kind="Model",
        )
    ]
    stored += _store_canaries(request, trained)
    stored += _store_ensemble(request, trained, module, spec)
    evidence = _evidence(
        request, trained, stored[0].digest, loss=_mean_loss(module, table, spec), access=access
    )
    steps = sum(count for _, _, count in trained.report.executed)
    return records.report(
        message=f"trained {steps} of {plan.mechanism['steps']} steps",
        seconds=seconds(),
        evidence=[evidence],
        receipts=[_receipt(request, access, trained.report)],
        artifacts=stored,
    )


def _store_ensemble(
    request: WorkRequest, trained: _Trained, module: nn.Module, spec: ModelSpec
) -> list[ArtifactRef]:
    """The kept iterates without what canaries brought; the charge of the run covers them."""
    kept = trained.report.iterates
    if len(kept) < 2:  # noqa: PLR2004 - one is a model
        return []
    prefix = "" if trained.sealed is None else canaries.MODEL_PREFIX
    states = [{name: state[f"{prefix}{name}"] for name in module.state_dict()} for state in kept]
    data, kind = ensemble.to_bytes(states, spec), ensemble.ARTIFACT_KIND
    return [artifacts.store(request.artifacts_uri, ensemble.FILE_NAME, data, kind=kind)]


def _train_released(
    request: WorkRequest,
    parameters: Mapping[str, JSON],
    others: Sequence[OtherInput],
    before_seconds: float,
) -> WorkResult:
    """Ordinary training on public and released data: no token and no receipt."""
    seconds = records.stopwatch()
    tables = [other.table for other in others]
    spec = _spec(request, parameters, tables[0])
    module = _fresh(spec)
    epochs = _whole(parameters, "epochs")
    for table in tables:
        _fit_ordinary(module, table, spec, epochs=epochs)
    data = model_file.to_bytes(module, spec)
    stored = artifacts.store(request.artifacts_uri, model_file.FILE_NAME, data, kind="Model")
    evidence = records.record(
        request,
        EvidenceKind.TRAINING,
        name="PostProcessing",
        subject=stored.digest,
        verdict=None,
        public={"model": spec.model, "epochs": epochs, "mechanism": "none: no private data"},
        restricted={},
    )
    return records.report(
        message=f"trained {epochs} epochs on public and released data",
        seconds=before_seconds + seconds(),
        evidence=[evidence],
        artifacts=[stored],
    )


def _spec(request: WorkRequest, parameters: Mapping[str, JSON], table: UnitTable) -> ModelSpec:
    def bounds(values: np.ndarray | None) -> tuple[str, ...]:
        return () if values is None else tuple(decimal_text(float(value)) for value in values)

    return ModelSpec(
        model=str(parameters["model"]),
        parameters=records.mapping(parameters["modelParameters"]),
        input_shape=tuple(table.features.shape[1:]),
        classes=table.classes,
        positive=str(parameters.get("positive", table.classes[-1])),
        feature_names=table.feature_names,
        feature_low=bounds(table.feature_low),
        feature_high=bounds(table.feature_high),
        study=records.study_name(request),
    )


def _fresh(spec: ModelSpec) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_INITIAL_SEED)
        return build(
            spec.model, spec.parameters, input_shape=spec.input_shape, classes=len(spec.classes)
        )


def _require_classes(table: UnitTable, module: nn.Module, spec: ModelSpec) -> None:
    """Refuse labels that are not one class per row, and a model that does not give one."""
    if table.task is not LabelTask.MULTI_CLASS:
        raise InvalidValue(
            "dataset labels", "must be one class per row for Train", table.task.value
        )
    with torch.inference_mode():
        given = tuple(module(torch.zeros((1, *spec.input_shape))).shape[1:])
    if given != (len(spec.classes),):
        raise InvalidValue(
            f"{spec.model}",
            "must give one value per class",
            f"outputs of shape {given}",
            "UNet gives a class for every pixel; Train has no use for that yet.",
        )


def _tensors(table: UnitTable, spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The training split, scaled by public bounds."""
    features = torch.from_numpy(scale(table.features[table.train], spec))
    return features, torch.from_numpy(table.labels[table.train])


def _fit_ordinary(module: nn.Module, table: UnitTable, spec: ModelSpec, *, epochs: int) -> None:
    """Plain Adam on released data; what it costs was paid by the Release."""
    features, labels = _tensors(table, spec)
    optimizer = torch.optim.Adam(module.parameters(), lr=_PRE_LEARNING_RATE)
    generator = torch.Generator().manual_seed(_INITIAL_SEED)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(_PRE_BATCH_ROWS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(features[rows]), labels[rows])
            loss.backward()
            optimizer.step()


def _fit_privately(
    request: WorkRequest,
    parameters: Mapping[str, JSON],
    module: nn.Module,
    table: UnitTable,
    spec: ModelSpec,
) -> _Trained:
    features, labels = _tensors(table, spec)
    units = unit_rows(table.units[table.train])
    count = _whole(parameters, "canaries")
    place, key = _checkpoint(request)
    kept = None if place is None else standing(place, key=key)
    sealed = canaries.seal(count) if count else None
    if kept is not None and sealed is not None:
        sealed = canaries.unsealed(kept.extra[_COINS])  # Those that the lost worker had planted.
    trained: nn.Module = canaries.WithCanaries(module, count=count) if count else module
    inputs: tuple[torch.Tensor, ...] = (features, labels)
    if sealed is not None:
        inputs = canaries.add_rows(features, labels, sealed)
        units = units.with_singles(sum(sealed.coins))
    _freeze(module, str(parameters["trainable"]))
    names = [name for name, _ in trained.named_parameters()]
    task = TrainingTask(
        module=trained,
        inputs=inputs,
        loss=canaries.loss_with_canaries if sealed is not None else _loss,
        expected_units=_whole(parameters, "trainUnits"),
        mechanism=_mechanism(parameters),
        learning_rate=_number(parameters, "learningRate"),
        optimizer=_optimizer(parameters),
        momentum=_number(parameters, "momentum"),
        on_step=_told(Progress(request)),
        units=units,
        gradients=GradientMode(str(parameters["gradients"])),
        descent=_descent(parameters),
        augmentation=_augmentation(parameters),
        bias_aware=_number(parameters, "biasAware"),
        reported_sums=frozenset(n for n in names if n.endswith(canaries.HEAD_PARAMETER)),
        checkpoints=_checkpoints(place, key, sealed, steps=_whole(parameters, "steps")),
    )
    algorithm: TrainingAlgorithm = extensions.load(
        "primum.training_algorithms", str(parameters["algorithm"])
    )()
    try:
        trained_report = algorithm.fit(task)
    finally:
        module.requires_grad_(requires_grad=True)
    if task.checkpoints is not None:
        task.checkpoints.remove()
    return _Trained(report=trained_report, sealed=sealed)


def _checkpoint(request: WorkRequest) -> tuple[Path | None, str]:
    """Where the training's state is kept, beside the artifacts on a local disk; and its name."""
    folder = local_folder(request.artifacts_uri)
    path = None if folder is None else folder / "checkpoints" / "training.pt"
    # A token is given once for a charged access, so it names this training and no other.
    return path, digest_of_bytes(canonical_json({"tokens": sorted(request.tokens.values())}))


def _checkpoints(
    place: Path | None, key: str, sealed: canaries.SealedCoins | None, *, steps: int
) -> Checkpoints | None:
    if place is None:
        return None
    extra = {} if sealed is None else {_COINS: canaries.sealed_bytes(sealed)}
    return Checkpoints(place, key, max(_CHECKPOINT_LEAST, steps // _CHECKPOINTS), extra)


def _freeze(module: nn.Module, trainable: str) -> None:
    """Leave only the last layer with parameters to train, where that is asked for."""
    if trainable == "Head":
        owners = [m for m in module.modules() if list(m.parameters(recurse=False))]
        module.requires_grad_(requires_grad=False)
        owners[-1].requires_grad_(requires_grad=True)


def _mechanism(parameters: Mapping[str, JSON]) -> MechanismParameters:
    return MechanismParameters(
        noise_multiplier=_number(parameters, "noiseMultiplier"),
        sample_rate=_number(parameters, "sampleRate"),
        steps=_whole(parameters, "steps"),
        max_grad_norm=_number(parameters, "maxGradNorm"),
        individual=_individual(parameters),
        clipping=ClippingRule(str(parameters["clipping"])),
    )


def _optimizer(parameters: Mapping[str, JSON]) -> str:
    return str(parameters["optimizer"]).removeprefix("NoiseCorrected")


def _descent(parameters: Mapping[str, JSON]) -> Descent:
    return Descent(
        schedule=ScheduleShape(str(parameters["schedule"])),
        warm_up=_number(parameters, "warmUp"),
        averaging=_number(parameters, "averaging"),
        weight_decay=_number(parameters, "weightDecay"),
        noise_correction=str(parameters["optimizer"]).startswith("NoiseCorrected"),
        samples=_whole(parameters, "ensemble") if "ensemble" in parameters else 0,
    )


def _augmentation(parameters: Mapping[str, JSON]) -> Augmentation | None:
    if "augmentation" not in parameters:
        return None
    given = records.mapping(parameters["augmentation"])
    return Augmentation(
        multiplicity=_whole(given, "multiplicity"),
        shift=_whole(given, "shift"),
        flip=given["flip"] == "Horizontal",
    )


def _individual(parameters: Mapping[str, JSON]) -> IndividualFilter | None:
    if "individualFilter" not in parameters:
        return None
    rule = records.mapping(parameters["individualFilter"])
    orders = tuple(int(order) for order in records.texts(rule["orders"]))
    return IndividualFilter(bound_steps=_whole(rule, "boundSteps"), orders=orders)


def _told(progress: Progress) -> Callable[[int, int], None]:
    """Tells progress in twentieths: a file per step would cost more than the step."""

    def on_step(done: int, total: int) -> None:
        if done == total or done % max(1, total // _PROGRESS_PARTS) == 0:
            progress.update(done, total, "training steps")

    return on_step


def _loss(module: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(module(features), labels, reduction="none")


def _mean_loss(module: nn.Module, table: UnitTable, spec: ModelSpec) -> float:
    features, labels = _tensors(table, spec)
    with torch.inference_mode():
        return float(nn.functional.cross_entropy(module(features), labels))


def executed_event(report: TrainingReport, parameters: Mapping[str, JSON]) -> Event:
    """The events that an algorithm says it ran.

    Guarantees:
        A figure equal to the planned one is stated as planned; any other is stated exactly as
        executed, digit by digit. Filters are stated where the algorithm says that it enforced them,
        with one noise multiplier and rate throughout, and more steps ran than the bound has;
        otherwise every step counts for every unit.

    Args:
        report: The algorithm's report.
        parameters: The plan's parameters.
    """
    events = []
    for noise, rate, count in report.executed:
        step = SubsampledGaussian(
            _exact(noise, planned=str(parameters["noiseMultiplier"])),
            _exact(rate, planned=str(parameters["sampleRate"])),
        )
        events.append(Repeated(step, count))
    rule = report.individual
    if rule is not None and len(events) == 1 and events[0].count > rule.bound_steps:
        return IndividuallyFiltered(Repeated(events[0].event, rule.bound_steps), rule.orders)
    return events[0] if len(events) == 1 else Composed(tuple(events))


def _exact(value: float, *, planned: str) -> Decimal:
    return Decimal(planned) if value == float(planned) else Decimal(repr(float(value)))


def _receipt(request: WorkRequest, access: Access, report: TrainingReport) -> Receipt:
    parameters = records.plan_of(request).parameters
    claims = token_claims(request, access.name)
    return Receipt(
        access=access.name,
        budget=access.budget,
        event=executed_event(report, parameters),
        facts={
            "noiseMultiplier": ", ".join(_plain(noise) for noise, _, _ in report.executed),
            "sampleRate": ", ".join(_plain(rate) for _, rate, _ in report.executed),
            "steps": sum(count for _, _, count in report.executed),
            "maxGradNorm": _plain(report.max_grad_norm),
            "clippedPer": records.plan_of(request).unit.value,
            "clipping": report.clipping.value,
            "gradients": report.gradients,
            "sampling": report.sampling,
            "generator": report.generator,
        },
        token_id=str(claims["id"]),
    )


def _plain(value: float) -> str:
    return decimal_text(Decimal(repr(float(value))))


def _store_canaries(request: WorkRequest, trained: _Trained) -> list[ArtifactRef]:
    if trained.sealed is None:
        return []
    found = canaries.scores(trained.report.update_sums, max_grad_norm=trained.report.max_grad_norm)
    data = canaries.to_bytes(trained.sealed, found)
    kind = canaries.ARTIFACT_KIND
    return [artifacts.store(request.artifacts_uri, canaries.FILE_NAME, data, kind=kind)]


def _evidence(
    request: WorkRequest, trained: _Trained, subject: str, *, loss: float, access: Access
) -> Evidence:
    plan, report = records.plan_of(request), trained.report
    public: dict[str, JSON] = {
        "algorithm": plan.mechanism["algorithm"],
        "reviewed": plan.mechanism["reviewed"],
        "planned": access.event.to_json(),
        "executed": executed_event(report, plan.parameters).to_json(),
        "maxGradNorm": _plain(report.max_grad_norm),
        "clipping": report.clipping.value,
        "gradients": report.gradients,
        "sampling": report.sampling,
        "generator": report.generator,
        "canaries": plan.mechanism["canaries"],
    }
    if trained.sealed is not None:
        public["canaryCommitment"] = trained.sealed.commitment
    return records.record(
        request,
        EvidenceKind.TRAINING,
        name=str(plan.mechanism["algorithm"]),
        subject=subject,
        verdict=None,
        public=public,
        restricted={
            "trainLoss": decimal_text(loss),
            **{name: str(value) for name, value in report.diagnostics.items()},
        },
    )


def _whole(parameters: Mapping[str, JSON], name: str) -> int:
    return int(str(parameters[name]))


def _number(parameters: Mapping[str, JSON], name: str) -> float:
    return float(str(parameters[name]))
