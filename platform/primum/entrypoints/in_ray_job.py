"""A heavy step whose work runs in a RayJob: this process makes it, follows it, and lets go of it.

The RayJob runs the very same step, under the same outcome id. What counts is the outcome that it
recorded, whatever KubeRay says of it; without one the run fails here, and the platform settles as
it does for any step that was lost.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from primum.application.step_services import EXPOSED
from primum.domain.errors import InvalidValue, PrimumError, Refused, Unavailable
from primum.domain.study.steps import StepContext, StepOutcome, StepServices
from primum.entrypoints.settings import ComputeKind, Settings

if TYPE_CHECKING:
    from primum.adapters.kube.api import Json
    from primum.adapters.kube.rayjobs import RayJobs

Execute = Callable[[StepContext, StepServices], StepOutcome]
_ASK_SECONDS = 300.0  # An API that is upgraded is back by then.


def outcome_of(
    context: StepContext, services: StepServices, execute: Execute, *, settings: Settings
) -> StepOutcome:
    """Have a step run in its RayJob, and find what it came to.

    Args:
        context: What the step was told.
        services: What the platform lets it do.
        execute: The step runtime, for a step that was lost before: it records that, and runs
            nothing.
        settings: The process' settings.

    Guarantees:
        At most one RayJob runs the step at any time, and none is made once a charged access was
        exposed.

    Raises:
        Refused: If it ended without an outcome, or something else has its name.
        InvalidValue: If the API server refuses its manifest.
        Unavailable: If the platform could not be reached for long.
    """
    from primum.adapters.kube.api import KubeApi
    from primum.adapters.kube.rayjobs import RayJobs, settings_from_text

    asked = settings_from_text(settings.ray_job)
    manifest = manifest_of_step(context, settings)
    standing = services.outcome(context.outcome_id)
    if standing is not None:
        return standing
    with contextlib.closing(KubeApi(settings.kubeconfig)) as api:
        jobs = RayJobs(api)
        found = jobs.standing(manifest)
        if found is None:
            if services.begun(context.outcome_id) == EXPOSED:
                return execute(context, services)
            found = jobs.create(manifest)
        with _let_go(jobs, found):
            reason = _followed(jobs, found, context, services, seconds=asked.deadline_seconds)
    outcome = _patiently(lambda: services.outcome(context.outcome_id))
    if outcome is None:
        name = found["metadata"]["name"]
        raise Refused(f"step {context.step}: RayJob {name} left no outcome ({reason})")
    return outcome


def manifest_of_step(context: StepContext, settings: Settings) -> Json:
    """The RayJob that a step asks for.

    Raises:
        InvalidValue: If it cannot run once under its reservations.
    """
    from primum.adapters.kube.rayjobs import manifest_of, settings_from_text

    return manifest_of(
        context,
        settings_from_text(settings.ray_job),
        key=_key_of(context, settings),
        environment=driver_environment(settings),
    )


def driver_environment(settings: Settings) -> dict[str, str]:
    """Settings of the process that runs the step on the head of its RayJob."""
    from primum.adapters.kube_manifests import rayjob

    told = {
        "PRIMUM_HOME": rayjob.HOME_PATH,
        "PRIMUM_DATA": rayjob.DATASETS_PATH,
        "PRIMUM_COMPUTE": ComputeKind.RAY.value,
        "PRIMUM_LEDGER_URL": settings.ledger_url,
        "PRIMUM_LEDGER_CA": f"{rayjob.CA_PATH}/ca.crt" if settings.ledger_ca else "",
        "PRIMUM_LINEAGE_URL": settings.lineage_url,
        "PRIMUM_PUBLIC_DATA": settings.environment().get("PRIMUM_PUBLIC_DATA", ""),
    }
    return {name: value for name, value in told.items() if value}


def _followed(
    jobs: RayJobs, found: Json, context: StepContext, services: StepServices, *, seconds: float
) -> str:
    """Follow a RayJob to its end, and do what its end asks for; gives KubeRay's reason."""
    from primum.adapters.kube_manifests.rayjob_status import Duty

    state = jobs.follow(
        found,
        seconds=seconds,
        recorded=lambda: services.outcome(context.outcome_id) is not None,
    )
    if state.duty is Duty.STOP:
        jobs.delete(found)
    return state.reason


@contextlib.contextmanager
def _let_go(jobs: RayJobs, found: Json) -> Iterator[None]:
    """Delete a RayJob that nobody will follow any more, as after SIGTERM."""
    try:
        yield
    except BaseException:
        # What cannot be deleted now, the operator's sweep deletes.
        with contextlib.suppress(PrimumError):
            jobs.delete(found)
        raise


def _patiently(ask: Callable[[], StepOutcome | None]) -> StepOutcome | None:
    end = time.monotonic() + _ASK_SECONDS
    while True:
        try:
            return ask()
        except Unavailable as error:
            if time.monotonic() > end:
                raise
            time.sleep(error.retry_seconds)


def _key_of(context: StepContext, settings: Settings) -> str:
    """The step's own key in the Secret of its run, which is mounted here too."""
    from primum.adapters.kube.pods import STEPS_FOLDER

    folder = Path(settings.steps or STEPS_FOLDER)
    found = sorted(path.name for path in folder.glob(f"[0-9]*-{context.step}.json"))
    if len(found) != 1:
        rule = f"must hold one context of step {context.step}"
        raise InvalidValue(str(folder), rule, f"{len(found)}")
    return found[0]
