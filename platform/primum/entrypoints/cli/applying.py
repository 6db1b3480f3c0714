"""Apply resources and follow them.

Drives the loop itself where no `primum up` does, and shows each stage as it ends.
"""

from __future__ import annotations

import enum
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from primum.application.ports import ApplyChange
from primum.domain.conditions import ConditionType, Reason
from primum.domain.errors import NotFound, Refused
from primum.domain.names import ResourceKey
from primum.entrypoints.cli import reporting, session
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output, document, structured
from primum.entrypoints.settings import Settings
from primum.resources.metadata import REQUESTER_LABEL
from primum.resources.status import condition
from primum.resources.stored import StoredResource

_COMPUTING = ("Study", "AuditRun")  # Kinds that need workers.
POLL_SECONDS = 0.1  # People notice a tenth of a second; the store does not.


class Follow(enum.Enum):
    """Whether to follow what was applied."""

    YES = "yes"
    NO = "no"


def apply(files: Sequence[Path], *, follow: Follow, timeout: float, output: Output) -> Exit:
    """Check every document first, then store them all, then follow them."""
    from primum.resources.loading import load_files

    documents = load_files(files)
    settings = session.existing(create=True)
    stores = session.open_stores(settings)
    _check_transitions(stores, documents)
    followed: list[StoredResource] = []
    quiet = output is not Output.TABLE
    for item in documents:
        labels = _labels(stores, item)
        stored, change = stores.resources.apply(item.key, item.spec_mapping(), labels=labels)
        followed.append(_looked_at_again(stores, stored, change))
        if not quiet and follow is Follow.NO:
            print(f"{item.key} {change.value}")
    if follow is Follow.NO:
        if quiet:
            structured([document(stores.resources.get(item.key)) for item in documents], output)
        return Exit.DONE
    code = follow_all(settings, stores, followed, timeout=timeout, quiet=quiet)
    if quiet:
        structured([document(stores.resources.get(item.key)) for item in documents], output)
    return code


def _labels(stores: Any, item: Any) -> dict[str, str]:
    """The labels to store: of a Study, who first applied it is what the platform says it is.

    Quotas count by it. It is never taken from the file, and it stays when somebody else applies
    the same Study again.
    """
    labels = dict(item.labels)
    if item.key.kind != "Study":
        return labels
    before = stores.resources.get(item.key)
    held = before.labels.get(REQUESTER_LABEL) if before is not None else None
    requester = held or session.user_name()
    written = labels.get(REQUESTER_LABEL, requester)
    if written != requester:
        said = f"{item.key}: label {REQUESTER_LABEL} must be who applies; found {written}"
        print(f"{said}. It is {requester}.", file=sys.stderr)
    return {**labels, REQUESTER_LABEL: requester}


def _looked_at_again(stores: Any, stored: StoredResource, change: ApplyChange) -> StoredResource:
    """A budget whose dataset could not be used is looked at again: its file may be right now.

    An empty status is what the control loop fills from what it finds.
    """
    ready = condition(stored.status, ConditionType.READY)
    again = (
        change is ApplyChange.UNCHANGED
        and stored.key.kind == "PrivacyBudget"
        and ready is not None
        and ready.reason in (Reason.DATASET_UNREADABLE, Reason.INVALID_SPEC)
    )
    if not again:
        return stored
    stores.resources.set_status(stored.key, stored.uid, {})
    found: StoredResource = stores.resources.get(stored.key)
    return found


def wait_for(kind: str, name: str, namespace: str, timeout: float) -> Exit:
    """Follow one existing resource."""
    settings, stores, key = _existing_resource(kind, name, namespace)
    stored = stores.resources.get(key)
    return follow_all(settings, stores, [stored], timeout=timeout, quiet=False)


def delete(kind: str, name: str, namespace: str) -> Exit:
    """Mark for deletion, and let the loop settle and remove it."""
    settings, stores, key = _existing_resource(kind, name, namespace)
    stores.resources.request_deletion(key)
    with _driver(settings, computes=False) as drive:
        for _ in range(600):  # A minute: settling stops the run and writes a few entries.
            drive()
            if stores.resources.get(key) is None:
                print(f"{key} deleted; the ledger keeps what was spent")
                return Exit.DONE
            time.sleep(POLL_SECONDS)
    print(f"{key} is marked for deletion and still settling")
    return Exit.TIMED_OUT


def follow_all(
    settings: Settings,
    stores: Any,
    followed: Sequence[StoredResource],
    *,
    timeout: float,
    quiet: bool,
) -> Exit:
    """Show each resource until it comes to rest, in the order given.

    The worst result decides the exit code.
    """
    deadline = time.monotonic() + timeout
    worst = Exit.DONE
    computes = any(item.key.kind in _COMPUTING for item in followed)
    with _driver(settings, computes=computes) as drive:
        for item in followed:
            display = reporting.Display(settings, stores, quiet=quiet)
            code = _follow(stores, item, display, drive, deadline)
            if code is not Exit.DONE:
                worst = code if worst is Exit.DONE else worst
        drive()  # Once more, so that what was spent or frozen shows on the budgets.
    return worst


def _follow(
    stores: Any,
    item: StoredResource,
    display: reporting.Display,
    drive: Callable[[], None],
    deadline: float,
) -> Exit:
    while True:
        drive()
        stored = stores.resources.get(item.key)
        if stored is None or stored.uid != item.uid:
            raise NotFound(f"{item.key} was deleted while it was followed")
        code = display.update(stored)
        if code is not None:
            return code
        if time.monotonic() > deadline:
            how = "it goes on when `primum up` runs or the command is repeated"
            print(f"{item.key}: time is up; {how}")
            return Exit.TIMED_OUT
        time.sleep(POLL_SECONDS)


class _driver:  # noqa: N801 - used like a function
    """Runs the loop in this process where nobody else does; otherwise only watches."""

    def __init__(self, settings: Settings, *, computes: bool) -> None:
        self._settings = settings
        self._computes = computes
        self._loop: Any = None
        self._lock: Any = None
        self._platform: Any = None

    def __enter__(self) -> Callable[[], None]:
        return self._drive

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.release()

    def _drive(self) -> None:
        if self._loop is None:
            self._start()
        if self._loop is not None:
            self._loop.look()

    def _start(self) -> None:
        from primum.adapters.looplock import LoopLock

        lock = LoopLock(self._settings.home)
        if not lock.acquire():
            return
        from primum.entrypoints import bootstrap

        self._lock = lock
        if self._computes:
            bootstrap.compute(self._settings).warm()  # Takes longest, so it starts first.
        from primum.entrypoints import logs, loop

        logs.configure(logs.Audience.PEOPLE)
        self._platform = bootstrap.platform(self._settings)
        flush = bootstrap.lineage_flusher(self._settings)
        self._loop = loop.ControlLoop(self._platform, flush_lineage=flush)


def _existing_resource(kind: str, name: str, namespace: str) -> tuple[Settings, Any, ResourceKey]:
    settings = session.existing()
    stores = session.open_stores(settings)
    word, slash, rest = kind.partition("/")
    key = session.only_namespace(
        stores.resources, session.kind_of(word), rest if slash else name, namespace
    )
    return settings, stores, key


def _check_transitions(stores: Any, documents: Sequence[Any]) -> None:
    """Refuse every forbidden change before anything is stored."""
    from primum.entrypoints.cli.audits import check_attack
    from primum.resources.conversion import check_transition

    for item in documents:
        before = stores.resources.get(item.key)
        if before is not None:
            check_transition(item.key, before.spec, item.spec_mapping())
        if item.key.kind == "AuditRun":
            audit = item.spec_mapping()["audit"]
            check_attack(f"{item.key}: spec.audit.attack", str(audit["attack"]))
        if item.key.kind == "Release" and before is None:
            raise Refused(
                f"{item.key} must be written by the platform; found a new one. "
                "Apply a Study that releases it."
            )
