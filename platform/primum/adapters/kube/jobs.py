"""KubeJobRunner: one batch/v1 Job per run, for clusters without Kubeflow Pipelines.

Launching twice meets the Job of the first time by its name. A Job is never asked to retry: a pod
that dies ends the run, and the platform settles by what was recorded. Reads statuses and logs;
settles nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from primum.adapters.kube.api import Json, KubeApi, Parts, Propagation
from primum.adapters.kube.pods import (
    JobSettings,
    job,
    job_name,
    secret,
)
from primum.adapters.kube_manifests import names
from primum.application.ports import Clock, RunStatus
from primum.domain.errors import Conflict, NotFound, Refused
from primum.domain.study.steps import StepContext

_FORGOTTEN_MAX = 10_000  # Of runs that ended; forgetting twice costs a request.
_ENDED = {"Complete": RunStatus.SUCCEEDED, "Failed": RunStatus.FAILED}


class KubeJobRunner:
    """``PipelineRunner`` on batch/v1 Jobs.

    Args:
        api: The API server.
        settings: How pods are made.
        clock: Stamps what was stopped.
        namespaces: Where runs may be; empty for all.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: JobSettings,
        *,
        clock: Clock,
        namespaces: Sequence[str] = (),
    ) -> None:
        self._api = api
        self._settings = settings
        self._clock = clock
        self._namespaces = tuple(namespaces)
        self._where: dict[str, str] = {}
        self._listed = False
        self._listing = threading.Lock()
        self._forgotten: set[str] = set()
        self._just_made: set[str] = set()

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Create the run's Job; a no-op where it exists.

        Raises:
            Refused: If an object of that name exists and is not this run's.
            InvalidValue: If the contexts are too large, or the API server refuses the Job.
        """
        namespace = str(steps[0].study["namespace"])
        standing = self._api.get(_job_path(namespace, run_id))
        if standing is None:
            # The pod waits for its Secret, so the Secret comes first; it is of no use without one.
            self._secret(namespace, run_id, secret(run_id, name, steps, self._settings))
            try:
                standing = self._api.create(
                    f"/apis/batch/v1/namespaces/{namespace}/jobs",
                    job(run_id, name, steps, self._settings),
                )
                self._just_made.add(run_id)
            except Conflict:
                standing = self._api.get(_job_path(namespace, run_id))
        if standing is not None and not _is_ours(standing, run_id, str(steps[0].study["uid"])):
            raise Refused(f"Job {job_name(run_id)} in {namespace} is not of this run")
        self._where[run_id] = namespace
        self._forgotten.discard(run_id)

    def status(self, run_id: str) -> RunStatus:
        """How the run stands; ``UNKNOWN`` where its Job is gone."""
        if run_id in self._just_made:  # The server said so a moment ago. It is asked from then on.
            self._just_made.discard(run_id)
            return RunStatus.RUNNING
        found = self._job(run_id)
        if found is None:
            return RunStatus.UNKNOWN
        status = run_status(found)
        if status is not RunStatus.RUNNING:
            self._forget_tickets(found, run_id)
        return status

    def stop(self, run_id: str) -> None:
        """End the run's pods and have it stay ended; its Job stays as the record of it."""
        found = self._job(run_id)
        if found is None or run_status(found) is not RunStatus.RUNNING:
            return
        if names.STOPPED in (found["metadata"].get("annotations") or {}):
            return
        # A deadline that has passed has Kubernetes end the pods and fail the Job, in any version.
        body: Json = {
            "metadata": {"annotations": {names.STOPPED: self._clock.now()}},
            "spec": {"activeDeadlineSeconds": 1},
        }
        path = _job_path(str(found["metadata"]["namespace"]), run_id)
        try:
            self._api.merge(path, body)
        except NotFound:
            return
        self._forget_tickets(found, run_id)

    def logs(self, run_id: str) -> str:
        """Where the logs are: the platform itself may not read those of pods.

        Raises:
            NotFound: If the run's Job is gone.
        """
        found = self._job(run_id)
        if found is None:
            raise NotFound(f"run {run_id} must have a Job to have logs; found none.")
        namespace = found["metadata"]["namespace"]
        return f"kubectl logs -n {namespace} -l {names.RUN}={run_id}\n"

    def owners(self) -> Sequence[tuple[str, str, str]]:
        """Every run that is here: run id, namespace, and uid of what it is for."""
        found = []
        for item in self._jobs(names.RUN, parts=Parts.METADATA):
            labels = item["metadata"]["labels"]
            owner = str(labels.get(names.OWNER, ""))
            found.append((str(labels[names.RUN]), str(item["metadata"]["namespace"]), owner))
        return found

    def discard(self, run_id: str, namespace: str) -> None:
        """Remove the Job of a run that is for nothing any more, its pods first."""
        self._api.delete(_job_path(namespace, run_id), propagation=Propagation.FOREGROUND)
        self._api.delete(_secret_path(namespace, run_id))

    def _secret(self, namespace: str, run_id: str, body: Mapping[str, Any]) -> None:
        try:
            self._api.create(f"/api/v1/namespaces/{namespace}/secrets", body)
        except Conflict:
            # Of an earlier launch that died before its Job: its tickets may have run out.
            self._api.delete(_secret_path(namespace, run_id))
            self._api.create(f"/api/v1/namespaces/{namespace}/secrets", body)

    def _forget_tickets(self, found: Json, run_id: str) -> None:
        if run_id in self._forgotten:  # Once per process: a Secret that is gone stays gone.
            return
        self._api.delete(_secret_path(str(found["metadata"]["namespace"]), run_id))
        if len(self._forgotten) >= _FORGOTTEN_MAX:
            self._forgotten.clear()
            self._where.clear()
            self._listed = False
        self._forgotten.add(run_id)

    def _job(self, run_id: str) -> Json | None:
        with self._listing:  # Once per process; asking for each by its label reads all of them.
            if not self._listed:
                for run, namespace, _ in self.owners():
                    self._where.setdefault(run, namespace)
                self._listed = True
        known = self._where.get(run_id)
        if known is not None:
            return self._api.get(_job_path(known, run_id))
        found = next(self._jobs(f"{names.RUN}={run_id}"), None)
        if found is not None:
            self._where[run_id] = str(found["metadata"]["namespace"])
        return found

    def _jobs(self, labels: str, *, parts: Parts = Parts.ALL) -> Iterator[Json]:
        for namespace in self._namespaces or ("",):
            where = f"namespaces/{namespace}/" if namespace else ""
            yield from self._api.list(f"/apis/batch/v1/{where}jobs", labels=labels, parts=parts)


def run_status(found: Mapping[str, Any]) -> RunStatus:
    """How a run stands, from its Job.

    A Job that was asked to stop is ended only when no pod of it runs: nobody may settle before.
    """
    status = found.get("status") or {}
    for item in status.get("conditions") or ():
        if item.get("status") == "True" and item.get("type") in _ENDED:
            return _ENDED[str(item["type"])]
    stopped = names.STOPPED in (found["metadata"].get("annotations") or {})
    if stopped and "startTime" not in status and not status.get("active"):
        return RunStatus.FAILED  # Stopped before anything started: there is nothing to wait for.
    return RunStatus.RUNNING


def _is_ours(found: Mapping[str, Any], run_id: str, uid: str) -> bool:
    metadata = found["metadata"]
    owners = metadata.get("ownerReferences") or ()
    labelled = (metadata.get("labels") or {}).get(names.RUN) == run_id
    return labelled and any(item.get("uid") == uid for item in owners)


def _job_path(namespace: str, run_id: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{job_name(run_id)}"


def _secret_path(namespace: str, run_id: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/{job_name(run_id)}"
