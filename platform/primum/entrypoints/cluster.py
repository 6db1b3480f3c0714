"""The cluster profile: which implementations stand behind the ports where Kubernetes keeps them.

The second half of ``bootstrap``: what is not named here is as on one machine.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from primum.application.platform import Registering
from primum.application.ports import Clock, PipelineRunner
from primum.entrypoints import bootstrap
from primum.entrypoints.settings import Settings

if TYPE_CHECKING:
    from primum.adapters.kfp_runs import KfpSettings
    from primum.adapters.kube.api import KubeApi, Verb
    from primum.adapters.kube.endpoints import EndpointPublisher, EndpointSettings
    from primum.adapters.kube.events import EventRecorder
    from primum.adapters.kube.lease import LeaderLease
    from primum.adapters.kube.pods import JobSettings
    from primum.adapters.kube.rayjobs import RayJobs
    from primum.adapters.kube.resources import KubeResourceStore
    from primum.adapters.kube.workloads import KueueWorkloads
    from primum.application.platform import Platform
    from primum.domain.canonical import JSON


class ClusterRunner(PipelineRunner, Protocol):
    """A runner whose runs can outlive what they are for."""

    def owners(self) -> Sequence[tuple[str, str, str]]:
        """Every run that is here: run id, namespace, and uid of what it is for."""

    def discard(self, run_id: str, namespace: str) -> None:
        """End a run that is for nothing any more."""


class Queues(enum.StrEnum):
    """Which project of the cluster keeps queues of workloads."""

    NONE = "none"
    KUEUE = "kueue"


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How a process meets its cluster.

    Args:
        kubeconfig: A kubeconfig file; empty for the pod's own service account.
        namespaces: Namespaces that are looked after; empty for all.
        home_namespace: Where the platform itself runs, and its Lease is.
        identity: This replica's name; unique.
        jobs: How the pods of runs are made.
        queues: Whose workloads are answered for.
        endpoints: How endpoints are made in their namespaces; ``None`` for a folder that one
            inference server reads.
        kfp: How runs go to Kubeflow Pipelines; ``None`` for one Job each.
        gpus: GPUs that runs may have; ``None`` for what the queue of runs gives, and none without.
    """

    kubeconfig: str
    namespaces: tuple[str, ...]
    home_namespace: str
    identity: str
    jobs: JobSettings
    queues: Queues = Queues.NONE
    endpoints: EndpointSettings | None = None
    kfp: KfpSettings | None = None
    gpus: int | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The platform in a cluster, and what only the operator needs beside it."""

    platform: Platform
    api: KubeApi
    resources: KubeResourceStore
    runner: ClusterRunner
    lease: LeaderLease
    events: EventRecorder
    workloads: KueueWorkloads | None = None
    endpoints: EndpointPublisher | None = None
    ray_jobs: RayJobs | None = None


def connect(
    settings: Settings,
    cluster: ClusterSettings,
    *,
    observe: Callable[[Verb, int], None] | None = None,
) -> Cluster:
    """Every port of the cluster profile.

    Args:
        settings: The process' settings; ledger and evidence are where they say.
        cluster: How the cluster is met.
        observe: Told of every request to the API server.

    Raises:
        InvalidValue: If the kubeconfig cannot be read.
    """
    from primum.adapters.kube.api import KubeApi
    from primum.adapters.kube.compute import PodCompute
    from primum.adapters.kube.events import EventRecorder
    from primum.adapters.kube.lease import LeaderLease
    from primum.adapters.kube.resources import KubeResourceStore
    from primum.adapters.system import SystemClock

    clock = SystemClock()
    api = KubeApi(cluster.kubeconfig, observe=observe)
    events = EventRecorder(api, instance=cluster.identity, now=clock.now)
    resources = KubeResourceStore(api, announce=events.transitions, namespaces=cluster.namespaces)
    embedded = bootstrap.platform(settings)
    runner = _runner(cluster, api, clock, record=embedded.evidence.put_fact)
    lease = LeaderLease(
        api,
        namespace=cluster.home_namespace,
        name="primum-operator",
        identity=cluster.identity,
        clock=clock,
    )
    compute = PodCompute(gpus=_gpus(cluster, api))
    ports: dict[str, Any] = {
        "resources": resources,
        "runner": runner,
        "compute": compute,
        # Claims with dataset files are in governed namespaces, and the operator is in none.
        "conduct": dataclasses.replace(embedded.conduct, registering=Registering.IN_A_RUN),
    }
    platform = dataclasses.replace(embedded, **ports)
    endpoints = _endpoints(settings, cluster, api, platform)
    if endpoints is not None:
        platform = dataclasses.replace(platform, publisher=endpoints)
    return Cluster(
        platform,
        api,
        resources,
        runner,
        lease,
        events,
        workloads=_workloads(cluster, api, clock.now),
        endpoints=endpoints,
        ray_jobs=_ray_jobs(cluster, api),
    )


def _ray_jobs(cluster: ClusterSettings, api: KubeApi) -> RayJobs | None:
    if not cluster.jobs.ray_job:
        return None
    from primum.adapters.kube.rayjobs import RayJobs

    return RayJobs(api, namespaces=cluster.namespaces)


def _gpus(cluster: ClusterSettings, api: KubeApi) -> Callable[[], int]:
    """GPUs for runs: what a setting says, else the quota of their queue; pods alone have none."""
    from primum.adapters.kube.compute import no_gpus
    from primum.adapters.kube.quota import QueuedGpus

    if not cluster.jobs.ray_job:
        return no_gpus
    if cluster.gpus is not None:
        told = cluster.gpus
        return lambda: told
    if cluster.jobs.queue and cluster.queues is Queues.KUEUE:
        return QueuedGpus(api, queue=cluster.jobs.queue, namespaces=cluster.namespaces)
    return no_gpus


def _runner(
    cluster: ClusterSettings,
    api: KubeApi,
    clock: Clock,
    *,
    record: Callable[[str, str, Mapping[str, JSON]], None],
) -> ClusterRunner:
    if cluster.kfp is not None:
        from primum.adapters.kfp_api import KfpApi
        from primum.adapters.kfp_runs import KfpRunner

        kfp = KfpApi(cluster.kfp.api)
        return KfpRunner(
            kfp, api, jobs=cluster.jobs, settings=cluster.kfp, clock=clock, record=record
        )
    from primum.adapters.kube.jobs import KubeJobRunner

    return KubeJobRunner(api, cluster.jobs, clock=clock, namespaces=cluster.namespaces)


def _workloads(
    cluster: ClusterSettings, api: KubeApi, now: Callable[[], str]
) -> KueueWorkloads | None:
    if cluster.queues is Queues.NONE:
        return None
    from primum.adapters.kube.workloads import KueueWorkloads

    return KueueWorkloads(api, now=now, governed=cluster.namespaces)


def _endpoints(
    settings: Settings, cluster: ClusterSettings, api: KubeApi, platform: Platform
) -> EndpointPublisher | None:
    if cluster.endpoints is None:
        return None
    from primum.adapters.kube.endpoints import EndpointPublisher

    return EndpointPublisher(
        api,
        cluster.endpoints,
        registry=bootstrap.serving_registry(settings),
        public_key=platform.signer.public_key(),
        artifacts_uri=bootstrap.artifacts_uri(settings),
        namespaces=cluster.namespaces,
    )
