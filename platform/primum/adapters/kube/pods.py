"""What a run's pod looks like: one Job, one Secret, under the restricted pod security standard.

Pure: settings and step contexts to manifests. A run is one pod that walks its steps in order
(``primum.entrypoints.walk``); tickets and credentials travel in the Secret, never in a pod's spec.
The pod holds neither key nor address of the database: its steps ask the ledger API.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from primum import signing
from primum.adapters.kube.objects import owner_reference
from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.data_access import DataAccess, data_access_from_text
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, Tampered
from primum.domain.study.steps import REGISTER, StepContext
from primum.resources.metadata import GROUP

STEPS_FOLDER = "/var/run/primum/steps"
# The same home as the operator's, so that an artifact has one address everywhere.
_HOME_FOLDER, _DATA_FOLDER = "/var/lib/primum", "/var/lib/primum-data"
_CA_FOLDER, _CA_KEY = "/etc/primum/ledger-ca", "ca.crt"
_TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - where clients look
_TOKEN_SECONDS = 3600  # The kubelet replaces it in time.
_DIGEST = re.compile(r"^[a-z0-9][a-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}$")
_SECRET_BYTES_MAX = 900_000  # The API server takes 1 MiB, names and encoding included.
_LABEL_LENGTH_MAX = 63
_INSPECTING = ("AuditRun", "PrivacyBudget")  # Their runs look at data, and spend nothing.
USER = 65532  # The user of distroless images: not root, and nobody's on the node.
_QUANTITY = re.compile(r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How the pods of runs are made.

    Args:
        image: The worker image, by digest.
        service_account: The account that pods run under; it needs no rights, and no token of it is
            mounted.
        ledger_url: The ledger API, as pods reach it.
        ledger_ca: ConfigMap of the Study's namespace with ``ca.crt``, which the ledger API's
            certificate is checked with; empty for the image's authorities.
        artifacts_claim: Claim with the artifacts folder, written to.
        data_claim: Claim with dataset files, read only; empty where none are needed.
        data_access: How pods that open data log in where it lies, as ``DataAccess`` writes it;
            empty where none has to.
        cpu: CPUs requested and allowed, as a quantity.
        memory: Memory requested and allowed.
        deadline_seconds: After which a run is ended by Kubernetes, whatever it does.
        keep_seconds: How long a finished Job stays for its logs.
        queue: Kueue queue, or empty.
        ray_job: How the RayJobs of heavy steps are made, as ``RayJobSettings`` writes it; empty
            where every step runs in the run's own pod. With it the queue is theirs: a pod that held
            quota while it waits for a RayJob could keep the RayJob from ever getting its own.
        labels: Further labels of what is made.
    """

    image: str
    ledger_url: str
    ledger_ca: str = ""
    service_account: str = "default"
    artifacts_claim: str = "primum-artifacts"
    data_claim: str = ""
    data_access: str = ""
    cpu: str = "2"
    memory: str = "8Gi"
    deadline_seconds: int = 86_400
    keep_seconds: int = 86_400
    queue: str = ""
    ray_job: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """What holds where nothing is said, by field."""
        return {item.name: item.default for item in fields(cls) if item.default is not MISSING}

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.image):
            raise InvalidValue(
                "job image",
                "must name an image by digest (registry/name@sha256:...)",
                self.image,
                "A tag may be moved to other code.",
            )
        if not self.ledger_url.startswith(("https://", "http://")):
            raise InvalidValue(
                "job ledger_url", "must be the address of the ledger API", self.ledger_url
            )
        data_access_from_text(self.data_access)
        for name in ("cpu", "memory"):
            if not _QUANTITY.fullmatch(getattr(self, name)):
                raise InvalidValue(
                    f"job {name}", "must be a quantity such as 2 or 8Gi", getattr(self, name)
                )


def job_name(run_id: str) -> str:
    """The name of a run's Job and Secret: the same for the same run everywhere and always."""
    return f"primum-{run_id}"


def job(
    run_id: str, name: str, steps: Sequence[StepContext], settings: JobSettings
) -> dict[str, Any]:
    """The Job of a run.

    Args:
        run_id: The run.
        name: What people call it.
        steps: Its steps, in order; at least one.
        settings: How pods are made.
    """
    settings = settings_for(steps, settings)
    labels = _labels(run_id, steps, settings)
    metadata = _metadata(run_id, name, steps, settings)
    annotations = metadata["annotations"] | {
        names.GENERATION: str(steps[0].study["generation"]),
        names.RESERVATIONS: ",".join(reservations(steps)),
    }
    metadata["annotations"] = annotations
    queue = "" if settings.ray_job else settings.queue
    metadata["labels"] = metadata["labels"] | ({names.QUEUE: queue} if queue else {})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            # A second try would open data again under the same tickets: the platform decides.
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "activeDeadlineSeconds": settings.deadline_seconds,
            "ttlSecondsAfterFinished": settings.keep_seconds,
            **({"suspend": True} if queue else {}),
            "template": {
                "metadata": {"labels": labels, "annotations": dict(annotations)},
                "spec": _pod(run_id, settings),
            },
        },
    }


def settings_for(steps: Sequence[StepContext], settings: JobSettings) -> JobSettings:
    """How the pods of a run are made: what opens no protected data sees none of it.

    Policy refuses a pod that mounts protected data without a reservation or an inspection.
    """
    if steps[0].step == REGISTER:
        # It makes no RayJob, and stands in no queue: there is no Study to wait for yet.
        settings = replace(settings, ray_job="", queue="")
    return settings if held_by(steps) else replace(settings, data_claim="", data_access="")


def held_by(steps: Sequence[StepContext]) -> dict[str, str]:
    """The label under which the pods of a run may open protected data; empty where none may."""
    held = reservations(steps)
    if held:
        return {names.RESERVATION: held[0]}
    if steps[0].owner.get("kind") in _INSPECTING:
        return {names.INSPECTION: steps[0].run_id}
    return {}


def secret(
    run_id: str, name: str, steps: Sequence[StepContext], settings: JobSettings
) -> dict[str, Any]:
    """The Secret with the contexts of a run's steps, tickets and credentials included.

    Raises:
        InvalidValue: If the contexts are larger than a Secret may be.
    """
    data = {
        f"{number:03d}-{step.step}.json": canonical_json(step.to_json())
        for number, step in enumerate(steps)
    }
    size = sum(len(text) for text in data.values())
    if size > _SECRET_BYTES_MAX:
        raise InvalidValue(
            f"contexts of run {run_id}",
            f"must be at most {_SECRET_BYTES_MAX} bytes",
            f"{size} bytes",
            "Declare fewer accesses.",
        )
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": f"{GROUP}/steps",
        "immutable": True,
        "metadata": _metadata(run_id, name, steps, settings),
        "data": {file: base64.b64encode(text).decode() for file, text in data.items()},
    }


def reservations(steps: Sequence[StepContext]) -> tuple[str, ...]:
    """The reservations that the steps' tickets were minted for, in order.

    They are read, not verified: this is for a label. Whoever redeems a ticket verifies it.
    """
    found: dict[str, None] = {}
    for step in steps:
        for ticket in step.tickets.values():
            try:
                envelope = signing.decode_token(ticket)
                claims = _claims(str(envelope["payload"]))
            except (KeyError, ValueError, Tampered):
                continue
            if claims.get("reservationId"):
                found.setdefault(str(claims["reservationId"]))
    return tuple(found)


def _claims(payload: str) -> Mapping[str, JSON]:
    import json

    value = json.loads(base64.b64decode(payload))
    return value if isinstance(value, dict) else {}


def _labels(run_id: str, steps: Sequence[StepContext], settings: JobSettings) -> dict[str, str]:
    under = held_by(steps)
    if steps[0].step != REGISTER:
        under |= {names.STUDY: str(steps[0].study["name"])[:_LABEL_LENGTH_MAX]}
    return {
        **settings.labels,
        names.PART_OF: names.PLATFORM,
        names.MANAGED_BY: names.PLATFORM,
        names.COMPONENT: "worker",
        names.RUN: run_id,
        names.OWNER: str(steps[0].study["uid"]),
        **under,
    }


def _metadata(
    run_id: str, name: str, steps: Sequence[StepContext], settings: JobSettings
) -> dict[str, Any]:
    study, owner = steps[0].study, steps[0].owner
    reference = owner_reference(str(owner["kind"]), str(owner["name"]), str(study["uid"]))
    return {
        "name": job_name(run_id),
        "namespace": str(study["namespace"]),
        "labels": _labels(run_id, steps, settings),
        "annotations": {f"{GROUP}/run-name": name},
        "ownerReferences": [reference],
    }


def _pod(run_id: str, settings: JobSettings) -> dict[str, Any]:
    quantities = {"cpu": settings.cpu, "memory": settings.memory}
    container = {
        "name": "run",
        "image": settings.image,
        "command": ["python", "-m", "primum.entrypoints.walk", STEPS_FOLDER],
        "env": [*environment(settings), *_access(settings).environment()],
        "resources": {"requests": dict(quantities), "limits": dict(quantities)},
        "securityContext": _restricted(),
        "volumeMounts": _mounts(settings),
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": (
            names.LAUNCHER_ACCOUNT if settings.ray_job else settings.service_account
        ),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": _volumes(run_id, settings),
    }


def environment(settings: JobSettings) -> list[dict[str, Any]]:
    """What every process of a run finds in its environment; nothing in it is secret."""
    found = {
        "PRIMUM_HOME": _HOME_FOLDER,
        "PRIMUM_DATA": _DATA_FOLDER,
        "PRIMUM_LEDGER_URL": settings.ledger_url,
        "HOME": "/tmp",  # noqa: S108 - an emptyDir of the pod's own
    }
    if settings.ledger_ca:
        found["PRIMUM_LEDGER_CA"] = f"{_CA_FOLDER}/{_CA_KEY}"
    if settings.ray_job:
        found |= {"PRIMUM_COMPUTE": "rayjob", "PRIMUM_RAY_JOB": settings.ray_job}
    return [{"name": name, "value": value} for name, value in found.items()]


def ledger_volumes(settings: JobSettings) -> list[dict[str, Any]]:
    """The volume with the ledger API's authorities, where they are named."""
    if not settings.ledger_ca:
        return []
    items = [{"key": _CA_KEY, "path": _CA_KEY}]
    return [{"name": "ledger-ca", "configMap": {"name": settings.ledger_ca, "items": items}}]


def ledger_mounts(settings: JobSettings) -> list[dict[str, Any]]:
    """Where that volume appears."""
    if not settings.ledger_ca:
        return []
    return [{"name": "ledger-ca", "mountPath": _CA_FOLDER, "readOnly": True}]


def _token(mode: int) -> dict[str, Any]:
    """What a client of the API server looks for in a pod; the launcher's, and for an hour."""
    authority = [{"key": "ca.crt", "path": "ca.crt"}]
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return {
        "defaultMode": mode,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
            {"configMap": {"name": "kube-root-ca.crt", "items": authority}},
            {"downwardAPI": {"items": [namespace]}},
        ],
    }


def _restricted() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _mounts(settings: JobSettings) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod's own
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - what Ray shares objects through
        {"name": "home", "mountPath": _HOME_FOLDER},
        {"name": "artifacts", "mountPath": f"{_HOME_FOLDER}/artifacts"},
        {"name": "steps", "mountPath": STEPS_FOLDER, "readOnly": True},
        *ledger_mounts(settings),
    ]
    if settings.ray_job:
        mounts.append({"name": "api-token", "mountPath": _TOKEN_FOLDER, "readOnly": True})
    if settings.data_claim:
        mounts.append({"name": "data", "mountPath": _DATA_FOLDER, "readOnly": True})
    return mounts + [item.mount() for item in _access(settings).mounts()]


def _access(settings: JobSettings) -> DataAccess:
    return data_access_from_text(settings.data_access)


def _volumes(run_id: str, settings: JobSettings) -> list[dict[str, Any]]:
    private = 0o440  # Readable by the pod's own group, which its user is in, and by nobody else.
    volumes: list[dict[str, Any]] = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "home", "emptyDir": {}},
        {"name": "artifacts", "persistentVolumeClaim": {"claimName": settings.artifacts_claim}},
        {"name": "steps", "secret": {"secretName": job_name(run_id), "defaultMode": private}},
        *ledger_volumes(settings),
    ]
    if settings.ray_job:
        volumes.append({"name": "api-token", "projected": _token(private)})
    if settings.data_claim:
        claim = {"claimName": settings.data_claim, "readOnly": True}
        volumes.append({"name": "data", "persistentVolumeClaim": claim})
    return volumes + [item.volume() for item in _access(settings).mounts()]
