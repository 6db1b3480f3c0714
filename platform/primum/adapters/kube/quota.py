"""How many GPUs the runs of governed namespaces may have, as Kueue's queues say.

Nominal quota, and what may be borrowed: a Study that needs more can never start. Nodes are not
asked: what a node has, others may have too, and reading nodes is no right of the operator's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from primum.adapters.kube.api import KubeApi
from primum.adapters.kube_manifests.parts import GPU
from primum.domain.errors import Refused, Unavailable

_API = "/apis/kueue.x-k8s.io/v1beta2"
_REMEMBER_SECONDS = 30.0  # Quotas are changed by people.


class QueuedGpus:
    """GPUs behind the LocalQueue of Studies; safe to use from many threads.

    Args:
        api: The API server.
        queue: Name of the LocalQueue in each governed namespace.
        namespaces: The governed namespaces.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        queue: str,
        namespaces: Sequence[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._queue, self._namespaces = api, queue, tuple(namespaces)
        self._monotonic = monotonic
        self._known: tuple[float, int] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> int:
        """The sum over the ClusterQueues that the LocalQueues lead to, each once.

        Raises:
            Unavailable: If it is not known: the API server does not answer, or we may not read
                queues. A Study must not be refused for that.
        """
        with self._lock:
            now = self._monotonic()
            if self._known is None or now - self._known[0] >= _REMEMBER_SECONDS:
                try:
                    self._known = now, self._read()
                except Refused as error:
                    raise Unavailable(str(error)) from None
            return self._known[1]

    def _read(self) -> int:
        names = {str(item["spec"]["clusterQueue"]) for item in self._local_queues()}
        if not names:
            return 0
        everything = {
            str(item["metadata"]["name"]): item for item in self._api.list(f"{_API}/clusterqueues")
        }
        used = [everything[name] for name in sorted(names) if name in everything]
        return reachable_gpus(used, everything.values())

    def _local_queues(self) -> Iterator[Mapping[str, Any]]:
        for namespace in self._namespaces:
            path = f"{_API}/namespaces/{namespace}/localqueues/{self._queue}"
            found = self._api.get(path)
            if found is not None:
                yield found


def reachable_gpus(
    used: Iterable[Mapping[str, Any]], everything: Iterable[Mapping[str, Any]]
) -> int:
    """GPUs that workloads of some ClusterQueues can have, together, at most.

    Args:
        used: The ClusterQueues.
        everything: Every ClusterQueue, for what a cohort shares.
    """
    total, cohorts = 0, set()
    for queue in used:
        cohort = queue["spec"].get("cohortName")
        if cohort:
            cohorts.add(cohort)
        else:
            total += sum(nominal for nominal, _ in _quotas(queue))
    for cohort in cohorts:
        members = [item for item in everything if item["spec"].get("cohortName") == cohort]
        ours = [item for item in used if item["spec"].get("cohortName") == cohort]
        whole = sum(nominal for item in members for nominal, _ in _quotas(item))
        limited = [
            whole if limit is None else nominal + limit
            for item in ours
            for nominal, limit in _quotas(item)
        ]
        total += min(whole, sum(limited))
    return total


def _quotas(queue: Mapping[str, Any]) -> Iterator[tuple[int, int | None]]:
    """Nominal quota of GPUs per flavor, and the most that may be borrowed."""
    for group in queue["spec"].get("resourceGroups") or ():
        for flavor in group.get("flavors") or ():
            for resource in flavor.get("resources") or ():
                if resource["name"] == GPU:
                    limit = resource.get("borrowingLimit")
                    yield _whole(resource["nominalQuota"]), None if limit is None else _whole(limit)


def _whole(quantity: object) -> int:
    """A quantity of whole devices; ``1k`` is a thousand."""
    text = str(quantity)
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)
