"""Builders of admission requests, and lookups that answer what a test says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from primum_operators.admission.review import SiteSettings

OPERATOR = "system:serviceaccount:primum-system:primum-operator"
JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"
BACKUP = "system:serviceaccount:backup:velero"
SCIENTIST = "lena@hospital.example"
RESERVATION = "0f0e0d0c-1111-5222-8333-444455556666"
DIGEST = "sha256:" + "a" * 64
OTHER_DIGEST = "sha256:" + "b" * 64
IMAGE = f"registry.example.org/primum/worker@{DIGEST}"
SETTINGS = SiteSettings(
    operators=(OPERATOR,), controllers=(JOB_CONTROLLER,), trusted=(BACKUP,), queue="Required"
)
GOVERNED_LABELS = {"primum.dev/governed": "true"}


def request(
    resource: str,
    obj: Mapping[str, Any] | None = None,
    *,
    old: Mapping[str, Any] | None = None,
    operation: str = "",
    user: str = SCIENTIST,
    group: str = "",
    namespace: str = "oncology",
) -> dict[str, Any]:
    """``request`` of an AdmissionReview; ``resource`` may name a subresource after a slash."""
    plural, _, subresource = resource.partition("/")
    return {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "resource": {"group": group, "version": "v1", "resource": plural},
        "subResource": subresource or None,
        "name": (obj or {}).get("metadata", {}).get("name", "x"),
        "namespace": namespace,
        "operation": operation or ("UPDATE" if old is not None else "CREATE"),
        "userInfo": {"username": user, "groups": ["system:authenticated"]},
        "object": copy.deepcopy(obj),
        "oldObject": copy.deepcopy(old),
    }


def pod(*, labels: Mapping[str, str] | None = None, image: str = IMAGE, **spec: Any) -> dict:
    """A Pod with one container."""
    metadata: dict[str, Any] = {"name": "p"}
    if labels is not None:
        metadata["labels"] = dict(labels)
    container = {"name": "main", "image": image, **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
    }


def claim_volume(name: str = "primum-dataset-scans") -> dict[str, Any]:
    """A volume of a claim."""
    return {"name": "data", "persistentVolumeClaim": {"claimName": name}}


class Answers:
    """Lookups over what a test says; asked for anything else they fail."""

    def __init__(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        open_reservations: tuple[tuple[str, str], ...] = (),
        releases: Mapping[str, Mapping[str, Any]] | None = None,
        rights: tuple[tuple[str, str, str], ...] = (),
        launched: tuple[tuple[str, str, str], ...] = (),
    ) -> None:
        self._labels = GOVERNED_LABELS if labels is None else labels
        self._open = open_reservations
        self._releases = releases or {}
        self._launched = launched
        self._rights = rights

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        return self._labels

    def reservation_open(self, namespace: str, reservation: str) -> bool:
        return (namespace, reservation) in self._open

    def workflow_launched(self, namespace: str, workflow: str, run: str) -> bool:
        return (namespace, workflow, run) in self._launched

    def release(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self._releases.get(name)

    def allowed(self, user, *, verb: str, group: str, resource: str, key: tuple[str, str]) -> bool:
        return (str(user["username"]), verb, key[1]) in self._rights
