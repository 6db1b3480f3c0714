"""A step's heavy work as a KubeRay RayJob, queued by Kueue where there is a queue.

A RayJob runs once: ``backoffLimit`` is 0, worker groups have a fixed size (an elastic one would
change the sampling rate behind epsilon), and its cluster goes when it ends. Only worker pods see a
dataset, under the reservation they carry; only the head sees the step's context. Must not know how
a step computes.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.data_access import DataAccess
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
from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import InvalidValue

API_VERSION = "ray.io/v1"
# Of the worker image; constraints.txt pins the same. From 2.53 on KubeRay probes over HTTP: with an
# older one said here it would look for wget, which the image does not have.
RAY_VERSION = "2.60.0"
NAME_LENGTH_MAX = 47  # KubeRay appends to it and refuses longer ones only after admission.
GROUPS_MAX = 17  # More worker groups are more pod sets than Kueue admits.
CONTEXT_PATH = "/etc/primum/step"
CONTEXT_FILE = f"{CONTEXT_PATH}/context.json"
ENTRYPOINT = f"python -m primum.entrypoints.step {CONTEXT_FILE}"
CA_PATH = "/etc/primum/ledger-ca"
# The same places as in every other pod of the platform: an artifact has one address everywhere.
HOME_PATH = "/var/lib/primum"
ARTIFACTS_PATH = f"{HOME_PATH}/artifacts"
DATASETS_PATH = "/var/lib/primum-data"
TTL_SECONDS = 600  # Long enough to read why it failed; the receipt is in the ledger by then.
PENDING_SECONDS_MAX = 1800  # An image of several GB on a new node, and no longer.

_ENVIRONMENT = {
    "HOME": "/tmp",  # noqa: S108 - the pod's own empty folder; its root file system is read-only
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_OFFLINE": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
_HEAD, _SUBMITTER, _WORKER = (
    Size("1", "4Gi", "2"),
    Size("200m", "256Mi", "1"),
    Size("4", "16Gi", "8"),
)
_LABEL_LENGTH_MAX = 63
_GROUP_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,40}[a-z0-9])?")


_NO_LOGIN = DataAccess()
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - the submitter is another pod; the network policy is the door


class Workload(enum.StrEnum):
    """What a RayJob runs."""

    TRAIN = "train"
    SYNTHESIZE = "synthesize"
    FEDERATE = "federate"
    PRIVATE_FEATURES = "private-features"
    AUDIT = "audit"


@dataclass(frozen=True, slots=True)
class DatasetClaim:
    """A protected dataset's volume.

    Args:
        claim: Name of the PersistentVolumeClaim, which says that it is protected.
        folder: Folder below ``/var/lib/primum-data`` where it appears; that itself where empty.
    """

    claim: str
    folder: str = ""

    def mount(self, number: int) -> Mount:
        """Read-only.

        Raises:
            InvalidValue: If its name does not say that it is protected.
        """
        if not self.claim.startswith(names.DATASET_PREFIX):
            rule = f"must begin with {names.DATASET_PREFIX}"
            raise InvalidValue("claim", rule, self.claim, "The steward names it so.")
        volume: dict[str, JSON] = {"claimName": self.claim, "readOnly": True}
        source: dict[str, JSON] = {"persistentVolumeClaim": volume}
        return Mount(f"dataset-{number}", f"{DATASETS_PATH}/{self.folder}".rstrip("/"), source)


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Workers of one kind: all of a Train job, or one site of a federation.

    Args:
        name: DNS label.
        workers: How many, at least 1.
        gpus_per_worker: Whole GPUs of each.
        reservation: The reservation under which they may open data; empty where none do.
        inspection: The run under which they only look, for an audit in the steward's zone.
        datasets: What they may open.
        access: How they log in where data lies elsewhere.
        workers_per_gpu: How many share a pod and its one GPU: Kubernetes gives whole GPUs alone.
        cpus_per_worker: Whole CPUs of each; 0 for what the site gives a worker.
        ray_cpus: CPUs that Ray counts in a pod; 0 for those that it may use.
    """

    name: str
    workers: int
    gpus_per_worker: int = 0
    reservation: str = ""
    inspection: str = ""
    datasets: tuple[DatasetClaim, ...] = ()
    access: DataAccess = _NO_LOGIN
    workers_per_gpu: int = 1
    cpus_per_worker: int = 0
    ray_cpus: int = 0

    @property
    def pods(self) -> int:
        """How many pods hold them."""
        return -(-self.workers // self.workers_per_gpu)

    def size(self, worker: Size) -> Size:
        """What a pod asks for.

        Args:
            worker: What the site gives one worker.
        """
        if self.cpus_per_worker:
            worker = Size(str(self.cpus_per_worker), worker.memory)
        return worker.times(self.workers_per_gpu) if self.workers_per_gpu > 1 else worker


@dataclass(frozen=True, slots=True)
class RaySizes:
    """What the pods of a RayJob may use.

    The head runs no work (``num-cpus: 0``); the submitter waits.
    """

    head: Size = _HEAD
    submitter: Size = _SUBMITTER
    worker: Size = _WORKER
    shared_memory: str = "4Gi"
    scratch: str = "20Gi"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a manifest is for.

    Args:
        study: Name of the Study (of an AuditRun, the one whose artifact is audited).
        run_id: The run.
        step: The step.
        reservations: Those that the step's tickets were minted for.
    """

    study: str
    run_id: str
    step: str
    reservations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RayJobRequest:
    """Everything that decides how a RayJob looks.

    Args:
        namespace: The Study's namespace.
        owner: The Study or AuditRun.
        origin: What it is for.
        workload: What it runs.
        image: The worker image, by digest.
        entrypoint: What the driver runs; no secret in it.
        groups: Its workers.
        context_secret: Secret with the contexts of the run's steps.
        context_key: The one of this step; the driver alone sees it, and no other.
        deadline_seconds: When it is stopped, counted from its start.
        queue: Kueue LocalQueue; empty where there is none.
        priority: Kueue WorkloadPriorityClass; empty for the queue's own.
        service_account: Whom the pods run as.
        environment: Further plain variables of the driver.
        artifacts_claim: Claim that models and evidence are written to.
        ledger_ca: ConfigMap with ``ca.crt``, by which the driver knows the ledger API; empty where
            the system's authorities do.
        sizes: What the pods may use.
    """

    namespace: str
    owner: Owner
    origin: Origin
    workload: Workload
    image: str
    entrypoint: str
    groups: tuple[WorkerGroup, ...]
    context_secret: str
    context_key: str
    deadline_seconds: int
    artifacts_claim: str
    queue: str = ""
    priority: str = ""
    service_account: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    ledger_ca: str = ""
    sizes: RaySizes = RaySizes()


def ray_job_name(origin: Origin) -> str:
    """The name of a step's RayJob: the same for the same run and step, at most 47 characters.

    What it runs is not part of it: the same step under two names could run twice at once.
    """
    identity = ("rayjob", origin.run_id, origin.step)
    return bounded_name((origin.study, origin.step), identity, length_max=NAME_LENGTH_MAX)


def gpus(request: RayJobRequest) -> int:
    """GPUs of the whole job: of each group, pods times GPUs."""
    return sum(group.pods * group.gpus_per_worker for group in request.groups)


def ray_job(request: RayJobRequest) -> dict[str, JSON]:
    """The RayJob.

    Its annotation ``primum.dev/spec-digest`` is the digest of its spec: one found under this name
    with another digest is somebody else's.

    Raises:
        InvalidValue: If the request cannot be a RayJob that runs once under its reservations.
    """
    _check(request)
    spec: dict[str, JSON] = {
        "entrypoint": request.entrypoint,
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": TTL_SECONDS,
        "activeDeadlineSeconds": request.deadline_seconds,
        "preRunningDeadlineSeconds": min(PENDING_SECONDS_MAX, request.deadline_seconds),
        "backoffLimit": 0,
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(request),
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "enableInTreeAutoscaling": False,
            # Whoever reaches port 8265 may run anything: the network policy keeps others away, the
            # token those inside.
            "authOptions": {"mode": "token"},
            "headGroupSpec": _head(request),
            "workerGroupSpecs": [_group(request, group) for group in request.groups],
        },
    }
    queued = {names.QUEUE: request.queue, names.PRIORITY: request.priority if request.queue else ""}
    digest = digest_of(spec)
    return {
        "apiVersion": API_VERSION,
        "kind": "RayJob",
        "metadata": {
            "name": ray_job_name(request.origin),
            "namespace": request.namespace,
            "labels": _labels(request, queued),
            "annotations": {names.SPEC_DIGEST: digest, **_under(request.origin)},
            "ownerReferences": request.owner.references(),
        },
        # Kueue starts it; its webhook would set this too, and without Kueue nobody would clear it.
        "spec": spec | ({"suspend": True} if request.queue else {}),
    }


def _under(origin: Origin) -> dict[str, JSON]:
    held = ",".join(origin.reservations)
    return {names.RESERVATIONS: held} if held else {}


def _check(request: RayJobRequest) -> None:
    if not request.entrypoint.strip():
        raise InvalidValue("entrypoint", "must be a command", "nothing")
    if request.deadline_seconds < 1:
        raise InvalidValue("deadline_seconds", "must be at least 1", request.deadline_seconds)
    if not 1 <= len(request.groups) <= GROUPS_MAX:
        rule = f"must be 1 to {GROUPS_MAX} worker groups"
        raise InvalidValue("groups", rule, len(request.groups))
    if len({group.name for group in request.groups}) != len(request.groups):
        raise InvalidValue("groups", "must have different names", "a name twice")
    for group in request.groups:
        if not _GROUP_NAME.fullmatch(group.name):
            raise InvalidValue("group.name", "must be a short lower-case name", group.name)
        if group.workers < 1 or group.gpus_per_worker < 0:
            found = f"{group.workers} workers with {group.gpus_per_worker} GPUs"
            raise InvalidValue(f"group {group.name}", "must have at least one worker", found)
        shared = group.workers_per_gpu
        if shared < 1 or group.workers % shared or (shared > 1 and group.gpus_per_worker != 1):
            rule = "must share one GPU each among as many workers"
            raise InvalidValue(f"group {group.name}", rule, f"{shared} of {group.workers}")
        opens = bool(group.datasets or group.access.secret)
        if opens and not (group.reservation or group.inspection):
            rule = "must have a reservation to open data, or an inspection to audit it"
            raise InvalidValue(f"group {group.name}", rule, "none")
        if group.inspection and request.workload is not Workload.AUDIT:
            rule = "must have no inspection: only audits look without a charge"
            raise InvalidValue(f"group {group.name}", rule, request.workload.value)


def _labels(request: RayJobRequest, further: Mapping[str, str]) -> dict[str, JSON]:
    origin = request.origin
    told = {
        names.STUDY: origin.study[:_LABEL_LENGTH_MAX].rstrip("-."),
        names.RUN: origin.run_id,
        names.STEP: origin.step,
        names.OWNER: request.owner.uid,
    }
    return labels(request.workload.value, {**told, **further})


def _template(
    request: RayJobRequest,
    container: ContainerSpec,
    *,
    under: Mapping[str, str] = MappingProxyType({}),
    restart: str = "",
) -> dict[str, JSON]:
    account = request.service_account
    return {
        "metadata": {"labels": _labels(request, under)},
        "spec": pod_spec(
            [container], service_account=account, gpus=container.gpus, restart=restart
        ),
    }


def _ray_mounts(request: RayJobRequest) -> tuple[Mount, ...]:
    sizes = request.sizes
    claim: dict[str, JSON] = {"persistentVolumeClaim": {"claimName": request.artifacts_claim}}
    return (
        scratch("tmp", "/tmp", limit=sizes.scratch),  # noqa: S108 - where Ray keeps its session
        scratch("shm", "/dev/shm", limit=sizes.shared_memory, medium="Memory"),  # noqa: S108
        scratch("home", HOME_PATH, limit="1Gi"),
        Mount("artifacts", ARTIFACTS_PATH, claim, access="ReadWrite"),
    )


def _driver_mounts(request: RayJobRequest) -> tuple[Mount, ...]:
    file: dict[str, JSON] = {
        "key": request.context_key,
        "path": CONTEXT_FILE.rpartition("/")[2],
        "mode": 0o440,
    }
    context: dict[str, JSON] = {"secretName": request.context_secret, "items": [file]}
    mounts = (Mount("context", CONTEXT_PATH, {"secret": context}),)
    if not request.ledger_ca:
        return mounts
    authority: dict[str, JSON] = {"configMap": {"name": request.ledger_ca}}
    return (*mounts, Mount("ledger-ca", CA_PATH, authority))


def _submitter(request: RayJobRequest) -> dict[str, JSON]:
    container = ContainerSpec(
        name="submitter",
        image=request.image,
        size=request.sizes.submitter,
        environment=_ENVIRONMENT,
        mounts=(scratch("tmp", "/tmp", limit="1Gi"),),  # noqa: S108
    )
    return _template(request, container, restart="Never")


def _head(request: RayJobRequest) -> dict[str, JSON]:
    # The driver runs in the head: it redeems tickets, and touches no data itself.
    container = ContainerSpec(
        name="ray-head",
        image=request.image,
        size=request.sizes.head,
        environment={**_ENVIRONMENT, **request.environment},
        mounts=(*_ray_mounts(request), *_driver_mounts(request)),
    )
    return {
        "rayStartParams": {"dashboard-host": _EVERYWHERE, "num-cpus": "0"},
        "template": _template(request, container),
    }


def _group(request: RayJobRequest, group: WorkerGroup) -> dict[str, JSON]:
    datasets = tuple(item.mount(number) for number, item in enumerate(group.datasets))
    container = ContainerSpec(
        name="ray-worker",
        image=request.image,
        size=group.size(request.sizes.worker),
        gpus=group.gpus_per_worker,
        environment=_ENVIRONMENT,
        mounts=(*_ray_mounts(request), *datasets, *group.access.mounts()),
        variables=tuple(group.access.environment()),
    )
    under = {names.RESERVATION: group.reservation, names.INSPECTION: group.inspection}
    return {
        "groupName": group.name,
        "replicas": group.pods,
        "minReplicas": group.pods,
        "maxReplicas": group.pods,
        "rayStartParams": {"num-cpus": str(group.ray_cpus)} if group.ray_cpus else {},
        "template": _template(request, container, under=under),
    }
