"""One look at one resource: claim it, let the use cases bring it on, say when to look again.

Level-based: everything is read afresh, nothing is remembered but who waits for whom, which a
resync makes good. A resource that breaks a rule is told so on its own status, and blocks nobody.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from primum.application import access, advance, audits, budgets, releases
from primum.application.platform import ACTOR
from primum.domain import names
from primum.domain.budget.entries import ReservationState
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import Conflict, InvalidValue, PrimumError, Unavailable
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Action
from primum.entrypoints.cluster import Cluster
from primum.resources.kinds import KINDS
from primum.resources.status import condition, with_conditions
from primum.resources.stored import StoredResource

_BUDGET_SECONDS = 30.0  # A dataset that cannot be used takes seconds to be looked at again.
_UNREADABLE = "its spec cannot be read; what was exposed is charged in full"
_WAITED_FOR = ("PrivacyBudget", "Release", "GatePolicy")

log = structlog.get_logger(__name__)


class Reconciler:
    """Looks at resources; safe to use from many threads, one resource in one thread at a time.

    Args:
        cluster: The platform in its cluster.
        wake: Has a name looked at after that many seconds.
        run_seconds: How often a run under way is looked at.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        wake: Callable[[ResourceKey, float], None],
        run_seconds: float,
    ) -> None:
        self._cluster, self._platform = cluster, cluster.platform
        self._wake = wake
        self._run_seconds = run_seconds
        self._waiting: dict[str, set[ResourceKey]] = defaultdict(set)
        self._was: dict[ResourceKey, str] = {}
        self._lock = threading.Lock()
        self._looks: Mapping[str, Callable[[StoredResource], None]] = {
            "PrivacyBudget": self._budget,
            "GatePolicy": lambda stored: releases.reconcile_policy(self._platform, stored),
            "Study": self._study,
            "Release": lambda stored: releases.reconcile_release(self._platform, stored),
            "AuditRun": self._audit,
        }

    def look(self, key: ResourceKey) -> None:
        """Do what one resource needs now.

        Raises:
            PrimumError: If something did not answer or refused; look again later.
        """
        with self._cluster.resources.one_write_per_status():
            try:
                stored = self._cluster.resources.claim(key)
            except InvalidValue as error:
                self._reject(key, error)
                return
            if stored is None:
                self._no_longer_waits(key)
                return
            try:
                self._looks[key.kind](stored)
            except (Conflict, Unavailable):
                raise  # Nobody needs to do anything about these.
            except PrimumError as error:
                self._cluster.events.trouble(key, stored.uid, str(error))
                raise

    def heard(self, key: ResourceKey, was: str | None) -> None:
        """Something about a resource changed: it is looked at, and who waits for the like of it.

        Args:
            key: The resource.
            was: What it was then; the same as before means that only its status changed, which is
                our own word. Empty for what is gone; ``None`` where something of it changed.
        """
        with self._lock:
            news = not was or self._was.get(key) != was
            if was:
                self._was[key] = was
            elif was is not None:
                self._was.pop(key, None)
            waits = key.kind in _WAITED_FOR
            waiting = tuple(self._waiting.get(key.namespace, ())) if waits else ()
        if news:
            self._wake(key, 0.0)
        for other in waiting:
            self._wake(other, 0.0)

    def _budget(self, stored: StoredResource) -> None:
        budgets.reconcile_budget(self._platform, stored)
        if stored.deleting:
            self._wake(stored.key, self._run_seconds)  # It goes when its last reservation does.
            return
        shown = self._cluster.resources.get(stored.key)
        ready = condition(shown.status, ConditionType.READY) if shown else None
        if ready is not None and ready.status is Status.UNKNOWN:
            self._wake(stored.key, self._run_seconds)  # A run registers its dataset.
        elif ready is not None and ready.status is not Status.TRUE:
            self._wake(stored.key, _BUDGET_SECONDS)

    def _study(self, stored: StoredResource) -> None:
        if advance.is_terminal(stored):
            self._no_longer_waits(stored.key)
            return
        action = advance.advance(self._platform, stored.key)
        if action is Action.DONE:
            self._no_longer_waits(stored.key)
            self._wake_touched(stored)
            return
        shown = self._cluster.resources.get(stored.key)
        launched = condition(shown.status, ConditionType.LAUNCHED) if shown else None
        if launched is None or launched.status is not Status.TRUE:
            with self._lock:
                self._waiting[stored.key.namespace].add(stored.key)
        else:
            self._no_longer_waits(stored.key)
        self._wake(stored.key, self._run_seconds)

    def _audit(self, stored: StoredResource) -> None:
        audits.reconcile_audit_run(self._platform, stored)
        shown = self._cluster.resources.get(stored.key)
        ended = condition(shown.status, ConditionType.SUCCEEDED) if shown else None
        if shown is not None and (ended is None or ended.status is Status.UNKNOWN):
            self._wake(stored.key, self._run_seconds)
            return
        release = stored.spec.get("release")
        if isinstance(release, str):
            self._wake(ResourceKey("Release", stored.key.namespace, release), 0.0)

    def _wake_touched(self, study: StoredResource) -> None:
        """What a Study spent or froze shows on its budgets at once."""
        listed = study.spec.get("data")
        for item in listed if isinstance(listed, list | tuple) else ():
            if isinstance(item, Mapping) and item.get("budget"):
                budget = ResourceKey("PrivacyBudget", study.key.namespace, str(item["budget"]))
                self._wake(budget, 0.0)

    def _no_longer_waits(self, key: ResourceKey) -> None:
        with self._lock:
            self._waiting[key.namespace].discard(key)

    def _reject(self, key: ResourceKey, error: InvalidValue) -> None:
        """Say on the status what is wrong with a spec; let go of what is being deleted."""
        stored = self._cluster.resources.unchecked(key)
        if stored is None:
            return
        if stored.deleting:
            self._settle_unread(stored)
            self._platform.resources.remove(key, stored.uid)
            return
        summary = ConditionType(KINDS[key.kind].summary)
        found = Condition(summary, Status.FALSE, Reason.INVALID_SPEC, str(error))
        found = replace(found, observed_generation=stored.generation)
        now = self._platform.clock.now()
        shown = {**stored.status, **with_conditions(stored, (found,), now=now)}
        if shown != dict(stored.status):
            self._platform.resources.set_status(key, stored.uid, shown)
        log.warning("resource rejected", resource=str(key), error=str(error))

    def _settle_unread(self, stored: StoredResource) -> None:
        """A Study that nobody can read any more is settled as if the worst had happened."""
        if stored.key.kind in ("Study", "AuditRun"):
            run = names.run_id(stored.uid, stored.generation)
            access.end_run(self._platform.evidence, run)
            self._platform.runner.stop(run)
        for held in self._platform.ledger.reservations(study_uid=stored.uid):
            if held.state is ReservationState.EXPOSED:
                self._platform.ledger.charge(
                    held.reservation_id, executed=None, reason=_UNREADABLE, actor=ACTOR
                )
            elif held.state in (ReservationState.RESERVED, ReservationState.QUEUED):
                self._platform.ledger.give_back(
                    held.reservation_id, reason=_UNREADABLE, actor=ACTOR
                )
