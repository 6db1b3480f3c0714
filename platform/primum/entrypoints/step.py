"""The process of one pipeline step.

Read the context, build the services, run the step runtime. Must start fast.
"""

from __future__ import annotations

import json

from primum import extensions
from primum.adapters import processes
from primum.domain.errors import Refused
from primum.domain.study.steps import StepStatus, context_from_json
from primum.entrypoints import bootstrap, settings


def run_step(context: str) -> str:
    """Run one step to its recorded outcome; what the KFP component's body calls.

    Args:
        context: The step's context, canonical JSON.

    Returns:
        The outcome's id.

    Raises:
        Refused: If the step failed, so that the pipeline stops here. Its outcome is recorded all
            the same.
    """
    told = context_from_json(json.loads(context))
    with processes.short_lived():
        services = bootstrap.step_services(settings.from_environment(), told)
        execute = extensions.load("primum.step_runtime", "execute")
        outcome = execute(told, services)
    if outcome.status is not StepStatus.SUCCEEDED:
        raise Refused(f"step {told.step} failed: {outcome.reason}")
    return str(outcome.outcome_id)
