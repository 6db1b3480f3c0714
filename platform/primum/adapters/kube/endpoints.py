"""KServePublisher: Releases as InferenceServices of KServe, and datasets as on one machine.

The operator copies no model: the service mounts the artifact where the run left it, beside the
signed certificate, and verifies one against the other. What stands is written again only where
somebody changed or deleted it; what belongs to nobody of ours is never touched.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from primum import verification
from primum.adapters.kube.api import FIELD_MANAGER, Json, KubeApi
from primum.adapters.kube.objects import path_of
from primum.adapters.kube_manifests import endpoint, names
from primum.adapters.kube_manifests.parts import Owner, Size, pinned
from primum.adapters.serving import certified, remember_revocation
from primum.application.ports import Publisher
from primum.domain.canonical import JSON
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.governance.certificate import certificate_digest
from primum.domain.names import ResourceKey, check_name
from primum.resources.metadata import API_VERSION

_API = f"/apis/{endpoint.API_VERSION}"
_AGAIN_SECONDS = 1.0  # A service that is being taken down is looked at again soon.
_WORD_LENGTH_MAX = 64
# What KServe says of a service, the most telling first, and its value where all is well.
_CONDITIONS = {
    "Stopped": "False",
    "PredictorReady": "True",
    "IngressReady": "True",
    "Ready": "True",
}


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How endpoints are made.

    Args:
        image: The inference server, by digest.
        claim: Claim of each namespace with the artifacts folder.
        service_account: The account that pods run under; no token of it is mounted.
        replicas: Pods of an endpoint, at least 1.
        cpu: CPUs that each asks for, as a quantity.
        memory: Memory of each.
    """

    image: str
    claim: str
    service_account: str = "default"
    replicas: int = 1
    cpu: str = "500m"
    memory: str = "2Gi"

    def __post_init__(self) -> None:
        pinned(self.image)
        Size(self.cpu, self.memory).resources()


class KServePublisher:
    """``Publisher`` on KServe.

    Args:
        api: The API server.
        settings: How endpoints are made.
        datasets: Publishes what is no endpoint.
        registry: Folder that remembers revoked certificates.
        public_key: The platform's public key, PEM.
        artifacts_uri: Where artifacts lie; the claim holds that folder.
        namespaces: Where endpoints may be; empty for all.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: EndpointSettings,
        *,
        datasets: Publisher,
        registry: Path,
        public_key: str,
        artifacts_uri: str,
        namespaces: Sequence[str] = (),
    ) -> None:
        self._api, self._settings, self._datasets = api, settings, datasets
        self._registry, self._public_key = registry, public_key
        self._artifacts = artifacts_uri.rstrip("/") + "/"
        self._namespaces = tuple(namespaces)

    def check_served(self) -> None:
        """Ask for InferenceServices once.

        Raises:
            Unavailable: If the API server does not serve them.
        """
        for where in self._namespaces or ("",):
            next(self._api.list(_collection(where), limit=1), None)

    def publish(
        self, release: ResourceKey, *, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """Have the endpoint as the Release says; publishing the same again writes nothing.

        Returns:
            The URL inside the cluster, whether or not it answers yet.

        Raises:
            Refused: If the certificate does not hold, was revoked, or the name is another's.
            NotFound: If the Release is gone.
            Unavailable: If an earlier one of that name is still being taken down.
        """
        if spec.get("kind") != "Endpoint":
            return self._datasets.publish(release, spec=spec, certificate=certificate)
        name = check_name("spec.endpoint", str(spec.get("endpoint")))
        if name != release.name:
            raise InvalidValue("spec.endpoint", f"must be the Release's name {release.name}", name)
        request = self._request(release, spec, certificate)
        self._entry(request, endpoint.release_entry(request, certificate))
        self._service(request)
        return endpoint.endpoint_url(release.namespace, release.name)

    def unready(self, release: ResourceKey) -> str:
        """Why the endpoint does not answer, in KServe's own word; empty for a dataset."""
        owner = self._api.get(path_of(release))
        if owner is not None and owner["spec"].get("kind") != "Endpoint":
            return self._datasets.unready(release)
        found = self._api.get(_service_path(release))
        if found is None:
            return "its InferenceService is gone"
        listed = (found.get("status") or {}).get("conditions") or ()
        conditions = {str(item.get("type")): item for item in listed}
        if conditions.get("Ready", {}).get("status") == "True":
            return ""
        for kind, good in _CONDITIONS.items():
            item = conditions.get(kind, {})
            if item.get("reason") and item.get("status") != good:
                return f"KServe says {kind}: {_word(item['reason'])}"
        return "KServe has not said that it is ready"

    def withdraw(self, release: ResourceKey) -> None:
        """Stop serving and revoke the certificate here for good; done when it is seen to be gone.

        Raises:
            Unavailable: If it is not gone yet.
        """
        self._datasets.withdraw(release)
        service, entry = (
            self._ours(path(release), release) for path in (_service_path, _entry_path)
        )
        for digest in self._digests(release, service, entry):
            remember_revocation(self._registry, digest)
        if entry is not None and entry.get("data"):
            # The server reads it on every request: it stops even where nobody deletes its pods.
            self._empty(_entry_path(release))
        if service is not None:
            self._remove(release, service)
        if entry is not None:
            self._api.delete(_entry_path(release), uid=str(entry["metadata"]["uid"]))

    def served(self) -> Sequence[ResourceKey]:
        """The Releases that something is here for."""
        selector = f"{names.RELEASE},{names.MANAGED_BY}={names.PLATFORM}"
        found = []
        for where in self._namespaces or ("",):
            for item in self._api.list(_collection(where), labels=selector):
                metadata = item["metadata"]
                name = str(metadata["labels"][names.RELEASE])
                found.append(ResourceKey("Release", str(metadata["namespace"]), name))
        return tuple(found)

    def _request(
        self, release: ResourceKey, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> endpoint.EndpointRequest:
        artifact = spec.get("artifact")
        if not isinstance(artifact, Mapping):
            raise InvalidValue("spec.artifact", "must be an object", type(artifact).__name__)
        digest = str(artifact["digest"])
        statement = certified(
            self._registry,
            certificate,
            public_key=self._public_key,
            digest=digest,
            name=release.name,
        )
        if verification.claims_privacy(statement) != "Valid":
            raise Refused(f"endpoint {release.name} must have a Valid claim; found Void.")
        owner = self._api.get(path_of(release))
        if owner is None:
            raise NotFound(f"{release} must exist to be served; found none.")
        if owner["spec"].get("revocation") or owner["metadata"].get("deletionTimestamp"):
            raise Refused(f"{release} must stand to be served; found it taken back.")
        return endpoint.EndpointRequest(
            namespace=release.namespace,
            owner=Owner(API_VERSION, "Release", release.name, str(owner["metadata"]["uid"])),
            release=release.name,
            artifact_digest=digest,
            certificate_digest=certificate_digest(certificate),
            image=self._settings.image,
            claim=self._settings.claim,
            artifact=self._path(str(artifact["uri"])),
            public_key=self._public_key,
            replicas=self._settings.replicas,
            size=Size(self._settings.cpu, self._settings.memory),
            service_account=self._settings.service_account,
        )

    def _path(self, uri: str) -> PurePosixPath:
        """Where an artifact lies on the claim."""
        if not uri.startswith(self._artifacts):
            rule = f"must lie below {self._artifacts}, which the claim of the namespace holds"
            raise InvalidValue("spec.artifact.uri", rule, uri)
        return PurePosixPath(urllib.parse.unquote(uri.removeprefix(self._artifacts)))

    def _entry(self, request: endpoint.EndpointRequest, wanted: Json) -> None:
        release = ResourceKey("Release", request.namespace, request.release)
        path = _entry_path(release)
        found = self._api.get(path)
        if found is not None:
            self._check_owner(found, request, path)
            if found.get("data") == wanted["data"] and _says(found, wanted):
                return
        self._api.apply(path, wanted)

    def _service(self, request: endpoint.EndpointRequest) -> None:
        wanted = endpoint.inference_service(request)
        release = ResourceKey("Release", request.namespace, request.release)
        path = _service_path(release)
        found = self._api.get(path)
        if found is None:
            try:
                self._api.create(_collection(request.namespace), wanted)
            except Conflict:
                found = self._api.get(path)  # By the look at the Study, or at the Release.
            if found is None:
                return
        self._check_owner(found, request, path)
        if not _stands(found, wanted):
            self._api.patch(path, _replacement(found, wanted))

    def _check_owner(self, found: Json, request: endpoint.EndpointRequest, path: str) -> None:
        """See that an object is this Release's; what an earlier one left behind is deleted.

        Raises:
            Refused: If it is nobody's of ours.
            Unavailable: If it is on its way out.
        """
        metadata = found["metadata"]
        if not _is_ours(found, request.release):
            raise Refused(
                f"{found.get('kind', 'object')} {metadata['name']} must be free or of Release "
                f"{request.release}; found one that the platform did not make. Rename either."
            )
        owners = metadata.get("ownerReferences") or ()
        earlier = owners and not any(item["uid"] == request.owner.uid for item in owners)
        if earlier:
            self._api.delete(path, uid=str(metadata["uid"]))
        if earlier or metadata.get("deletionTimestamp"):
            raise Unavailable(f"{path} is being taken down", retry_seconds=_AGAIN_SECONDS)

    def _empty(self, path: str) -> None:
        try:
            self._api.merge(path, {"data": None})
        except NotFound:
            return  # It went with its owner.

    def _remove(self, release: ResourceKey, service: Json) -> None:
        path = _service_path(release)
        if not service["metadata"].get("deletionTimestamp"):
            try:
                self._api.delete(path, uid=str(service["metadata"]["uid"]))
            except Conflict:
                raise Unavailable(f"{path} changed", retry_seconds=_AGAIN_SECONDS) from None
        if self._api.get(path) is not None:
            raise Unavailable(f"{path} is being taken down", retry_seconds=_AGAIN_SECONDS)

    def _ours(self, path: str, release: ResourceKey) -> Json | None:
        found = self._api.get(path)
        return found if found is not None and _is_ours(found, release.name) else None

    def _digests(self, release: ResourceKey, *found: Json | None) -> set[str]:
        """Every certificate under which a Release is or was served."""
        annotated = [item["metadata"].get("annotations") or {} for item in found if item]
        digests = {str(item.get(names.CERTIFICATE_DIGEST) or "") for item in annotated}
        spec = (self._api.get(path_of(release)) or {}).get("spec") or {}
        if spec.get("kind") == "Endpoint":
            digests.add(str((spec.get("certificate") or {}).get("digest") or ""))
        return digests - {""}


def _collection(namespace: str) -> str:
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"{_API}/{where}{endpoint.PLURAL}"


def _service_path(release: ResourceKey) -> str:
    return f"{_collection(release.namespace)}/{endpoint.endpoint_name(release.name)}"


def _entry_path(release: ResourceKey) -> str:
    return f"/api/v1/namespaces/{release.namespace}/configmaps/{endpoint.entry_name(release.name)}"


def _is_ours(found: Json, release: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    return labels.get(names.MANAGED_BY) == names.PLATFORM and labels.get(names.RELEASE) == release


def _stands(found: Json, wanted: Json) -> bool:
    """Whether a service is as we said, and nobody else said anything about what it runs."""
    if not _says(found, wanted) or not _covers(found["spec"], wanted["spec"]):
        return False
    writers = [
        item
        for item in found["metadata"].get("managedFields") or ()
        if "f:spec" in (item.get("fieldsV1") or {}) and item.get("subresource") != "status"
    ]
    return all(item.get("manager") == FIELD_MANAGER for item in writers)


def _says(found: Json, wanted: Json) -> bool:
    """Whether labels, annotations and owner are ours; others may have added theirs."""
    there, ours = found["metadata"], wanted["metadata"]
    owners = [item.get("uid") for item in there.get("ownerReferences") or ()]
    return (
        _covers(there.get("labels") or {}, ours["labels"])
        and _covers(there.get("annotations") or {}, ours["annotations"])
        and ours["ownerReferences"][0]["uid"] in owners
    )


def _covers(found: Any, wanted: Any) -> bool:
    """Whether everything that is wanted is found; a server adds defaults."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and _covers(found[key], item) for key, item in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_covers(*pair) for pair in zip(found, wanted, strict=True))
        )
    return bool(found == wanted)


def _replacement(found: Json, wanted: Json) -> list[Json]:
    """JSON Patch that puts our spec in the place of whatever is there."""
    there, ours = found["metadata"], wanted["metadata"]
    merged = {part: (there.get(part) or {}) | ours[part] for part in ("labels", "annotations")}
    return [
        {"op": "test", "path": "/metadata/uid", "value": there["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": there["resourceVersion"]},
        {"op": "replace", "path": "/spec", "value": wanted["spec"]},
        {"op": "add", "path": "/metadata/ownerReferences", "value": ours["ownerReferences"]},
        *({"op": "add", "path": f"/metadata/{key}", "value": v} for key, v in merged.items()),
    ]


def _word(reason: object) -> str:
    """A reason of somebody else's as one word, or that there is none."""
    text = str(reason)
    return text[:_WORD_LENGTH_MAX] if text.isalnum() else "an unknown reason"
