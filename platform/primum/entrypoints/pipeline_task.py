"""What the published components do inside a data scientist's own pipeline: declare, and follow.

They open no data and hold no ticket. A Study is declared as with ``kubectl apply``, by whoever the
task's pod is; the platform plans it, reserves, runs it apart, settles and releases. A task that is
run again meets what it declared before. In a cluster they ask the API server as the pod's service
account; on one machine the home folder is where they look.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from primum.domain.conditions import ConditionType, Status
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.names import ResourceKey

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_POLL_SECONDS = 5.0
_LOCAL_POLL_SECONDS = 0.2
_LOCAL_SECONDS = 86_400.0

Json = dict[str, Any]


class Place(Protocol):
    """Where resources are declared."""

    poll_seconds: float

    def namespace(self) -> str:
        """The namespace where none is said."""

    def find(self, key: ResourceKey) -> Json | None:
        """A resource with its status, or ``None``."""

    def create(self, document: Mapping[str, Any]) -> None:
        """Declare a resource that is not there.

        Raises:
            Conflict: If it is there by now.
        """


def run_study(
    manifest: str, namespace: str, timeout_seconds: int
) -> tuple[str, str, str, str, str]:
    """Declare a Study and wait until it has ended well.

    Args:
        manifest: One Study, YAML or JSON.
        namespace: Where, if the manifest does not say; empty for the pod's own.
        timeout_seconds: How long to wait; the Study goes on after that.

    Returns:
        Its name and namespace, its Release (empty where it asked for none), the epsilon that was
        spent for good, and the digest of its certificate.

    Raises:
        InvalidValue: If the manifest is not one Study, or the Study is not what stands there.
        Refused: If the Study ended without success; the reason is its condition's.
        Unavailable: If it has not ended in time.
    """
    place = _place()
    key, document = _one_of_kind("Study", manifest, namespace or place.namespace())
    _declare(place, key, document)
    found = _ended(place, key, timeout_seconds)
    status, release = found.get("status") or {}, found["spec"].get("release") or {}
    named = str(release.get("endpoint") or release.get("dataset") or "")
    spent, certificate = status.get("epsilonSpent", ""), status.get("certificateDigest", "")
    return key.name, key.namespace, named, str(spent), str(certificate)


def run_audit(manifest: str, namespace: str, timeout_seconds: int) -> tuple[str, str]:
    """Declare an AuditRun and wait for its verdict, whichever it is.

    Args:
        manifest: One AuditRun, YAML or JSON.
        namespace: Where, if the manifest does not say; empty for the pod's own.
        timeout_seconds: How long to wait.

    Returns:
        The verdict (empty where there is none) and the reason.

    Raises:
        InvalidValue: If the manifest is not one AuditRun.
        Unavailable: If it has not ended in time.
    """
    place = _place()
    key, document = _one_of_kind("AuditRun", manifest, namespace or place.namespace())
    _declare(place, key, document)
    found = _followed(place, key, timeout_seconds, ConditionType.SUCCEEDED)
    condition = _condition(found, ConditionType.SUCCEEDED)
    return str((found.get("status") or {}).get("verdict", "")), str(condition["reason"])


def read_release(name: str, namespace: str, timeout_seconds: int) -> tuple[str, str, str, str]:
    """Wait until a Release stands, and say what it released.

    Args:
        name: The Release.
        namespace: Where; empty for the pod's own.
        timeout_seconds: How long to wait.

    Returns:
        Address and digest of the artifact, what may be claimed of it, and the digest of its
        certificate.

    Raises:
        Refused: If it was revoked, or does not stand for another reason.
        Unavailable: If it does not exist, or is not ready, in time.
    """
    place = _place()
    key = ResourceKey("Release", namespace or place.namespace(), name)
    found = _followed(place, key, timeout_seconds, ConditionType.READY)
    condition = _condition(found, ConditionType.READY)
    if condition["status"] != Status.TRUE.value:
        raise Refused(f"{key} must stand; found {condition['reason']}: {condition['message']}")
    from primum.resources.release import Claim

    spec = found["spec"]
    artifact, claim = spec["artifact"], Claim.model_validate(spec["claim"], by_alias=True)
    return artifact["uri"], artifact["digest"], claim.text(), spec["certificate"]["digest"]


def _one_of_kind(kind: str, manifest: str, namespace: str) -> tuple[ResourceKey, Json]:
    from primum.resources.loading import load_text

    found = load_text(manifest, source="manifest", namespace=namespace)
    if len(found) != 1 or found[0].key.kind != kind:
        listed = ", ".join(str(item.key) for item in found)
        raise InvalidValue("manifest", f"must hold one {kind} and nothing else", listed)
    (item,) = found
    metadata: Json = {"name": item.key.name, "namespace": item.key.namespace}
    if item.labels:
        metadata["labels"] = dict(item.labels)
    document = {"apiVersion": "primum.dev/v1alpha1", "kind": kind, "metadata": metadata}
    return item.key, {**document, "spec": item.spec_mapping()}


def _declare(place: Place, key: ResourceKey, document: Mapping[str, Any]) -> None:
    """Create it, or find that the same stands: a task may be run again."""
    if place.find(key) is None:
        try:
            place.create(document)
        except Conflict:
            pass
        else:
            return
    standing = place.find(key)
    if standing is None:
        raise Unavailable(f"{key} was declared and is gone again")
    if _spec(standing) != document["spec"]:
        raise InvalidValue(
            str(key),
            "must be what this task declares, or not be there",
            "another specification",
            "Give the new one another name: what a Study did stays under its own.",
        )


def _spec(found: Mapping[str, Any]) -> Any:
    """A specification as it would be loaded, so that defaults do not count as differences."""
    from primum.resources.conversion import spec_mapping
    from primum.resources.loading import checked_resource

    return spec_mapping(checked_resource(found))


def _ended(place: Place, key: ResourceKey, timeout_seconds: int) -> Json:
    found = _followed(place, key, timeout_seconds, ConditionType.SUCCEEDED)
    condition = _condition(found, ConditionType.SUCCEEDED)
    if condition["status"] != Status.TRUE.value:
        raise Refused(f"{key} ended: {condition['reason']}. {condition['message']}")
    return found


def _followed(place: Place, key: ResourceKey, timeout_seconds: int, until: ConditionType) -> Json:
    """Wait until a condition of the resource's generation is known."""
    end = time.monotonic() + timeout_seconds
    while True:
        found = _seen(place, key)
        if found is not None and _condition(found, until).get("status") in ("True", "False"):
            return found
        if time.monotonic() > end:
            how = "is not there" if found is None else "has not come to rest"
            raise Unavailable(f"{key} {how} after {timeout_seconds} seconds; run this task again")
        time.sleep(place.poll_seconds)


def _seen(place: Place, key: ResourceKey) -> Json | None:
    try:
        return place.find(key)
    except Unavailable:
        return None  # A server that is away for a moment ends no Study.


def _condition(found: Mapping[str, Any], wanted: ConditionType) -> Json:
    generation = int((found.get("metadata") or {}).get("generation") or 0)
    for item in (found.get("status") or {}).get("conditions") or ():
        if item.get("type") == wanted.value and item.get("observedGeneration") == generation:
            return dict(item)
    return {}


class _ClusterPlace:
    """The API server, as the pod's service account."""

    poll_seconds = _POLL_SECONDS

    def __init__(self) -> None:
        from primum.adapters.kube.api import KubeApi

        self._api = KubeApi(os.environ.get("KUBECONFIG", ""))

    def namespace(self) -> str:
        try:
            return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
        except OSError:
            raise InvalidValue("namespace", "must be given outside of a pod", "none") from None

    def find(self, key: ResourceKey) -> Json | None:
        from primum.adapters.kube.objects import path_of

        return self._api.get(path_of(key))

    def create(self, document: Mapping[str, Any]) -> None:
        from primum.adapters.kube.objects import collection

        where = collection(document["kind"], document["metadata"]["namespace"])
        self._api.create(where, document)


class _LocalPlace:
    """The home folder; `primum up`, or the creating call itself, brings Studies on."""

    poll_seconds = _LOCAL_POLL_SECONDS

    def __init__(self) -> None:
        from primum.entrypoints.cli import session

        self._stores: Any = session.open_stores(session.existing())

    def namespace(self) -> str:
        from primum.resources.metadata import NAMESPACE_DEFAULT

        return NAMESPACE_DEFAULT

    def find(self, key: ResourceKey) -> Json | None:
        from primum.entrypoints.cli.rendering import document

        stored = self._stores.resources.get(key)
        return None if stored is None else dict(document(stored))

    def create(self, document: Mapping[str, Any]) -> None:
        import json
        import tempfile

        from primum.entrypoints.cli import applying
        from primum.entrypoints.cli.rendering import Output

        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
            json.dump(document, file)
            file.flush()
            applying.apply(
                [Path(file.name)],
                follow=applying.Follow.YES,
                timeout=_LOCAL_SECONDS,
                output=Output.JSON,  # Public facts; a table shows a steward Restricted ones too.
            )


def _place() -> Place:
    """The cluster that this is a pod of, or the home folder of this machine."""
    told = os.environ
    away = "PRIMUM_HOME" not in told and told.get("KUBECONFIG")
    inside = told.get("KUBERNETES_SERVICE_HOST") or away
    try:
        return _ClusterPlace() if inside else _LocalPlace()
    except ModuleNotFoundError as error:
        raise NotFound(
            f"the image of this task must hold {error.name}; found none. "
            "Use the platform's worker image."
        ) from None
