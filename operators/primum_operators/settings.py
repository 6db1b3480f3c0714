"""Settings of the operator's process: ``PRIMUM_OPERATOR_*`` beside the platform's own.

Read once, at the start; an unknown name is refused, because the default in its place may be
another cluster's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from primum.adapters.kfp_api import ApiSettings
from primum.adapters.kfp_runs import KfpSettings
from primum.adapters.kube.endpoint_forms import DEPLOYMENT, INFERENCE_SERVICE
from primum.adapters.kube.endpoints import EndpointSettings
from primum.adapters.kube.pods import JobSettings
from primum.adapters.kube.rayjobs import RayJobSettings
from primum.domain.errors import InvalidValue
from primum.entrypoints.cluster import ClusterSettings, Queues

PREFIX = "PRIMUM_OPERATOR_"
_WORDS = """
    KUBECONFIG NAMESPACES HOME_NAMESPACE IDENTITY WORKERS RESYNC_SECONDS RUN_SECONDS PROBE_PORT
    JOB_IMAGE JOB_SERVICE_ACCOUNT JOB_LEDGER_URL JOB_LEDGER_CA JOB_ARTIFACTS_CLAIM
    JOB_DATA_CLAIM JOB_DATA_ACCESS JOB_CPU JOB_MEMORY JOB_DEADLINE_SECONDS JOB_KEEP_SECONDS
    JOB_QUEUE
    RUNNER KFP_URL KFP_TOKEN_PATH KFP_CA KFP_EXPERIMENT KFP_SERVICE_ACCOUNT
    COMPUTE GPUS RAY_PRIORITY RAY_HEAD_CPU RAY_HEAD_MEMORY RAY_WORKER_CPU RAY_WORKER_MEMORY
    RAY_SHARED_MEMORY RAY_SCRATCH
    QUEUES SERVING SERVING_IMAGE SERVING_REPLICAS SERVING_CPU SERVING_MEMORY
"""
NAMES = frozenset(PREFIX + word for word in _WORDS.split())
_WHOLE_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the operator runs by.

    Args:
        cluster: How it meets its cluster. ``KUBECONFIG``, ``NAMESPACES`` (comma-separated; empty
            for all), ``HOME_NAMESPACE`` (default ``primum-system``), ``IDENTITY`` (default: the
            host's name, which is the pod's), and ``JOB_*`` for the pods of runs; image and address
            of the ledger API have no default. ``RUNNER`` is ``jobs`` (the default) or ``kfp``; with
            that, ``KFP_URL`` and ``NAMESPACES`` have no default, ``KFP_TOKEN_PATH`` is the file
            with the token, ``KFP_CA`` a PEM file, ``KFP_EXPERIMENT`` (default ``primum``) what runs
            belong to, ``KFP_SERVICE_ACCOUNT`` (default ``primum-pipeline``) what their pods run
            under. ``COMPUTE`` is ``pods`` (the default) or ``rayjob``; with that heavy steps run in
            RayJobs, and ``GPUS`` says how many GPUs they may have together (default: the quota of
            their Kueue queue), ``RAY_PRIORITY`` their WorkloadPriorityClass, ``RAY_HEAD_CPU``,
            ``RAY_HEAD_MEMORY``, ``RAY_WORKER_CPU``, ``RAY_WORKER_MEMORY``, ``RAY_SHARED_MEMORY``
            and ``RAY_SCRATCH`` how large their pods are (1, 4Gi, 4, 16Gi, 4Gi, 20Gi).
            ``QUEUES`` is ``none`` (the default) or ``kueue``,
            whose budget check it then answers. ``SERVING`` is ``folder`` (the default) or
            ``kserve``; with that, ``SERVING_IMAGE`` has no default, and ``SERVING_REPLICAS``,
            ``SERVING_CPU`` and ``SERVING_MEMORY`` say how large an endpoint is (1, 500m, 2Gi);
            ``deployments`` is the same without KServe.
        workers: ``WORKERS``. How many resources are looked at at once. Default 4.
        resync_seconds: ``RESYNC_SECONDS``. After which everything is looked at again, whatever was
            heard of it. Default 60; leases of reservations are moved on far more seldom.
        run_seconds: ``RUN_SECONDS``. After which a Study under way is looked at again, for what
            its steps recorded. Default 10.
        probe_port: ``PROBE_PORT``. Where probes and metrics are served. Default 8080.
    """

    cluster: ClusterSettings
    workers: int
    resync_seconds: int
    run_seconds: int
    probe_port: int


def from_environment(environment: Mapping[str, str] | None = None) -> OperatorSettings:
    """Read the settings.

    Args:
        environment: Variables to read; the process' own where ``None``.

    Raises:
        InvalidValue: If a name is not a setting's, or a value is out of range.
    """
    values = os.environ if environment is None else environment
    for name in values:
        if name.startswith(PREFIX) and name not in NAMES:
            rule = f"must be one of the settings {', '.join(sorted(NAMES))}"
            raise InvalidValue(name, rule, "another name")
    told = {name: values.get(PREFIX + name, "") for name in _WORDS.split()}
    defaults = JobSettings.defaults()
    jobs = JobSettings(
        image=told["JOB_IMAGE"],
        service_account=told["JOB_SERVICE_ACCOUNT"] or defaults["service_account"],
        ledger_url=told["JOB_LEDGER_URL"],
        ledger_ca=told["JOB_LEDGER_CA"],
        artifacts_claim=told["JOB_ARTIFACTS_CLAIM"] or defaults["artifacts_claim"],
        data_claim=told["JOB_DATA_CLAIM"],
        data_access=told["JOB_DATA_ACCESS"],
        cpu=told["JOB_CPU"] or defaults["cpu"],
        memory=told["JOB_MEMORY"] or defaults["memory"],
        deadline_seconds=_whole(told, "JOB_DEADLINE_SECONDS", 86_400),
        keep_seconds=_whole(told, "JOB_KEEP_SECONDS", 86_400),
        queue=told["JOB_QUEUE"],
    )
    jobs = replace(jobs, ray_job=_ray_job(told, jobs))
    namespaces = tuple(part.strip() for part in told["NAMESPACES"].split(",") if part.strip())
    cluster = ClusterSettings(
        kubeconfig=told["KUBECONFIG"],
        namespaces=namespaces,
        home_namespace=told["HOME_NAMESPACE"] or "primum-system",
        identity=told["IDENTITY"] or socket.gethostname(),
        jobs=jobs,
        queues=Queues(_one_of(told, "QUEUES", tuple(Queues))),
        endpoints=_endpoints(told, jobs),
        kfp=_kfp(told, namespaces),
        gpus=_count(told, "GPUS"),
    )
    return OperatorSettings(
        cluster=cluster,
        workers=_whole(told, "WORKERS", 4),
        resync_seconds=_whole(told, "RESYNC_SECONDS", 60),
        run_seconds=_whole(told, "RUN_SECONDS", 10),
        probe_port=_whole(told, "PROBE_PORT", 8080),
    )


def _ray_job(told: Mapping[str, str], jobs: JobSettings) -> str:
    """How RayJobs of heavy steps are made; empty where every step runs in the run's pod."""
    if _one_of(told, "COMPUTE", ("pods", "rayjob")) == "pods":
        return ""
    words = "PRIORITY HEAD_CPU HEAD_MEMORY WORKER_CPU WORKER_MEMORY SHARED_MEMORY SCRATCH"
    said = {word.lower(): told[f"RAY_{word}"] for word in words.split() if told[f"RAY_{word}"]}
    return RayJobSettings(
        image=jobs.image,
        artifacts_claim=jobs.artifacts_claim,
        data_claim=jobs.data_claim,
        data_access=jobs.data_access,
        ledger_ca=jobs.ledger_ca,
        service_account=jobs.service_account,
        deadline_seconds=jobs.deadline_seconds,
        queue=jobs.queue,
        **said,
    ).to_text()


def _count(told: Mapping[str, str], name: str) -> int | None:
    """A whole number from 0, or nothing where it is not said."""
    if not told[name]:
        return None
    return 0 if told[name] == "0" else _whole(told, name, 1)


def _kfp(told: Mapping[str, str], namespaces: tuple[str, ...]) -> KfpSettings | None:
    """How runs go to Kubeflow Pipelines; ``None`` where each is a Job."""
    if _one_of(told, "RUNNER", ("jobs", "kfp")) == "jobs":
        return None
    return KfpSettings(
        api=ApiSettings(
            url=told["KFP_URL"], token_path=told["KFP_TOKEN_PATH"], ca_path=told["KFP_CA"]
        ),
        namespaces=namespaces,
        experiment=told["KFP_EXPERIMENT"] or "primum",
        service_account=told["KFP_SERVICE_ACCOUNT"] or "primum-pipeline",
    )


def _endpoints(told: Mapping[str, str], jobs: JobSettings) -> EndpointSettings | None:
    """How endpoints are made in their namespaces; ``None`` where they are a folder."""
    kind = _one_of(told, "SERVING", ("folder", "kserve", "deployments"))
    if kind == "folder":
        return None
    return EndpointSettings(
        image=told["SERVING_IMAGE"],
        claim=jobs.artifacts_claim,
        service_account=jobs.service_account,
        replicas=_whole(told, "SERVING_REPLICAS", 1),
        cpu=told["SERVING_CPU"] or "500m",
        memory=told["SERVING_MEMORY"] or "2Gi",
        form=INFERENCE_SERVICE if kind == "kserve" else DEPLOYMENT,
    )


def _one_of(told: Mapping[str, str], name: str, words: Sequence[str]) -> str:
    """A word of a few, the first where nothing is said."""
    text = told[name] or words[0]
    if text not in words:
        raise InvalidValue(PREFIX + name, f"must be one of {', '.join(words)}", text)
    return text


def _whole(told: Mapping[str, str], name: str, default: int) -> int:
    text = told[name]
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _WHOLE_MAX):
        raise InvalidValue(PREFIX + name, f"must be a whole number from 1 to {_WHOLE_MAX}", text)
    return int(text)
