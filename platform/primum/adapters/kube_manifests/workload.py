"""What a Kueue Workload says, and how our word about it is written.

Pure: objects of an API server to claims, words to bodies. Only names, labels and annotations are
read of a pod template, never what is in its environment. Must not decide anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primum.adapters.kube_manifests import names
from primum.application.workloads import CheckState, Claim, Controller, Word
from primum.resources.metadata import API_VERSION

GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
KUEUE = f"{GROUP}/{VERSION}"
CONTROLLER = "primum.dev/budget"
"""``spec.controllerName`` of every AdmissionCheck that is ours to answer."""

MESSAGE_LENGTH_MAX = 1024  # Kueue takes 32,768; it repeats them in Events, which take these.
RETRY_SECONDS, RETRY_SECONDS_MAX = 30, 480
_RETRIES_COUNTED = 10
_SECONDS_AT = 19  # Where the fraction of an RFC 3339 time begins.
_CONTROLLERS = ("Study", "AuditRun")


@dataclass(frozen=True, slots=True)
class OwnerKey:
    """The object that a Workload stands for.

    Args:
        api_version: Such as ``batch/v1``.
        kind: Such as ``Job``.
        name: Its name.
        uid: Its uid.
    """

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a Workload that may need our word.

    Args:
        name: The AdmissionCheck.
        state: As it stands.
        since: When it came to that, which tells one attempt from the next.
        retries: How often it was sent back.
    """

    name: str
    state: str
    since: str
    retries: int


def is_undecided(workload: Mapping[str, Any]) -> bool:
    """Whether some check of a Workload, ours or not, is still to be answered."""
    listed = (workload.get("status") or {}).get("admissionChecks") or ()
    return any(item.get("state") == "Pending" for item in listed)


def open_checks(workload: Mapping[str, Any]) -> tuple[Check, ...]:
    """Checks of a Workload that holds quota and is not admitted: now a word of ours counts.

    A word that was said before the quota was given would be about an earlier attempt.
    """
    status, metadata = workload.get("status") or {}, workload["metadata"]
    true = {c["type"] for c in status.get("conditions") or () if c.get("status") == "True"}
    if metadata.get("deletionTimestamp") or workload["spec"].get("active") is False:
        return ()
    if "QuotaReserved" not in true or {"Admitted", "Evicted", "Finished"} & true:
        return ()
    return tuple(
        Check(
            str(item["name"]),
            str(item["state"]),
            str(item.get("lastTransitionTime") or ""),
            int(item.get("retryCount") or 0),
        )
        for item in status.get("admissionChecks") or ()
        if item.get("state") in ("Pending", "Ready")
    )


def owner_of(workload: Mapping[str, Any]) -> OwnerKey | None:
    """The job that a Workload stands for; of a group of pods, the first."""
    listed = workload["metadata"].get("ownerReferences") or ()
    chosen = next((item for item in listed if item.get("controller")), None)
    chosen = chosen or next(iter(listed), None)
    if chosen is None:
        return None
    return OwnerKey(
        str(chosen["apiVersion"]), str(chosen["kind"]), str(chosen["name"]), str(chosen["uid"])
    )


def claim_of(workload: Mapping[str, Any], job: Mapping[str, Any] | None) -> Claim:
    """What a Workload runs under, by its own job and the templates of its pods.

    Args:
        workload: The Workload.
        job: The object that it stands for; ``None`` where it stands for none.
    """
    own = (job or workload)["metadata"]
    places = (own, *_templates(workload))
    studies: dict[str, None] = {}
    reservations: dict[str, None] = {}
    generations: dict[str, None] = {}
    for place in places:
        labels, annotations = place.get("labels") or {}, place.get("annotations") or {}
        for source in (annotations, labels):
            if source.get(names.STUDY):
                studies.setdefault(str(source[names.STUDY]))
            if source.get(names.RESERVATION):
                reservations.setdefault(str(source[names.RESERVATION]))
        for name in str(annotations.get(names.RESERVATIONS) or "").split(","):
            if name.strip():
                reservations.setdefault(name.strip())
        if annotations.get(names.GENERATION):
            generations.setdefault(str(annotations[names.GENERATION]))
    return Claim(
        namespace=str(workload["metadata"]["namespace"]),
        studies=tuple(studies),
        reservations=tuple(reservations),
        # Two of them can be no generation of one Study; nothing is one of "1, 2".
        generation=", ".join(generations),
        controller=_controller(own),
    )


def state_to_apply(
    workload: Mapping[str, Any], check: Check, word: Word, *, now: str
) -> dict[str, Any]:
    """The body of a server-side apply of our word, onto the very version that was judged."""
    metadata = workload["metadata"]
    said: dict[str, Any] = {
        "name": check.name,
        "state": word.state.value,
        "message": word.message[:MESSAGE_LENGTH_MAX],
        "lastTransitionTime": _whole_seconds(now),
    }
    if word.state is CheckState.RETRY:
        doubled = RETRY_SECONDS * 2 ** min(check.retries, _RETRIES_COUNTED)
        said["requeueAfterSeconds"] = min(doubled, RETRY_SECONDS_MAX)
    return {
        "apiVersion": KUEUE,
        "kind": "Workload",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "status": {"admissionChecks": [said]},
    }


def active_to_apply(check: Mapping[str, Any], *, now: str) -> dict[str, Any] | None:
    """The body that says whether we answer for an AdmissionCheck; nothing where it says so already.

    Until it is said, Kueue keeps every ClusterQueue that names the check inactive.
    """
    metadata, parameters = check["metadata"], check["spec"].get("parameters")
    status, reason, message = "True", "Active", "Workloads wait for their privacy reservation."
    if parameters:
        status, reason = "False", "BadParameters"
        message = "spec.parameters must be absent; found some. The ledger is all that is asked."
    said = {
        "type": "Active",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": int(metadata.get("generation") or 0),
    }
    listed = (check.get("status") or {}).get("conditions") or ()
    stands: Mapping[str, Any] = next((c for c in listed if c.get("type") == "Active"), {})
    if all(stands.get(key) == value for key, value in said.items()):
        return None
    moved = stands.get("status") != status or not stands.get("lastTransitionTime")
    time = _whole_seconds(now) if moved else str(stands["lastTransitionTime"])
    return {
        "apiVersion": KUEUE,
        "kind": "AdmissionCheck",
        "metadata": {"name": metadata["name"], "uid": metadata["uid"]},
        "status": {"conditions": [said | {"lastTransitionTime": time}]},
    }


def _templates(workload: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    pod_sets: Sequence[Mapping[str, Any]] = workload["spec"].get("podSets") or ()
    for pod_set in pod_sets:
        metadata = (pod_set.get("template") or {}).get("metadata")
        if metadata:
            yield metadata


def _controller(metadata: Mapping[str, Any]) -> Controller | None:
    for item in metadata.get("ownerReferences") or ():
        ours = item.get("apiVersion") == API_VERSION and item.get("kind") in _CONTROLLERS
        if ours and item.get("controller"):
            return Controller(str(item["kind"]), str(item["name"]), str(item["uid"]))
    return None


def _whole_seconds(now: str) -> str:
    """As ``metav1.Time`` writes them."""
    return now[:_SECONDS_AT] + "Z" if "." in now else now
