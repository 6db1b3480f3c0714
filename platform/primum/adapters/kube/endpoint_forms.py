"""What an endpoint is made of in a cluster: an InferenceService of KServe, or a Deployment.

Says which objects there are, where they are kept, and what their status means. Must not decide
whether a Release may be served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primum.adapters.kube_manifests import endpoint

Json = dict[str, Any]
_WORD_LENGTH_MAX = 64
# What KServe says of a service, the most telling first, and its value where all is well.
_KSERVE = {
    "Stopped": "False",
    "PredictorReady": "True",
    "IngressReady": "True",
    "Ready": "True",
}


@dataclass(frozen=True, slots=True)
class EndpointForm:
    """One way of serving a Release.

    Args:
        kind: What people call it.
        watched: Group, version and plural of its main object.
        collections: Where each of its objects is kept, below ``/apis`` or ``/api``, with the main
            one first; ``{where}`` stands for the namespace's part of the path.
        make: The objects, in the same order.
        url: Where predictions are asked for, by namespace and release.
        unready: Why the main object does not answer yet; empty where it does.
    """

    kind: str
    watched: tuple[str, str, str]
    collections: tuple[str, ...]
    make: Callable[[endpoint.EndpointRequest], Sequence[Json]]
    url: Callable[[str, str], str]
    unready: Callable[[Mapping[str, Any]], str]

    def collection(self, namespace: str, number: int = 0) -> str:
        """The path of a collection; of every namespace where that is empty."""
        where = f"namespaces/{namespace}/" if namespace else ""
        return self.collections[number].format(where=where)

    def path(self, namespace: str, release: str, number: int = 0) -> str:
        """The path of a Release's object."""
        return f"{self.collection(namespace, number)}/{endpoint.endpoint_name(release)}"


def _by_kserve(found: Mapping[str, Any]) -> str:
    conditions = _conditions(found)
    if conditions.get("Ready", {}).get("status") == "True":
        return ""
    for kind, good in _KSERVE.items():
        item = conditions.get(kind, {})
        if item.get("reason") and item.get("status") != good:
            return f"KServe says {kind}: {_word(item['reason'])}"
    return "KServe has not said that it is ready"


def _by_deployment(found: Mapping[str, Any]) -> str:
    status = found.get("status") or {}
    generation = int(found["metadata"].get("generation") or 0)
    if int(status.get("observedGeneration") or 0) < generation:
        return "its Deployment was not looked at yet"
    # As many as there should be: one that has what was certified before must not be the only one.
    wanted = int(found["spec"].get("replicas") or 0)
    if wanted and int(status.get("readyReplicas") or 0) >= wanted:
        return ""
    for kind in ("ReplicaFailure", "Available", "Progressing"):
        item = _conditions(found).get(kind, {})
        if item.get("reason") and item.get("status") == ("True" if "Fail" in kind else "False"):
            return f"its Deployment says {kind}: {_word(item['reason'])}"
    return "its Deployment has not said that its pods are ready"


def _conditions(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    listed = (found.get("status") or {}).get("conditions") or ()
    return {str(item.get("type")): item for item in listed}


def _word(reason: object) -> str:
    """A reason of somebody else's as one word, or that there is none."""
    text = str(reason)
    return text[:_WORD_LENGTH_MAX] if text.isalnum() else "an unknown reason"


INFERENCE_SERVICE = EndpointForm(
    kind="InferenceService",
    watched=(endpoint.GROUP, endpoint.VERSION, endpoint.PLURAL),
    collections=(f"/apis/{endpoint.API_VERSION}/{{where}}{endpoint.PLURAL}",),
    make=lambda request: [endpoint.inference_service(request)],
    url=endpoint.endpoint_url,
    unready=_by_kserve,
)

DEPLOYMENT = EndpointForm(
    kind="Deployment",
    watched=("apps", "v1", "deployments"),
    collections=("/apis/apps/v1/{where}deployments", "/api/v1/{where}services"),
    make=lambda request: list(endpoint.endpoint_workload(request)),
    url=endpoint.workload_url,
    unready=_by_deployment,
)
