"""A training without a mechanism, for comparison: what it may ask for, and the plan of it. Light.

Its access is uncharged, so the claim of what it makes is Void and says why; no gate that asks for a
claim lets it pass. Defenses that promise nothing are had here and nowhere else. Must never count
one of them as privacy.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from primum import extensions
from primum.domain.accounting.accountant import EPSILON_INFINITE
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import Access, DatasetFacts, Plan, Treatment
from primum.domain.study.spec import StudySpec
from primum_pipelines.datasets.access import PUBLIC_INPUTS
from primum_pipelines.datasets.driver import describe, examples_max
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.kinds.train.sampling import rate_of, steps_of
from primum_pipelines.optimization.algorithm import runs_mechanism
from primum_pipelines.optimization.settings import Defenses

if TYPE_CHECKING:
    from primum_pipelines.kinds.train.request import Request

ALGORITHM = "Ordinary"
ALGORITHM_GROUP = "primum.training_algorithms"
FIELD = "defenses"
MECHANISM_FIELD = "mechanism"
PROTECTION = "none: trained for comparison, with no guarantee"
_SECTION = "spec.job.train"
_GAUSSIAN, _NONE = "Gaussian", "None"
_DEFENSES = ("mixup", "mmd", "memGuard")
_WEIGHT_MAX = 1000
_WHY = "model trained on {budget} without a mechanism, for comparison"


def is_private(study: StudySpec) -> bool:
    """Whether the training runs a mechanism.

    Raises:
        InvalidValue: If ``mechanism`` is another word, or privacy is asked for without one.
    """
    chosen = Parameters(_SECTION, study.job).choice(
        MECHANISM_FIELD, (_GAUSSIAN, _NONE), default=_GAUSSIAN
    )
    if chosen == _NONE and study.epsilon is not None:
        raise InvalidValue(
            "spec.privacy",
            "must be absent where the mechanism is None",
            f"epsilon {study.epsilon}",
            "Remove it, or let the mechanism be Gaussian.",
        )
    return chosen != _NONE


def algorithm_for(study: StudySpec, *, asked: str, default: str) -> str:
    """The training algorithm: one that runs a mechanism exactly where there is to be one.

    Args:
        study: What is asked for.
        asked: The algorithm that it names, or the default.
        default: The default of private trainings.

    Raises:
        InvalidValue: If the algorithm runs no mechanism where one is due, or one where none is.
    """
    runs_one = runs_mechanism(extensions.load(ALGORITHM_GROUP, asked))
    if is_private(study):
        if not runs_one:
            raise InvalidValue(
                f"{_SECTION}.algorithm",
                "must run a mechanism unless mechanism is None",
                asked,
                "Use DPSGD.",
            )
        return asked
    if asked == default:
        return ALGORITHM
    if runs_one:
        rule = f"must be {ALGORITHM}, or absent, where the mechanism is None"
        raise InvalidValue(f"{_SECTION}.algorithm", rule, asked)
    return asked


def read(study: StudySpec) -> Defenses | None:
    """The defenses of a training without a mechanism, or ``None`` with one.

    Raises:
        InvalidValue: If one breaks its rule, or is asked for beside a mechanism.
    """
    given = study.job.get(FIELD)
    if is_private(study):
        if given is not None:
            raise InvalidValue(
                f"{_SECTION}.{FIELD}",
                "must be absent with a mechanism: Mixup and MMD mix units, so that clipping bounds "
                "what no unit contributes, and MemGuard's attacker is fitted without noise",
                "some",
                "Set mechanism: None for a comparison.",
            )
        return None
    if given is None:
        return Defenses()
    if not isinstance(given, Mapping):
        raise InvalidValue(f"{_SECTION}.{FIELD}", "must be an object", type(given).__name__)
    Parameters(f"{_SECTION}.{FIELD}", given).require_known(_DEFENSES)
    return Defenses(
        mixup=_weight(given, "mixup"),
        mmd=_weight(given, "mmd"),
        mem_guard=_weight(given, "memGuard"),
    )


def plan(study: StudySpec, context: PlanningContext, wanted: Request, facts: DatasetFacts) -> Plan:
    """The plan of a training without a mechanism.

    Raises:
        InvalidValue: If an audit needs a mechanism, or something is asked for that has none.
    """
    from primum_pipelines.kinds.train.tasks import planned_task

    _require_no_mechanism(study, wanted)
    task = planned_task(study, context, wanted)
    if task is not LabelTask.MULTI_CLASS and wanted.defenses != Defenses():
        rule = f"must be absent for labels of kind {task}"
        raise InvalidValue(f"{_SECTION}.{FIELD}", rule, "some", "They compare classes of rows.")
    rate = rate_of(wanted.batch_size, units=facts.train_units)
    unit, neighbors = declaring.shared_relation((facts,))
    mechanism: dict[str, JSON] = {
        "model": wanted.model,
        "algorithm": wanted.algorithm,
        "reviewed": True,
        "protection": PROTECTION,
        "epochs": wanted.epochs,
        "batchSize": wanted.batch_size,
        "noiseMultiplier": "0",
        "sampleRate": decimal_text(rate),
        "sampling": "Poisson",
        "steps": steps_of(wanted.epochs, sample_rate=rate),
        "maxGradNorm": decimal_text(wanted.max_grad_norm),
        "clipping": wanted.clipping.value,
        "unitExamplesMax": examples_max(facts.dataset.options) or 1,
        "accountant": context.accountant.name,
        "canaries": 0,
    }
    if wanted.defenses is not None and wanted.defenses != Defenses():
        mechanism[FIELD] = _stated(wanted.defenses)
    name = declaring.access_name("train", facts.budget)
    why = _WHY.format(budget=facts.budget)
    audited = declaring.audits_on_data(study)
    return Plan(
        study_uid=study.uid,
        generation=study.generation,
        kind="Train",
        accesses=(
            Access(name, "job", facts.budget, Treatment.UNCHARGED, why=why),
            *declaring.standing_accesses(facts, audited=audited),
        ),
        epsilon=EPSILON_INFINITE,
        delta=facts.delta,
        unit=unit,
        neighbors=neighbors,
        mechanism=mechanism,
        parameters={
            **mechanism,
            **wanted.recipe(),
            PUBLIC_INPUTS: declaring.public_inputs(study, context),
            "task": task.value,
            "trainUnits": facts.train_units,
            "workers": 1,
            "positive": describe(facts.dataset.uri, facts.dataset.options)["positive"],
        },
        steps=("validate", "job", "evaluate", "audit"),
        void_edges=declaring.inherited_void_edges(study, context),
    )


def from_plan(parameters: Mapping[str, JSON]) -> Defenses | None:
    """The defenses that a plan states, or ``None``."""
    given = parameters.get(FIELD)
    if not isinstance(given, Mapping):
        return None
    mixup, mmd, mem_guard = (float(str(given.get(name, "0"))) for name in _DEFENSES)
    return Defenses(mixup=mixup, mmd=mmd, mem_guard=mem_guard)


def _stated(defenses: Defenses) -> dict[str, JSON]:
    values = (defenses.mixup, defenses.mmd, defenses.mem_guard)
    return {
        name: decimal_text(Decimal(str(value)))
        for name, value in zip(_DEFENSES, values, strict=True)
        if value
    }


def _require_no_mechanism(study: StudySpec, wanted: Request) -> None:
    if wanted.noise_multiplier is not None:
        rule = "must be absent where the mechanism is None"
        raise InvalidValue(f"{_SECTION}.noiseMultiplier", rule, wanted.noise_multiplier)
    if wanted.search is not None:
        rule = "must be absent where the mechanism is None"
        raise InvalidValue(f"{_SECTION}.search", rule, "one")
    for audit in study.audits:
        if audit.attack not in extensions.names(declaring.AUDIT_GROUP):
            continue  # Named with a remedy where accesses are declared.
        found = extensions.load(declaring.AUDIT_GROUP, audit.attack)
        if not getattr(found, "without_mechanism", False):
            raise InvalidValue(
                "spec.audits.attack",
                "must be able to attack a model that no mechanism made",
                audit.attack,
                "Use a membership attack by shadow models, such as LiRA.",
            )


def _weight(given: Mapping[str, JSON], name: str) -> float:
    field = f"{_SECTION}.{FIELD}.{name}"
    number = parse_decimal(field, given.get(name, "0"))
    if not 0 <= number <= _WEIGHT_MAX:
        raise InvalidValue(field, f"must be from 0 to {_WEIGHT_MAX}", str(number))
    return float(number)
