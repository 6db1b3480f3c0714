"""The second level of admission: after privacy, the GPUs.

Privacy is reserved first; then a Study waits here for its GPUs, with nothing exposed. Its lease is
not moved on meanwhile, so that a run which never gets its GPUs gives the reservation back untouched
(ledger.md 2.8). Nothing here reserves privacy or opens data.
"""

from __future__ import annotations

from primum.application.platform import Platform
from primum.application.ports import RunStatus
from primum.domain import names
from primum.domain.errors import Refused
from primum.domain.study.spec import StudySpec
from primum.resources import conversion


def needed(spec: StudySpec) -> int:
    """GPUs that a Study's run holds while it runs; a GPU that workers share is whole."""
    return -(-spec.workers * spec.gpus_per_worker // spec.workers_per_gpu)


def refuse_impossible(platform: Platform, spec: StudySpec) -> None:
    """Refuse a Study that could not run if everybody else were gone.

    Raises:
        Refused: If there are too few GPUs, whoever has them.
    """
    there = platform.compute.devices()
    if needed(spec) > there:
        workers = "1 worker" if spec.workers == 1 else f"{spec.workers} workers"
        raise Refused(
            f"InvalidSpec: spec.job.resources must need at most the {there} GPUs that there are; "
            f"found {workers} with {spec.gpus_per_worker} each."
        )


def missing(platform: Platform, spec: StudySpec) -> str:
    """Why a run cannot begin now, or empty: its GPUs are with runs that are under way."""
    wanted = needed(spec)
    if not wanted:
        return ""
    there = platform.compute.devices()
    taken = sum(
        needed(other)
        for stored in platform.resources.list("Study")
        if stored.uid != spec.uid and _runs(platform, other := conversion.study_spec(stored))
    )
    if wanted <= there - taken:
        return ""
    return f"waits for {wanted} GPUs; {taken} of {there} are with other runs"


def _runs(platform: Platform, spec: StudySpec) -> bool:
    if not needed(spec):
        return False
    run = names.run_id(spec.uid, spec.generation)
    return platform.runner.status(run) is RunStatus.RUNNING
