"""Which of a Study's training parameters go together: refused while nothing has been spent.

Light. An algorithm that would ignore a parameter without a word is not asked for it, and neither is
a parameter combined with one that would take its meaning away.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from primum import extensions
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.driver import examples_max
from primum_pipelines.kinds.train import early_stopping
from primum_pipelines.kinds.train.request import ALGORITHM_GROUP, SECTION, Request
from primum_pipelines.optimization.algorithm import fields_read
from primum_pipelines.optimization.settings import ClippingRule, GradientMode, Precision

# What an algorithm has to read for a Study to set it to something else than this.
_UNSAID: Mapping[str, JSON] = {
    "augmentation": None,
    "averaging": "0",
    "biasAware": "0",
    "clipping": "Flat",
    "earlyStopping": None,
    "ensemble": None,
    "gradients": "Auto",
    "individualFilter": None,
    "langevin": None,
    "momentum": "0",
    "optimizer": "SGD",
    "precision": "Float32",
    "rowsAtOnce": None,
    "schedule": "Constant",
    "warmUp": "0",
    "weightDecay": "0",
}


def require_together(study: StudySpec, wanted: Request) -> None:
    """Refuse parameters that do not go together, or that the algorithm does not read.

    Raises:
        InvalidValue: If there are such; names them.
    """
    _require_read(study, wanted)
    if study.workers > 1:
        _require_shared(study, wanted)
    if wanted.momentum and wanted.optimizer != "SGD":
        rule, remedy = f"must be absent with {wanted.optimizer}, which has its own", "Use SGD."
        raise InvalidValue(f"{SECTION}.momentum", rule, wanted.momentum, remedy)
    if wanted.temperature:
        _require_posterior(study, wanted)
    if wanted.stopping is not None:
        _require_absent(study, early_stopping.FIELD, ("ensemble", "individualFilter", "search"))
    if wanted.precision is not Precision.FLOAT32:
        if wanted.gradients is GradientMode.FUNCTIONAL:
            rule = "must be Float32 with gradients: Functional"
            raise InvalidValue(f"{SECTION}.precision", rule, wanted.precision.value)
        _require_absent(study, "precision", ("biasAware",))


def require_whole_units(wanted: Request, facts: DatasetFacts) -> None:
    """Refuse several rows per unit for an algorithm that would clip each of them by itself.

    Raises:
        InvalidValue: If it does not read ``units``.
    """
    rows = examples_max(facts.dataset.options) or 1
    if rows > 1 and "units" not in fields_read(extensions.load(ALGORITHM_GROUP, wanted.algorithm)):
        raise InvalidValue(
            f"{SECTION}.algorithm",
            f"must take all rows of a unit together, because budget {facts.budget} has several",
            f"{wanted.algorithm}, which does not read units",
            "Use DPSGD.",
        )


def _require_shared(study: StudySpec, wanted: Request) -> None:
    """Several workers need an algorithm that sums over them, and private units to share out.

    They change no epsilon: the batch is one Poisson sample of all workers' units, and noise comes
    once.
    """
    field, found = "spec.job.resources.workers", study.workers
    known = fields_read(extensions.load(ALGORITHM_GROUP, wanted.algorithm))
    if "workers" not in known:
        rule = f"must be 1 for {wanted.algorithm}, which does not read workers"
        raise InvalidValue(field, rule, found, "Use DPSGD.")
    if all(item.role is not DataRole.PRIVATE for item in study.inputs):
        raise InvalidValue(field, "must be 1 where no data is private", found)


def require_units(study: StudySpec, facts: DatasetFacts) -> None:
    """Refuse more workers than training units.

    Raises:
        InvalidValue: If a worker would have none.
    """
    if study.workers > facts.train_units:
        raise InvalidValue(
            "spec.job.resources.workers",
            f"must be at most {facts.train_units}, the training units of budget {facts.budget}",
            study.workers,
        )


def require_nothing_private(wanted: Request) -> None:
    """Refuse what speaks of a mechanism where no data is private.

    Raises:
        InvalidValue: If there is such.
    """
    for name, given in (
        ("ensemble", wanted.ensemble),
        ("mechanism", "None" if wanted.defenses is not None else ""),
        ("langevin", wanted.temperature),
        (early_stopping.FIELD, wanted.stopping and wanted.stopping.score),
    ):
        if given:
            rule = "must be absent where no data is private"
            raise InvalidValue(f"{SECTION}.{name}", rule, given)


def _require_read(study: StudySpec, wanted: Request) -> None:
    known = fields_read(extensions.load(ALGORITHM_GROUP, wanted.algorithm))
    for name, unsaid in _UNSAID.items():
        given = study.job.get(name)
        if given is None or name in known or _same(name, given, unsaid):
            continue
        raise InvalidValue(
            f"{SECTION}.{name}",
            "must be absent for an algorithm that does not read it",
            wanted.algorithm,
            "Use DPSGD, or leave it out.",
        )


def _same(name: str, given: JSON, unsaid: JSON) -> bool:
    if unsaid == "0":
        return parse_decimal(f"{SECTION}.{name}", given) == 0
    return given == unsaid


def _require_posterior(study: StudySpec, wanted: Request) -> None:
    """Langevin dynamics have a posterior to sample only under these (Welling & Teh 2011)."""
    _require_absent(study, "langevin", ("averaging", "biasAware", "individualFilter", "momentum"))
    rules: tuple[tuple[str, bool, str, object], ...] = (
        ("ensemble", bool(wanted.ensemble), "must be given with langevin, to keep samples", "none"),
        ("optimizer", wanted.optimizer == "SGD", "must be SGD with langevin", wanted.optimizer),
        (
            "weightDecay",
            wanted.weight_decay > 0,
            "must be above 0 with langevin: it is the prior",
            wanted.weight_decay,
        ),
        (
            "clipping",
            wanted.clipping is not ClippingRule.AUTOMATIC,
            "must not be Automatic with langevin: it keeps the length of no gradient",
            wanted.clipping.value,
        ),
    )
    for name, holds, rule, found in rules:
        if not holds:
            raise InvalidValue(f"{SECTION}.{name}", rule, found)


def _require_absent(study: StudySpec, field: str, others: tuple[str, ...]) -> None:
    for name in others:
        given = study.job.get(name)
        if given is not None and not (isinstance(given, str) and Decimal(given) == 0):
            rule, remedy = f"must be absent with {field}", "Leave one of the two out."
            raise InvalidValue(f"{SECTION}.{name}", rule, str(given), remedy)
