"""What the leader does beside looking at resources: leases, rounds, lineage, checkpoints, orphans.

Each part is tried on its own: one that fails is logged and tried again at the next turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from primum.application import access
from primum.application.access import end_run
from primum.application.platform import ACTOR
from primum.application.ports import RunStatus
from primum.domain.errors import PrimumError, Unavailable
from primum.domain.names import ResourceKey
from primum.entrypoints.cluster import Cluster
from primum.resources.kinds import KINDS

EXPIRY_SECONDS = 5.0  # Leases last minutes; looking every few seconds is soon enough.
CHECKPOINT_SECONDS = 5.0
LINEAGE_SECONDS = 1.0
SWEEP_SECONDS = 300.0
_OWNERS = ("Study", "AuditRun", "PrivacyBudget")

log = structlog.get_logger(__name__)


class Upkeep:
    """Everything that is due from time to time.

    Args:
        cluster: The platform in its cluster.
        wake: Has a name looked at.
        flush_lineage: Delivers what waits in the outbox.
        orphan_removed: Told of every orphan.
        resync_seconds: How often everything is looked at.
        resync_workloads: Has every workload looked at that waits in a queue.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        wake: Callable[[ResourceKey], None],
        flush_lineage: Callable[[], int],
        orphan_removed: Callable[[], None],
        resync_seconds: float,
        resync_workloads: Callable[[], None],
    ) -> None:
        self._cluster, self._platform = cluster, cluster.platform
        self._wake, self._orphan_removed = wake, orphan_removed
        self._parts: tuple[tuple[str, float, Callable[[], object]], ...] = (
            ("expiry", EXPIRY_SECONDS, lambda: self._platform.ledger.expire(actor=ACTOR)),
            ("schedule", EXPIRY_SECONDS, self._schedule),
            ("lineage", LINEAGE_SECONDS, flush_lineage),
            ("checkpoint", CHECKPOINT_SECONDS, self._checkpoint),
            ("resync", resync_seconds, self.resync),
            ("workloads", resync_seconds, resync_workloads),
            ("sweep", SWEEP_SECONDS, self.sweep),
        )
        self._due = dict.fromkeys((name for name, _, _ in self._parts), float("-inf"))

    def turn(self) -> None:
        """Do every part that is due."""
        for name, seconds, work in self._parts:
            now = time.monotonic()
            if now < self._due[name]:
                continue
            self._due[name] = now + seconds
            try:
                work()
            except PrimumError as error:
                log.warning("upkeep failed", part=name, error=str(error))
            except Exception as error:
                # The text of a foreign exception may hold a value from the data; its type may not.
                log.exception(
                    "upkeep failed", part=name, error=type(error).__name__, exc_info=False
                )

    def begin(self) -> None:
        """This replica works from now on: everything is due."""
        self._due = dict.fromkeys(self._due, float("-inf"))

    def resync(self) -> None:
        """Have everything looked at; budgets first, because Studies wait for them."""
        for kind in KINDS:
            for key in self._cluster.resources.keys(kind):
                self._wake(key)

    def sweep(self) -> None:
        """End runs whose Study, AuditRun or PrivacyBudget is gone, and RayJobs whose run has ended.

        Kubernetes collects them by their owner reference; somebody may have deleted the owner and
        left them on purpose. Runs are listed before owners, so none that was just made is taken.
        """
        self._sweep_endpoints()
        self._sweep_ray_jobs()
        runs = self._cluster.runner.owners()
        if not runs:
            return
        living = {uid for kind in _OWNERS for uid in self._cluster.resources.uids(kind)}
        for run_id, namespace, uid in runs:
            if uid and uid not in living:
                end_run(self._platform.evidence, run_id)
                self._cluster.runner.discard(run_id, namespace)
                self._orphan_removed()
                log.info("orphan removed", run=run_id, namespace=namespace)

    def _sweep_ray_jobs(self) -> None:
        """Delete RayJobs that nobody follows: what they are for is gone, or their run has ended.

        A step's process that was killed could not. Only a positive word counts: where the runner
        does not answer, a RayJob stays.
        """
        if self._cluster.ray_jobs is None:
            return
        found = list(self._cluster.ray_jobs.running())
        if not found:
            return
        living = {uid for kind in _OWNERS for uid in self._cluster.resources.uids(kind)}
        for item in found:
            try:
                if item.owner in living:
                    if self._cluster.runner.status(item.run_id) is RunStatus.RUNNING:
                        continue
                else:
                    access.end_run(self._platform.evidence, item.run_id)
                self._cluster.ray_jobs.discard(item)
            except Unavailable as error:
                log.warning("orphan not judged", ray_job=item.name, error=str(error))
                continue
            self._orphan_removed()
            log.info("orphan removed", ray_job=item.name, namespace=item.namespace)

    def _sweep_endpoints(self) -> None:
        """Take down what serves a Release that is gone: Kubernetes does, unless it was kept."""
        if self._cluster.endpoints is None:
            return
        served = self._cluster.endpoints.served()
        living = set(self._cluster.resources.keys("Release")) if served else set()
        for release in served:
            if release not in living:
                self._cluster.endpoints.withdraw(release)
                self._orphan_removed()
                log.info("orphan removed", endpoint=release.name, namespace=release.namespace)

    def _schedule(self) -> None:
        rounds = self._platform.ledger.schedule(
            lease_seconds=self._platform.conduct.lease_seconds, actor=ACTOR
        )
        if any(view.granted for view in rounds):
            for key in self._cluster.resources.keys("Study"):
                self._wake(key)

    def _checkpoint(self) -> None:
        if self._platform.ledger.checkpoint_due():
            self._platform.ledger.checkpoint(self._platform.signer, actor=ACTOR)
