"""Show a resource while it comes to rest.

Each stage as it ends, then what is Public and what a role may see.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from primum.domain.canonical import JSON
from primum.domain.conditions import Condition, ConditionType, Reason, Stage, Status
from primum.domain.governance.headlines import restricted_headline, spoken
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.settings import Settings
from primum.resources.stages import StageLine, stage_lines
from primum.resources.status import condition
from primum.resources.stored import StoredResource

WIDTH = 90  # Where the last column starts: a plan in one line and a time fit before it.
BAR = 24

# Waiting longer does not help against these: a person has to act first.
BLOCKING = (
    Reason.BUDGET_NOT_FOUND,
    Reason.BUDGET_NOT_READY,
    Reason.RELEASE_NOT_FOUND,
    Reason.POLICY_NOT_FOUND,
)
# What was missing may have come up a moment ago: the loop gets this long to notice.
_BLOCKED_SECONDS = 3.0
_EXIT_OF = {
    Reason.INVALID_SPEC: Exit.INVALID,
    Reason.DATASET_UNREADABLE: Exit.NOT_FOUND,
    Reason.BUDGET_NOT_FOUND: Exit.NOT_FOUND,
    Reason.RELEASE_NOT_FOUND: Exit.NOT_FOUND,
    Reason.POLICY_NOT_FOUND: Exit.NOT_FOUND,
    Reason.ENDPOINT_TAKEN: Exit.CONFLICT,
    Reason.STEP_FAILED: Exit.FAULT,
    Reason.STEP_LOST: Exit.FAULT,
}


class Display:
    """Follows one resource and prints what changed."""

    def __init__(self, settings: Settings, stores: Any, *, quiet: bool) -> None:
        self._settings = settings
        self._stores = stores
        self._quiet = quiet
        self._shown: set[Stage] = set()
        self._titled = False
        self._blocked_since: float | None = None
        self._bar = sys.stdout.isatty() and not quiet

    def update(self, stored: StoredResource) -> Exit | None:
        """Print what is new; the exit code once the resource is at rest, else ``None``."""
        match stored.key.kind:
            case "PrivacyBudget":
                return self._standing(stored, _budget_line(stored))
            case "Study":
                return self._study(stored)
            case "AuditRun":
                return self._bounded(stored)
            case _:
                return self._standing(stored, str(stored.key))

    def _standing(self, stored: StoredResource, line: str) -> Exit | None:
        ready = condition(stored.status, ConditionType.READY)
        if (
            ready is None
            or ready.observed_generation != stored.generation
            or ready.status is Status.UNKNOWN
        ):
            return None
        if ready.reason is Reason.REVOKED:  # What was asked for, and it is done.
            self._print(_right(line, "Revoked"))
            return Exit.DONE
        self._print(_right(line, "Ready" if ready.status is Status.TRUE else "not ready"))
        if ready.status is Status.TRUE:
            return Exit.DONE
        self._print(f"  {ready.message}")
        return _EXIT_OF.get(ready.reason, Exit.REFUSED)

    def _bounded(self, stored: StoredResource) -> Exit | None:
        ended = condition(stored.status, ConditionType.SUCCEEDED)
        if ended is None or ended.status is Status.UNKNOWN:
            return None
        self._print(_right(str(stored.key), str(stored.status.get("verdict", ended.reason.value))))
        if ended.status is Status.TRUE:
            return Exit.DONE
        self._print(f"  {ended.message}")
        return _EXIT_OF.get(ended.reason, Exit.REFUSED)

    def _study(self, stored: StoredResource) -> Exit | None:
        succeeded = condition(stored.status, ConditionType.SUCCEEDED)
        if succeeded is None or succeeded.observed_generation != stored.generation:
            return None
        planned = condition(stored.status, ConditionType.PLANNED)
        blocked = planned is not None and planned.reason in BLOCKING
        over = succeeded.status is not Status.UNKNOWN
        if blocked and not self._stays_blocked():
            return None
        self._stages(stored)
        if blocked and planned is not None:
            self._clear()
            self._print(f"{stored.key}  waits at Plan: {planned.message}")
            return _EXIT_OF.get(planned.reason, Exit.REFUSED)
        if not over:
            self._progress(stored)
            return None
        return self._end(stored, succeeded)

    def _stays_blocked(self) -> bool:
        if self._blocked_since is None:
            self._blocked_since = time.monotonic()
        return time.monotonic() - self._blocked_since >= _BLOCKED_SECONDS

    def _stages(self, stored: StoredResource) -> None:
        for line in stage_lines(stored.status):
            if line.stage in self._shown or line.state not in ("ok", "failed"):
                continue
            if not self._titled:
                self._clear()
                self._print(str(stored.key))
                self._titled = True
            self._shown.add(line.stage)
            self._clear()
            self._print(_stage_text(line, stored, self._stores))

    def _end(self, stored: StoredResource, succeeded: Condition) -> Exit:
        for line in summary(self._settings, self._stores, stored):
            self._print(line)
        if succeeded.status is Status.TRUE:
            return Exit.DONE
        stage = str(stored.status.get("stage", "Plan"))
        why = _sentences(succeeded.message)
        self._print(f"{stored.key}  {spoken(succeeded.reason.value)} at {stage}: {why}")
        return _EXIT_OF.get(succeeded.reason, Exit.REFUSED)

    def _progress(self, stored: StoredResource) -> None:
        if not self._bar:
            return
        found = _progress_of(self._settings, stored)
        if found is None:
            return
        step, done, total, message = found
        filled = int(BAR * done / total) if total else 0
        sys.stdout.write(f"\r\033[K  {step:<8} [{'#' * filled}{'.' * (BAR - filled)}] {message}")
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._bar:
            sys.stdout.write("\r\033[K")

    def _print(self, line: str) -> None:
        if not self._quiet:
            print(line, flush=True)


def summary(settings: Settings, stores: Any, stored: StoredResource) -> list[str]:
    """The two blocks at the end of a Study.

    Public, and Restricted where the caller's role allows it.
    """
    status = stored.status
    shown = status.get("public")
    lines = []
    figures = _figures(shown) if isinstance(shown, Mapping) else []
    reserved = condition(status, ConditionType.BUDGET_RESERVED)
    if reserved is not None and reserved.status is Status.TRUE:
        if status.get("epsilonClaimed", "") in ("", "Infinity"):
            figures.append("no privacy is claimed (Void)")
        else:
            figures.append(f"epsilon spent {_spent(status)}, left: {_studies_left(stores, stored)}")
        lines.append(f"Public     {'   '.join(figures)}")
    lines += _restricted(settings, stores, stored)
    if "certificateUri" in status:
        path = _relative(str(status["certificateUri"]))
        lines.append(f"Certificate  {path}   verify: primum certificate verify {path}")
    if "endpointUrl" in status:
        release = stored.spec.get("release")
        word = "Dataset" if isinstance(release, Mapping) and "dataset" in release else "Endpoint"
        lines.append(f"{word:<12} {_relative(str(status['endpointUrl']))}")
    return lines


def _spent(status: Mapping[str, JSON]) -> str:
    """What was charged; beside it the claim where a training that ended early cost less."""
    spent, claimed = _short(status["epsilonSpent"]), _short(status["epsilonClaimed"])
    nothing = not Decimal(str(status["epsilonSpent"]))
    return spent if nothing or spent == claimed else f"{spent} (claim {claimed})"


def _figures(shown: Mapping[str, JSON]) -> list[str]:
    """Public headlines; of a federated Study only the pooled one, `audit show` has the sites'."""
    found = {name: str(value) for name, value in shown.items() if name.startswith("headline.")}
    pooled = {name: value for name, value in found.items() if name.endswith(".pooled")}
    return list((pooled or found).values())


def _restricted(settings: Settings, stores: Any, stored: StoredResource) -> list[str]:
    from primum.adapters.identity import Role, caller

    who = caller(settings.home, settings.token)
    if not who.holds(Role.STEWARD, Role.AUDITOR):
        return []
    evidence = stores.evidence.evidence(stored.uid, stored.generation)
    line = restricted_headline(evidence, claim=str(stored.status.get("epsilonClaimed", "")))
    if not line:
        return []
    role = Role.STEWARD if who.holds(Role.STEWARD) else Role.AUDITOR
    return [f"Restricted (shown because you hold the role {role.value})", f"           {line}"]


def _studies_left(stores: Any, stored: StoredResource) -> str:
    from primum.application.planning import events_by_budget
    from primum.domain.accounting.events import NoEvent
    from primum.domain.budget.filters import TIMES_MAX

    plan = stores.evidence.plan(stored.uid, stored.generation)
    if plan is None:
        return "unknown"
    events = events_by_budget(plan)
    accounts = {held.account_id: held for held in stores.ledger.reservations(study_uid=stored.uid)}
    counts = [
        stores.ledger.fits(account, held.event)
        for account, held in accounts.items()
        if not isinstance(held.event, NoEvent)
    ]
    if not counts or not events:
        return "as before"
    count = min(counts)
    if not count:
        return "no more Study like this"
    least = "at least " if count >= TIMES_MAX else ""  # The ledger counts no further.
    return f"{least}{count} more {'Study' if count == 1 else 'Studies'} like this"


def _stage_text(line: StageLine, stored: StoredResource, stores: Any) -> str:
    text = line.text
    if line.stage is Stage.RESERVE and line.state == "ok":
        text = _reserve_text(stored, stores, text)
    took = f"{line.seconds:.0f} s" if line.seconds else ""
    body = f"  {line.stage.value:<8} {text}"
    gap = max(WIDTH - 8 - len(body), 1)
    return f"{body}{' ' * gap}{took:>6}  {line.state}"


def _reserve_text(stored: StoredResource, stores: Any, text: str) -> str:
    plan = stores.evidence.plan(stored.uid, stored.generation)
    accounts = [
        stores.ledger.account(h.account_id)
        for h in stores.ledger.reservations(study_uid=stored.uid)
    ]
    caps = sorted({str(a.terms.epsilon) for a in accounts if a is not None})
    if plan is None or not caps:
        return text
    if not plan.epsilon.is_finite():
        return text
    where = f" on each of {len(accounts)} budgets" if len(accounts) > 1 else ""
    return f"epsilon {_short(plan.epsilon)} of {' or '.join(caps)}{where}"


def _budget_line(stored: StoredResource) -> str:
    guarantee, dataset = stored.spec["guarantee"], stored.spec["dataset"]
    if not isinstance(guarantee, Mapping) or not isinstance(dataset, Mapping):
        return str(stored.key)
    promise = f"epsilon {guarantee['epsilon']}, delta {guarantee['delta']}"
    return f"{stored.key}   {promise}, unit {dataset['unit']}"


def _progress_of(settings: Settings, stored: StoredResource) -> tuple[str, int, int, str] | None:
    folder = settings.home / "artifacts" / stored.uid / str(stored.generation) / "progress"
    files = (
        sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
        if folder.is_dir()
        else []
    )
    if not files:
        return None
    try:
        value: Mapping[str, JSON] = json.loads(files[-1].read_text())
    except (OSError, ValueError):  # Replaced while it was read: the next look shows it.
        return None
    return (
        files[-1].stem,
        int(str(value.get("done", 0))),
        int(str(value.get("total", 0))),
        str(value.get("message", "")),
    )


def _right(left: str, right: str) -> str:
    return f"{left}{' ' * max(WIDTH - len(left), 1)}{right}"


def _short(value: object) -> str:
    number = Decimal(str(value))
    return f"{number:.2f}" if number.is_finite() else "without bound"


def _relative(path: str) -> str:
    path = path.removeprefix("file://")
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def _sentences(message: str) -> str:
    return message.replace(". What would fit", ".\n  What would fit")


def stage_table(status: Mapping[str, JSON]) -> Sequence[str]:
    """The stage lines of a status, without following it."""
    return [
        f"  {line.stage.value:<8} {line.text or '-':<60} {line.state}"
        for line in stage_lines(status)
    ]
