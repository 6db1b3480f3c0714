"""A simulated Kueue: gives quota to queued jobs, and does with checks what Kueue 0.19 does.

A client of a real API server, over plain HTTP, with the released CRDs. It makes a Workload for
every job with a queue label, gives it quota, and reads its checks: all ``Ready`` start the job,
``Retry`` evicts and comes again later, ``Rejected`` deactivates. It writes statuses whole, against
the version that it read, as Kueue does.
"""

from __future__ import annotations

import calendar
import contextlib
import copy
import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable

import kube_schemas
import yaml
from control_plane import Api, listed

GROUP, VERSION = "kueue.x-k8s.io", "v1beta2"
BASE = f"/apis/{GROUP}/{VERSION}"
QUEUE_LABEL = f"{GROUP}/queue-name"
CHECK, CLUSTER_QUEUE, LOCAL_QUEUE = "privacy-budget", "imaging", "imaging-gpu"
_PAUSE_SECONDS = 0.1


def definitions() -> list[dict]:
    """The released CRDs of Kueue in its storage version, or a skip that says what is missing."""
    kube_schemas.released_schema("Workload", GROUP, VERSION)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = []
    for plural in ("admissionchecks", "clusterqueues", "localqueues", "workloads"):
        path = f"{kube_schemas.ASSETS}/schemas/kueue/{GROUP}_{plural}.yaml"
        with open(path, encoding="utf-8") as file:
            item = yaml.load(file, Loader=loader)
        versions = [version for version in item["spec"]["versions"] if version["name"] == VERSION]
        item["spec"]["versions"] = versions
        item.pop("status", None)
        found.append(item)
    return found


@dataclasses.dataclass(frozen=True)
class JobKind:
    """A kind of job that Kueue manages: where its objects and the templates of its pods are."""

    api_version: str
    kind: str
    plural: str
    templates: Callable[[dict], list[dict]]

    def path(self, namespace: str) -> str:
        root = "/apis/" if "/" in self.api_version else "/api/"
        return f"{root}{self.api_version}/namespaces/{namespace}/{self.plural}"


def _ray_templates(spec: dict) -> list[dict]:
    cluster = spec["rayClusterSpec"]
    groups = cluster.get("workerGroupSpecs", ())
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in groups)]


JOB = JobKind("batch/v1", "Job", "jobs", lambda spec: [spec["template"]])
RAY_JOB = JobKind("ray.io/v1", "RayJob", "rayjobs", _ray_templates)


class SimulatedKueue:
    """Kueue for one namespace.

    Args:
        api: The API server.
        namespace: Where its queue is.
        kinds: The kinds of jobs that it manages.
        hurry: By what it divides the seconds after which a workload comes again.
        quota: How many workloads may hold quota at once.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        *,
        kinds: tuple[JobKind, ...] = (JOB,),
        hurry: float = 50.0,
        quota: int = 100,
    ) -> None:
        self._api, self._namespace, self._kinds = api, namespace, kinds
        self._hurry, self.quota = hurry, quota
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._work, self._disturb)
        ]
        self._admitted: set[str] = set()
        self.seen: list[tuple[str, str]] = []
        self.paused = threading.Event()
        self.storm = threading.Event()
        self.faults: list[str] = []

    def __enter__(self) -> SimulatedKueue:
        self._declare()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def admits(self, item: dict) -> bool:
        """Whether a pod, or a Job, may run: for a kubelet before servers that know ``suspend``."""
        metadata = item["metadata"]
        owners = [owner["uid"] for owner in metadata.get("ownerReferences", ())]
        return bool(self._admitted & {metadata["uid"], *owners})

    def workload(self, job: str) -> dict | None:
        """The Workload of a job, by the job's name."""
        for item in listed(self._api, self._workloads()):
            owners = item["metadata"].get("ownerReferences", ())
            if any(owner["name"] == job for owner in owners):
                return item
        return None

    def check(self, job: str) -> tuple[str, str]:
        """State and message of our check on a job's Workload; empty where there is none yet."""
        for item in ((self.workload(job) or {}).get("status") or {}).get("admissionChecks", ()):
            if item["name"] == CHECK:
                return item["state"], item["message"]
        return "", ""

    def condition(self, job: str, kind: str) -> str:
        """Status of a condition of a job's Workload."""
        status = (self.workload(job) or {}).get("status") or {}
        found = {c["type"]: c["status"] for c in status.get("conditions", ())}
        return found.get(kind, "")

    def preempt(self, job: str) -> None:
        """Take the quota of a job away, as for one of a higher priority."""
        self._until_written(job, lambda workload: self._evict(workload, "Preempted"))

    def activate(self, job: str) -> None:
        """What a person does with a workload that was rejected, after putting it right."""
        name = self.workload(job)["metadata"]["name"]
        self._api.merge(f"{self._workloads()}/{name}", {"spec": {"active": True}})

    def _declare(self) -> None:
        spec = {"controllerName": "primum.dev/budget"}
        self._api.create(f"{BASE}/admissionchecks", _object("AdmissionCheck", CHECK, spec))
        spec = {
            "namespaceSelector": {},
            "queueingStrategy": "BestEffortFIFO",
            "admissionChecksStrategy": {"admissionChecks": [{"name": CHECK}]},
        }
        self._api.create(f"{BASE}/clusterqueues", _object("ClusterQueue", CLUSTER_QUEUE, spec))
        where = f"{BASE}/namespaces/{self._namespace}/localqueues"
        spec = {"clusterQueue": CLUSTER_QUEUE}
        self._api.create(where, _object("LocalQueue", LOCAL_QUEUE, spec))

    def _work(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            if self.paused.is_set():
                continue
            try:
                self._turn()
            except OSError:
                continue  # The API server is away.
            except AssertionError as refusal:
                if not any(code in str(refusal) for code in (" 404 ", " 409 ", " 503 ")):
                    self.faults.append(str(refusal))

    def _turn(self) -> None:
        jobs = {}
        for kind in self._kinds:
            for job in listed(self._api, kind.path(self._namespace)):
                if job["metadata"].get("labels", {}).get(QUEUE_LABEL) == LOCAL_QUEUE:
                    jobs[job["metadata"]["uid"]] = (kind, job)
                    self._queue(kind, job)
        workloads = listed(self._api, self._workloads())
        for workload in workloads:
            uid = workload["metadata"]["ownerReferences"][0]["uid"]
            if uid in jobs:
                with contextlib.suppress(_Stale):
                    self._advance(workload, *jobs[uid])

    def _queue(self, kind: JobKind, job: dict) -> None:
        metadata = job["metadata"]
        told = hashlib.sha256(metadata["uid"].encode()).hexdigest()[:5]
        name = f"{kind.kind.lower()}-{metadata['name'][:50]}-{told}"
        templates = copy.deepcopy(kind.templates(job["spec"]))
        spec = {
            "queueName": LOCAL_QUEUE,
            "active": True,
            "podSets": [
                {"name": f"set-{number}", "count": 1, "template": template}
                for number, template in enumerate(templates)
            ],
        }
        body = _object("Workload", name, spec)
        body["metadata"]["ownerReferences"] = [
            {
                "apiVersion": kind.api_version,
                "kind": kind.kind,
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
            }
        ]
        self._api.create(self._workloads(), body)

    def _advance(self, workload: dict, kind: JobKind, job: dict) -> None:
        status = workload.setdefault("status", {})
        said = {c["type"]: c["status"] for c in status.get("conditions", ())}
        states = [item["state"] for item in status.get("admissionChecks", ())]
        reserved, admitted = said.get("QuotaReserved") == "True", said.get("Admitted") == "True"
        if said.get("Finished") == "True":
            return
        if _finished(job):
            self._write(workload, Finished="True")
        elif not workload["spec"].get("active", True):
            if reserved or said.get("Evicted") != "True":
                self._evict(workload, "Deactivated")
                self._suspend(kind, job)
        elif "Rejected" in states and reserved:
            path = f"{self._workloads()}/{workload['metadata']['name']}"
            self._api.merge(path, {"spec": {"active": False}})
            self.seen.append((job["metadata"]["name"], "Rejected"))
        elif "Retry" in states and reserved:
            self._evict(workload, "AdmissionCheck")
            self.seen.append((job["metadata"]["name"], "Retry"))
            self._suspend(kind, job)
        elif not reserved:
            self._suspend(kind, job)
            self._reserve(workload)
        elif states and set(states) == {"Ready"}:
            if not admitted:
                self._write(workload, Admitted="True")
                self.seen.append((job["metadata"]["name"], "Admitted"))
            self._start(kind, job)

    def _reserve(self, workload: dict) -> None:
        """Give quota, where the queue is active, the wait is over, and there is some."""
        check = self._api.get(f"{BASE}/admissionchecks/{CHECK}")
        active = _is_true(check, "Active")
        others = listed(self._api, self._workloads())
        held = [item for item in others if _is_true(item, "QuotaReserved")]
        waits = (workload["status"].get("requeueState") or {}).get("requeueAt")
        if not active or len(held) >= self.quota or (waits and _seconds(waits) > time.time()):
            return
        status = workload["status"]
        sets = workload["spec"]["podSets"]
        status["admission"] = {
            "clusterQueue": CLUSTER_QUEUE,
            "podSetAssignments": [{"name": item["name"], "count": 1} for item in sets],
        }
        if not status.get("admissionChecks"):
            status["admissionChecks"] = [_pending("")]
        self._write(workload, QuotaReserved="True", Evicted="False")

    def _evict(self, workload: dict, reason: str) -> None:
        """Take the quota back, and set every check back to Pending as Kueue does."""
        status = workload.setdefault("status", {})
        checks = []
        for item in status.get("admissionChecks", ()):
            fresh = dict(item) if item["state"] == "Pending" else _pending(item["state"])
            if item["state"] == "Retry":
                fresh["retryCount"] = item.get("retryCount", 0) + 1
                wait = item.get("requeueAfterSeconds", 0) / self._hurry
                status["requeueState"] = {"requeueAt": _now(wait)}
            checks.append(fresh)
        status["admissionChecks"] = checks
        status.pop("admission", None)
        self._write(workload, QuotaReserved="False", Admitted="False", Evicted="True", why=reason)

    def _write(self, workload: dict, *, why: str = "", **conditions: str) -> None:
        """Write a status whole, against the version that was read."""
        status = workload["status"]
        known = {c["type"]: c for c in status.get("conditions", ())}
        for kind, value in conditions.items():
            known[kind] = {
                "type": kind,
                "status": value,
                "reason": why or kind,
                "message": f"simulated: {why or kind}",
                "lastTransitionTime": _now(),
            }
        status["conditions"] = list(known.values())
        path = f"{self._workloads()}/{workload['metadata']['name']}/status"
        code, answer = self._api.request("PUT", path, workload)
        if code == 409:
            raise _Stale
        assert code == 200, f"{path}: {code} {answer.get('message')}"

    def _until_written(self, job: str, write: Callable[[dict], None]) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(_Stale):
                write(self.workload(job))
                return
        raise AssertionError(f"the Workload of {job} could not be written")

    def _disturb(self) -> None:
        """In a storm: write into every Workload all the time, so that others' writes conflict."""
        while not self._stop.wait(_PAUSE_SECONDS / 2):
            if not self.storm.is_set():
                continue
            with contextlib.suppress(OSError, AssertionError):
                for item in listed(self._api, self._workloads()):
                    path = f"{self._workloads()}/{item['metadata']['name']}"
                    mark = {"metadata": {"annotations": {"test/storm": str(time.monotonic())}}}
                    self._api.merge(path, mark)

    def _start(self, kind: JobKind, job: dict) -> None:
        self._admitted.add(job["metadata"]["uid"])
        if job["spec"].get("suspend"):
            path = f"{kind.path(self._namespace)}/{job['metadata']['name']}"
            self._api.merge(path, {"spec": {"suspend": False}})

    def _suspend(self, kind: JobKind, job: dict) -> None:
        """Suspend a job that runs; a server that does not know that of Jobs loses its pods."""
        uid = job["metadata"]["uid"]
        if uid not in self._admitted:
            return
        self._admitted.discard(uid)
        path = f"{kind.path(self._namespace)}/{job['metadata']['name']}"
        after = self._api.merge(path, {"spec": {"suspend": True}})
        if kind is JOB and not after["spec"].get("suspend"):
            pods = f"/api/v1/namespaces/{self._namespace}/pods"
            for pod in listed(self._api, pods):
                if uid in [o["uid"] for o in pod["metadata"].get("ownerReferences", ())]:
                    self._api.delete(f"{pods}/{pod['metadata']['name']}")

    def _workloads(self) -> str:
        return f"{BASE}/namespaces/{self._namespace}/workloads"


class _Stale(Exception):
    """Somebody wrote meanwhile; the next turn reads it."""


def _object(kind: str, name: str, spec: dict) -> dict:
    version = f"{GROUP}/{VERSION}"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _pending(before: str) -> dict:
    message = f"Reset to Pending after eviction. Previously: {before}" if before else ""
    return {"name": CHECK, "state": "Pending", "message": message, "lastTransitionTime": _now()}


def _is_true(item: dict, kind: str) -> bool:
    conditions = (item.get("status") or {}).get("conditions", ())
    return any(c["type"] == kind and c["status"] == "True" for c in conditions)


def _finished(job: dict) -> bool:
    status = job.get("status") or {}
    ended = {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}
    return bool({"Complete", "Failed"} & ended) or status.get("jobDeploymentStatus") in (
        "Complete",
        "Failed",
    )


def _now(later: float = 0.0) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + later))


def _seconds(text: str) -> float:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
