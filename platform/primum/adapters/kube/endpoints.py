"""EndpointPublisher: Releases as endpoints of their own namespace, and datasets where they lie.

The operator copies no artifact: an endpoint mounts it where the run left it, beside the signed
certificate, and verifies one against the other; a dataset stays on the namespace's claim, where
Studies read it. What stands is written again only where somebody changed or deleted it; what
belongs to nobody of ours is never touched.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from primum import verification
from primum.adapters.kube.api import FIELD_MANAGER, Json, KubeApi, Propagation
from primum.adapters.kube.endpoint_forms import INFERENCE_SERVICE, EndpointForm
from primum.adapters.kube.objects import path_of
from primum.adapters.kube_manifests import endpoint, names
from primum.adapters.kube_manifests.parts import Owner, Size, pinned
from primum.adapters.serving import certified, remember_revocation
from primum.domain.canonical import JSON
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.governance.certificate import VOID_PREFIX, certificate_digest
from primum.domain.names import ResourceKey, check_name
from primum.resources.metadata import API_VERSION

_GIVEN = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")  # Of a Service.
_HEADLESS = "None"  # Its address, as the API server writes that it has none.
_AGAIN_SECONDS = 1.0  # A service that is being taken down is looked at again soon.


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
        form: What an endpoint is made of.
    """

    image: str
    claim: str
    service_account: str = "default"
    replicas: int = 1
    cpu: str = "500m"
    memory: str = "2Gi"
    form: EndpointForm = INFERENCE_SERVICE

    def __post_init__(self) -> None:
        pinned(self.image)
        Size(self.cpu, self.memory).resources()


class EndpointPublisher:
    """``Publisher`` of a cluster.

    Args:
        api: The API server.
        settings: How endpoints are made.
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
        registry: Path,
        public_key: str,
        artifacts_uri: str,
        namespaces: Sequence[str] = (),
    ) -> None:
        self._api, self._settings, self._form = api, settings, settings.form
        self._registry, self._public_key = registry, public_key
        self._artifacts = artifacts_uri.rstrip("/") + "/"
        self._namespaces = tuple(namespaces)

    @property
    def watched(self) -> tuple[str, str, str]:
        """Group, version and plural of what serves Releases."""
        return self._form.watched

    def check_served(self) -> None:
        """Ask for every kind of object once.

        Raises:
            Unavailable: If the API server does not serve them.
        """
        for where in self._namespaces or ("",):
            for number in range(len(self._form.collections)):
                next(self._api.list(self._form.collection(where, number), limit=1), None)

    def publish(
        self, release: ResourceKey, *, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """Have the endpoint as the Release says; publishing the same again writes nothing.

        Returns:
            The URL inside the cluster, whether or not it answers yet; of a dataset, its place on
            the namespace's claim.

        Raises:
            Refused: If the certificate does not hold, was revoked, or the name is another's.
            NotFound: If the Release is gone.
            Unavailable: If an earlier one of that name is still being taken down.
        """
        if spec.get("kind") != "Endpoint":
            return self._placed(release, spec, certificate)
        name = check_name("spec.endpoint", str(spec.get("endpoint")))
        if name != release.name:
            raise InvalidValue("spec.endpoint", f"must be the Release's name {release.name}", name)
        request = self._request(release, spec, certificate)
        self._entry(request, endpoint.release_entry(request, certificate))
        for number, wanted in enumerate(self._form.make(request)):
            self._object(request, wanted, number)
        return self._form.url(release.namespace, release.name)

    def unready(self, release: ResourceKey) -> str:
        """Why the endpoint does not answer, in the cluster's own word; empty for a dataset."""
        owner = self._api.get(path_of(release))
        if owner is not None and owner["spec"].get("kind") != "Endpoint":
            return ""
        found = self._api.get(self._form.path(release.namespace, release.name))
        if found is None:
            return f"its {self._form.kind} is gone"
        return self._form.unready(found)

    def withdraw(self, release: ResourceKey) -> None:
        """Stop serving and revoke the certificate here for good; done when it is seen to be gone.

        Raises:
            Unavailable: If it is not gone yet.
        """
        numbers = range(len(self._form.collections))
        paths = [self._form.path(release.namespace, release.name, number) for number in numbers]
        standing = {path: self._ours(path, release) for path in paths}
        entry = self._ours(_entry_path(release), release)
        for digest in self._digests(release, *standing.values(), entry):
            remember_revocation(self._registry, digest)
        if entry is not None and entry.get("data"):
            # The server reads it on every request: it stops even where nobody deletes its pods.
            self._empty(_entry_path(release))
        left = {path: found for path, found in standing.items() if found is not None}
        for path, found in left.items():  # Everything at once: no address waits for pods to end.
            self._delete(path, found)
        if any(self._api.get(path) is not None for path in left):
            raise Unavailable(f"{release} is being taken down", retry_seconds=_AGAIN_SECONDS)
        if entry is not None:
            self._api.delete(_entry_path(release), uid=str(entry["metadata"]["uid"]))

    def served(self) -> Sequence[ResourceKey]:
        """The Releases that something is here for."""
        selector = f"{names.RELEASE},{names.MANAGED_BY}={names.PLATFORM}"
        found = []
        for where in self._namespaces or ("",):
            for item in self._api.list(self._form.collection(where), labels=selector):
                metadata = item["metadata"]
                name = str(metadata["labels"][names.RELEASE])
                found.append(ResourceKey("Release", str(metadata["namespace"]), name))
        return tuple(found)

    def _placed(
        self, release: ResourceKey, spec: Mapping[str, JSON], certificate: Mapping[str, JSON]
    ) -> str:
        """A dataset: it stays where its run put it, and stands by its certificate."""
        artifact = spec.get("artifact")
        if not isinstance(artifact, Mapping):
            raise InvalidValue("spec.artifact", "must be an object", type(artifact).__name__)
        statement = certified(
            self._registry,
            certificate,
            public_key=self._public_key,
            digest=str(artifact["digest"]),
            name=release.name,
        )
        void = verification.claims_privacy(statement) != "Valid"
        if void and not release.name.startswith(VOID_PREFIX):
            raise Refused(f"dataset {release.name} must have a Valid claim; found Void.")
        return f"pvc://{self._settings.claim}/{self._path(str(artifact['uri']))}"

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

    def _object(self, request: endpoint.EndpointRequest, wanted: Json, number: int) -> None:
        path = self._form.path(request.namespace, request.release, number)
        found = self._api.get(path)
        if found is None:
            try:
                self._api.create(self._form.collection(request.namespace, number), wanted)
            except Conflict:
                found = self._api.get(path)  # By the look at the Study, or at the Release.
            if found is None:
                return
        self._check_owner(found, request, path)
        if _is_stuck(found, wanted):
            self._delete(path, found)
            raise Unavailable(f"{path} is being taken down", retry_seconds=_AGAIN_SECONDS)
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

    def _delete(self, path: str, found: Json) -> None:
        """Delete what serves; it is gone when its pods are, and not before."""
        if found["metadata"].get("deletionTimestamp"):
            return
        uid = str(found["metadata"]["uid"])
        try:
            self._api.delete(path, uid=uid, propagation=Propagation.FOREGROUND)
        except Conflict:
            raise Unavailable(f"{path} changed", retry_seconds=_AGAIN_SECONDS) from None

    def _ours(self, path: str, release: ResourceKey) -> Json | None:
        found = self._api.get(path)
        return found if found is not None and _is_ours(found, release.name) else None

    def _digests(self, release: ResourceKey, *found: Json | None) -> set[str]:
        """Every certificate under which a Release is or was served."""
        annotated = [item["metadata"].get("annotations") or {} for item in found if item]
        digests = {str(item.get(names.CERTIFICATE_DIGEST) or "") for item in annotated}
        spec = (self._api.get(path_of(release)) or {}).get("spec") or {}
        digests.add(str((spec.get("certificate") or {}).get("digest") or ""))
        return digests - {""}


def _entry_path(release: ResourceKey) -> str:
    return f"/api/v1/namespaces/{release.namespace}/configmaps/{endpoint.entry_name(release.name)}"


def _is_ours(found: Json, release: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    return labels.get(names.MANAGED_BY) == names.PLATFORM and labels.get(names.RELEASE) == release


def _is_stuck(found: Json, wanted: Json) -> bool:
    """Whether an object can never be as we say: what makes it another one cannot be changed."""
    there = found["spec"]
    if wanted["kind"] == "Service":
        return bool(there.get("clusterIP") == _HEADLESS)
    return bool(wanted["kind"] == "Deployment" and there["selector"] != wanted["spec"]["selector"])


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
        {"op": "replace", "path": "/spec", "value": _spec(found, wanted)},
        {"op": "add", "path": "/metadata/ownerReferences", "value": ours["ownerReferences"]},
        *({"op": "add", "path": f"/metadata/{key}", "value": v} for key, v in merged.items()),
    ]


def _spec(found: Json, wanted: Json) -> Json:
    """Our spec in the place of whatever is there; of a Service its addresses stay, and only they.

    A Service's addresses are the API server's to give, and cannot be taken back. Further ones that
    somebody added, or pods that are not ready, must not answer under its name.
    """
    if wanted["kind"] != "Service":
        return dict(wanted["spec"])
    kept = {name: found["spec"][name] for name in _GIVEN if name in found["spec"]}
    return {**kept, **wanted["spec"]}
