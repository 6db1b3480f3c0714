"""KfpRunner: one run of Kubeflow Pipelines per run of ours.

The API has no idempotency key: a run is found by a name derived from ours, before one is created
and whenever it is looked for. Where two exist all the same, because an answer was lost, the oldest
counts and the others are ended. What the API does not say itself is never taken for an end: steps
record what happened, and the control loop settles from that.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from primum import extensions
from primum.adapters.kfp_api import ApiSettings, Compare, KfpApi, KfpRun, RunStateWord
from primum.adapters.kube import pods
from primum.adapters.kube.api import KubeApi
from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.data_access import data_access_from_text
from primum.application.ports import Clock, RunStatus
from primum.domain.canonical import JSON
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.study.steps import StepContext

DISPLAY_PREFIX = "primum-"
KFP_RUN = "KfpRun"
"""The fact that a run of Kubeflow's, by its own id there, was launched as a run of ours."""

_OWNER = re.compile(r"\bowner ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
_CANCELING_SECONDS = 900.0  # A run whose workflow is gone says CANCELING for ever.


class _Phase(enum.Enum):
    """What a state means to us."""

    UNDER_WAY = "under way"
    ENDING = "ending"
    ENDED = "ended"


_STATES: Mapping[str, tuple[_Phase, RunStatus]] = {
    RunStateWord.PENDING: (_Phase.UNDER_WAY, RunStatus.RUNNING),
    RunStateWord.RUNNING: (_Phase.UNDER_WAY, RunStatus.RUNNING),
    RunStateWord.PAUSED: (_Phase.UNDER_WAY, RunStatus.RUNNING),  # it can be resumed
    RunStateWord.CANCELING: (_Phase.ENDING, RunStatus.RUNNING),  # its pods may still run
    RunStateWord.SUCCEEDED: (_Phase.ENDED, RunStatus.SUCCEEDED),
    RunStateWord.SKIPPED: (_Phase.ENDED, RunStatus.FAILED),  # nothing ran
    RunStateWord.FAILED: (_Phase.ENDED, RunStatus.FAILED),
    RunStateWord.CANCELED: (_Phase.ENDED, RunStatus.FAILED),
}
_ENDED = [state for state in RunStateWord if _STATES[state][0] is _Phase.ENDED]
# A word that is not known here, or none, is no end: a wrong one would be settled by.
_NO_END = (_Phase.UNDER_WAY, RunStatus.RUNNING)


@dataclass(frozen=True, slots=True)
class KfpSettings:
    """How runs are made.

    Args:
        api: Where the API is.
        namespaces: Namespaces that runs are in; at least one, because the API lists by namespace.
        experiment: Name of the experiment of each namespace that runs belong to.
        service_account: What the pods of a run run under; Kubeflow's own programs in them need its
            rights, steps need none.
    """

    api: ApiSettings
    namespaces: tuple[str, ...]
    experiment: str = "primum"
    service_account: str = "primum-pipeline"

    def __post_init__(self) -> None:
        if not self.namespaces:
            raise InvalidValue(
                "namespaces",
                "must be named where runs go to Kubeflow Pipelines, which lists them by namespace",
                "none",
                "Name the governed namespaces.",
            )


class KfpRunner:
    """``PipelineRunner`` on Kubeflow Pipelines.

    Args:
        kfp: Its API.
        kube: The API server, for the Secrets of runs.
        jobs: How pods of steps are made.
        settings: How runs are made.
        clock: Says how long a run has been ending.
        record: Keeps which of Kubeflow's runs are ours, as the fact ``KFP_RUN``: the webhook lets
            pods of no other workflow open protected data.
    """

    def __init__(
        self,
        kfp: KfpApi,
        kube: KubeApi,
        *,
        jobs: pods.JobSettings,
        settings: KfpSettings,
        clock: Clock,
        record: Callable[[str, str, Mapping[str, JSON]], None],
    ) -> None:
        self._kfp, self._kube, self._clock, self._record = kfp, kube, clock, record
        self._jobs, self._settings = jobs, settings
        self._where: dict[str, tuple[str, str]] = {}  # our run id: namespace, and theirs
        self._ending: dict[str, str] = {}
        self._experiments: dict[str, str] = {}
        self._secrets: dict[str, str] = {}  # our run id: the namespace of its Secret

    def launch(self, run_id: str, *, name: str, steps: Sequence[StepContext]) -> None:
        """Create the run; a no-op where it exists, also where it has ended.

        Raises:
            Refused: If a run of that name is another's, or the API does not let us.
            InvalidValue: If the contexts are too large, or the API cannot take the pipeline.
            Unavailable: If nobody knows whether it was created. Launching again is then right.
        """
        namespace, uid = str(steps[0].study["namespace"]), str(steps[0].study["uid"])
        standing = self._the_one(run_id, namespace)
        if standing is None:
            # The pods wait for their Secret, so it comes first; it is of no use without a run.
            body = pods.secret(run_id, name, steps, self._jobs)
            self._put_secret(namespace, body)
            self._secrets[run_id] = namespace
            standing = self._create(run_id, namespace, self._run(run_id, name, steps, body))
        if _owner(standing) != uid:
            raise Refused(f"the run {standing.display_name} in {namespace} is not of this Study")
        self._know(run_id, namespace, standing)
        self._secrets[run_id] = namespace

    def status(self, run_id: str) -> RunStatus:
        """How the run stands; ``UNKNOWN`` only where the API itself says that there is none.

        Raises:
            Unavailable: If the API did not answer, or not in its own words.
        """
        found = self._find(run_id)
        if found is None:
            self._ending.pop(run_id, None)
            return RunStatus.UNKNOWN
        phase, status = _STATES.get(found[1].state, _NO_END)
        if phase is _Phase.ENDING and self._ends_for_ever(run_id):
            phase, status = _Phase.ENDED, RunStatus.FAILED
        if phase is not _Phase.ENDING:
            self._ending.pop(run_id, None)
        if phase is _Phase.ENDED:
            self._forget_tickets(run_id)
        return status

    def stop(self, run_id: str) -> None:
        """Ask the run to end; its record stays, and what waits for the Secret never starts."""
        found = self._find(run_id)
        if found is not None:
            self._terminate(found[1])
        self._forget_tickets(run_id)

    def logs(self, run_id: str) -> str:
        """Where the logs are: the platform itself may not read those of pods.

        Raises:
            NotFound: If there is no such run.
        """
        found = self._find(run_id)
        if found is None:
            raise NotFound(f"run {run_id} must be known to Kubeflow Pipelines; found none.")
        namespace, run = found
        return (
            f"Kubeflow Pipelines run {run.run_id} in {namespace}\n"
            f"kubectl logs -n {namespace} -l {names.RUN}={run_id} -c main\n"
        )

    def owners(self) -> Sequence[tuple[str, str, str]]:
        """Every run that has not ended: run id, namespace, and uid of what it is for."""
        found = []
        for namespace in self._settings.namespaces:
            # Records stay for ever; what has ended is left out where the list is made.
            living = [("state", Compare.NOT_EQUALS, state.value) for state in _ENDED]
            named = ("display_name", Compare.IS_SUBSTRING, DISPLAY_PREFIX)
            listed = self._kfp.runs(namespace, named, *living)
            for run in listed:
                ours = run.display_name.startswith(DISPLAY_PREFIX) and _owner(run)
                if ours and _phase(run) is _Phase.UNDER_WAY:
                    run_id = run.display_name.removeprefix(DISPLAY_PREFIX)
                    found.append((run_id, namespace, _owner(run)))
        return found

    def discard(self, run_id: str, namespace: str) -> None:
        """End a run that is for nothing any more; its record is Kubeflow's to keep."""
        for run in self._named(run_id, namespace):
            if _phase(run) is _Phase.UNDER_WAY:
                self._terminate(run)
        self._secrets[run_id] = namespace
        self._forget_tickets(run_id)

    def _create(self, run_id: str, namespace: str, body: Mapping[str, Any]) -> KfpRun:
        try:
            return self._kfp.create_run(body)
        except (Conflict, Unavailable) as error:
            # It may have been created all the same: whoever asks the API knows.
            found = self._the_one(run_id, namespace)
            if found is not None:
                return found
            raise Unavailable(f"run {run_id} was not created: {error}") from None
        except NotFound as error:
            self._experiments.pop(namespace, None)  # Somebody removed it.
            raise Unavailable(f"run {run_id} was not created: {error}") from None

    def _run(
        self, run_id: str, name: str, steps: Sequence[StepContext], secret: Mapping[str, Any]
    ) -> dict[str, Any]:
        namespace, uid = str(steps[0].study["namespace"]), str(steps[0].study["uid"])
        if namespace not in self._experiments:
            made = self._kfp.experiment(namespace, self._settings.experiment)
            self._experiments[namespace] = made
        return {
            "display_name": f"{DISPLAY_PREFIX}{run_id}",
            "description": f"{name}, owner {uid}",
            "experiment_id": self._experiments[namespace],
            "pipeline_spec": pipeline(steps, secret["metadata"], settings=self._jobs),
            "runtime_config": {"parameters": {}},
            "service_account": self._settings.service_account,
        }

    def _find(self, run_id: str) -> tuple[str, KfpRun] | None:
        """Namespace and run; ``None`` only where every namespace was asked and answered."""
        known = self._where.get(run_id)
        namespaces = self._settings.namespaces if known is None else (known[0],)
        for namespace in namespaces:
            found = self._the_one(run_id, namespace)
            if found is not None:
                if known is None:  # Of an earlier process of ours, as its Secret is.
                    self._secrets[run_id] = namespace
                self._know(run_id, namespace, found)
                return namespace, found
        if known is None:
            return None
        # A list that leaves it out says less than the question for it.
        run = self._kfp.run(known[1])
        if run is None:
            del self._where[run_id]
            return None
        return known[0], run

    def _know(self, run_id: str, namespace: str, run: KfpRun) -> None:
        known = (namespace, run.run_id)
        if self._where.get(run_id) != known:
            self._record(KFP_RUN, run.run_id, {"runId": run_id})
            self._where[run_id] = known

    def _the_one(self, run_id: str, namespace: str) -> KfpRun | None:
        """The oldest run of this name; younger ones came of answers that were lost, and end."""
        found = self._named(run_id, namespace)
        for younger in found[1:]:
            if _phase(younger) is _Phase.UNDER_WAY:
                self._terminate(younger)
        return found[0] if found else None

    def _named(self, run_id: str, namespace: str) -> list[KfpRun]:
        name = f"{DISPLAY_PREFIX}{run_id}"
        listed = self._kfp.runs(namespace, ("display_name", Compare.EQUALS, name))
        found = [run for run in listed if run.display_name == name]
        return sorted(found, key=lambda run: (run.created_at, run.run_id))

    def _terminate(self, run: KfpRun) -> None:
        if _phase(run) is not _Phase.UNDER_WAY:
            return
        try:
            self._kfp.terminate(run.run_id)
        except NotFound:
            return
        except InvalidValue as error:
            now = self._kfp.run(run.run_id)
            if now is not None and _phase(now) is _Phase.UNDER_WAY:
                raise Unavailable(f"run {run.run_id} did not end: {error}") from None

    def _ends_for_ever(self, run_id: str) -> bool:
        """Whether a run has been ending for longer than pods take.

        What it would still ask for is refused by the ledger, and what it opened is charged.
        """
        now = self._clock.now()
        since = self._ending.setdefault(run_id, now)
        passed = datetime.fromisoformat(now) - datetime.fromisoformat(since)
        return passed.total_seconds() > _CANCELING_SECONDS

    def _put_secret(self, namespace: str, body: Mapping[str, Any]) -> None:
        path = f"/api/v1/namespaces/{namespace}/secrets"
        try:
            self._kube.create(path, body)
        except Conflict:
            # Of an earlier launch that died before its run: its tickets may have run out.
            self._kube.delete(f"{path}/{body['metadata']['name']}")
            self._kube.create(path, body)

    def _forget_tickets(self, run_id: str) -> None:
        namespace = self._secrets.get(run_id)
        if namespace is not None:  # Once per process: a Secret that is gone stays gone.
            self._kube.delete(f"/api/v1/namespaces/{namespace}/secrets/{pods.job_name(run_id)}")
            self._secrets.pop(run_id, None)


def pipeline(
    steps: Sequence[StepContext], metadata: Mapping[str, Any], *, settings: pods.JobSettings
) -> dict[str, Any]:
    """The pipeline of a run, both documents.

    Args:
        steps: Its steps, in order.
        metadata: Of its Secret: the name, and the labels that every pod of the run bears.
        settings: How pods of steps are made.
    """
    settings = pods.settings_for(steps, settings)
    access = data_access_from_text(settings.data_access)
    under = {names.RESERVATION, names.INSPECTION}  # The exit task opens nothing.
    labels = {k: v for k, v in metadata["labels"].items() if k not in under}
    held = {k: v for k, v in metadata["labels"].items() if k in under}
    environment = {str(item["name"]): str(item["value"]) for item in pods.environment(settings)}
    home = environment["PRIMUM_HOME"]
    claims = {f"{home}/artifacts": settings.artifacts_claim}
    if settings.data_claim:
        claims[environment["PRIMUM_DATA"]] = settings.data_claim
    make = extensions.load("primum.step_runtime", "cluster_pipeline")
    reservations = pods.reservations(steps)
    made: dict[str, Any] = make(
        [step.step for step in steps],
        image=settings.image,
        user=pods.USER,
        labels=labels,
        step_labels=held,
        step_annotations={names.RESERVATIONS: ",".join(reservations)} if reservations else {},
        deadline_seconds=settings.deadline_seconds,
        keep_seconds=settings.keep_seconds,
        contexts=pods.STEPS_FOLDER,
        secret=str(metadata["name"]),
        environment=environment | access.paths(),
        variables={name: (access.secret, key) for name, key in sorted(access.variables.items())},
        secrets={item.path: access.secret for item in access.mounts()},
        claims=claims,
        config_maps={
            item["mountPath"]: settings.ledger_ca for item in pods.ledger_mounts(settings)
        },
        scratch={home: "", "/dev/shm": "Memory"},  # noqa: S108 - what Ray shares objects through
        cpu=settings.cpu,
        memory=settings.memory,
    )
    return made


def _phase(run: KfpRun) -> _Phase:
    return _STATES.get(run.state, _NO_END)[0]


def _owner(run: KfpRun) -> str:
    found = _OWNER.search(run.description)
    return found[1] if found else ""
