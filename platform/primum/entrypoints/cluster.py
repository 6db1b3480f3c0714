"""The cluster profile: which implementations stand behind the ports where Kubernetes keeps them.

The second half of ``bootstrap``: what is not named here is as on one machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from primum.entrypoints import bootstrap
from primum.entrypoints.settings import Settings

if TYPE_CHECKING:
    from primum.adapters.kube.api import KubeApi, Verb
    from primum.adapters.kube.events import EventRecorder
    from primum.adapters.kube.jobs import KubeJobRunner
    from primum.adapters.kube.lease import LeaderLease
    from primum.adapters.kube.pods import JobSettings
    from primum.adapters.kube.resources import KubeResourceStore
    from primum.application.platform import Platform


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How a process meets its cluster.

    Args:
        kubeconfig: A kubeconfig file; empty for the pod's own service account.
        namespaces: Namespaces that are looked after; empty for all.
        home_namespace: Where the platform itself runs, and its Lease is.
        identity: This replica's name; unique.
        jobs: How the pods of runs are made.
    """

    kubeconfig: str
    namespaces: tuple[str, ...]
    home_namespace: str
    identity: str
    jobs: JobSettings


@dataclass(frozen=True, slots=True)
class Cluster:
    """The platform in a cluster, and what only the operator needs beside it."""

    platform: Platform
    api: KubeApi
    resources: KubeResourceStore
    runner: KubeJobRunner
    lease: LeaderLease
    events: EventRecorder


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
    from primum.adapters.kube.jobs import KubeJobRunner
    from primum.adapters.kube.lease import LeaderLease
    from primum.adapters.kube.resources import KubeResourceStore
    from primum.adapters.system import SystemClock

    clock = SystemClock()
    api = KubeApi(cluster.kubeconfig, observe=observe)
    events = EventRecorder(api, instance=cluster.identity, now=clock.now)
    resources = KubeResourceStore(api, announce=events.transitions, namespaces=cluster.namespaces)
    runner = KubeJobRunner(api, cluster.jobs, clock=clock, namespaces=cluster.namespaces)
    lease = LeaderLease(
        api,
        namespace=cluster.home_namespace,
        name="primum-operator",
        identity=cluster.identity,
        clock=clock,
    )
    ports: dict[str, Any] = {"resources": resources, "runner": runner, "compute": PodCompute()}
    platform = dataclasses.replace(bootstrap.platform(settings), **ports)
    return Cluster(platform, api, resources, runner, lease, events)
