"""What a training of several workers came to if one of them is lost and nobody can say more.

The first worker leaves a failed report with a receipt before the steps that it covers are run, so
that what was executed is charged and no step is hidden. Must never state fewer steps than ran.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from primum.domain.conditions import Reason
from primum.domain.study.plan import Access
from primum.domain.study.steps import StepStatus, WorkRequest
from primum_pipelines import runtime
from primum_pipelines.kinds.train import fitting, outcome
from primum_pipelines.optimization.algorithm import TrainingReport
from primum_pipelines.optimization.distributed import Group
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.optimization.stopping import StoppingRule
from primum_pipelines.steps import records

_AT_ONCE = 10  # Steps that one report covers: what a lost worker may cost beside what ran.


def leaves_word(
    request: WorkRequest, access: Access, group: Group, *, rule: StoppingRule | None
) -> Callable[[int, int], None] | None:
    """What the first of several workers calls before each step; ``None`` for everybody else.

    Args:
        request: The step's request.
        access: The access that is charged.
        group: The workers.
        rule: What may end the training early.
    """
    if group.count == 1 or group.rank:
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
        covered = min(step + _AT_ONCE - 1, total)
        stated = replace(
            report,
            executed=((mechanism.noise_multiplier, mechanism.sample_rate, covered),),
            looks=0 if rule is None else rule.looks(covered, steps=total),
        )
        word = records.report(
            message=f"training lost a worker; at most {covered} of {total} steps were run",
            seconds=0.0,
            receipts=outcome.receipts(request, access, stated),
            status=StepStatus.FAILED,
            reason=Reason.STEP_FAILED,
        )
        runtime.leave(word)

    return on_begin
