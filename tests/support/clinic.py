"""A clinic: the simulated hospital's people and steps, with its resources and runs on a cluster.

Ledger, evidence and serving are in memory, and the auditor's own copy is compared at the end. What
Kubernetes does, a real API server does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

from control_plane import ControlPlane
from kubelet import Kubelet
from ledger_server import served
from manifests import manifest, path
from simulated.jobs import ATTACK, KIND
from simulated.world import BUDGETS, World

from primum.adapters.kube.api import KubeApi, Verb
from primum.adapters.kube.compute import PodCompute
from primum.adapters.kube.events import EventRecorder
from primum.adapters.kube.jobs import KubeJobRunner
from primum.adapters.kube.lease import LeaderLease
from primum.adapters.kube.pods import JobSettings
from primum.adapters.kube.resources import KubeResourceStore
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.adapters.ledger_api.steps import HttpStepServices
from primum.adapters.system import SystemClock
from primum.domain.study.steps import StepContext, StepOutcome, StepStatus
from primum.entrypoints.cluster import Cluster, ClusterRunner, ClusterSettings
from primum_operators.metrics import OperatorMetrics
from primum_operators.operator import Operator
from primum_operators.settings import OperatorSettings

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
LEDGER = "https://primum-api.primum-system.svc:8399"
WAIT_SECONDS = 120.0  # A second or two on a quiet machine.
JOBS = JobSettings(image=IMAGE, ledger_url=LEDGER, cpu="100m", memory="64Mi")


class Clinic(World):
    """The world of one test, in one namespace of a control plane."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        super().__init__(0)
        self.plane, self.namespace, self.api = plane, namespace, plane.api
        self.moods: dict[str, str] = {}
        self._step = threading.local()
        self._worker._moods = self
        self.operators: list[Operator] = []
        self.requests: list[tuple[str, int]] = []
        self.kubelet = Kubelet(
            plane.api, self.container, namespace=namespace, manages=plane.manages
        )

    def choice(self, _options):
        """What a body does: well, unless the test wants something else of its step."""
        return self.moods.get(self._step.now, "well")

    def _services(self, context: StepContext) -> HttpStepServices:
        """What a pod of a run has: its context and the ledger API, and neither ledger nor key."""
        client = LedgerApiClient(self.ledger_api.url, lambda: context.credential)
        self._step.client = client
        return HttpStepServices(
            context=context,
            client=client,
            worker=self._worker,
            artifacts="memory://artifacts",
            folders=(),
        )

    def _execute(self, context: StepContext) -> StepOutcome:
        try:
            return super()._execute(context)
        finally:
            self._step.client.close()

    def container(self, steps: list[StepContext]) -> bool:
        """What a run's pod does: its steps in order, up to the first that fails."""
        for context in steps:
            self._step.now = context.step
            if self._execute(context).status is not StepStatus.SUCCEEDED:
                return False
        return True

    def cluster_runner(self, api: KubeApi, clock: SystemClock) -> ClusterRunner:
        """Who runs this clinic's runs."""
        return KubeJobRunner(api, JOBS, clock=clock, namespaces=(self.namespace,))

    def integrations(self, api: KubeApi) -> dict[str, Any]:
        """What other projects of the cluster are met through: fields of ``Cluster``."""
        return {}

    def replica(self, identity: str, kubeconfig: str = "", **changes: object) -> Operator:
        """An operator of this clinic, not started yet."""
        config = kubeconfig or self.plane.kubeconfig
        api = KubeApi(config, observe=lambda *seen: self.requests.append(seen))
        clock, where = SystemClock(), (self.namespace,)
        events = EventRecorder(api, instance=identity, now=clock.now)
        resources = KubeResourceStore(api, announce=events.transitions, namespaces=where)
        runner = self.cluster_runner(api, clock)
        lease = LeaderLease(
            api, namespace=self.namespace, name="primum-operator", identity=identity, clock=clock
        )
        platform = dataclasses.replace(
            self.platform,
            ledger=self.ledger,
            evidence=self.evidence,
            publisher=self.publisher,
            resources=resources,
            runner=runner,
            compute=PodCompute(),
        )
        settings = OperatorSettings(
            cluster=ClusterSettings(config, where, self.namespace, identity, JOBS),
            workers=2,
            resync_seconds=5,
            run_seconds=1,
            probe_port=0,
        )
        others = self.integrations(api)
        if "endpoints" in others:
            platform = dataclasses.replace(platform, publisher=others["endpoints"])
        parts = Cluster(platform, api, resources, runner, lease, events, **others)
        settings = dataclasses.replace(settings, **changes)
        return Operator(parts, settings, metrics=OperatorMetrics(), flush_lineage=lambda: 0)

    @contextlib.contextmanager
    def working(self, *identities: str, **changes: object) -> Iterator[list[Operator]]:
        """Operators and a kubelet at work."""
        replicas = [self.replica(name, **changes) for name in identities or ("replica-a",)]
        threads = [threading.Thread(target=replica.run, daemon=True) for replica in replicas]
        with served(self.platform) as self.ledger_api, self.kubelet:
            for thread in threads:
                thread.start()
            try:
                yield replicas
            finally:
                for replica in replicas:
                    replica.stop()
                for thread in threads:
                    thread.join(60)
                    assert not thread.is_alive()
        assert self.kubelet.faults == []

    def budget(self, name: str = "scans") -> None:
        """Declare a budget."""
        uri, accounting, _ = BUDGETS[name]
        spec = {
            "dataset": {"uri": uri, "unit": "Patient"},
            "guarantee": {"epsilon": "3.0", "delta": "1e-5"},
            "accounting": {"policy": accounting},
            "disclosures": ["Utility"],
        }
        self.api.post(path("PrivacyBudget", self.namespace), manifest("PrivacyBudget", name, spec))

    def study(self, name: str = "one", *, endpoint: str = "risk", steps: str = "10") -> str:
        """Declare a Study; gives its uid."""
        spec = {
            "purpose": "Try everything",
            "data": [{"role": "Private", "budget": "scans"}],
            "privacy": {"epsilon": "2.0", "delta": "1e-5"},
            "job": {"kind": KIND, "parameters": {"steps": steps, "noise": "4"}},
            "audits": [{"kind": "Membership", "attack": ATTACK}],
        }
        if endpoint:
            spec["release"] = {"endpoint": endpoint}
        made = self.api.post(path("Study", self.namespace), manifest("Study", name, spec))
        return made["metadata"]["uid"]

    def get(self, kind: str, name: str):
        """An object, or None."""
        return self.api.get(path(kind, self.namespace, name))

    def shown(self, kind: str, name: str, condition: str) -> str:
        """A condition as 'Status Reason', or nothing."""
        found = self.get(kind, name) or {}
        for item in found.get("status", {}).get("conditions", ()):
            if item["type"] == condition:
                return f"{item['status']} {item['reason']}"
        return ""

    def states(self, uid: str) -> list[str]:
        """The states of a Study's reservations."""
        return [held.state.value for held in self.ledger.reservations(study_uid=uid)]

    def delete(self, kind: str, name: str) -> None:
        """Ask for the deletion of an object."""
        self.api.delete(path(kind, self.namespace, name))

    def wait(self, holds, *, seconds: float = WAIT_SECONDS, message: str = "") -> None:
        """Wait until something holds."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):  # The API server may be away.
                if holds():
                    return
            if time.monotonic() > end:
                raise AssertionError(message or f"it never came: {self.state()}")
            time.sleep(0.1)

    def wait_ended(self, *names: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until Studies have ended."""
        for name in names:
            self.wait(
                lambda n=name: (
                    self.shown("Study", n, "Succeeded").split(" ")[0] in ("True", "False")
                ),
                seconds=seconds,
            )

    def wait_quiet(self, *, seconds: float = 7.0) -> None:
        """Wait for a time, longer than a resync, in which nothing but the Lease is written.

        What is written at every resync never lets it get quiet.
        """
        end = time.monotonic() + WAIT_SECONDS
        while True:
            self.requests.clear()
            time.sleep(seconds)
            seen = {verb for verb, _ in tuple(self.requests)}
            if seen <= {Verb.GET, Verb.LIST, Verb.UPDATE}:
                return
            assert time.monotonic() < end, f"it never got quiet: {seen}"

    def state(self) -> list[str]:
        """Every condition of every Study, the Jobs and the pods, for a failing test."""
        found = self.api.get(path("Study", self.namespace))["items"]
        others = [f"started {self.kubelet.started}"]
        for where in ("/apis/batch/v1", "/api/v1"):
            plural = "jobs" if "batch" in where else "pods"
            for item in self.api.get(f"{where}/namespaces/{self.namespace}/{plural}")["items"]:
                others.append(f"{plural} {item['metadata']['name']}: {item['status']}")
        return others + [
            f"{item['metadata']['name']}: {c['type']}={c['status']} {c['reason']} {c['message']}"
            for item in found
            for c in item.get("status", {}).get("conditions", ())
        ]

    def audit_everything(self) -> None:
        """Ask the auditor; nothing may have been spent, run or published that must not."""
        client = KubeApi(self.plane.kubeconfig)
        releases = KubeResourceStore(client, namespaces=(self.namespace,)).list("Release")
        client.close()
        self.auditor.check(self.ledger.entries(limit=10_000), releases)
        self.auditor.ended(self.publisher.published)
        assert self.ledger.verify() == ()
        assert len(self.kubelet.started) == len(set(self.kubelet.started)), "a run started twice"
