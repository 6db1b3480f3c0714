"""Datasets that are registered where they lie: by a run in the budget's namespace.

In a cluster nobody outside of a governed namespace can mount its claims, and the operator should
not: it makes a run of one step, whose process opens the dataset, records digest and sizes, and
ends. Failed attempts are repeated later, each under ids of its own. Must not open data itself.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping

from primum.application.access import end_run, with_credential
from primum.application.platform import Platform
from primum.application.ports import RunStatus
from primum.domain import names
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import InvalidValue, NotFound, PrimumError
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.registration import Registration, registration_from_json
from primum.domain.study.spec import BudgetSpec, DatasetSpec
from primum.domain.study.steps import REGISTER, StepContext, StepOutcome, StepStatus

ATTEMPT = "RegistrationAttempt"
FIRST_PAUSE_SECONDS, PAUSE_SECONDS_MAX = 60.0, 600.0  # A steward who put it right waits no longer.
_DOUBLINGS_MAX = 10


class UnusableDataset(InvalidValue):
    """A dataset that cannot be used; the sentence comes from the process that looked, as it is."""

    def __init__(self, message: str) -> None:
        super().__init__("dataset", "must be usable", "")
        self.args = (message,)


def registered_by_run(
    platform: Platform, spec: BudgetSpec, dataset: DatasetSpec, *, newest: str = ""
) -> Registration | None:
    """What a run found out about a dataset; starts the run where there is none.

    Args:
        platform: The ports.
        spec: The budget.
        dataset: Its dataset, a layout by time ending with the newest block.
        newest: The newest block by time; empty for a dataset that is not divided by time.

    Returns:
        The registration, or ``None`` while a run is under way.

    Raises:
        NotFound: If the last attempt did not find or could not read it; it is made again later.
        UnusableDataset: If the last attempt found that it cannot be used; likewise.
    """
    attempt = _newest_attempt(lambda n: _noted(platform, spec, newest, n) is not None)
    if attempt:
        run = _run_id(spec, newest, attempt)
        ended = _ended(platform, run)
        if ended is None:
            _keep_running(platform, spec, dataset, newest=newest, attempt=attempt)
            return None
        end_run(platform.evidence, run)
        found = _result(platform, spec, run, ended)
        if not isinstance(found, PrimumError):
            return found
        if not _due(platform, spec, newest, attempt):
            raise found
    now: dict[str, JSON] = {"at": platform.clock.now()}
    platform.evidence.put_fact(ATTEMPT, _attempt_key(spec, newest, attempt + 1), now)
    _keep_running(platform, spec, dataset, newest=newest, attempt=attempt + 1)
    return None


def _ended(platform: Platform, run: str) -> StepOutcome | str | None:
    """What an attempt came to: its outcome, a sentence where it left none, or nothing yet."""
    outcome = platform.evidence.outcome(_outcome_id(run))
    if outcome is not None:
        return outcome
    if platform.runner.status(run) in (RunStatus.UNKNOWN, RunStatus.RUNNING):
        return None
    # Asked again: it may have recorded its outcome between the last two questions.
    said = f"the run {run} that registers the dataset left no outcome; see its logs"
    return platform.evidence.outcome(_outcome_id(run)) or said


def _keep_running(
    platform: Platform, spec: BudgetSpec, dataset: DatasetSpec, *, newest: str, attempt: int
) -> None:
    """Launch an attempt that nobody has; one whose objects were deleted is launched again."""
    run = _run_id(spec, newest, attempt)
    if platform.runner.status(run) is RunStatus.RUNNING:
        return
    context = with_credential(platform, _context(spec, dataset, run))
    name = f"{spec.key.namespace}-{spec.key.name}-{REGISTER}"
    platform.runner.launch(run, name=name, steps=[context])


def _context(spec: BudgetSpec, dataset: DatasetSpec, run: str) -> StepContext:
    asked: dict[str, JSON] = {
        "uri": dataset.uri,
        "unit": dataset.unit.value,
        "options": dict(dataset.options),
        "layout": None if dataset.layout is None else dataset.layout.to_json(),
        "units": dataset.units,
    }
    return StepContext(
        step=REGISTER,
        entry="",
        study={
            "namespace": spec.key.namespace,
            "name": spec.key.name,
            "uid": spec.uid,
            "generation": spec.generation,
            "kind": "Register",
        },
        run_id=run,
        outcome_id=_outcome_id(run),
        plan={"accesses": []},
        datasets={spec.key.name: asked},
        synthetic={},
        expectations=(),
        audits=(),
        tickets={},
        upstream={},
        owner={"kind": spec.key.kind, "name": spec.key.name},
    )


def _result(
    platform: Platform, spec: BudgetSpec, run: str, ended: StepOutcome | str
) -> Registration | PrimumError:
    if isinstance(ended, str):
        return NotFound(ended)
    if ended.status is not StepStatus.SUCCEEDED:
        unusable = ended.reason == Reason.INVALID_SPEC.value
        return UnusableDataset(ended.message) if unusable else NotFound(ended.message)
    for record in platform.evidence.evidence(spec.uid, spec.generation):
        if record.digest in ended.evidence and record.kind is EvidenceKind.REGISTRATION:
            return registration_from_json(record.public)
    return NotFound(f"the run {run} that registers the dataset left no record of it")


def _due(platform: Platform, spec: BudgetSpec, newest: str, attempt: int) -> bool:
    noted = _noted(platform, spec, newest, attempt) or {}
    begun = datetime.datetime.fromisoformat(str(noted["at"]))
    passed = datetime.datetime.fromisoformat(platform.clock.now()) - begun
    pause = FIRST_PAUSE_SECONDS * 2.0 ** min(attempt - 1, _DOUBLINGS_MAX)
    return passed.total_seconds() >= min(pause, PAUSE_SECONDS_MAX)


def _newest_attempt(there: Callable[[int], bool]) -> int:
    """The last of the numbers from 1 that are there, which have no gap; 0 where there is none."""
    low, high = 0, 1
    while there(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if there(middle) else (low, middle)
    return low


def _noted(
    platform: Platform, spec: BudgetSpec, newest: str, attempt: int
) -> Mapping[str, JSON] | None:
    return platform.evidence.fact(ATTEMPT, _attempt_key(spec, newest, attempt))


def _attempt_key(spec: BudgetSpec, newest: str, attempt: int) -> str:
    return f"{spec.uid}/{spec.generation}/{newest}/{attempt}"


def _run_id(spec: BudgetSpec, newest: str, attempt: int) -> str:
    return names.registration_run_id(spec.uid, spec.generation, newest=newest, attempt=attempt)


def _outcome_id(run: str) -> str:
    return names.derived_uuid("outcome", run, REGISTER)
