"""Train, light half: declares one Poisson-subsampled Gaussian mechanism and calibrates its noise.

Everything a plan needs is public: the declared number of units, the batch size, the number of
epochs. Must not import anything heavy, open data, or default a privacy decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from primum import extensions
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier, most_steps
from primum.domain.accounting.events import (
    Event,
    Repeated,
    SubsampledGaussian,
    decimal_text,
)
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, PrivacyUnit, parse_decimal
from primum.domain.study.jobs import Alternative, PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.driver import describe
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.models.registry import model_named

ALGORITHM_GROUP = "primum.training_algorithms"
ALGORITHM_DEFAULT = "DPSGD"
LEARNING_RATE_DEFAULT = {"SGD": "1", "Adam": "0.005"}
_SECTION = "spec.job.train"
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
)
_EPOCHS_MAX = 10_000
_BATCH_MAX = 1_000_000
_RATE_PLACES = Decimal(
    "1E-6"
)  # Rates are multiples of 1e-6, rounded up: executed is what was planned.
_WHY_TRAIN = "Noisy sums of clipped per-unit gradients decide the weights."


@dataclass(frozen=True, slots=True)
class _Request:
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


@dataclass(frozen=True, slots=True)
class _Schedule:
    """How often units are looked at: all of it public."""

    sample_rate: Decimal
    steps: int

    def event(self, noise_multiplier: Decimal) -> Event:
        """What the whole training does to the units."""
        return Repeated(SubsampledGaussian(noise_multiplier, self.sample_rate), self.steps)


class TrainKind:
    """Train one classifier with DP-SGD (Abadi et al. 2016) on one private dataset.

    A synthetic input beside the private one pre-trains the model; a synthetic input alone is
    trained on without noise, which is post-processing of the Release it came from. Either way the
    void edges of that Release are inherited.
    """

    name = "Train"
    steps: Sequence[str] = ("validate", "job", "evaluate", "audit")

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every access and calibrate the noise.

        Raises:
            InvalidValue: If a parameter breaks its rule, delta is not below one over the units, or
                the batch is larger than the training split.
            Refused: If no privacy is asked for; the message starts with ``NoMechanism``.
        """
        wanted = _read(study)
        if _synthetic_only(study):
            return _post_processing(study, context, wanted)
        claim = declaring.requested_claim(study)
        facts = _one_dataset(study, context)
        declaring.require_delta_below_units(claim, facts)
        if claim.delta > facts.delta:
            raise InvalidValue(
                "spec.privacy.delta",
                f"must be at most {facts.delta}, the delta of budget {facts.budget}",
                str(claim.delta),
            )
        schedule = _schedule(wanted, facts)
        noise = wanted.noise_multiplier or least_noise_multiplier(
            accountant=context.accountant,
            event_at=schedule.event,
            target=Guarantee(claim.epsilon, claim.delta),
            neighbors=facts.neighbors,
        )
        plan = _plan(study, context, wanted, facts, noise_multiplier=noise)
        declaring.require_within_claim(plan, claim)
        return plan

    def with_noise(
        self, study: StudySpec, context: PlanningContext, noise_multiplier: Decimal
    ) -> Plan:
        """The same Study under a given noise multiplier."""
        wanted, facts = _read(study), _one_dataset(study, context)
        return _plan(study, context, wanted, facts, noise_multiplier=noise_multiplier)

    def alternatives(
        self, study: StudySpec, context: PlanningContext, epsilon_left: Decimal
    ) -> Sequence[Alternative]:
        """More noise, or fewer epochs under the planned noise, that cost at most what is left."""
        if _synthetic_only(study) or epsilon_left <= 0:
            return ()
        wanted, claim = _read(study), declaring.requested_claim(study)
        facts = _one_dataset(study, context)
        schedule = _schedule(wanted, facts)
        target = Guarantee(epsilon_left, claim.delta)
        found = []
        accountant, neighbors = context.accountant, facts.neighbors
        try:
            noise = least_noise_multiplier(
                accountant=accountant, event_at=schedule.event, target=target, neighbors=neighbors
            )
        except InvalidValue:
            noise = None  # No amount of noise reaches so little: that is an answer, not a fault.
        if noise is not None:
            epsilon = accountant.epsilon(schedule.event(noise), claim.delta, neighbors)
            found.append(Alternative("noise multiplier", decimal_text(noise), epsilon))
        planned = Decimal(str(self.declare(study, context).mechanism["noiseMultiplier"]))
        step = SubsampledGaussian(planned, schedule.sample_rate)
        steps = most_steps(
            accountant=accountant,
            event_at=lambda count: Repeated(step, count),
            target=target,
            neighbors=neighbors,
        )
        epochs = int((steps * schedule.sample_rate).to_integral_value(ROUND_FLOOR))
        if 1 <= epochs < wanted.epochs:
            fewer = Repeated(step, _steps(epochs, schedule.sample_rate))
            epsilon = accountant.epsilon(fewer, claim.delta, neighbors)
            found.append(Alternative("epochs", str(epochs), epsilon))
        return tuple(found)

    def entry(self, step: str) -> str:
        """The heavy function of a step."""
        if step == "job":
            return "primum_pipelines.kinds.train.step:train"
        return f"primum_pipelines.steps.{step}:run"

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        facts = plan.mechanism
        line = f"Train {facts['model']}, {facts['epochs']} epochs"
        if "noiseMultiplier" not in facts:
            return f"{line}, on released synthetic data alone, no charge"
        noise = Decimal(str(facts["noiseMultiplier"])).quantize(Decimal("0.01"), ROUND_CEILING)
        line += f", noise multiplier {noise} ({facts['accountant']})"
        return f"{line}, {facts['canaries']} canaries" if facts["canaries"] else line


def _read(study: StudySpec) -> _Request:
    parameters = Parameters(_SECTION, study.job)
    parameters.require_known(_NAMES)
    model = str(study.job.get("model", ""))
    given = study.job.get("modelParameters", {})
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{_SECTION}.modelParameters", "must be an object", type(given).__name__)
    optimizer = parameters.choice("optimizer", tuple(LEARNING_RATE_DEFAULT), default="SGD")
    return _Request(
        model=model,
        model_parameters=model_named(model).check(given),
        epochs=parameters.whole("epochs", low=1, high=_EPOCHS_MAX),
        batch_size=parameters.whole("batchSize", low=1, high=_BATCH_MAX),
        max_grad_norm=parameters.positive("maxGradNorm"),
        learning_rate=parameters.positive("learningRate", default=LEARNING_RATE_DEFAULT[optimizer]),
        momentum=_momentum(study.job.get("momentum", "0")),
        optimizer=optimizer,
        algorithm=parameters.choice(
            "algorithm", extensions.names(ALGORITHM_GROUP), default=ALGORITHM_DEFAULT
        ),
        noise_multiplier=(
            parameters.positive("noiseMultiplier") if "noiseMultiplier" in study.job else None
        ),
    )


def _momentum(value: JSON) -> Decimal:
    number = parse_decimal(f"{_SECTION}.momentum", value)
    if not 0 <= number < 1:
        raise InvalidValue(f"{_SECTION}.momentum", "must be at least 0 and below 1", str(value))
    return number


def _synthetic_only(study: StudySpec) -> bool:
    return bool(study.inputs) and all(item.role is DataRole.SYNTHETIC for item in study.inputs)


def _one_dataset(study: StudySpec, context: PlanningContext) -> DatasetFacts:
    for item in study.inputs:
        if item.role is DataRole.PUBLIC:
            raise InvalidValue(
                "spec.data",
                "must have no Public input for Train",
                item.uri,
                "Use a Synthetic input, or a model that was pre-trained on public data.",
            )
    datasets = declaring.private_datasets(study, context)
    if len(datasets) > 1:
        raise InvalidValue(
            "spec.data",
            "must have one private input for Train",
            ", ".join(facts.budget for facts in datasets),
            "Use Federate for several budgets.",
        )
    return datasets[0]


def _steps(epochs: int, sample_rate: Decimal) -> int:
    return int((epochs / sample_rate).to_integral_value(ROUND_CEILING))


def _schedule(wanted: _Request, facts: DatasetFacts) -> _Schedule:
    if wanted.batch_size > facts.train_units:
        raise InvalidValue(
            f"{_SECTION}.batchSize",
            f"must be at most {facts.train_units}, the training units of budget {facts.budget}",
            wanted.batch_size,
        )
    rate = (Decimal(wanted.batch_size) / facts.train_units).quantize(_RATE_PLACES, ROUND_CEILING)
    return _Schedule(sample_rate=rate, steps=_steps(wanted.epochs, rate))


def _plan(
    study: StudySpec,
    context: PlanningContext,
    wanted: _Request,
    facts: DatasetFacts,
    *,
    noise_multiplier: Decimal,
) -> Plan:
    schedule = _schedule(wanted, facts)
    event = schedule.event(noise_multiplier)
    delta = study.delta if study.delta is not None else facts.delta
    canaries = declaring.planned_canaries(study)
    mechanism: dict[str, JSON] = {
        "model": wanted.model,
        "algorithm": wanted.algorithm,
        "reviewed": _reviewed(wanted.algorithm),
        "epochs": wanted.epochs,
        "batchSize": wanted.batch_size,
        "noiseMultiplier": decimal_text(noise_multiplier),
        "sampleRate": decimal_text(schedule.sample_rate),
        "sampling": "Poisson",
        "steps": schedule.steps,
        "maxGradNorm": decimal_text(wanted.max_grad_norm),
        "accountant": context.accountant.name,
        "canaries": canaries,
    }
    audited = declaring.audits_on_data(study)
    unit, neighbors = declaring.shared_relation((facts,))
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=TrainKind.name,
        accesses=(
            declaring.charged("train", facts, event, why=_WHY_TRAIN),
            *declaring.standing_accesses(facts, audited=audited),
        ),
        epsilon=context.accountant.epsilon(event, delta, facts.neighbors),
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            **_recipe(wanted),
            "trainUnits": facts.train_units,
            "positive": describe(facts.dataset.uri, facts.dataset.options)["positive"],
        },
        steps=tuple(TrainKind.steps),
        max_certifiable=declaring.certifiable(canaries=canaries, delta=delta),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _recipe(wanted: _Request) -> dict[str, JSON]:
    return {
        "modelParameters": dict(wanted.model_parameters),
        "learningRate": decimal_text(wanted.learning_rate),
        "momentum": decimal_text(wanted.momentum),
        "optimizer": wanted.optimizer,
    }


def _post_processing(study: StudySpec, context: PlanningContext, wanted: _Request) -> Plan:
    """Training on released data alone: no access, and the Release's claim is inherited."""
    if study.audits:
        raise InvalidValue(
            "spec.audits",
            "must be absent where all data is synthetic",
            ", ".join(audit.attack for audit in study.audits),
            "Audit the Study that made the Release.",
        )
    mechanism: dict[str, JSON] = {
        "model": wanted.model,
        "epochs": wanted.epochs,
        "batchSize": wanted.batch_size,
        "accountant": context.accountant.name,
        "canaries": 0,
    }
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=TrainKind.name,
        accesses=(),
        epsilon=Decimal(0),  # Nothing is added to what the Release cost, whatever its unit is.
        delta=study.delta if study.delta is not None else Decimal(0),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        mechanism=mechanism,
        parameters={**mechanism, **_recipe(wanted)},
        steps=("validate", "job", "evaluate"),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _reviewed(algorithm: str) -> bool:
    return bool(extensions.load(ALGORITHM_GROUP, algorithm).reviewed)
