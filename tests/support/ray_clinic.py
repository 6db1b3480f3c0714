"""A clinic whose heavy steps run in RayJobs, under the launcher's own rights alone."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

from clinic import JOBS, Clinic
from control_plane import ControlPlane
from simulated_kuberay import Driver, SimulatedKubeRay

from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.jobs import KubeJobRunner
from primum.adapters.kube.rayjobs import RayJobs, RayJobSettings
from primum.adapters.system import SystemClock
from primum.domain.canonical import canonical_json
from primum.domain.errors import PrimumError
from primum.domain.study.steps import StepContext, StepStatus, context_from_json
from primum.entrypoints import in_ray_job
from primum.entrypoints import settings as platform_settings
from primum.entrypoints.cluster import ClusterRunner
from primum_operators.operator import Operator
from primum_pipelines.runtime import execute

CONTEXT = "/etc/primum/step/context.json"


class RayClinic(Clinic):
    """The world of one test.

    Args:
        plane: The control plane, with RayJobs.
        namespace: Its namespace.
        launcher: Kubeconfig of the account under which steps make RayJobs.
    """

    def __init__(self, plane: ControlPlane, namespace: str, launcher: str) -> None:
        super().__init__(plane, namespace)
        ray = RayJobSettings(image=JOBS.image, artifacts_claim=JOBS.artifacts_claim)
        self.jobs = dataclasses.replace(JOBS, ray_job=ray.to_text())
        self._launcher = launcher
        self.kuberay = SimulatedKubeRay(plane.api, self.drive, namespace=namespace)
        self.said: list[str] = []
        self.operator_config = ""

    def replica(self, identity: str, kubeconfig: str = "", **changes: object) -> Operator:
        """An operator of this clinic, not started yet."""
        return super().replica(identity, kubeconfig or self.operator_config, **changes)

    def cluster_runner(self, api: KubeApi, clock: SystemClock) -> ClusterRunner:
        """Jobs whose pods make RayJobs."""
        return KubeJobRunner(api, self.jobs, clock=clock, namespaces=(self.namespace,))

    def integrations(self, api: KubeApi) -> dict[str, Any]:
        """KubeRay."""
        return {"ray_jobs": RayJobs(api, namespaces=(self.namespace,))}

    def container(self, steps: list[StepContext]) -> bool:
        """What a run's pod does: light steps itself, heavy ones in their RayJobs."""
        with self._clients(), tempfile.TemporaryDirectory() as folder:
            for number, context in enumerate(steps):
                name = f"{number:03d}-{context.step}.json"
                (pathlib.Path(folder) / name).write_bytes(canonical_json(context.to_json()))
            return all(self.walked(context, folder) for context in steps)

    def walked(self, context: StepContext, folder: str) -> bool:
        """One step in a run's pod."""
        self._step.now = context.step
        if not context.is_heavy:
            return self._execute(context).status is StepStatus.SUCCEEDED
        settings = self.settings(folder)
        services = self._services(context)
        try:
            found = in_ray_job.outcome_of(context, services, execute, settings=settings)
        except PrimumError as error:
            self.said.append(str(error))
            return False
        return found.status is StepStatus.SUCCEEDED

    def settings(self, folder: str) -> platform_settings.Settings:
        """What a step's process in a run's pod reads."""
        told = {
            "PRIMUM_COMPUTE": "rayjob",
            "PRIMUM_LEDGER_URL": self.ledger_api.url,
            "PRIMUM_RAY_JOB": self.jobs.ray_job,
            "PRIMUM_KUBECONFIG": self._launcher,
            "PRIMUM_STEPS": folder,
        }
        return platform_settings.from_environment(told)

    def make(self, context: StepContext, folder: str) -> None:
        """Make a step's RayJob as its process would, and no more."""
        settings = self.settings(folder)
        manifest = in_ray_job.manifest_of_step(context, settings)
        api = KubeApi(self._launcher)
        RayJobs(api).create(manifest)
        api.close()

    def opened(self, context: StepContext) -> bool:
        """A driver that opens its data and dies."""
        services = self._services(context)
        services.begun(context.outcome_id)
        for ticket in context.tickets.values():
            services.redeem(ticket)
        return False

    def drive(self, driver: Driver) -> bool:
        """What runs on the head of a RayJob: the same step, told by its Secret."""
        with self._clients():
            context = context_from_json(json.loads(driver.files[CONTEXT]))
            self._step.now = context.step
            return self.driven(context, driver)

    def driven(self, context: StepContext, _driver: Driver) -> bool:
        """The step on the head."""
        return self._execute(context).status is StepStatus.SUCCEEDED

    @contextlib.contextmanager
    def _clients(self) -> Iterator[None]:
        self._step.clients = []
        try:
            yield
        finally:
            for client in self._step.clients:
                client.close()

    @contextlib.contextmanager
    def working(self, *identities: str, **changes: object) -> Iterator[list[Operator]]:
        """Operators, a kubelet and KubeRay at work."""
        with self.kuberay, super().working(*identities, **changes) as replicas:
            yield replicas
        assert self.kuberay.faults == []
