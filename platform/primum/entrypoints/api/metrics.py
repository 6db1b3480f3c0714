"""``/metrics``: counts for whoever watches the platform, in Prometheus' text format.

Counts and nothing else: no label and no value may say whose data, which Study or what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from primum.application.ports import LedgerStore

MEDIA_TYPE = CONTENT_TYPE_LATEST

_HELP = {
    "loop_failures": "Times that reconciling a resource failed since the platform started.",
    "lineage_waiting": "Deliveries of lineage events that still wait.",
}
_COUNTERS = ("loop_failures",)


class PlatformCollector(Collector):
    """Reads every count when it is asked for; keeps none.

    Args:
        ledger: The ledger.
        figures: Further counts by name; a name that is not in ``_HELP`` is refused.
    """

    def __init__(self, ledger: LedgerStore, figures: Mapping[str, Callable[[], int]]) -> None:
        self._ledger = ledger
        self._figures = {name: (_HELP[name], read) for name, read in figures.items()}

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        seq, _ = self._ledger.head()
        accounts = self._ledger.accounts()
        yield _metric("ledger_entries", "Entries in the ledger.", seq, counts_up=True)
        yield _metric("ledger_accounts", "Accounts in the ledger.", len(accounts))
        frozen = sum(1 for account in accounts if account.frozen)
        yield _metric("ledger_accounts_frozen", "Accounts that grant nothing.", frozen)
        for name, (text, read) in self._figures.items():
            yield _metric(name, text, read(), counts_up=name in _COUNTERS)


def exposition(ledger: LedgerStore, figures: Mapping[str, Callable[[], int]]) -> bytes:
    """Every metric as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PlatformCollector(ledger, figures))
    return generate_latest(registry)


def _metric(name: str, text: str, value: int, *, counts_up: bool = False) -> Metric:
    family = CounterMetricFamily if counts_up else GaugeMetricFamily
    return family(f"primum_{name}", text, value=value)
