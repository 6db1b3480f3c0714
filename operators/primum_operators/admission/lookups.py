"""What a review asks besides: the API server and the ledger. Reads, and never writes.

Namespaces are remembered for a few seconds, reservations and Releases never: what was true before
is not what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.objects import path_of
from primum.domain.budget.book import OPEN_STATES
from primum.domain.budget.entries import ReservationView
from primum.domain.canonical import JSON
from primum.domain.errors import NotFound, Unavailable
from primum.domain.names import ResourceKey

_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_THEIRS = "pipeline/runid"  # Kubeflow's label for the id of its run
REMEMBER_SECONDS = 5.0
_NAMESPACES_MAX = 10_000  # More than a cluster has; a flood of names must not fill memory.


class ClusterLookups:
    """Lookups over an API server and a ledger; safe to use from many threads.

    Args:
        api: The API server, as the webhook's own service account.
        reservation: A reservation by its id, as the ledger has it now.
        launched: What the operator launched as a run of Kubeflow Pipelines: by the run's own id
            there, the fact that names ours.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        reservation: Callable[[str], ReservationView | None],
        launched: Callable[[str], Mapping[str, JSON] | None] = lambda _run: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._reservation = reservation
        self._launched = launched
        self._monotonic = monotonic
        self._namespaces: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._lock = threading.Lock()

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace, at most a few seconds old.

        Raises:
            NotFound: If there is none.
        """
        now = self._monotonic()
        with self._lock:
            known = self._namespaces.get(namespace)
        if known is not None and now - known[0] < REMEMBER_SECONDS:
            return known[1]
        found = self._api.get(f"/api/v1/namespaces/{namespace}")
        if found is None:
            raise NotFound(f"namespace {namespace} must exist; found none.")
        labels = dict(found["metadata"].get("labels") or {})
        with self._lock:
            if len(self._namespaces) >= _NAMESPACES_MAX:
                self._namespaces.clear()
            self._namespaces[namespace] = (now, labels)
        return labels

    def reservation_open(self, namespace: str, reservation: str) -> bool:
        """Whether a reservation is Reserved or Exposed, for a Study of this namespace."""
        found = self._reservation(reservation)
        if found is None or found.state not in OPEN_STATES:
            return False
        return found.study.partition("/")[0] == namespace

    def workflow_launched(self, namespace: str, workflow: str, run: str) -> bool:
        """Whether a workflow is a run of Kubeflow Pipelines that the operator launched.

        Kubeflow's API server puts its run's id on the workflow, and nobody else writes one there;
        labels of pods may be anybody's.
        """
        path = f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/workflows/{workflow}"
        found = self._api.get(path)
        theirs = str(((found or {}).get("metadata", {}).get("labels") or {}).get(_THEIRS, ""))
        fact = self._launched(theirs) if theirs else None
        return fact is not None and bool(run) and fact.get("runId") == run

    def release(self, namespace: str, name: str) -> Mapping[str, JSON] | None:
        """A Release as the API server has it."""
        return self._api.get(path_of(ResourceKey("Release", namespace, name)))

    def allowed(
        self,
        user: Mapping[str, JSON],
        *,
        verb: str,
        group: str,
        resource: str,
        key: tuple[str, str],
    ) -> bool:
        """Whether a user may, by a SubjectAccessReview.

        Raises:
            Unavailable: If the API server did not decide.
        """
        namespace, name = key
        asked: dict[str, Any] = {
            "user": user["username"],
            "groups": user.get("groups") or [],
            "uid": user.get("uid") or "",
            "extra": user.get("extra") or {},
            "resourceAttributes": {
                "namespace": namespace,
                "verb": verb,
                "group": group,
                "resource": resource,
                "name": name,
            },
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": asked,
        }
        answer = self._api.create(_REVIEWS, body).get("status") or {}
        if answer.get("evaluationError") and not answer.get("allowed"):
            raise Unavailable("the API server could not decide who may")
        return answer.get("allowed") is True and not answer.get("denied")
