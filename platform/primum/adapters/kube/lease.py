"""LeaderLease: which replica works, by a ``coordination.k8s.io`` Lease.

A lease saves work, it guards nothing: the ledger is safe without it. Clocks of two machines are
never compared: a holder counts as gone when its record has not moved for its own duration by the
clock of whoever looks, and a leader stops believing in itself before that.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import structlog

from primum.adapters.kube.api import Json, KubeApi
from primum.application.ports import Clock
from primum.domain.errors import Conflict, PrimumError

DURATION_SECONDS = 15.0  # What Kubernetes' own controllers use.
RENEW_SECONDS = 10.0  # A leader that could not renew for this long stops.
RETRY_SECONDS = 2.0

log = structlog.get_logger(__name__)


class LeaderLease:
    """One replica's part in the election.

    Args:
        api: The API server.
        namespace: Where the Lease is.
        name: Its name.
        identity: This replica; unique.
        clock: Stamps the record for people.
        monotonic: Seconds that only go forward.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name, self._namespace, self._identity = name, namespace, identity
        self._clock, self._monotonic = clock, monotonic
        self._seen: tuple[str, float] = ("", 0.0)
        self._valid_until = float("-inf")
        self._stop = threading.Event()

    @property
    def held(self) -> bool:
        """Whether this replica may work now."""
        return self._monotonic() < self._valid_until

    def attempt(self) -> None:
        """Take or renew the lease, if it is free or ours; one round of the election.

        Raises:
            PrimumError: If the API server does not answer or refuses.
        """
        began = self._monotonic()
        found = self._api.get(f"{self._collection}/{self._name}")
        try:
            if found is None:
                self._api.create(self._collection, self._record({}, {}, transitions=0))
            elif not self._may_take(found):
                return
            else:
                spec = found.get("spec") or {}
                moved = spec.get("holderIdentity") != self._identity
                transitions = int(spec.get("leaseTransitions") or 0) + moved
                kept = {} if moved else {"acquireTime": spec.get("acquireTime")}
                body = self._record(found["metadata"], kept, transitions=transitions)
                self._api.replace(f"{self._collection}/{self._name}", body)
        except Conflict:
            self._valid_until = float("-inf")  # Somebody else was faster.
            return
        self._valid_until = began + RENEW_SECONDS

    def keep(self) -> None:
        """Go on attempting until ``release``; what fails is tried again."""
        while not self._stop.is_set():
            try:
                self.attempt()
            except PrimumError as error:
                log.warning("lease not renewed", error=str(error), leading=self.held)
            self._stop.wait(RETRY_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - a jitter

    def stop(self) -> None:
        """Attempt no more; what is held is held until it runs out or is released."""
        self._stop.set()

    def release(self) -> None:
        """Stop, and let another replica in at once."""
        self.stop()
        held, self._valid_until = self.held, float("-inf")
        if not held:
            return
        try:
            found = self._api.get(f"{self._collection}/{self._name}")
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                body = self._record(found["metadata"], {}, transitions=0)
                body["spec"] = found["spec"] | {"holderIdentity": "", "leaseDurationSeconds": 1}
                self._api.replace(f"{self._collection}/{self._name}", body)
        except PrimumError as error:
            log.info("lease not released", error=str(error))

    def _may_take(self, found: Json) -> bool:
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        version = str(found["metadata"]["resourceVersion"])
        now = self._monotonic()
        if version != self._seen[0]:
            self._seen = (version, now)
        if holder in ("", self._identity):
            return True
        self._valid_until = float("-inf")
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        return now >= self._seen[1] + duration

    def _record(self, metadata: Json, kept: Json, *, transitions: int) -> Json:
        now = self._clock.now()
        named: Json = {"name": self._name, "namespace": self._namespace}
        if metadata:
            named["resourceVersion"] = metadata["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": named,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION_SECONDS),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            }
            | kept,
        }
