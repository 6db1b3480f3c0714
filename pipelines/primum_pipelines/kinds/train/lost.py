"""What a training came to if its worker is lost, and what the next one needs to go on from there.

The first worker leaves a failed report with a receipt before the steps that it covers are run, so
that what was executed is charged and no step is hidden. With it goes what another worker needs: how
many steps may have run, and the key of the checkpoints. Must never state fewer steps than ran, and
leave nothing for an algorithm that does not say when a step begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue
from primum.domain.study.plan import Access
from primum.domain.study.steps import Receipt, StepStatus, WorkRequest, WorkResult
from primum_pipelines import runtime
from primum_pipelines.kinds.train import fitting, outcome
from primum_pipelines.kinds.train.search import FIELD as SEARCH
from primum_pipelines.optimization.algorithm import TrainingReport, announces
from primum_pipelines.optimization.checkpoints import Continuation, begun_now
from primum_pipelines.optimization.distributed import Group
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.stopping import StoppingRule
from primum_pipelines.steps import records

# Steps that one report covers are what a lost worker may cost beside what ran; each report costs a
# few milliseconds, which is as long as several small steps.
_AT_ONCE = 10
_REPORTS_MOST = 200
_STEPS, _KEY = "steps", "key"


def continuation(request: WorkRequest) -> Continuation:
    """Which training this is: a new one, or that of a worker that was lost.

    Args:
        request: The step's request.

    Raises:
        InvalidValue: If what the lost worker left is damaged.
    """
    resume = request.left.get("resume")
    if not resume:
        return begun_now()
    told = records.mapping(resume)
    try:
        return Continuation(bytes.fromhex(str(told[_KEY])), int(str(told[_STEPS])))
    except (KeyError, ValueError):
        raise InvalidValue("what a lost worker left", "must be as it left it", "damage") from None


def says_nothing_ran(request: WorkRequest, group: Group, training: Continuation) -> None:
    """Leave word, before the data is opened, that no mechanism has run yet.

    Args:
        request: The step's request.
        group: The workers.
        training: Which training this is; of one that goes on, what was left stands.
    """
    if training.executed is None and _leaves(request, group):
        _leave(
            message="training lost its worker before its first step.",
            receipts=outcome.nothing_ran(request),
            resume=_resume(request, training, steps=0),
        )


def leaves_word(
    request: WorkRequest,
    access: Access,
    group: Group,
    *,
    rule: StoppingRule | None,
    training: Continuation,
) -> Callable[[int, int], None] | None:
    """What the first worker calls before each step; ``None`` for everybody else.

    Args:
        request: The step's request.
        access: The access that is charged.
        group: The workers.
        rule: What may end the training early.
        training: Which training this is.
    """
    if not _leaves(request, group):
        return None
    mechanism = fitting.planned_mechanism(records.plan_of(request).parameters)
    report = TrainingReport(
        executed=(),
        max_grad_norm=mechanism.max_grad_norm,
        sampling="Poisson",
        generator=random_source(None).name,
        individual=mechanism.individual,
        clipping=mechanism.clipping,
        workers=group.count,
    )
    covered = 0

    def on_begin(step: int, total: int) -> None:
        nonlocal covered
        if step <= covered:
            return
        upto = min(step - 1 + max(_AT_ONCE, total // _REPORTS_MOST), total)
        stated = replace(
            report,
            executed=((mechanism.noise_multiplier, mechanism.sample_rate, upto),),
            looks=0 if rule is None else rule.looks(upto, steps=total),
        )
        _leave(
            message=outcome.with_why(
                f"training lost its worker; at most {upto} of {total} steps were run.",
                request,
                stated,
            ),
            receipts=outcome.receipts(request, access, stated),
            resume=_resume(request, training, steps=upto),
        )
        covered = upto

    return on_begin


def stopped(
    request: WorkRequest,
    access: Access,
    report: TrainingReport,
    *,
    seconds: float,
    training: Continuation,
) -> WorkResult:
    """What is reported of a training that ended before its planned steps, and is of no use.

    Args:
        request: The step's request.
        access: The access that is charged.
        report: What the algorithm says it ran.
        seconds: Of the body.
        training: Which training this is; it may go on where another worker was lost.
    """
    executed = sum(count for _, _, count in report.executed)
    ended = records.report(
        message=outcome.with_why(
            f"training stopped after {executed} steps: {report.stopped}", request, report
        ),
        seconds=seconds,
        receipts=outcome.receipts(request, access, report),
        status=StepStatus.FAILED,
        reason=Reason.STEP_FAILED,
    )
    resume = _resume(request, training, steps=executed) if report.cut_off else {}
    return replace(ended, resume=resume)


def _leaves(request: WorkRequest, group: Group) -> bool:
    parameters = records.plan_of(request).parameters
    if group.rank or SEARCH in parameters:
        return False
    return announces(fitting.planned_algorithm(parameters))


def _resume(request: WorkRequest, training: Continuation, *, steps: int) -> dict[str, JSON]:
    """What the next worker needs; nothing where it would find no checkpoint."""
    if steps and fitting.checkpoint_place(request) is None:
        return {}
    return {_STEPS: steps, _KEY: training.key.hex()}


def _leave(
    *,
    message: str,
    receipts: list[Receipt],
    resume: Mapping[str, JSON],
) -> None:
    word = records.report(
        message=message,
        seconds=0.0,
        receipts=receipts,
        status=StepStatus.FAILED,
        reason=Reason.STEP_FAILED,
    )
    runtime.leave(replace(word, resume=resume))
