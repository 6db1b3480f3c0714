"""PrivateFeatures, light half: declares one Gaussian release of a table of features. Experimental.

Refuses an extractor that could have seen private data without a charge, while nothing is spent.
Everything after the release is post-processing. Must not import anything heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from primum.domain.accounting.events import Gaussian, decimal_text
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.governance.claims import ClaimStatus
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.access import PUBLIC_INPUTS
from primum_pipelines.datasets.driver import describe, examples_max, task_of
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.kinds.private_features.planned import METHOD
from primum_pipelines.kinds.train.tasks import require_alike
from primum_pipelines.models.registry import model_named, require_answers, require_fits
from primum_pipelines.steps.records import texts

_NAMES = (
    "model",
    "modelParameters",
    "epochs",
    "clip",
    "labelShare",
    "rows",
    "noiseMultiplier",
)
_EPOCHS_MAX = 10_000
_SHARE_MIN = Decimal("0.01")  # Below it the self-test could not tell whether it is in the clip.
_ROWS_MAX = 10_000_000
_CLASSES_MAX = 256  # What a released table has room for.
_SECTION = "spec.job.privateFeatures"
_CAUTION = (
    "For one model, Train with trainable: Head is more accurate at the same epsilon; a table pays "
    "where many Studies read it."
)
_WHY = (
    "Experimental: clipped features of a frozen extractor leave once, a row for each unit, with "
    f"Gaussian noise on every number. {_CAUTION}"
)


@dataclass(frozen=True, slots=True)
class _Request:
    """A PrivateFeatures job's parameters, read and checked."""

    model: str
    model_parameters: Mapping[str, JSON]
    epochs: int
    clip: Decimal
    label_share: Decimal
    rows: int | None
    noise_multiplier: Decimal | None


class PrivateFeaturesKind:
    """Release what a frozen extractor makes of each unit, clipped and with noise, as a table.

    Knolle, Usynin, Ziller et al. (*NeuralDP*, 2021), of which only this form has a sensitivity.
    The extractor's weights are random ones that everybody knows, or were learned from the Study's
    public and released inputs alone.
    """

    name = "PrivateFeatures"
    steps: Sequence[str] = ("validate", "job", "evaluate", "audit")
    levers: Mapping[str, str] = {}  # Only noise changes the cost of one release.

    def declare(self, study: StudySpec, context: PlanningContext) -> Plan:
        """Declare every access and calibrate the one release.

        Raises:
            InvalidValue: If a parameter breaks its rule, delta is not below one over the units, or
                the extractor would learn from a Release whose claim does not cover it.
            Refused: If privacy is not asked for.
        """
        wanted, facts = _read(study), _one_dataset(study, context)
        declaring.require_one_worker(study, job=self.name)
        declaring.require_release_of(study, made=declaring.Made.DATASET, job=self.name)
        _require_frozen(study, context, wanted)
        _require_model(study, wanted, facts)
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
        wanted, facts = _read(study), _one_dataset(study, context)
        return _plan(study, context, wanted, facts, noise_multiplier=noise_multiplier)

    def entry(self, step: str) -> str:
        """The heavy function of a step."""
        if step in ("job", "evaluate"):
            function = "run" if step == "job" else "evaluate"
            return f"primum_pipelines.kinds.private_features.step:{function}"
        return f"primum_pipelines.steps.{step}:run"

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        facts = plan.mechanism
        noise = Decimal(str(facts["noiseMultiplier"])).quantize(Decimal("0.01"), ROUND_CEILING)
        line = f"PrivateFeatures (experimental) of {facts['model']}, {facts['rows']} rows"
        line += f", noise multiplier {noise} ({facts['accountant']})"
        return f"{line}, {facts['canaries']} canaries" if facts["canaries"] else line


def _read(study: StudySpec) -> _Request:
    parameters = Parameters(_SECTION, study.job)
    parameters.require_known(_NAMES)
    model, given = str(study.job.get("model", "")), study.job.get("modelParameters", {})
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{_SECTION}.modelParameters", "must be an object", type(given).__name__)
    share = parameters.positive("labelShare", default="0.5")
    if not _SHARE_MIN <= share <= 1 - _SHARE_MIN:
        rule = f"must be from {_SHARE_MIN} to {1 - _SHARE_MIN}"
        raise InvalidValue(f"{_SECTION}.labelShare", rule, str(share))

    def whole(name: str, high: int) -> int | None:
        return parameters.whole(name, low=1, high=high) if name in study.job else None

    return _Request(
        model=model,
        model_parameters=model_named(model).check(given),
        epochs=whole("epochs", _EPOCHS_MAX) or 0,
        clip=parameters.positive("clip", default="1"),
        label_share=share,
        rows=whole("rows", _ROWS_MAX),
        noise_multiplier=(
            parameters.positive("noiseMultiplier") if "noiseMultiplier" in study.job else None
        ),
    )


def _one_dataset(study: StudySpec, context: PlanningContext) -> DatasetFacts:
    datasets = declaring.private_datasets(study, context)
    if len(datasets) > 1:
        found = ", ".join(facts.budget for facts in datasets)
        raise InvalidValue("spec.data", "must have one private input for PrivateFeatures", found)
    declaring.require_one_class_per_row(datasets[0], job=PrivateFeaturesKind.name)
    return datasets[0]


def _require_frozen(study: StudySpec, context: PlanningContext, wanted: _Request) -> None:
    """The extractor learns from nothing private but what a Release's own claim covers.

    Raises:
        InvalidValue: If it would, or would learn from nothing, or is not told for how long.
    """
    for item in study.inputs:
        if item.role is not DataRole.SYNTHETIC:
            continue
        facts = context.synthetic[item.release]
        if facts.void_edges or facts.claim != ClaimStatus.VALID.value:
            raise InvalidValue(
                "spec.data.release",
                "must have a claim that covers what it was made from, because the extractor "
                "learns from it",
                f"{item.release} with claim {facts.claim or 'unknown'}",
                "".join(f"Uncharged: {edge}. " for edge in facts.void_edges)
                + "Use a Release whose claim is Valid, public data, or no input: then the "
                "extractor's weights are random.",
            )
    learns = any(item.role is not DataRole.PRIVATE for item in study.inputs)
    if learns != bool(wanted.epochs):
        rule = (
            "must say for how many epochs the extractor learns from public and released inputs"
            if learns
            else "must be absent without a public or released input to learn from"
        )
        found = wanted.epochs or "nothing"
        remedy = "An extractor never learns from private data." if not learns else ""
        raise InvalidValue(f"{_SECTION}.epochs", rule, found, remedy)


def _require_model(study: StudySpec, wanted: _Request, facts: DatasetFacts) -> None:
    """What is known of the inputs without opening them must suit the model and each other."""
    require_answers(wanted.model, LabelTask.MULTI_CLASS)
    known = [describe(facts.dataset.uri, facts.dataset.options)]
    for item in study.inputs:
        if item.role is DataRole.PUBLIC:
            known.append(describe(item.uri, item.options))
            if task_of(item.uri, item.options) is not LabelTask.MULTI_CLASS:
                rule = "must have one class per example, for the extractor to learn from"
                raise InvalidValue("spec.data.uri", rule, item.uri)
    for described in known:
        shape = described.get("inputShape")
        if isinstance(shape, list) and shape:
            sides = [int(str(side)) for side in shape]
            require_fits(wanted.model, wanted.model_parameters, input_shape=sides)
    require_alike(known)
    classes = len(texts(known[0].get("classes", ())))
    if classes > _CLASSES_MAX:
        raise InvalidValue("spec.data", f"must have at most {_CLASSES_MAX} classes", classes)


def _rows(wanted: _Request, facts: DatasetFacts) -> int:
    if wanted.rows is not None and wanted.rows < facts.train_units:
        raise InvalidValue(
            f"{_SECTION}.rows",
            f"must be at least {facts.train_units}, the training units of budget {facts.budget}",
            wanted.rows,
        )
    return wanted.rows or facts.train_units


def _plan(
    study: StudySpec,
    context: PlanningContext,
    wanted: _Request,
    facts: DatasetFacts,
    *,
    noise_multiplier: Decimal,
) -> Plan:
    event = Gaussian(noise_multiplier)
    delta = study.delta if study.delta is not None else facts.delta
    canaries = declaring.planned_canaries(study)
    audited = declaring.audits_on_data(study)
    mechanism: dict[str, JSON] = {
        "method": METHOD,
        "algorithm": METHOD,
        "reviewed": True,
        "experimental": _CAUTION,
        "model": wanted.model,
        "rows": _rows(wanted, facts),
        "clip": decimal_text(wanted.clip),
        "labelShare": decimal_text(wanted.label_share),
        "noiseMultiplier": decimal_text(noise_multiplier),
        "sampleRate": "1",
        "steps": 1,
        "unitExamplesMax": examples_max(facts.dataset.options) or 1,
        "accountant": context.accountant.name,
        "canaries": canaries,
    }
    unit, neighbors = declaring.shared_relation((facts,))
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind=PrivateFeaturesKind.name,
        accesses=(
            declaring.charged("features", facts, event, why=_WHY),
            *declaring.standing_accesses(facts, audited=audited),
        ),
        epsilon=context.accountant.epsilon(event, delta, facts.neighbors),
        delta=delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            "modelParameters": dict(wanted.model_parameters),
            "epochs": wanted.epochs,
            PUBLIC_INPUTS: declaring.public_inputs(study, context),
            "trainUnits": facts.train_units,
            "positive": describe(facts.dataset.uri, facts.dataset.options)["positive"],
        },
        steps=tuple(PrivateFeaturesKind.steps),
        max_certifiable=declaring.certifiable(canaries=canaries, delta=delta),
        void_edges=declaring.inherited_void_edges(study, context),
    )
