"""The operator's process: kopf watches, a queue of names, workers that call the use cases.

Every replica watches; the one that holds the Lease works. Any replica may take over after any
crash, because what is decided is decided from facts: resources, ledger, evidence and Jobs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from primum.domain.errors import Conflict, PrimumError, Unavailable
from primum.domain.names import ResourceKey
from primum.entrypoints import bootstrap, cluster
from primum.entrypoints.settings import Settings
from primum_operators import budget_check, watching
from primum_operators.metrics import OperatorMetrics
from primum_operators.probes import ProbeServer
from primum_operators.queue import WorkQueue
from primum_operators.reconcile import Reconciler
from primum_operators.settings import OperatorSettings
from primum_operators.upkeep import Upkeep
from primum_operators.watching import Watcher

_TAKE_SECONDS = 0.5  # How long a worker waits before it looks whether it still leads.
_CONFLICT_SECONDS = 0.2
_STALLED_SECONDS = 300.0  # Longer than any look; a worker in one for longer hangs.
_JOIN_SECONDS = 20.0

log = structlog.get_logger(__name__)


class Operator:
    """One replica.

    Args:
        parts: The platform in its cluster.
        settings: What it runs by.
        metrics: Where it counts.
        flush_lineage: Delivers what waits in the lineage outbox.
    """

    def __init__(
        self,
        parts: cluster.Cluster,
        settings: OperatorSettings,
        *,
        metrics: OperatorMetrics,
        flush_lineage: Callable[[], int],
    ) -> None:
        self._parts, self._metrics = parts, metrics
        self._queue: WorkQueue[ResourceKey] = WorkQueue()
        self._reconciler = Reconciler(
            parts, wake=self._wake, run_seconds=float(settings.run_seconds)
        )
        self._upkeep = Upkeep(
            parts,
            wake=self._queue.add,
            flush_lineage=flush_lineage,
            orphan_removed=metrics.orphan_removed,
            resync_seconds=float(settings.resync_seconds),
            resync_workloads=self._resync_workloads,
        )
        self._check = (
            budget_check.BudgetCheck(
                parts.platform, parts.workloads, parts.events, said=metrics.workload_checked
            )
            if parts.workloads is not None
            else None
        )
        self._watchers = self._watched(settings.cluster)
        self._stopped = threading.Event()
        self._busy: dict[int, float] = {}
        watch = [watcher.keep for watcher in self._watchers]
        work = [self._work] * settings.workers
        self._threads = [
            threading.Thread(target=target, name=f"operator-{number}", daemon=True)
            for number, target in enumerate([parts.lease.keep, self._lead, *watch, *work])
        ]
        self._probes = ProbeServer(
            settings.probe_port, alive=self.alive, ready=self.ready, metrics=metrics.exposition
        )
        metrics.watch(
            ledger=parts.platform.ledger,
            leading=lambda: parts.lease.held,
            depth=self._queue.depth,
        )

    @property
    def probe_port(self) -> int:
        """Where probes and metrics are served."""
        return self._probes.port

    def run(self) -> None:
        """Work until ``stop`` is called."""
        for thread in self._threads:
            thread.start()
        self._stopped.wait()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        self._parts.lease.release()  # After the last look: nobody works beside us.
        self._probes.close()
        self._parts.api.close()

    def _watched(self, settings: cluster.ClusterSettings) -> tuple[Watcher, ...]:
        """What is watched: our own kinds first, then what each integration brings."""
        parts, config, where = self._parts, settings.kubeconfig, settings.namespaces
        own = watching.own_kinds(self._heard)
        found = [
            Watcher(
                own,
                check_served=parts.resources.check_served,
                kubeconfig=config,
                namespaces=where,
            )
        ]
        if self._check is not None:  # Whichever namespace a queue serves, its workloads wait.
            queues = watching.queued_workloads(self._heard)
            served = self._check.check_served
            found.append(Watcher(queues, check_served=served, kubeconfig=config))
        if parts.endpoints is not None:
            found.append(
                Watcher(
                    watching.endpoints(self._heard, parts.endpoints.watched),
                    check_served=parts.endpoints.check_served,
                    kubeconfig=config,
                    namespaces=where,
                )
            )
        return tuple(found)

    def stop(self) -> None:
        """Ask every thread to end; what is being looked at is finished."""
        self._stopped.set()
        self._queue.close()
        self._parts.lease.stop()
        for watcher in self._watchers:
            watcher.stop_flag.set()

    def alive(self) -> bool:
        """Whether every thread runs and none hangs in one look."""
        if any(thread.ident is not None and not thread.is_alive() for thread in self._threads):
            return False
        now = time.monotonic()
        return all(now - began < _STALLED_SECONDS for began in tuple(self._busy.values()))

    def ready(self) -> bool:
        """Whether it watches, and the ledger answers."""
        if self._stopped.is_set() or not self._watchers[0].ready_flag.is_set():
            return False
        self._parts.platform.ledger.head()
        return True

    def _heard(self, key: ResourceKey, was: str | None) -> None:
        if not self._parts.lease.held:  # Who comes to lead looks at everything first.
            return
        if key.kind in budget_check.KINDS:
            self._queue.add(key)
        else:
            self._reconciler.heard(key, was)

    def _resync_workloads(self) -> None:
        if self._check is not None:
            self._check.resync(self._queue.add)

    def _wake(self, key: ResourceKey, seconds: float) -> None:
        self._queue.add(key, seconds=seconds)

    def _lead(self) -> None:
        """Upkeep while this replica leads; a fresh start whenever it comes to."""
        leading = False
        while not self._stopped.wait(_TAKE_SECONDS / 2):
            held = self._parts.lease.held
            if held and not leading:
                log.info("leading")
                self._upkeep.begin()
            if leading and not held:
                log.warning("no longer leading")
                self._queue.forget()
            leading = held
            if held:
                self._upkeep.turn()

    def _work(self) -> None:
        while not self._stopped.is_set():
            if not self._parts.lease.held:
                self._stopped.wait(_TAKE_SECONDS)
                continue
            key = self._queue.take(seconds=_TAKE_SECONDS)
            if key is not None:
                self._look(key)

    def _look(self, key: ResourceKey) -> None:
        began = time.monotonic()
        self._busy[threading.get_ident()] = began
        result = "ok"
        try:
            if self._check is not None and key.kind in budget_check.KINDS:
                self._check.look(key)
            else:
                self._reconciler.look(key)
        except Conflict as error:
            result = "conflict"
            self._again(key, _CONFLICT_SECONDS, str(error))
        except Unavailable as error:
            result = "unavailable"
            self._again(key, error.retry_seconds, str(error))
        except PrimumError as error:
            result = "error"
            self._again(key, 0.0, str(error))
        except Exception as error:
            # The text of a foreign exception may hold a value from the data; its type may not.
            result = "fault"
            self._again(key, 0.0, type(error).__name__)
            log.debug("reconcile failed", resource=str(key), exc_info=True)
        else:
            self._queue.done(key)
        finally:
            self._busy.pop(threading.get_ident(), None)
            self._metrics.reconciled(key.kind, result, time.monotonic() - began)

    def _again(self, key: ResourceKey, seconds: float, message: str) -> None:
        wait = self._queue.failed(key, seconds=seconds)
        log.warning("reconcile failed", resource=str(key), error=message, again=round(wait, 1))


def operator(settings: Settings, own: OperatorSettings) -> Operator:
    """One replica over the configured ledger and cluster.

    Raises:
        InvalidValue: If a setting cannot be used.
    """
    metrics = OperatorMetrics()
    bootstrap.prepare_home(settings)
    parts = cluster.connect(settings, own.cluster, observe=metrics.requested)
    bootstrap.warm_up(parts.platform)
    flush = bootstrap.lineage_flusher(settings)
    return Operator(parts, own, metrics=metrics, flush_lineage=flush)
