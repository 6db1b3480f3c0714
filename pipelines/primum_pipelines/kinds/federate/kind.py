"""Federate, light half: one mechanism per site, each calibrated for that site's own budget.

Every site runs Poisson-subsampled DP-SGD on its own units and gives out its noisy weights once per
round. The sites' cohorts are taken to be disjoint: each site's guarantee speaks for its own units,
and a person who is a unit at two sites is a group of two. Must not import anything heavy or open
data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from primum import extensions
from primum.domain.accounting.events import Event, Repeated, SubsampledGaussian, decimal_text
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.driver import describe
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.models.registry import model_named

ALGORITHM = "DPSGD"
SITES_MIN = 2  # One site is a Train job.
_SECTION = "spec.job.federate"
_NAMES = (
    "model",
    "modelParameters",
    "rounds",
    "localEpochs",
    "batchSize",
    "maxGradNorm",
    "learningRate",
    "aggregation",
    "noiseMultiplier",
)
_ROUNDS_MAX = 10_000
_BATCH_MAX = 1_000_000
_RATE_PLACES = Decimal("1E-6")  # As in Train: rates are multiples of 1e-6, rounded up.
_LEARNING_RATE_DEFAULT = "1"
_WHY = (
    "Noisy sums of clipped per-unit gradients of this site decide its weights; "
    "a unit of two sites is a group of two."
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A Federate job's parameters, read and checked."""

    model: str
    model_parameters: Mapping[str, JSON]
    rounds: int
    local_epochs: int
    batch_size: int
    max_grad_norm: Decimal
    learning_rate: Decimal
    noise_multiplier: Decimal | None


@dataclass(frozen=True, slots=True)
class _SitePlan:
    """One site's schedule: all of it public."""

    facts: DatasetFacts
    sample_rate: Decimal
    local_steps: int
    rounds: int

    def event(self, noise_multiplier: Decimal) -> Event:
        """What the whole training does to the site's units."""
        step = SubsampledGaussian(noise_multiplier, self.sample_rate)
        return Repeated(step, self.local_steps * self.rounds)


class FederateKind:
    """Train one classifier over several sites by federated averaging with record-level DP-SGD."""

    name = "Federate"
    steps: Sequence[str] = ("validate", "job", "evaluate", "audit")
    levers: Mapping[str, str] = {
        "rounds": "{} rounds",
        "localEpochs": "{} local epochs",
        "batchSize": "batch size {}",
    }

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every site's accesses and calibrate every site's noise by itself.

        Raises:
            InvalidValue: If a parameter breaks its rule, there are fewer than two sites, or delta
                is too
                large for one of them.
            Refused: If no privacy is asked for; the message starts with ``NoMechanism``.
        """
        wanted, claim = _read(study), declaring.requested_claim(study)
        declaring.require_one_worker(study, job=FederateKind.name)
        declaring.require_release_of(study, made=declaring.Made.MODEL, job=FederateKind.name)
        sites = _sites(study, context, wanted)
        for site in sites:
            declaring.require_delta_below_units(claim, site.facts)
        noise = {
            site.facts.budget: wanted.noise_multiplier
            or declaring.least_noise(claim, site.facts, context, event_at=site.event)
            for site in sites
        }
        plan = _plan(study, context, wanted, sites, noise=noise)
        declaring.require_within_claim(plan, claim)
        return plan

    def with_noise(
        self, study: StudySpec, context: PlanningContext, noise_multiplier: Decimal
    ) -> Plan:
        """The same Study with one noise multiplier at every site."""
        wanted = _read(study)
        sites = _sites(study, context, wanted)
        noise = {site.facts.budget: noise_multiplier for site in sites}
        return _plan(study, context, wanted, sites, noise=noise)

    def entry(self, step: str) -> str:
        """The heavy function of a step."""
        if step in ("job", "evaluate"):
            function = "run" if step == "job" else "evaluate"
            return f"primum_pipelines.kinds.federate.step:{function}"
        return f"primum_pipelines.steps.{step}:run"

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        facts, noise = plan.mechanism, _noise_of(plan)
        low, high = min(noise.values()), max(noise.values())
        shown = decimal_text(low) if low == high else f"{decimal_text(low)} to {decimal_text(high)}"
        line = (
            f"Federate {facts['model']}, {len(noise)} sites, {facts['rounds']} rounds, "
            f"noise multiplier {shown} ({facts['accountant']})"
        )
        return f"{line}, {facts['canaries']} canaries" if facts["canaries"] else line


def _read(study: StudySpec) -> _Request:
    parameters = Parameters(_SECTION, study.job)
    parameters.require_known(_NAMES)
    parameters.choice("aggregation", ("SizeWeighted",), default="SizeWeighted")
    given = study.job.get("modelParameters", {})
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{_SECTION}.modelParameters", "must be an object", type(given).__name__)
    model = str(study.job.get("model", ""))
    noise = parameters.positive("noiseMultiplier") if "noiseMultiplier" in study.job else None
    return _Request(
        model=model,
        model_parameters=model_named(model).check(given),
        rounds=parameters.whole("rounds", low=1, high=_ROUNDS_MAX),
        local_epochs=parameters.whole("localEpochs", default=1, low=1, high=_ROUNDS_MAX),
        batch_size=parameters.whole("batchSize", low=1, high=_BATCH_MAX),
        max_grad_norm=parameters.positive("maxGradNorm"),
        learning_rate=parameters.positive("learningRate", default=_LEARNING_RATE_DEFAULT),
        noise_multiplier=noise,
    )


def _sites(study: StudySpec, context: PlanningContext, wanted: _Request) -> tuple[_SitePlan, ...]:
    for item in study.inputs:
        if item.role is not DataRole.PRIVATE:
            raise InvalidValue(
                "spec.data", "must have only Private inputs for Federate", item.role.value
            )
    datasets = declaring.private_datasets(study, context)
    if len(datasets) < SITES_MIN:
        remedy = "Use Train for one dataset."
        raise InvalidValue(
            "spec.data", f"must have at least {SITES_MIN} sites", len(datasets), remedy
        )
    for facts in datasets:
        declaring.require_one_example_per_unit(facts, job="Federate")
        declaring.require_one_class_per_row(facts, job="Federate")
    _require_same_shape(datasets)
    return tuple(_site(facts, wanted) for facts in datasets)


def _site(facts: DatasetFacts, wanted: _Request) -> _SitePlan:
    if wanted.batch_size > facts.train_units:
        raise InvalidValue(
            f"{_SECTION}.batchSize",
            f"must be at most {facts.train_units}, the training units of budget {facts.budget}",
            wanted.batch_size,
        )
    rate = (Decimal(wanted.batch_size) / facts.train_units).quantize(_RATE_PLACES, ROUND_CEILING)
    local = int((wanted.local_epochs / rate).to_integral_value(ROUND_CEILING))
    return _SitePlan(facts, rate, local, wanted.rounds)


def _require_same_shape(datasets: Sequence[DatasetFacts]) -> None:
    """Sites that disagree on columns or classes cannot share a model."""
    described = [describe(facts.dataset.uri, facts.dataset.options) for facts in datasets]
    for facts, item in zip(datasets, described, strict=True):
        for name in ("classes", "inputShape", "featureNames", "positive"):
            if item[name] != described[0][name]:
                rule = f"must have the same {name} at every site"
                raise InvalidValue("spec.data", rule, f"another one at budget {facts.budget}")


def _plan(
    study: StudySpec,
    context: PlanningContext,
    wanted: _Request,
    sites: Sequence[_SitePlan],
    *,
    noise: Mapping[str, Decimal],
) -> Plan:
    datasets = [site.facts for site in sites]
    unit, neighbors = declaring.shared_relation(datasets)
    delta = study.delta if study.delta is not None else min(facts.delta for facts in datasets)
    events = {site.facts.budget: site.event(noise[site.facts.budget]) for site in sites}
    canaries = declaring.planned_canaries(study)
    mechanism: dict[str, JSON] = {
        **_mechanism(wanted, sites, noise=noise),
        "accountant": context.accountant.name,
        "canaries": canaries,
        "claimCovers": _covers(neighbors),
    }
    audited = declaring.audits_on_data(study)
    positive = describe(datasets[0].dataset.uri, datasets[0].dataset.options)["positive"]
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=FederateKind.name,
        accesses=(
            *(declaring.charged("train", f, events[f.budget], why=_WHY) for f in datasets),
            *(a for f in datasets for a in declaring.standing_accesses(f, audited=audited)),
        ),
        epsilon=max(
            context.accountant.epsilon(events[f.budget], delta, f.neighbors) for f in datasets
        ),
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            "modelParameters": dict(wanted.model_parameters),
            "learningRate": decimal_text(wanted.learning_rate),
            "positive": positive,
        },
        steps=tuple(FederateKind.steps),
        max_certifiable=declaring.certifiable(canaries=canaries, delta=delta),
    )


def _mechanism(
    wanted: _Request, sites: Sequence[_SitePlan], *, noise: Mapping[str, Decimal]
) -> dict[str, JSON]:
    """The mechanism of every site, and what they have in common."""
    return {
        "model": wanted.model,
        "algorithm": ALGORITHM,
        "reviewed": bool(extensions.load("primum.training_algorithms", ALGORITHM).reviewed),
        "rounds": wanted.rounds,
        "localEpochs": wanted.local_epochs,
        "batchSize": wanted.batch_size,
        "maxGradNorm": decimal_text(wanted.max_grad_norm),
        "noiseMultiplier": decimal_text(max(noise.values())),
        "sampling": "Poisson",
        "aggregation": "SizeWeighted, by declared training units",
        "sites": {
            site.facts.budget: {
                "noiseMultiplier": decimal_text(noise[site.facts.budget]),
                "sampleRate": decimal_text(site.sample_rate),
                "stepsPerRound": site.local_steps,
                "steps": site.local_steps * site.rounds,
                "trainUnits": site.facts.train_units,
            }
            for site in sites
        },
    }


def _covers(neighbors: Neighbors) -> str:
    """What the claim speaks for, as a sentence for the certificate."""
    text = "Each site's units under that site's own noise; the cohorts are taken to be disjoint."
    if neighbors is Neighbors.REPLACE_ONE:
        text += " A unit that moves from one site to another changes both."
    return text


def _noise_of(plan: Plan) -> dict[str, Decimal]:
    sites = plan.mechanism["sites"]
    if not isinstance(sites, Mapping):
        raise TypeError("a federated plan names its sites")
    found: dict[str, Decimal] = {}
    for budget, site in sites.items():
        if not isinstance(site, Mapping):
            raise TypeError("a site of a federated plan is an object")
        found[budget] = Decimal(str(site["noiseMultiplier"]))
    return found
