"""RayJobs of steps: made once or adopted, followed to their end, let go of.

Names are derived, so two processes of one step make one RayJob, and a third finds it. Following is
level-based: the object is read, a watch says when to read again, and whatever becomes of the watch
costs a reading. Must not decide what a step came to: that is what the step recorded.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from primum.adapters.kube.api import Expired, Json, KubeApi
from primum.adapters.kube.pods import job_name, reservations
from primum.adapters.kube_manifests import names, rayjob
from primum.adapters.kube_manifests.data_access import data_access_from_text
from primum.adapters.kube_manifests.parts import Owner, Size
from primum.adapters.kube_manifests.rayjob_status import Duty, RayJobState, Started, ray_job_state
from primum.application.ports import RunStatus
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.study.steps import StepContext
from primum.resources.metadata import API_VERSION

WATCH_SECONDS = 30  # Then it is read again and the ledger asked, whatever was heard of it.
_PAUSE_SECONDS = 1.0
_CREATE_SECONDS = 300.0  # An API server that is restarted is back by then; nothing has begun.
_DELETE_TRIES = 3  # A pod that is ended has half a minute; the operator's sweep does the rest.
_ENDED = ("Complete", "Failed", "ValidationFailed")
_KINDS = {
    "Train": rayjob.Workload.TRAIN,
    "Synthesize": rayjob.Workload.SYNTHESIZE,
    "Federate": rayjob.Workload.FEDERATE,
    "PrivateFeatures": rayjob.Workload.PRIVATE_FEATURES,
}


@dataclass(frozen=True, slots=True)
class RayJobSettings:
    """How the RayJobs of heavy steps are made; travels from the operator to the pods of runs.

    Args:
        image: The worker image, by digest.
        artifacts_claim: Claim that artifacts are written to.
        data_claim: Claim with dataset files; empty where steps need none.
        data_access: How workers log in where data lies, as ``DataAccess`` writes it.
        ledger_ca: ConfigMap with the authority of the ledger API; empty for the system's.
        service_account: Whom Ray's pods run as; without rights.
        deadline_seconds: After which a RayJob is ended, counted from its start.
        queue: Kueue LocalQueue; empty where there is none.
        priority: Kueue WorkloadPriorityClass; empty for the queue's own.
        head_cpu: CPUs of the head, which computes nothing.
        head_memory: Its memory.
        worker_cpu: CPUs of each worker.
        worker_memory: Its memory.
        shared_memory: Of each Ray pod, for what Ray passes between processes.
        scratch: Disk of each Ray pod that goes with it.
    """

    image: str
    artifacts_claim: str
    data_claim: str = ""
    data_access: str = ""
    ledger_ca: str = ""
    service_account: str = "default"
    deadline_seconds: int = 86_400
    queue: str = ""
    priority: str = ""
    head_cpu: str = "1"
    head_memory: str = "4Gi"
    worker_cpu: str = "4"
    worker_memory: str = "16Gi"
    shared_memory: str = "4Gi"
    scratch: str = "20Gi"

    def __post_init__(self) -> None:
        data_access_from_text(self.data_access)
        for size in (self.head, self.worker):
            size.resources()

    @property
    def head(self) -> Size:
        """What the head may use."""
        return Size(self.head_cpu, self.head_memory)

    @property
    def worker(self) -> Size:
        """What a worker may use."""
        return Size(self.worker_cpu, self.worker_memory)

    def to_text(self) -> str:
        """JSON, for the environment of a run's pod; nothing secret is in it."""
        return json.dumps(asdict(self), sort_keys=True)


def settings_from_text(text: str) -> RayJobSettings:
    """Read settings back.

    Raises:
        InvalidValue: If they are not what the operator writes.
    """
    try:
        told = json.loads(text)
        seconds = int(told.pop("deadline_seconds"))
        texts = {str(name): str(value) for name, value in told.items()}
        return RayJobSettings(deadline_seconds=seconds, **texts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        rule = "must be JSON as the operator writes it"
        raise InvalidValue("PRIMUM_RAY_JOB", rule, type(error).__name__) from None


def manifest_of(
    context: StepContext,
    settings: RayJobSettings,
    *,
    key: str,
    environment: Mapping[str, str],
) -> Json:
    """The RayJob of a step.

    Args:
        context: What the step was told.
        settings: How RayJobs are made.
        key: The step's own key in the Secret of its run.
        environment: Settings of the driver; nothing secret.

    Raises:
        InvalidValue: If it cannot run once under its reservations.
    """
    study, audits = context.study, context.step == "audit"
    held = reservations([context])
    claim = settings.data_claim if context.tickets else ""
    access = settings.data_access if context.tickets else ""
    workers = rayjob.WorkerGroup(
        name="workers",
        workers=_workers(context),
        gpus_per_worker=context.gpus_per_worker,
        workers_per_gpu=context.workers_per_gpu if context.step == "job" else 1,
        cpus_per_worker=context.cpus_per_worker,
        ray_cpus=_ray_cpus(context),
        reservation=held[0] if held else "",
        inspection="" if held or not audits else context.run_id,
        datasets=(rayjob.DatasetClaim(claim),) if claim else (),
        access=data_access_from_text(access),
    )
    kind = rayjob.Workload.AUDIT if audits else _KINDS.get(str(study["kind"]))
    request = rayjob.RayJobRequest(
        namespace=str(study["namespace"]),
        owner=Owner(
            API_VERSION, str(context.owner["kind"]), str(context.owner["name"]), str(study["uid"])
        ),
        origin=rayjob.Origin(str(study["name"]), context.run_id, context.step, held),
        workload=kind or rayjob.Workload.TRAIN,
        image=settings.image,
        entrypoint=rayjob.ENTRYPOINT,
        groups=(workers,),
        context_secret=job_name(context.run_id),
        context_key=key,
        deadline_seconds=settings.deadline_seconds,
        artifacts_claim=settings.artifacts_claim,
        queue=settings.queue,
        priority=settings.priority,
        service_account=settings.service_account,
        environment=environment,
        ledger_ca=settings.ledger_ca,
        sizes=rayjob.RaySizes(
            head=settings.head,
            worker=settings.worker,
            shared_memory=settings.shared_memory,
            scratch=settings.scratch,
        ),
    )
    return dict(rayjob.ray_job(request))


def _workers(context: StepContext) -> int:
    """All train; all CPUs share an audit's shadows, and one GPU has them all; one evaluates."""
    if context.step == "job" or (context.step == "audit" and not context.gpus_per_worker):
        return context.workers
    return 1


def _ray_cpus(context: StepContext) -> int:
    """What Ray counts in a pod of workers that train together: room for its own and no other."""
    trains = context.step == "job" and context.study["kind"] == "Train"
    if not trains or context.workers == 1:
        return 0
    return context.workers_per_gpu * max(1, context.cpus_per_worker)


@dataclass(frozen=True, slots=True)
class RunningRayJob:
    """A RayJob that has not ended, for whoever looks for orphans.

    Args:
        name: Its name.
        namespace: Where it is.
        uid: Its uid.
        run_id: The run it is for.
        owner: Uid of the Study or AuditRun it is for.
    """

    name: str
    namespace: str
    uid: str
    run_id: str
    owner: str


class RayJobs:
    """The RayJobs of one API server.

    Args:
        api: The API server, under the launcher's account or the operator's.
        namespaces: Where to look for orphans; everywhere where empty.
        monotonic: Seconds of a clock that never goes back.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        api: KubeApi,
        *,
        namespaces: Sequence[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api, self._monotonic, self._pause = api, monotonic, pause
        self._namespaces = tuple(namespaces)

    def standing(self, manifest: Mapping[str, Any]) -> Json | None:
        """The RayJob that stands under a manifest's name, if it is the one that it asks for.

        One that is being deleted is waited for: its cluster may still run the step.

        Raises:
            Refused: If it is somebody else's, asks for something else, or does not go.
        """
        end = self._monotonic() + _CREATE_SECONDS
        while True:
            found = self._patiently(lambda: self._api.get(_path_of(manifest)))
            if found is None:
                return None
            _refuse_strangers(found, manifest)
            if not found["metadata"].get("deletionTimestamp"):
                return found
            if self._monotonic() > end:
                raise Refused(f"{_title(found)} is being deleted")
            self._pause(_PAUSE_SECONDS)

    def create(self, manifest: Mapping[str, Any]) -> Json:
        """Make a RayJob, or adopt the one that another process of the step made meanwhile.

        Raises:
            Refused: If the name is taken by another, or the API server does not let us.
            InvalidValue: If the API server refuses the manifest.
        """
        namespace = str(manifest["metadata"]["namespace"])

        def attempt() -> Json | None:
            try:
                return self._api.create(_collection(namespace), manifest)
            except Conflict:
                return None

        made = self._patiently(attempt) or self.standing(manifest)
        if made is None:
            raise Refused(f"RayJob {manifest['metadata']['name']} was deleted while it was made")
        return made

    def follow(
        self, found: Mapping[str, Any], *, seconds: float, recorded: Callable[[], bool]
    ) -> RayJobState:
        """Wait until a RayJob has ended, or the step has recorded what it came to.

        Args:
            found: The RayJob as it was made.
            seconds: After which it has to be stopped.
            recorded: Whether the step's outcome stands.

        Returns:
            How the RayJob stood at last. Its duty is to be done: after the time it is ``STOP``.
        """
        end = self._monotonic() + seconds
        while True:
            state, version = self._look(found)
            if state.duty is not Duty.WAIT or _is_true(recorded):
                return state
            left = end - self._monotonic()
            if left <= 0:
                return RayJobState(state.status, Started.PERHAPS, Duty.STOP, "DeadlineExceeded")
            if version:
                self._until_news(found, version, seconds=max(1, min(WATCH_SECONDS, int(left))))
            else:
                self._pause(_PAUSE_SECONDS)

    def delete(self, found: Mapping[str, Any]) -> None:
        """Delete a RayJob, and with it its cluster; a no-op where it is gone.

        Raises:
            Unavailable: If the API server does not answer; the operator's sweep will.
        """
        for left in reversed(range(_DELETE_TRIES)):
            try:
                self._api.delete(_path_of(found), uid=str(found["metadata"]["uid"]))
            except Conflict:  # Another one has the name by now.
                return
            except Unavailable:
                if not left:
                    raise
                self._pause(_PAUSE_SECONDS)
            else:
                return

    def discard(self, running: RunningRayJob) -> None:
        """Delete a RayJob that is for nothing any more."""
        metadata = {"name": running.name, "namespace": running.namespace, "uid": running.uid}
        self.delete({"metadata": metadata})

    def running(self) -> Iterator[RunningRayJob]:
        """Every RayJob of ours that has not ended."""
        for namespace in self._namespaces or ("",):
            for item in self._api.list(_collection(namespace), labels=names.RUN):
                metadata = item["metadata"]
                ended = (item.get("status") or {}).get("jobDeploymentStatus") in _ENDED
                if ended or metadata.get("deletionTimestamp"):
                    continue
                labels = metadata["labels"]
                yield RunningRayJob(
                    name=str(metadata["name"]),
                    namespace=str(metadata["namespace"]),
                    uid=str(metadata["uid"]),
                    run_id=str(labels[names.RUN]),
                    owner=str(labels.get(names.OWNER, "")),
                )

    def _look(self, wanted: Mapping[str, Any]) -> tuple[RayJobState, str]:
        """How it stands, and the version that says so; no version while nobody answers."""
        try:
            found = self._api.get(_path_of(wanted))
        except (Unavailable, Refused):  # Refused too: rights are known late after a server's start.
            return RayJobState(RunStatus.RUNNING, Started.PERHAPS, Duty.WAIT, "Unanswered"), ""
        if found is None or found["metadata"]["uid"] != wanted["metadata"]["uid"]:
            return ray_job_state(None), ""
        return _state(found), str(found["metadata"]["resourceVersion"])

    def _until_news(self, wanted: Mapping[str, Any], version: str, *, seconds: int) -> None:
        """Return when it may have ended, or after some seconds."""
        metadata = wanted["metadata"]
        try:
            for kind, seen in self._api.watch(
                _collection(str(metadata["namespace"])),
                name=str(metadata["name"]),
                resource_version=version,
                seconds=seconds,
            ):
                if kind == "DELETED" or _state(seen).duty is not Duty.WAIT:
                    return
        except Expired:
            return
        except (Unavailable, Refused, NotFound):
            self._pause(_PAUSE_SECONDS)

    def _patiently(self, ask: Callable[[], Json | None]) -> Json | None:
        """Ask until there is an answer, within reason: nothing has begun yet."""
        end = self._monotonic() + _CREATE_SECONDS
        while True:
            try:
                return ask()
            except Unavailable as error:
                if self._monotonic() > end:
                    raise
                self._pause(min(error.retry_seconds, _PAUSE_SECONDS))


def _state(found: Mapping[str, Any]) -> RayJobState:
    status = found.get("status")
    return ray_job_state(status if isinstance(status, Mapping) else {})


def _is_true(recorded: Callable[[], bool]) -> bool:
    try:
        return recorded()
    except Unavailable:
        return False


def _refuse_strangers(found: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    metadata, ours = found["metadata"], manifest["metadata"]
    annotations = metadata.get("annotations") or {}
    owners = {item.get("uid") for item in metadata.get("ownerReferences") or ()}
    title = _title(found)
    if (metadata.get("labels") or {}).get(names.RUN) != ours["labels"][names.RUN] or (
        ours["ownerReferences"][0]["uid"] not in owners
    ):
        raise Refused(f"{title} is not of this run")
    if annotations.get(names.SPEC_DIGEST) != ours["annotations"][names.SPEC_DIGEST]:
        raise Refused(f"{title} must have the digest of this step's spec; found another")


def _title(found: Mapping[str, Any]) -> str:
    return f"RayJob {found['metadata']['name']} in {found['metadata']['namespace']}"


def _collection(namespace: str) -> str:
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{rayjob.API_VERSION}/{where}rayjobs"


def _path_of(manifest: Mapping[str, Any]) -> str:
    metadata = manifest["metadata"]
    return f"{_collection(str(metadata['namespace']))}/{metadata['name']}"
