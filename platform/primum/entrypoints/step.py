"""The process of one pipeline step.

Read the context, build the services, run the step runtime. Must start fast.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from primum import extensions
from primum.adapters import processes
from primum.domain.errors import NotFound, Refused
from primum.domain.study.steps import REGISTER, StepStatus, context_from_json
from primum.entrypoints import bootstrap, settings

_TERMINATED = 143  # What a shell says of a process that SIGTERM ended.


def run_step(context: str) -> str:
    """Run one step to its recorded outcome; what the KFP component's body calls.

    Args:
        context: The step's context, canonical JSON; or the path of a file with it, as where a
            cluster mounts it from the run's Secret.

    Returns:
        The outcome's id.

    Raises:
        NotFound: If there is no such file.
        Refused: If the step failed, so that the pipeline stops here. Its outcome is recorded all
            the same.
    """
    told = context_from_json(json.loads(_text(context)))
    own = settings.from_environment()
    with processes.short_lived():
        services = bootstrap.step_services(own, told)
        act = "execute_registration" if told.step == REGISTER else "execute"
        execute = extensions.load("primum.step_runtime", act)
        if told.is_heavy and own.compute is settings.ComputeKind.RAY_JOB:
            from primum.entrypoints import in_ray_job

            # What it made has to go with it; a process without a handler would just end.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
            outcome = in_ray_job.outcome_of(told, services, execute, settings=own)
        else:
            outcome = execute(told, services)
    if outcome.status is not StepStatus.SUCCEEDED:
        raise Refused(f"step {told.step} failed: {outcome.reason}")
    return str(outcome.outcome_id)


def _text(context: str) -> str:
    if not context.startswith("/"):  # JSON begins with a brace.
        return context
    try:
        return Path(context).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFound(
            f"{context} must hold the step's context; found no such file. "
            "The platform puts it there; a step runs only in its Study's run."
        ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the step whose context is in a file: the driver of a RayJob."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    run_step(path)


if __name__ == "__main__":
    main()
