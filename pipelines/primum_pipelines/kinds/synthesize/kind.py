"""Synthesize, light half: declares one Gaussian release and what a sample filter would look at.

Everything after the release is post-processing, so no number of samples, iterations or restarts
costs more. Must not import anything heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum import extensions
from primum.domain.accounting.accountant import EPSILON_INFINITE
from primum.domain.accounting.events import Gaussian, NoEvent, decimal_text
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import Access, DatasetFacts, Plan, Treatment
from primum.domain.study.spec import StudySpec
from primum_pipelines.datasets.driver import describe
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.sample_filters.filter import GROUP as FILTER_GROUP
from primum_pipelines.sample_filters.filter import Duplicates
from primum_pipelines.synthesis.embedding import FEATURES_MIN, features_for

ALGORITHM = "DPSGD"  # Its one-step form at rate 1 is the Gaussian release; see synthesis/merf.py.
METHOD = "DPMERF"
_NAMES = (
    "method",
    "mechanism",
    "noiseMultiplier",
    "features",
    "samples",
    "iterations",
    "sampleFilter",
)
_FILTER_NAMES = ("name", "deduplicate", "charge")
_SAMPLES_MAX = 1_000_000
_FEATURES_MOST = 100_000
_ITERATIONS_DEFAULT = 400  # More of them start to fit the noise of the release.
_ITERATIONS_MAX = 1_000_000
_WHY_RELEASE = "Class-wise mean random features leave once, with Gaussian noise."
_SECTION = "spec.job.synthesize"


@dataclass(frozen=True, slots=True)
class _Request:
    """A Synthesize job's parameters, read and checked."""

    private: bool
    samples: int
    iterations: int
    features: int | None
    noise_multiplier: Decimal | None
    sample_filter: Mapping[str, JSON] | None


class SynthesizeKind:
    """Release a synthetic dataset made by DP-MERF (Harder et al. 2021)."""

    name = "Synthesize"
    steps: Sequence[str] = ("validate", "job", "evaluate", "audit")
    levers: Mapping[str, str] = {}  # Only noise changes the cost of one release.

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every access and calibrate the one release.

        Raises:
            InvalidValue: If a parameter breaks its rule, or delta is not below one over the units.
            Refused: If privacy is not asked for and the mechanism was not switched off by name.
        """
        wanted = _read(study)
        declaring.require_one_worker(study, job=SynthesizeKind.name)
        declaring.require_release_of(study, made=declaring.Made.DATASET, job=SynthesizeKind.name)
        facts = _one_dataset(study, context)
        if not wanted.private:
            return _plan(study, context, wanted, facts, noise_multiplier=None)
        claim = declaring.requested_claim(study)
        declaring.require_delta_below_units(claim, facts)
        noise = wanted.noise_multiplier or declaring.least_noise(
            claim, facts, context, event_at=Gaussian
        )
        plan = _plan(study, context, wanted, facts, noise_multiplier=noise)
        declaring.require_within_claim(plan, claim)
        return plan

    def with_noise(
        self, study: StudySpec, context: PlanningContext, noise_multiplier: Decimal
    ) -> Plan:
        """The same Study under a given noise multiplier."""
        facts = _one_dataset(study, context)
        return _plan(study, context, _read(study), facts, noise_multiplier=noise_multiplier)

    def entry(self, step: str) -> str:
        """The heavy function of a step."""
        if step in ("job", "evaluate"):
            function = "run" if step == "job" else "evaluate"
            return f"primum_pipelines.kinds.synthesize.step:{function}"
        return f"primum_pipelines.steps.{step}:run"

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        facts = plan.mechanism
        noise = facts.get("noiseMultiplier")
        protection = (
            f"noise multiplier {noise} ({facts['accountant']})"
            if noise
            else "no mechanism, claim Void"
        )
        line = f"Synthesize {facts['method']}, {plan.parameters['samples']} samples, {protection}"
        if plan.parameters.get("sampleFilter"):
            line += ", uncharged sample filter, claim Void"
        return f"{line}, {facts['canaries']} canaries" if facts["canaries"] else line


def _read(study: StudySpec) -> _Request:
    parameters = Parameters(_SECTION, study.job)
    parameters.require_known(_NAMES)
    parameters.choice("method", (METHOD,), default=METHOD)
    private = parameters.choice("mechanism", ("Gaussian", "None"), default="Gaussian") != "None"
    if not private and study.epsilon is not None:
        raise InvalidValue(
            "spec.privacy",
            "must be absent where the mechanism is None",
            f"epsilon {study.epsilon}",
            "Remove it, or let the mechanism be Gaussian.",
        )
    features = None
    if "features" in study.job:
        features = parameters.whole("features", low=FEATURES_MIN, high=_FEATURES_MOST)
        if features % 2:
            rule = "must be even, because features come in cosine and sine"
            raise InvalidValue(f"{_SECTION}.features", rule, features)
    noise = parameters.positive("noiseMultiplier") if "noiseMultiplier" in study.job else None
    return _Request(
        private=private,
        samples=parameters.whole("samples", low=2, high=_SAMPLES_MAX),
        iterations=parameters.whole(
            "iterations", default=_ITERATIONS_DEFAULT, low=1, high=_ITERATIONS_MAX
        ),
        features=features,
        noise_multiplier=noise,
        sample_filter=_sample_filter(study.job.get("sampleFilter")),
    )


def _sample_filter(value: JSON) -> Mapping[str, JSON] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise InvalidValue(f"{_SECTION}.sampleFilter", "must be an object", type(value).__name__)
    parameters = Parameters(f"{_SECTION}.sampleFilter", value)
    parameters.require_known(_FILTER_NAMES)
    return {
        "name": parameters.choice("name", extensions.names(FILTER_GROUP)),
        "deduplicate": parameters.choice(
            "deduplicate", tuple(Duplicates), default=Duplicates.KEEP.value
        ),
        "charge": parameters.choice("charge", ("None",)),
    }


def _one_dataset(study: StudySpec, context: PlanningContext) -> DatasetFacts:
    datasets = declaring.private_datasets(study, context)
    if len(datasets) > 1:
        found = ", ".join(facts.budget for facts in datasets)
        raise InvalidValue("spec.data", "must have one private input for Synthesize", found)
    declaring.require_one_example_per_unit(datasets[0], job="Synthesize")
    declaring.require_one_class_per_row(datasets[0], job="Synthesize")
    return datasets[0]


def _plan(
    study: StudySpec,
    context: PlanningContext,
    wanted: _Request,
    facts: DatasetFacts,
    *,
    noise_multiplier: Decimal | None,
) -> Plan:
    event = Gaussian(noise_multiplier) if noise_multiplier is not None else NoEvent()
    delta = study.delta if study.delta is not None else facts.delta
    epsilon = EPSILON_INFINITE
    if noise_multiplier is not None:
        epsilon = context.accountant.epsilon(event, delta, facts.neighbors)
    canaries = declaring.planned_canaries(study)
    described = describe(facts.dataset.uri, facts.dataset.options)
    classes = _count(described["classes"])
    features = wanted.features or features_for(
        noise_multiplier=noise_multiplier or Decimal(0), classes=classes, units=facts.train_units
    )
    noise = "0" if noise_multiplier is None else decimal_text(noise_multiplier)
    mechanism: dict[str, JSON] = {
        "method": METHOD,
        "algorithm": ALGORITHM,
        "reviewed": extensions.load("primum.training_algorithms", ALGORITHM).reviewed,
        "features": features,
        "canaries": canaries,
        "accountant": context.accountant.name,
        "sampleRate": "1",
        "steps": 1,
        "maxGradNorm": "1",
    }
    if noise_multiplier is not None:
        mechanism["noiseMultiplier"] = noise
    unit, neighbors = declaring.shared_relation((facts,))
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind="Synthesize",
        accesses=_accesses(study, wanted, facts, event),
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            "noiseMultiplier": noise,
            "samples": wanted.samples,
            "iterations": wanted.iterations,
            "trainUnits": facts.train_units,
            "sampleFilter": wanted.sample_filter,
            "positive": described["positive"],
        },
        steps=tuple(SynthesizeKind.steps),
        max_certifiable=declaring.certifiable(canaries=canaries, delta=delta),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def _accesses(
    study: StudySpec, wanted: _Request, facts: DatasetFacts, event: Gaussian | NoEvent
) -> tuple[Access, ...]:
    if isinstance(event, Gaussian):
        release = declaring.charged("synthesize", facts, event, why=_WHY_RELEASE)
    else:
        why = f"generator trained on {facts.budget} without a charge"
        release = _uncharged("synthesize", facts, why=why)
    accesses = [release]
    if wanted.sample_filter is not None:
        name = wanted.sample_filter["name"]
        why = f"sample filter {name} looked at {facts.budget} without a charge"
        accesses.append(_uncharged("filter", facts, why=why))
    return (*accesses, *declaring.standing_accesses(facts, audited=declaring.audits_on_data(study)))


def _uncharged(purpose: str, facts: DatasetFacts, *, why: str) -> Access:
    name = declaring.access_name(purpose, facts.budget)
    return Access(name, "job", facts.budget, Treatment.UNCHARGED, why=why)


def _count(value: JSON) -> int:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidValue("dataset.classes", "must be a list", type(value).__name__)
    return len(value)
