"""A Release's endpoint: the platform's inference server as a KServe InferenceService.

The server gets a release bundle (the registry folder of that one Release) and a public key, and
checks the certificate against the very bytes itself; nothing here is believed by it. Where there is
no KServe, ``endpoint_workload`` makes a plain Deployment and Service of the same pod. Must not
decide whether a Release may be served.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

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
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

API_VERSION = "serving.kserve.io/v1beta1"
COMPONENT = "endpoint"
PORT = 8080
REGISTRY_PATH = "/mnt/models"
KEY_PATH = "/etc/primum/key"
KEY_FILE = "signing.pub.pem"
NAME_LENGTH_MAX = 40  # KServe appends "-predictor" and a revision; a DNS label ends at 63.

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STORAGE = re.compile(r"(s3|gs|oci|pvc|https)://[^\s]{1,500}")
_CLAIM = re.compile(r"pvc://([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)/([^\s]{1,400})")
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
        bundle_uri: The release bundle: a folder with ``endpoints``, ``artifacts`` and ``revoked``.
        public_key: ConfigMap with the platform's public key under ``signing.pub.pem``.
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
    bundle_uri: str
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


def inference_service(request: EndpointRequest) -> dict[str, JSON]:
    """The InferenceService: one container, no logger, transformer, explainer or canary.

    Raises:
        InvalidValue: If a digest, the image, the bundle or the number of replicas is unusable.
    """
    _check(request)
    annotations = _digests(request) | {"serving.kserve.io/deploymentMode": "Standard"}
    if request.serving is Serving.STOPPED:
        annotations["serving.kserve.io/stop"] = "true"
    container = _server(request, "kserve-container", ())
    predictor: dict[str, JSON] = {
        **pod_spec([container], service_account=request.service_account),
        "minReplicas": request.replicas,
        "maxReplicas": request.replicas,
        "storageUris": [{"uri": request.bundle_uri, "mountPath": REGISTRY_PATH}],
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceService",
        "metadata": _metadata(request, annotations),
        "spec": {"predictor": predictor},
    }


def endpoint_workload(request: EndpointRequest) -> tuple[dict[str, JSON], dict[str, JSON]]:
    """A Deployment and a Service for clusters without KServe.

    Raises:
        InvalidValue: As ``inference_service``; or if the bundle is not on a claim of the namespace.
    """
    _check(request)
    found = _CLAIM.fullmatch(request.bundle_uri)
    if found is None:
        raise InvalidValue(
            "bundle_uri",
            "must be pvc://<claim>/<folder> where there is no KServe",
            request.bundle_uri,
            "Install KServe, or publish to a claim.",
        )
    claim: dict[str, JSON] = {"claimName": found[1], "readOnly": True}
    bundle = Mount("bundle", REGISTRY_PATH, {"persistentVolumeClaim": claim}, folder=found[3])
    container = _server(request, "server", (bundle,))
    pod = pod_spec([container], service_account=request.service_account)
    metadata = _metadata(request, _digests(request))
    selector: dict[str, JSON] = {names.RELEASE: request.release, names.COMPONENT: COMPONENT}
    template: dict[str, JSON] = {"metadata": {"labels": metadata["labels"]}, "spec": pod}
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
    if not _STORAGE.fullmatch(request.bundle_uri):
        rule = "must be an s3, gs, oci, pvc or https URI"
        raise InvalidValue("bundle_uri", rule, request.bundle_uri)
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
        "labels": labels(COMPONENT, {names.RELEASE: request.release}),
        "annotations": annotations,
        "ownerReferences": request.owner.references(),
    }


def _server(request: EndpointRequest, name: str, further: tuple[Mount, ...]) -> ContainerSpec:
    probe: dict[str, JSON] = {"httpGet": {"path": "/v2/health/ready", "port": PORT}}
    alive: dict[str, JSON] = {"httpGet": {"path": "/v2/health/live", "port": PORT}}
    key = Mount("public-key", KEY_PATH, {"configMap": {"name": request.public_key}})
    return ContainerSpec(
        name=name,
        image=request.image,
        size=request.size,
        arguments=(
            *("--registry", REGISTRY_PATH),
            *("--public-key", f"{KEY_PATH}/{KEY_FILE}"),
            *("--host", "0.0.0.0"),  # noqa: S104 - in its own pod, behind the network policy
            *("--port", str(PORT)),
        ),
        environment={"HOME": "/tmp"},  # noqa: S108 - its root file system is read-only
        mounts=(scratch("tmp", "/tmp", limit="1Gi"), key, *further),  # noqa: S108 - the pod's own
        more={
            "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
            "readinessProbe": {**probe, "periodSeconds": 5},
            "livenessProbe": {**alive, "periodSeconds": 10, "failureThreshold": 6},
        },
    )
