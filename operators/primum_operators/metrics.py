"""What the operator counts, in Prometheus' text format.

Counts and times by kind and outcome; no label and no value says whose data, which Study or what
was found.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from primum.adapters.kube.api import Verb
from primum.application.ports import LedgerStore
from primum.application.workloads import CheckState
from primum.entrypoints.api.metrics import PlatformCollector

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class OperatorMetrics:
    """Every metric of one operator process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._reconciles = Counter(
            "primum_operator_reconciles",
            "Looks at resources, by kind and how they ended.",
            ["kind", "result"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "primum_operator_reconcile_seconds",
            "How long looks at resources took.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            "primum_operator_api_requests",
            "Requests to the API server, by verb and status code; 0 is no answer.",
            ["verb", "code"],
            registry=self._registry,
        )
        self._removed = Counter(
            "primum_operator_orphans_removed",
            "Runs that were ended because what they were for is gone.",
            registry=self._registry,
        )
        self._checked = Counter(
            "primum_operator_workloads_checked",
            "Words about workloads in queues, by what was said.",
            ["state"],
            registry=self._registry,
        )
        self._leading = Gauge(
            "primum_operator_leading", "Whether this replica works.", registry=self._registry
        )
        self._waiting = Gauge(
            "primum_operator_queue_depth", "Resources that are due.", registry=self._registry
        )

    def watch(
        self, *, ledger: LedgerStore, leading: Callable[[], bool], depth: Callable[[], int]
    ) -> None:
        """Read these when metrics are asked for; the ledger's own only by the leader."""
        self._leading.set_function(lambda: float(leading()))
        self._waiting.set_function(lambda: float(depth()))
        self._registry.register(PlatformCollector(ledger, {}))

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """One look at a resource."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def requested(self, verb: Verb, code: int) -> None:
        """One request to the API server."""
        self._requests.labels(verb.value, str(code)).inc()

    def orphan_removed(self) -> None:
        """One run without anything it was for."""
        self._removed.inc()

    def workload_checked(self, state: CheckState) -> None:
        """One word about a workload in a queue."""
        self._checked.labels(state.value).inc()

    def exposition(self) -> bytes:
        """Every metric as text."""
        return generate_latest(self._registry)
