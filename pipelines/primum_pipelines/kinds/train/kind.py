"""Train, light half: declares one Poisson-subsampled Gaussian mechanism and calibrates its noise.

Everything a plan needs is public: the declared number of units, the batch size, the number of
epochs. Must not import anything heavy, open data, or default a privacy decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from primum import extensions
from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier
from primum.domain.accounting.events import (
    Event,
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
    decimal_text,
)
from primum.domain.accounting.individual import FILTER_ORDERS
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.access import PUBLIC_INPUTS
from primum_pipelines.datasets.driver import describe, examples_max
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.train.request import ALGORITHM_GROUP, SECTION, Request, read
from primum_pipelines.optimization.algorithm import filters_individually

_RATE_PLACES = Decimal(
    "1E-6"
)  # Rates are multiples of 1e-6, rounded up: executed is what was planned.
_WHY_TRAIN = "Noisy sums of clipped per-unit gradients decide the weights."
_WHY_FILTERED = (
    "Noisy sums of clipped per-unit gradients decide the weights; a unit that has used up its own "
    "loss takes no further part."
)


@dataclass(frozen=True, slots=True)
class _Schedule:
    """How often units are looked at: all of it public.

    Args:
        sample_rate: Probability that a unit is drawn for a step.
        steps: Steps that a unit may take part in whatever its gradients are.
        filtered_steps: With individual filters the steps that are run in all, more than ``steps``.
    """

    sample_rate: Decimal
    steps: int
    filtered_steps: int | None = None

    def event(self, noise_multiplier: Decimal) -> Event:
        """What the whole training does to the units."""
        step = SubsampledGaussian(noise_multiplier, self.sample_rate)
        bound = Repeated(step, self.steps)
        if self.filtered_steps is None:
            return bound
        return IndividuallyFiltered(bound, FILTER_ORDERS)

    @property
    def executed(self) -> int:
        """Steps that are run."""
        return self.steps if self.filtered_steps is None else self.filtered_steps


class TrainKind:
    """Train one classifier with DP-SGD (Abadi et al. 2016) on one private dataset.

    Synthetic and public inputs beside the private one pre-train the model; without a private one
    they are trained on without noise, which is post-processing of the Release they came from.
    Either way the void edges of that Release are inherited.
    """

    name = "Train"
    steps: Sequence[str] = ("validate", "job", "evaluate", "audit")
    levers: Mapping[str, str] = {"epochs": "{} epochs", "batchSize": "batch size {}"}

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every access and calibrate the noise.

        Raises:
            InvalidValue: If a parameter breaks its rule, delta is not below one over the units, or
                the batch is larger than the training split.
            Refused: If no privacy is asked for; the message starts with ``NoMechanism``.
        """
        wanted = read(study)
        if _without_private_data(study):
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
        wanted, facts = read(study), _one_dataset(study, context)
        return _plan(study, context, wanted, facts, noise_multiplier=noise_multiplier)

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
            return f"{line}, on public and released data alone, no charge"
        noise = Decimal(str(facts["noiseMultiplier"])).quantize(Decimal("0.01"), ROUND_CEILING)
        filtered = facts.get("individualFilter")
        if isinstance(filtered, Mapping):
            line += f" (individual filters, run for {filtered['epochs']})"
        line += f", noise multiplier {noise} ({facts['accountant']})"
        return f"{line}, {facts['canaries']} canaries" if facts["canaries"] else line


def _without_private_data(study: StudySpec) -> bool:
    return bool(study.inputs) and all(item.role is not DataRole.PRIVATE for item in study.inputs)


def _one_dataset(study: StudySpec, context: PlanningContext) -> DatasetFacts:
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


def _schedule(wanted: Request, facts: DatasetFacts) -> _Schedule:
    if wanted.batch_size > facts.train_units:
        raise InvalidValue(
            f"{SECTION}.batchSize",
            f"must be at most {facts.train_units}, the training units of budget {facts.budget}",
            wanted.batch_size,
        )
    rate = (Decimal(wanted.batch_size) / facts.train_units).quantize(_RATE_PLACES, ROUND_CEILING)
    if wanted.filtered_epochs is None:
        return _Schedule(sample_rate=rate, steps=_steps(wanted.epochs, rate))
    _require_filters(wanted, facts)
    return _Schedule(
        sample_rate=rate,
        steps=_steps(wanted.epochs, rate),
        filtered_steps=_steps(wanted.filtered_epochs, rate),
    )


def _require_filters(wanted: Request, facts: DatasetFacts) -> None:
    """Individual filters need an algorithm that has them, and neighbors that they speak of."""
    if not filters_individually(extensions.load(ALGORITHM_GROUP, wanted.algorithm)):
        raise InvalidValue(
            f"{SECTION}.individualFilter",
            "must be absent for an algorithm without individual filters",
            wanted.algorithm,
            "Use DPSGD, or leave it out.",
        )
    if facts.neighbors is not Neighbors.ADD_OR_REMOVE_ONE:
        raise InvalidValue(
            f"{SECTION}.individualFilter",
            "must be absent unless the budget's neighbors are AddOrRemoveOne",
            facts.neighbors.value,
            "A filter counts what a unit's presence costs, not what its replacement does.",
        )


def _plan(
    study: StudySpec,
    context: PlanningContext,
    wanted: Request,
    facts: DatasetFacts,
    *,
    noise_multiplier: Decimal,
) -> Plan:
    schedule = _schedule(wanted, facts)
    event = schedule.event(noise_multiplier)
    delta = study.delta if study.delta is not None else facts.delta
    canaries = declaring.planned_canaries(study)
    mechanism = _mechanism(
        context, wanted, facts, schedule, noise_multiplier=noise_multiplier, canaries=canaries
    )
    audited = declaring.audits_on_data(study)
    unit, neighbors = declaring.shared_relation((facts,))
    why = _WHY_TRAIN if wanted.filtered_epochs is None else _WHY_FILTERED
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=TrainKind.name,
        accesses=(
            declaring.charged("train", facts, event, why=why),
            *declaring.standing_accesses(facts, audited=audited),
        ),
        epsilon=context.accountant.epsilon(event, delta, facts.neighbors),
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            **wanted.recipe(),
            PUBLIC_INPUTS: declaring.public_inputs(study, context),
            "trainUnits": facts.train_units,
            "positive": describe(facts.dataset.uri, facts.dataset.options)["positive"],
        },
        steps=tuple(TrainKind.steps),
        max_certifiable=declaring.certifiable(canaries=canaries, delta=delta),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _mechanism(
    context: PlanningContext,
    wanted: Request,
    facts: DatasetFacts,
    schedule: _Schedule,
    *,
    noise_multiplier: Decimal,
    canaries: int,
) -> dict[str, JSON]:
    """What people are told about the mechanism, and what the job is told to run."""
    mechanism: dict[str, JSON] = {
        "model": wanted.model,
        "algorithm": wanted.algorithm,
        "reviewed": _reviewed(wanted.algorithm),
        "epochs": wanted.epochs,
        "batchSize": wanted.batch_size,
        "noiseMultiplier": decimal_text(noise_multiplier),
        "sampleRate": decimal_text(schedule.sample_rate),
        "sampling": "Poisson",
        "steps": schedule.executed,
        "maxGradNorm": decimal_text(wanted.max_grad_norm),
        "clipping": wanted.clipping.value,
        "unitExamplesMax": examples_max(facts.dataset.options) or 1,
        "accountant": context.accountant.name,
        "canaries": canaries,
    }
    if wanted.filtered_epochs is not None:
        mechanism["individualFilter"] = {
            "epochs": wanted.filtered_epochs,
            "boundSteps": schedule.steps,
            "orders": list(FILTER_ORDERS),
        }
    return mechanism


def _post_processing(study: StudySpec, context: PlanningContext, wanted: Request) -> Plan:
    """Training on released data alone: no access, and the Release's claim is inherited."""
    if study.audits:
        raise InvalidValue(
            "spec.audits",
            "must be absent where no data is private",
            ", ".join(audit.attack for audit in study.audits),
            "Audit the Study that made the Release.",
        )
    if wanted.ensemble:
        raise InvalidValue(
            f"{SECTION}.ensemble", "must be absent where no data is private", wanted.ensemble
        )
    if wanted.filtered_epochs is not None:
        raise InvalidValue(
            f"{SECTION}.individualFilter",
            "must be absent where no data is private",
            wanted.filtered_epochs,
            "Nothing is charged there; give more epochs.",
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
        parameters={
            **mechanism,
            **wanted.recipe(),
            PUBLIC_INPUTS: declaring.public_inputs(study, context),
        },
        steps=("validate", "job", "evaluate"),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _reviewed(algorithm: str) -> bool:
    return bool(extensions.load(ALGORITHM_GROUP, algorithm).reviewed)
