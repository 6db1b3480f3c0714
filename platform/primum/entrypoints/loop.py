"""The control loop of the embedded profile.

Look at every resource, let the use cases bring it on, look again.

One loop per home folder: whoever holds the lock runs it. The ledger is safe without the lock; the
lock only saves work. A fault in one resource is reported on it and retried later; it never stops
the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog

from primum.application import advance, audits, budgets, releases
from primum.application.platform import ACTOR, Platform
from primum.application.reaudits import has_ended
from primum.domain.budget.entries import RoundView
from primum.domain.conditions import ConditionType, Reason, Status
from primum.domain.errors import PrimumError, Unavailable
from primum.domain.study.lifecycle import Action
from primum.resources.status import condition, conditions_of
from primum.resources.stored import StoredResource

BACKOFF_SECONDS_MAX = 60.0  # A fault that lasts is not helped by asking more often.
EXPIRY_SECONDS = 5.0  # Leases last minutes; looking every few seconds is soon enough.
# How often to ask whether a checkpoint is due: far below the hour after which one always is, and
# short enough that a burst of entries is signed while it is fresh.
CHECKPOINT_LOOK_SECONDS = 5.0
RESYNC_SECONDS = 2.0  # How old a standing resource's status may be when only the ledger moved.
REJECTED_SECONDS = 30.0  # A dataset that cannot be used takes seconds to be looked at again.
_STANDING = ("PrivacyBudget", "GatePolicy", "Release")
_TOLD = ("Release", "AuditRun")
_LOUD = (
    Reason.CLAIM_EXCEEDED,
    Reason.REVOKED,
    Reason.WORSE,
    Reason.DEADLINE_EXCEEDED,
    Reason.ESTIMATE_ABOVE_DEADLINE,
)

log = structlog.get_logger(__name__)


class ControlLoop:
    """Level-based reconciliation of everything in the resource store."""

    def __init__(self, platform: Platform, *, flush_lineage: Callable[[], int]) -> None:
        self._platform = platform
        self._flush_lineage = flush_lineage
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._failed_in_all = 0
        self._seen: dict[str, tuple[int, float]] = {}
        self._rejected_at: dict[str, float] = {}
        self.rounds: dict[str, RoundView] = {}  # The last one of each account.
        self._expire_at = 0.0
        self._checkpoint_at = 0.0
        self._reconcilers: Mapping[str, Callable[[StoredResource], object]] = {
            "PrivacyBudget": lambda stored: budgets.reconcile_budget(platform, stored),
            "GatePolicy": lambda stored: releases.reconcile_policy(platform, stored),
            "Study": self._advance,
            "Release": lambda stored: releases.reconcile_release(platform, stored),
            "AuditRun": lambda stored: audits.reconcile_audit_run(platform, stored),
        }

    def failures(self) -> int:
        """How many times reconciling a resource has failed since the loop was made."""
        return self._failed_in_all

    def look(self) -> None:
        """One look at everything; a store that does not answer is asked again at the next look."""
        try:
            self._look()
        except Unavailable as error:
            log.warning("look failed", error=str(error))

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._expire_at:
            self._platform.ledger.expire(actor=ACTOR)
            self._expire_at = now + EXPIRY_SECONDS
        self._schedule()
        for kind, reconcile in self._reconcilers.items():
            listed = self._platform.resources.list(kind)
            # Who was declared first asks first: names of releases are theirs who do.
            for stored in sorted(listed, key=lambda item: (item.created, item.uid)):
                if self._due(stored, now):
                    self._guarded(stored, reconcile)
        self._flush_lineage()
        if now >= self._checkpoint_at:
            self._checkpoint_at = now + CHECKPOINT_LOOK_SECONDS
            self._checkpoint()

    def _schedule(self) -> None:
        """One round over every claim that waits; what it grants is launched in the same look.

        A round that fails stops nothing else: runs go on, and so do their leases.
        """
        try:
            rounds = self._platform.ledger.schedule(
                lease_seconds=self._platform.conduct.lease_seconds, actor=ACTOR
            )
        except Unavailable:
            raise  # Everything else would ask the same store.
        except PrimumError as error:
            log.warning("scheduling round failed", error=str(error))
            return
        except Exception as error:
            # The text of a foreign exception may hold a value from the data; its type may not.
            log.warning("scheduling round failed", error=type(error).__name__)
            log.debug("scheduling round failed", exc_info=True)
            return
        self.rounds = {**self.rounds, **{view.account_id: view for view in rounds}}
        for view in rounds:
            if view.granted:
                log.info(
                    "scheduling round",
                    account=view.account_id,
                    waiting=view.waiting,
                    granted=view.granted,
                    gap=round(view.gap, 4),
                )

    def _checkpoint(self) -> None:
        """Sign the ledger where that is due, after everything that somebody waits for."""
        try:
            if self._platform.ledger.checkpoint_due():
                self._platform.ledger.checkpoint(self._platform.signer, actor=ACTOR)
        except PrimumError as error:
            log.warning("checkpoint failed", error=str(error))

    def _advance(self, stored: StoredResource) -> None:
        if advance.advance(self._platform, stored.key) is Action.DONE:
            self._seen.clear()  # What it spent, froze or released shows on other resources at once.

    def _due(self, stored: StoredResource, now: float) -> bool:
        """Whether a resource may need anything.

        It changed, it is under way, or it was not looked at for a while.
        """
        if stored.key.kind == "Study" and advance.is_terminal(stored):
            return False
        if stored.key.kind == "AuditRun" and has_ended(stored) and not stored.deleting:
            return False
        if _is_rejected(stored):
            due = now >= self._rejected_at.get(stored.uid, 0.0)
            if due:
                self._rejected_at[stored.uid] = now + REJECTED_SECONDS
            return due
        seen = self._seen.get(stored.uid)
        if stored.key.kind not in _STANDING or seen is None or seen[0] != stored.resource_version:
            due = True
        else:
            due = now >= seen[1] + RESYNC_SECONDS
        if due:
            self._seen[stored.uid] = (stored.resource_version, now)
        return due

    def _guarded(
        self, stored: StoredResource, reconcile: Callable[[StoredResource], object]
    ) -> None:
        name = str(stored.key)
        now = time.monotonic()
        if now < self._retry_at.get(name, 0.0):
            return
        try:
            reconcile(stored)
            self._tell(stored)
            if stored.key.kind == "PrivacyBudget":  # Its dataset was looked at just now.
                self._rejected_at[stored.uid] = time.monotonic() + REJECTED_SECONDS
        except PrimumError as error:
            self._failed(name, now, str(error))
        except Exception as error:
            # The text of a foreign exception may hold a value from the data; its type may not.
            self._failed(name, now, type(error).__name__)
            log.debug("reconcile failed", resource=name, exc_info=True)
        else:
            self._failures.pop(name, None)
            self._retry_at.pop(name, None)

    def _tell(self, stored: StoredResource) -> None:
        """Say aloud what somebody has to know at once, as the operator does by an Event."""
        if stored.key.kind not in _TOLD:
            return
        after = self._platform.resources.get(stored.key)
        for item in conditions_of(after.status) if after is not None else ():
            before = condition(stored.status, item.type)
            known = before is not None and before.reason is item.reason
            if item.status is Status.FALSE and item.reason in _LOUD and not known:
                name, reason = str(stored.key), item.reason.value
                log.error("audit alarm", resource=name, reason=reason, message=item.message)

    def _failed(self, name: str, now: float, message: str) -> None:
        count = self._failures.get(name, 0) + 1
        self._failures[name] = count
        self._failed_in_all += 1
        self._retry_at[name] = now + min(2.0 ** (count - 2), BACKOFF_SECONDS_MAX)
        log.warning("reconcile failed", resource=name, error=message, failures=count)


def _is_rejected(stored: StoredResource) -> bool:
    """Whether a budget's dataset could not be used, as far as its status knows."""
    ready = condition(stored.status, ConditionType.READY)
    return (
        stored.key.kind == "PrivacyBudget"
        and not stored.deleting
        and ready is not None
        and ready.reason in (Reason.INVALID_SPEC, Reason.DATASET_UNREADABLE)
        and ready.observed_generation == stored.generation
    )
