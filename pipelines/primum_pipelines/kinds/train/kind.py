"""Train, light half: declares one Poisson-subsampled Gaussian mechanism and calibrates its noise.

Everything a plan needs is public: the declared number of units, the batch size, the number of
epochs. Must not import anything heavy, open data, or default a privacy decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from primum import extensions
from primum.domain.accounting.events import (
    Composed,
    Event,
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
    decimal_text,
)
from primum.domain.accounting.individual import FILTER_ORDERS
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.access import PUBLIC_INPUTS
from primum_pipelines.datasets.driver import describe, examples_max
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.train import comparison, early_stopping, together
from primum_pipelines.kinds.train import search as searching
from primum_pipelines.kinds.train.answering import require_members
from primum_pipelines.kinds.train.early_stopping import EarlyStopping
from primum_pipelines.kinds.train.request import ALGORITHM_GROUP, SECTION, Request, read
from primum_pipelines.kinds.train.sampling import rate_of, steps_of
from primum_pipelines.kinds.train.search import Search
from primum_pipelines.kinds.train.tasks import planned_task
from primum_pipelines.optimization.langevin import reached_temperature
from primum_pipelines.optimization.settings import Descent
from primum_pipelines.steps import records

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
        looks: What early stopping does to held-out units, or ``None``.
        search: Of whose trials rate and steps are those of the most costly one, or ``None``.
    """

    sample_rate: Decimal
    steps: int
    filtered_steps: int | None = None
    looks: Event | None = None
    search: Search | None = None

    def training(self, noise_multiplier: Decimal) -> Event:
        """What one training does to the units."""
        return Repeated(SubsampledGaussian(noise_multiplier, self.sample_rate), self.steps)

    def event(self, noise_multiplier: Decimal) -> Event:
        """What the whole training, or all of a search, does to the units."""
        bound = self.training(noise_multiplier)
        if self.search is not None:
            return self.search.event(bound)
        if self.filtered_steps is None:
            return bound
        return IndividuallyFiltered(bound, FILTER_ORDERS)

    def whole(self, noise_multiplier: Decimal) -> Event:
        """What the Study does to the units in all."""
        event = self.event(noise_multiplier)
        return event if self.looks is None else Composed((event, self.looks))

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
        together.require_together(study, wanted)
        declaring.require_release_of(study, made=declaring.Made.MODEL, job=self.name)
        if _without_private_data(study):
            return _post_processing(study, context, wanted)
        facts = _one_dataset(study, context)
        if wanted.defenses is not None:
            _require_batch(wanted, facts)
            return comparison.plan(study, context, wanted, facts)
        claim = declaring.requested_claim(study)
        declaring.require_delta_below_units(claim, facts)
        if claim.delta > facts.delta:
            raise InvalidValue(
                "spec.privacy.delta",
                f"must be at most {facts.delta}, the delta of budget {facts.budget}",
                str(claim.delta),
            )
        _require_searchable(study, context, wanted, facts)
        together.require_units(study, facts)
        schedule = _schedule(wanted, facts)
        if schedule.looks is not None:
            looks = context.accountant.epsilon(schedule.looks, claim.delta, facts.neighbors)
            early_stopping.require_rest(looks, claim.epsilon)
        noise = wanted.noise_multiplier or declaring.least_noise(
            claim, facts, context, event_at=schedule.whole
        )
        plan = _plan(study, context, wanted, facts, noise_multiplier=noise)
        declaring.require_within_claim(plan, claim)
        return plan

    def with_noise(
        self, study: StudySpec, context: PlanningContext, noise_multiplier: Decimal
    ) -> Plan:
        """The same Study under a given noise multiplier."""
        wanted, facts = read(study), _one_dataset(study, context)
        if wanted.defenses is not None:
            return comparison.plan(study, context, wanted, facts)  # No noise makes it private.
        return _plan(study, context, wanted, facts, noise_multiplier=noise_multiplier)

    def entry(self, step: str) -> str:
        """The heavy function of a step."""
        if step == "job":
            return "primum_pipelines.kinds.train.step:train"
        return f"primum_pipelines.steps.{step}:run"

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        facts = plan.mechanism
        passes = "1 epoch" if facts["epochs"] == 1 else f"{facts['epochs']} epochs"
        line = f"Train {facts['model']}, {passes}"
        if "protection" in facts:
            return f"{line}, without a mechanism, for comparison: claim Void"
        if "noiseMultiplier" not in facts:
            return f"{line}, on public and released data alone, no charge"
        noise = Decimal(str(facts["noiseMultiplier"])).quantize(Decimal("0.01"), ROUND_CEILING)
        filtered = facts.get("individualFilter")
        if isinstance(filtered, Mapping):
            line += f" (individual filters, run for {filtered['epochs']})"
        if isinstance(facts.get(searching.FIELD), Mapping):
            line += f", {searching.headline(records.mapping(facts[searching.FIELD]))}"
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


def _require_searchable(
    study: StudySpec, context: PlanningContext, wanted: Request, facts: DatasetFacts
) -> None:
    """Every point of a search's space must be a training that could be asked for by itself."""
    if wanted.search is None:
        return
    searching.require_possible(wanted.search, study, facts)
    if planned_task(study, context, wanted) is not LabelTask.MULTI_CLASS:
        rule = "must be absent unless labels are one class per row"
        raise InvalidValue(searching.SECTION, rule, searching.FIELD)
    for corner in wanted.search.corners(study):
        point = read(corner)
        together.require_together(corner, point)
        planned_task(corner, context, point)
        _schedule(point, facts)


def _costliest(wanted: Request, facts: DatasetFacts, search: Search) -> _Schedule:
    """The highest rate and the most steps of the space, also where no single point has both.

    More noise than a point needs is post-processing, and so is a lower rate (``events.covers``).
    """
    batches = [int(str(size)) for size in search.ends("batchSize", wanted.batch_size)]
    epochs = max(int(str(count)) for count in search.ends("epochs", wanted.epochs))
    slowest = rate_of(min(batches), units=facts.train_units)
    return _Schedule(
        sample_rate=rate_of(max(batches), units=facts.train_units),
        steps=steps_of(epochs, sample_rate=slowest),
        search=search,
    )


def _schedule(wanted: Request, facts: DatasetFacts) -> _Schedule:
    if wanted.search is not None:
        return _costliest(wanted, facts, wanted.search)
    _require_batch(wanted, facts)
    together.require_whole_units(wanted, facts)
    rate = rate_of(wanted.batch_size, units=facts.train_units)
    if wanted.filtered_epochs is None:
        steps = steps_of(wanted.epochs, sample_rate=rate)
        looks = _looks(wanted.stopping, steps=steps, sample_rate=rate)
        return _Schedule(sample_rate=rate, steps=steps, looks=looks)
    _require_filters(facts)
    return _Schedule(
        sample_rate=rate,
        steps=steps_of(wanted.epochs, sample_rate=rate),
        filtered_steps=steps_of(wanted.filtered_epochs, sample_rate=rate),
    )


def _require_batch(wanted: Request, facts: DatasetFacts) -> None:
    if wanted.batch_size > facts.train_units:
        raise InvalidValue(
            f"{SECTION}.batchSize",
            f"must be at most {facts.train_units}, the training units of budget {facts.budget}",
            wanted.batch_size,
        )


def _looks(stopping: EarlyStopping | None, *, steps: int, sample_rate: Decimal) -> Event | None:
    return None if stopping is None else stopping.event(steps=steps, sample_rate=sample_rate)


def _require_filters(facts: DatasetFacts) -> None:
    """Individual filters need neighbors that they speak of."""
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
    require_members(wanted.answering, ensemble=wanted.ensemble, steps=schedule.executed)
    event = schedule.event(noise_multiplier)
    delta = study.delta if study.delta is not None else facts.delta
    canaries = declaring.planned_canaries(study)
    mechanism = _mechanism(
        context, wanted, facts, schedule, noise_multiplier=noise_multiplier, canaries=canaries
    )
    audited = declaring.audits_on_data(study)
    unit, neighbors = declaring.shared_relation((facts,))
    why = _WHY_TRAIN if wanted.filtered_epochs is None else _WHY_FILTERED
    if wanted.search is not None:
        why = wanted.search.why
        mechanism |= _searched(
            context, facts, schedule, wanted.search, noise_multiplier=noise_multiplier, delta=delta
        )
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=TrainKind.name,
        accesses=(
            declaring.charged("train", facts, event, why=why),
            *(() if schedule.looks is None else (early_stopping.access(facts, schedule.looks),)),
            *declaring.standing_accesses(facts, audited=audited),
        ),
        epsilon=context.accountant.epsilon(
            schedule.whole(noise_multiplier), delta, facts.neighbors
        ),
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            **wanted.recipe(),
            PUBLIC_INPUTS: declaring.public_inputs(study, context),
            "task": planned_task(study, context, wanted).value,
            "trainUnits": facts.train_units,
            "workers": study.workers,
            "chargedAsExecuted": early_stopping.charged_as_executed(facts),
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
        "maxGradNorm": decimal_text(_largest_clip(wanted)),
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
    if wanted.stopping is not None:
        rate = schedule.sample_rate
        mechanism["earlyStopping"] = wanted.stopping.to_json(facts=facts, sample_rate=rate)
    if wanted.temperature:
        mechanism["langevin"] = _temperatures(
            wanted, facts, schedule, noise_multiplier=noise_multiplier
        )
    return mechanism


def _largest_clip(wanted: Request) -> Decimal:
    if wanted.search is None:
        return wanted.max_grad_norm
    ends = wanted.search.ends("maxGradNorm", decimal_text(wanted.max_grad_norm))
    return max(Decimal(str(end)) for end in ends)


def _searched(
    context: PlanningContext,
    facts: DatasetFacts,
    schedule: _Schedule,
    search: Search,
    *,
    noise_multiplier: Decimal,
    delta: Decimal,
) -> dict[str, JSON]:
    """What a search is and costs, beside one training under the same noise."""
    training = schedule.training(noise_multiplier)

    def cost(event: Event) -> str:
        return str(context.accountant.epsilon(event, delta, facts.neighbors))

    told: dict[str, JSON] = {
        **search.to_json(),
        # As text: rules of a policy look at plans, and an event nests deeper than they may.
        "event": canonical_json(search.event(training).to_json()).decode(),
        "epsilonOfOneTraining": cost(training),
        "heldOutUnits": facts.units - facts.train_units,
    }
    if search.stopping is not None:
        runs = search.stopping.expected_runs
        told["expectedTrials"] = decimal_text(runs)
        in_full = Repeated(search.trial(training), int(runs.to_integral_value(ROUND_CEILING)))
        told["epsilonOfAsManyInFull"] = cost(in_full)
    return {searching.FIELD: told}


def _temperatures(
    wanted: Request, facts: DatasetFacts, schedule: _Schedule, *, noise_multiplier: Decimal
) -> dict[str, JSON]:
    """What was asked for, and the highest that a kept sample's step has: privacy may need more."""
    descent = Descent(schedule=wanted.schedule, warm_up=float(wanted.warm_up))
    divisor = float(schedule.sample_rate) * facts.train_units
    # Rates fall once the warm-up is over, and samples are kept from half-way on.
    peak = max(schedule.steps // 2, math.ceil(float(wanted.warm_up) * schedule.steps))
    fastest = descent.rate_at(min(peak, schedule.steps - 1), steps=schedule.steps)
    highest = reached_temperature(
        learning_rate=float(wanted.learning_rate) * fastest,
        units=facts.train_units,
        temperature=float(wanted.temperature),
        gradient_std=float(noise_multiplier * wanted.max_grad_norm) / divisor,
    )
    return {
        "temperature": decimal_text(wanted.temperature),
        "highestTemperature": decimal_text(Decimal(f"{highest:.4g}")),
    }


def _post_processing(study: StudySpec, context: PlanningContext, wanted: Request) -> Plan:
    """Training on released data alone: no access, and the Release's claim is inherited."""
    if study.audits:
        raise InvalidValue(
            "spec.audits",
            "must be absent where no data is private",
            ", ".join(audit.attack for audit in study.audits),
            "Audit the Study that made the Release.",
        )
    together.require_nothing_private(wanted)
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
            "task": planned_task(study, context, wanted).value,
        },
        steps=("validate", "job", "evaluate"),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _reviewed(algorithm: str) -> bool:
    return bool(extensions.load(ALGORITHM_GROUP, algorithm).reviewed)
