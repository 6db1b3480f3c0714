"""What a Study asks of Train: its parameters, read and checked. Light.

Must not open data or decide what anything costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from primum import extensions
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.study.spec import StudySpec
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.kinds.train import answering, comparison, early_stopping
from primum_pipelines.kinds.train import search as searching
from primum_pipelines.kinds.train.answering import Answering
from primum_pipelines.kinds.train.early_stopping import EarlyStopping
from primum_pipelines.kinds.train.search import Search
from primum_pipelines.models.registry import model_named
from primum_pipelines.optimization.settings import (
    ClippingRule,
    Defenses,
    GradientMode,
    LossName,
    Precision,
    ScheduleShape,
)

ALGORITHM_GROUP = "primum.training_algorithms"
ALGORITHM_DEFAULT = "DPSGD"
LEARNING_RATE_DEFAULT = {"SGD": "1", "Adam": "0.005", "NoiseCorrectedAdam": "0.005"}
SECTION = "spec.job.train"
TRAINABLE = ("All", "Head")
_NAMES = (
    "model",
    "modelParameters",
    "epochs",
    "batchSize",
    "maxGradNorm",
    "learningRate",
    "momentum",
    "optimizer",
    "algorithm",
    "noiseMultiplier",
    "individualFilter",
    "clipping",
    "gradients",
    "schedule",
    "warmUp",
    "averaging",
    "weightDecay",
    "augmentation",
    "biasAware",
    "loss",
    "trainable",
    "ensemble",
    "langevin",
    "precision",
    "rowsAtOnce",
    early_stopping.FIELD,
    comparison.MECHANISM_FIELD,
    comparison.FIELD,
    searching.FIELD,
    answering.FIELD,
)
_EPOCHS_MAX = 10_000
_BATCH_MAX = 1_000_000
_VIEWS_MAX = 64
_ENSEMBLE_MAX = 64
_SHIFT_MAX = 16


@dataclass(frozen=True, slots=True)
class Augmenting:
    """Views of each row whose gradients are averaged before clipping."""

    multiplicity: int
    shift: int
    flip: bool

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a plan."""
        return {
            "multiplicity": self.multiplicity,
            "shift": self.shift,
            "flip": "Horizontal" if self.flip else "None",
        }


@dataclass(frozen=True, slots=True)
class Request:
    """A Train job's parameters, read and checked."""

    model: str
    model_parameters: Mapping[str, JSON]
    epochs: int
    batch_size: int
    max_grad_norm: Decimal
    learning_rate: Decimal
    momentum: Decimal
    optimizer: str
    algorithm: str
    noise_multiplier: Decimal | None
    filtered_epochs: int | None
    clipping: ClippingRule
    gradients: GradientMode
    schedule: ScheduleShape
    warm_up: Decimal
    averaging: Decimal
    weight_decay: Decimal
    augmenting: Augmenting | None
    bias_aware: Decimal
    loss: LossName
    trainable: str
    ensemble: int
    temperature: Decimal
    precision: Precision
    rows_at_once: int
    stopping: EarlyStopping | None
    defenses: Defenses | None
    search: Search | None
    answering: Answering

    def recipe(self) -> dict[str, JSON]:
        """What the training needs beside the mechanism; none of it costs privacy."""
        found: dict[str, JSON] = {
            "modelParameters": dict(self.model_parameters),
            "learningRate": decimal_text(self.learning_rate),
            "momentum": decimal_text(self.momentum),
            "optimizer": self.optimizer,
            "gradients": self.gradients.value,
            "schedule": self.schedule.value,
            "warmUp": decimal_text(self.warm_up),
            "averaging": decimal_text(self.averaging),
            "weightDecay": decimal_text(self.weight_decay),
            "biasAware": decimal_text(self.bias_aware),
            "loss": self.loss.value,
            "trainable": self.trainable,
            "precision": self.precision.value,
        }
        if self.augmenting is not None:
            found["augmentation"] = self.augmenting.to_json()
        if self.ensemble:
            found["ensemble"] = self.ensemble
        if self.temperature:
            found["langevin"] = {"temperature": decimal_text(self.temperature)}
        if self.answering != Answering():
            found[answering.FIELD] = self.answering.to_json()
        if self.rows_at_once:
            found["rowsAtOnce"] = self.rows_at_once
        return found


def read(study: StudySpec) -> Request:
    """The parameters of a Study's Train job.

    Raises:
        InvalidValue: If one is unknown or breaks its rule.
    """
    parameters = Parameters(SECTION, study.job)
    parameters.require_known(_NAMES)
    model = str(study.job.get("model", ""))
    given = study.job.get("modelParameters", {})
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{SECTION}.modelParameters", "must be an object", type(given).__name__)
    optimizer = parameters.choice("optimizer", tuple(LEARNING_RATE_DEFAULT), default="SGD")
    return Request(
        model=model,
        model_parameters=model_named(model).check(given),
        epochs=parameters.whole("epochs", low=1, high=_EPOCHS_MAX),
        batch_size=parameters.whole("batchSize", low=1, high=_BATCH_MAX),
        max_grad_norm=parameters.positive("maxGradNorm"),
        learning_rate=parameters.positive("learningRate", default=LEARNING_RATE_DEFAULT[optimizer]),
        momentum=_share(study.job, "momentum"),
        optimizer=optimizer,
        algorithm=comparison.algorithm_for(
            study,
            asked=parameters.choice(
                "algorithm", extensions.names(ALGORITHM_GROUP), default=ALGORITHM_DEFAULT
            ),
            default=ALGORITHM_DEFAULT,
        ),
        noise_multiplier=(
            parameters.positive("noiseMultiplier") if "noiseMultiplier" in study.job else None
        ),
        filtered_epochs=_filtered_epochs(study.job),
        clipping=ClippingRule(parameters.choice("clipping", tuple(ClippingRule), default="Flat")),
        gradients=GradientMode(parameters.choice("gradients", tuple(GradientMode), default="Auto")),
        schedule=ScheduleShape(
            parameters.choice("schedule", tuple(ScheduleShape), default="Constant")
        ),
        warm_up=_share(study.job, "warmUp"),
        averaging=_share(study.job, "averaging"),
        weight_decay=_share(study.job, "weightDecay"),
        augmenting=_augmenting(study.job),
        bias_aware=_share(study.job, "biasAware"),
        loss=LossName(parameters.choice("loss", tuple(LossName), default="CrossEntropy")),
        trainable=parameters.choice("trainable", TRAINABLE, default="All"),
        ensemble=(
            parameters.whole("ensemble", low=2, high=_ENSEMBLE_MAX)
            if "ensemble" in study.job
            else 0
        ),
        temperature=_temperature(study.job),
        precision=Precision(parameters.choice("precision", tuple(Precision), default="Float32")),
        rows_at_once=(
            parameters.whole("rowsAtOnce", low=1, high=_BATCH_MAX)
            if "rowsAtOnce" in study.job
            else 0
        ),
        stopping=early_stopping.read(study),
        defenses=comparison.read(study),
        search=searching.read(study),
        answering=answering.read(study.job),
    )


def _temperature(job: Mapping[str, JSON]) -> Decimal:
    if "langevin" not in job:
        return Decimal(0)
    parameters = _part(job, "langevin")
    parameters.require_known(("temperature",))
    return parameters.positive("temperature", default="1")


def _filtered_epochs(job: Mapping[str, JSON]) -> int | None:
    if "individualFilter" not in job:
        return None
    parameters = _part(job, "individualFilter")
    parameters.require_known(("epochs",))
    planned = job.get("epochs")
    least = planned + 1 if isinstance(planned, int) else 1
    return parameters.whole("epochs", low=least, high=_EPOCHS_MAX)


def _augmenting(job: Mapping[str, JSON]) -> Augmenting | None:
    if "augmentation" not in job:
        return None
    parameters = _part(job, "augmentation")
    parameters.require_known(("multiplicity", "shift", "flip"))
    return Augmenting(
        multiplicity=parameters.whole("multiplicity", low=1, high=_VIEWS_MAX),
        shift=parameters.whole("shift", default=0, low=0, high=_SHIFT_MAX),
        flip=parameters.choice("flip", ("None", "Horizontal"), default="None") == "Horizontal",
    )


def _part(job: Mapping[str, JSON], name: str) -> Parameters:
    section, given = f"{SECTION}.{name}", job[name]
    if not isinstance(given, Mapping):
        raise InvalidValue(section, "must be an object", type(given).__name__)
    return Parameters(section, given)


def _share(job: Mapping[str, JSON], name: str) -> Decimal:
    """A number from 0 to below 1, 0 where it is absent."""
    value = job.get(name, "0")
    number = parse_decimal(f"{SECTION}.{name}", value)
    if not 0 <= number < 1:
        raise InvalidValue(f"{SECTION}.{name}", "must be at least 0 and below 1", str(value))
    return number
