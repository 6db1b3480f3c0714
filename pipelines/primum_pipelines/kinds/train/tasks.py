"""What a Train Study can do with the labels that its inputs have: refused while nothing is spent.

Light: decided from what stewards declare. Whatever is not supported for a kind of label is refused
here, because the step that would find out holds a token that was paid for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.datasets.driver import describe, task_of
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.train import answering, comparison
from primum_pipelines.kinds.train.answering import Answering
from primum_pipelines.kinds.train.request import SECTION, Request
from primum_pipelines.models.registry import require_answers, require_fits
from primum_pipelines.optimization.settings import Defenses, LossName
from primum_pipelines.steps.records import texts

_LABELS_MIN = 2


def planned_task(study: StudySpec, context: PlanningContext, wanted: Request) -> LabelTask:
    """The task of a Study, from the labels that its inputs declare.

    Args:
        study: What is asked for.
        context: Knows the private datasets.
        wanted: The job's parameters.

    Raises:
        InvalidValue: If inputs have labels of two kinds, or model, loss, audits or another
            setting cannot be had for labels of this kind.
    """
    described = [_private(facts) for facts in _datasets(study, context)]
    for item in study.inputs:
        if item.role is DataRole.PUBLIC:
            described.append((item.uri, item.options))
    tasks = [task_of(uri, options) for uri, options in described]
    if any(item.role is DataRole.SYNTHETIC for item in study.inputs):
        tasks.append(LabelTask.MULTI_CLASS)  # No generator makes other labels.
    if len(set(tasks)) > 1:
        found = ", ".join(sorted(set(tasks)))
        raise InvalidValue("spec.data", "must have inputs with labels of one kind", found)
    task = tasks[0] if tasks else LabelTask.MULTI_CLASS
    require_answers(wanted.model, task)
    known = [describe(uri, options) for uri, options in described]
    for facts in known:
        _require_input(wanted, facts, task)
    require_alike(known)
    _require_settings(study, wanted, task)
    _require_answers(study, wanted, known, task)
    return task


def _datasets(study: StudySpec, context: PlanningContext) -> list[DatasetFacts]:
    names = [item.budget for item in study.inputs if item.role is DataRole.PRIVATE]
    return [context.datasets[name] for name in names]


def _private(facts: DatasetFacts) -> tuple[str, Mapping[str, JSON]]:
    return facts.dataset.uri, facts.dataset.options


def _require_input(wanted: Request, facts: Mapping[str, JSON], task: LabelTask) -> None:
    """What is known of an input without opening it must suit the model."""
    shape, classes = facts.get("inputShape"), facts.get("classes")
    if task is LabelTask.MULTI_LABEL and isinstance(classes, list) and len(classes) < _LABELS_MIN:
        rule = "must be two at least"
        raise InvalidValue("dataset.options.labels", rule, len(classes), "Use label and classes.")
    if isinstance(shape, list) and shape:
        sides = [int(str(side)) for side in shape]
        if len(sides) == 1 and wanted.augmenting is not None:
            rule, remedy = "must be absent for tables", "It moves and mirrors images."
            raise InvalidValue(f"{SECTION}.augmentation", rule, "one", remedy)
        require_fits(wanted.model, wanted.model_parameters, input_shape=sides)


def require_alike(known: Sequence[Mapping[str, JSON]]) -> None:
    """One model learns from all inputs: as many classes, and shapes where those are known.

    Args:
        known: What drivers say of each input without opening it.

    Raises:
        InvalidValue: If two differ.
    """
    for name, what in (("classes", "classes"), ("inputShape", "shapes")):
        given = [list(texts(facts[name])) for facts in known if facts.get(name)]
        seen = {str(len(item)) if name == "classes" else str(item) for item in given}
        if len(seen) > 1:
            found = " and ".join(sorted(seen))
            raise InvalidValue("spec.data", f"must have inputs with the same {what}", found)


def _require_answers(
    study: StudySpec, wanted: Request, known: Sequence[Mapping[str, JSON]], task: LabelTask
) -> None:
    """How the model is to answer must be possible for its labels."""
    parts = {"search": wanted.search, "earlyStopping": wanted.stopping}
    answering.require_possible(
        wanted.answering,
        study,
        ensemble=wanted.ensemble,
        beside=[name for name, part in parts.items() if part is not None],
    )
    if task is not LabelTask.MULTI_CLASS:
        if wanted.answering != Answering():
            rule = f"must be absent for labels of kind {task}"
            raise InvalidValue(f"{SECTION}.{answering.FIELD}", rule, "some")
        if wanted.stopping is not None:
            rule, remedy = f"must be absent for labels of kind {task}", "It looks at accuracy."
            raise InvalidValue(f"{SECTION}.earlyStopping", rule, "one", remedy)
    if wanted.answering.abstain_below is None:
        return
    for facts in known:
        if answering.ABSTAIN in texts(facts.get("classes", ())):
            rule = f"must have no class called {answering.ABSTAIN}, which is no answer"
            raise InvalidValue("spec.data", rule, "one")


def _require_settings(study: StudySpec, wanted: Request, task: LabelTask) -> None:
    if task is not LabelTask.SEGMENTATION and wanted.loss is not LossName.CROSS_ENTROPY:
        rule = "must be CrossEntropy for labels that are no masks"
        raise InvalidValue(f"{SECTION}.loss", rule, wanted.loss.value)
    if task is LabelTask.MULTI_CLASS:
        return
    if wanted.ensemble:
        rule = f"must be absent for labels of kind {task}"
        raise InvalidValue(f"{SECTION}.ensemble", rule, wanted.ensemble)
    if task is LabelTask.SEGMENTATION and wanted.augmenting is not None:
        rule, remedy = "must be absent for masks", "A mask would not be moved with its image."
        raise InvalidValue(f"{SECTION}.augmentation", rule, "one", remedy)
    if wanted.defenses not in (None, Defenses()):
        rule = f"must be absent for labels of kind {task}"
        raise InvalidValue(f"{SECTION}.{comparison.FIELD}", rule, "some")
    audits = declaring.audits_on_data(study)
    if audits:
        rule = f"must not open data with labels of kind {task}"
        remedy = "Use OneRunCanary, which needs none."
        raise InvalidValue("spec.audits.attack", rule, ", ".join(audits), remedy)
