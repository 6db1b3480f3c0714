"""A Release's endpoint: the platform's inference server as a KServe InferenceService.

The server sees the artifact's folder of the namespace's own claim, and one small entry with the
signed certificate; it checks the certificate against the very bytes itself, by a public key that
stands in the pod's own spec. Where there is no KServe, ``endpoint_workload`` makes a plain
Deployment and Service of the same pod. Must not decide whether a Release may be served.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.parts import (
    ContainerSpec,
    Mount,
    Owner,
    Size,
    bounded_name,
    labels,
    pod_spec,
    scratch,
)
from primum.domain.canonical import JSON, canonical_json, digest_of
from primum.domain.errors import InvalidValue

GROUP, VERSION = "serving.kserve.io", "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURAL = "inferenceservices"
COMPONENT = "endpoint"
PORT = 8080
REGISTRY_PATH = "/mnt/models"
_ARTIFACTS, _ENDPOINTS = "artifacts", "endpoints"  # As the inference server reads a registry.
NAME_LENGTH_MAX = 40  # KServe appends "-predictor" and a revision; a DNS label ends at 63.

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CLAIM_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


_SIZE = Size("500m", "2Gi", "2")


class Serving(enum.StrEnum):
    """Whether an endpoint answers."""

    UP = "Up"
    STOPPED = "Stopped"  # a failed audit, a revocation: taken down without being deleted


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """Everything that decides how an endpoint looks.

    Args:
        namespace: The Release's namespace.
        owner: The Release.
        release: Its name.
        artifact_digest: Digest of the model's bytes.
        certificate_digest: Digest of its certificate.
        image: The inference server, by digest.
        claim: Claim of the namespace with the artifact.
        artifact: The artifact's file, relative to the claim's root.
        public_key: The platform's public key, PEM.
        replicas: How many pods, at least 1.
        size: What each may use.
        service_account: Whom they run as.
        serving: Whether it answers.
    """

    namespace: str
    owner: Owner
    release: str
    artifact_digest: str
    certificate_digest: str
    image: str
    claim: str
    artifact: PurePosixPath
    public_key: str
    replicas: int = 1
    size: Size = _SIZE
    service_account: str = ""
    serving: Serving = Serving.UP


def endpoint_name(release: str) -> str:
    """The name of a Release's InferenceService: its own where that can be one."""
    if _DNS_1035.fullmatch(release):
        return release
    return bounded_name((release,), ("endpoint", release), length_max=NAME_LENGTH_MAX)


def endpoint_url(namespace: str, release: str) -> str:
    """Where predictions are asked for inside the cluster, known before anything runs."""
    name = endpoint_name(release)
    return f"http://{name}-predictor.{namespace}.svc/v2/models/{release}/infer"


def workload_url(namespace: str, release: str) -> str:
    """The same where a Deployment answers behind a Service of its own."""
    return f"http://{endpoint_name(release)}.{namespace}.svc/v2/models/{release}/infer"


def entry_name(release: str) -> str:
    """The name of the ConfigMap with a Release's entry."""
    return f"{endpoint_name(release)}-release"


def inference_service(request: EndpointRequest) -> dict[str, JSON]:
    """The InferenceService: one container, no logger, transformer, explainer or canary.

    Raises:
        InvalidValue: If a digest, the image, the claim or the number of replicas is unusable.
    """
    _check(request)
    annotations = _digests(request) | {"serving.kserve.io/deploymentMode": "Standard"}
    if request.serving is Serving.STOPPED:
        annotations["serving.kserve.io/stop"] = "true"
    predictor: dict[str, JSON] = {
        **_pod(request, "kserve-container"),
        "labels": _labels(request),
        "minReplicas": request.replicas,
        "maxReplicas": request.replicas,
    }
    spec: dict[str, JSON] = {"predictor": predictor}
    annotations[names.SPEC_DIGEST] = digest_of({"spec": spec, "annotations": annotations})
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": _metadata(request, annotations),
        "spec": spec,
    }


def release_entry(
    request: EndpointRequest, certificate: Mapping[str, JSON] | None
) -> dict[str, JSON]:
    """The ConfigMap that the server reads what it serves from.

    Args:
        request: The endpoint.
        certificate: The signed envelope; ``None`` for an entry that serves nothing any more.
    """
    data: dict[str, JSON] = {}
    if certificate is not None:
        entry: dict[str, JSON] = {
            "endpoint": request.release,
            "release": f"Release {request.namespace}/{request.release}",
            "artifact": f"{_ARTIFACTS}/{request.artifact.name}",
            "certificate": dict(certificate),
        }
        data[f"{request.release}.json"] = canonical_json(entry).decode()
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **_metadata(request, _digests(request)),
            "name": entry_name(request.release),
        },
        "data": data,
    }


def endpoint_workload(request: EndpointRequest) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """A Deployment and a Service for clusters without KServe.

    Raises:
        InvalidValue: As ``inference_service``.
    """
    _check(request)
    metadata = _metadata(request, _digests(request))
    selector: dict[str, JSON] = {names.RELEASE: request.release, names.COMPONENT: COMPONENT}
    template: dict[str, JSON] = {
        "metadata": {"labels": metadata["labels"]},
        "spec": _pod(request, "server"),
    }
    deployment: dict[str, JSON] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": request.replicas if request.serving is Serving.UP else 0,
            "selector": {"matchLabels": selector},
            "template": template,
        },
    }
    port: dict[str, JSON] = {"name": "http", "port": 80, "targetPort": "http"}
    service: dict[str, JSON] = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": selector, "ports": [port]},
    }
    return deployment, service


def _check(request: EndpointRequest) -> None:
    for field, digest in (
        ("artifact_digest", request.artifact_digest),
        ("certificate_digest", request.certificate_digest),
    ):
        if not _DIGEST.fullmatch(digest):
            raise InvalidValue(field, "must be sha256:<64 hex digits>", digest)
    if not _CLAIM_NAME.fullmatch(request.claim):
        raise InvalidValue("claim", "must be the name of a claim", request.claim)
    path = request.artifact
    if path.is_absolute() or ".." in path.parts or not path.name:
        rule = "must be a file below the claim's root"
        raise InvalidValue("artifact", rule, str(path))
    if request.replicas < 1:
        raise InvalidValue("replicas", "must be at least 1", request.replicas)


def _digests(request: EndpointRequest) -> dict[str, JSON]:
    return {
        names.ARTIFACT_DIGEST: request.artifact_digest,
        names.CERTIFICATE_DIGEST: request.certificate_digest,
    }


def _metadata(request: EndpointRequest, annotations: dict[str, JSON]) -> dict[str, JSON]:
    return {
        "name": endpoint_name(request.release),
        "namespace": request.namespace,
        "labels": _labels(request),
        "annotations": annotations,
        "ownerReferences": request.owner.references(),
    }


def _labels(request: EndpointRequest) -> dict[str, JSON]:
    return labels(COMPONENT, {names.RELEASE: request.release})


def _pod(request: EndpointRequest, container: str) -> dict[str, JSON]:
    return pod_spec([_server(request, container)], service_account=request.service_account)


def _server(request: EndpointRequest, name: str) -> ContainerSpec:
    # Only whose certificate holds is ready: who asks for predictions is never sent to another one.
    ready = f"/v2/models/{request.release}/ready"
    probe: dict[str, JSON] = {"httpGet": {"path": ready, "port": PORT}}
    alive: dict[str, JSON] = {"httpGet": {"path": "/v2/health/live", "port": PORT}}
    return ContainerSpec(
        name=name,
        image=request.image,
        size=request.size,
        arguments=(
            *("--registry", REGISTRY_PATH),
            # Not a mounted file: whoever may write that could have anything served.
            *("--public-key-text", request.public_key),
            *("--host", "0.0.0.0"),  # noqa: S104 - in its own pod, behind the network policy
            *("--port", str(PORT)),
        ),
        environment={"HOME": "/tmp"},  # noqa: S108 - its root file system is read-only
        mounts=(scratch("tmp", "/tmp", limit="1Gi"), *_registry(request)),  # noqa: S108
        more={
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "readinessProbe": {**probe, "periodSeconds": 5},
            "livenessProbe": {**alive, "periodSeconds": 10, "failureThreshold": 6},
        },
    )


def _registry(request: EndpointRequest) -> tuple[Mount, ...]:
    """The registry folder of one Release: its entry, and its artifact's file and no other one."""
    claim: dict[str, JSON] = {"claimName": request.claim, "readOnly": True}
    return (
        Mount(
            "artifact",
            f"{REGISTRY_PATH}/{_ARTIFACTS}/{request.artifact.name}",
            {"persistentVolumeClaim": claim},
            folder=str(request.artifact),
        ),
        # Optional: an entry that is gone must not keep a node from stopping the pod in order.
        Mount(
            "release",
            f"{REGISTRY_PATH}/{_ENDPOINTS}",
            {"configMap": {"name": entry_name(request.release), "optional": True}},
        ),
    )
