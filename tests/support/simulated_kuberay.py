"""A simulated KubeRay operator: walks RayJobs through its statuses, and runs their drivers.

A client of a real API server, over plain HTTP. It reads what KubeRay would mount on the head, holds
the finalizer that KubeRay holds, checks what KubeRay checks after admission, and writes the
statuses that KubeRay writes. What a driver does is a function; which way a RayJob goes is a script.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import threading
from collections.abc import Callable, Sequence

import kube_schemas
import yaml
from control_plane import Api

FINALIZER = "ray.io/rayjob-finalizer"
STEP, RUN = "primum.dev/step", "primum.dev/run"
DRIVE, VANISH, HANG = "drive", "vanish", "hang"
_PAUSE_SECONDS = 0.1
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")

Status = tuple[str, str] | tuple[str, str, str]
"""``jobDeploymentStatus``, ``jobStatus``, and ``reason`` where there is one."""

BEGINNING: tuple[Status, ...] = (
    ("Initializing", ""),
    ("Running", ""),
    ("Running", "PENDING"),
    ("Running", "RUNNING"),
)
USUAL = (*BEGINNING, DRIVE)
"""The way of a RayJob that nothing happens to; its end is that of its driver."""


def definition() -> dict:
    """The released CRD of RayJobs, or a skip that says what is missing."""
    kube_schemas.released_schema("RayJob", "ray.io", "v1")
    path = f"{kube_schemas.ASSETS}/schemas/kuberay/ray.io_rayjobs.yaml"
    with open(path, encoding="utf-8") as file:
        found = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found.pop("status", None)  # An empty one, of the generator.
    return found


@dataclasses.dataclass
class Driver:
    """What runs on the head of one RayJob.

    Args:
        name: The RayJob.
        step: Its step.
        command: Its entrypoint.
        environment: Plain variables of the head's container.
        files: What the head's container finds mounted from Secrets, by path.
        stopped: Set when the cluster goes, whatever the driver does.
    """

    name: str
    step: str
    command: str
    environment: dict[str, str]
    files: dict[str, str]
    stopped: threading.Event


class SimulatedKubeRay:
    """KubeRay's operator for one namespace.

    Args:
        api: The API server.
        run: What a driver does; a false answer is one that ended with an error.
        namespace: Where it looks.
        scripts: Which way RayJobs of a step go, by step; ``USUAL`` for others.
    """

    def __init__(
        self,
        api: Api,
        run: Callable[[Driver], bool],
        *,
        namespace: str,
        scripts: dict[str, Sequence[Status | str]] | None = None,
    ) -> None:
        self._api, self._run, self._namespace = api, run, namespace
        self.scripts = scripts if scripts is not None else {}
        self._drivers: dict[str, Driver] = {}
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.driven: list[str] = []
        self.deleted: list[str] = []
        self.faults: list[BaseException] = []
        self.paused = threading.Event()

    def __enter__(self) -> SimulatedKubeRay:
        self._start(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for driver in self._drivers.values():
            driver.stopped.set()
        for thread in self._threads:
            thread.join(60)

    @property
    def path(self) -> str:
        """Where RayJobs are."""
        return f"/apis/ray.io/v1/namespaces/{self._namespace}/rayjobs"

    def jobs(self) -> list[dict]:
        """Every RayJob there is."""
        return self._api.get(self.path)["items"]

    def driving(self) -> list[str]:
        """RayJobs that have a cluster now."""
        return [d.name for d in self._drivers.values() if not d.stopped.is_set()]

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            if self.paused.is_set():
                continue
            try:
                for item in self.jobs():
                    self._look(item)
            except (OSError, AssertionError, TypeError):
                continue  # The API server is away; a controller waits for it.

    def _look(self, item: dict) -> None:
        metadata = item["metadata"]
        uid = metadata["uid"]
        if metadata.get("deletionTimestamp"):
            self._let_go(item)
        elif uid in self._drivers:
            return
        elif problem := invalid(item):
            self._tell(item, ("ValidationFailed", "", "ValidationFailed"), problem)
            self._drivers[uid] = _driver(item, {})
        elif item["spec"].get("suspend"):
            if (item.get("status") or {}).get("jobDeploymentStatus") != "Suspended":
                self._tell(item, ("Suspended", ""))
        else:
            self._api.merge(
                f"{self.path}/{metadata['name']}", {"metadata": {"finalizers": [FINALIZER]}}
            )
            self._drivers[uid] = _driver(item, {})
            self._start(self._walk, item, self._drivers[uid])

    def _let_go(self, item: dict) -> None:
        """The cluster goes, and the RayJob with it."""
        metadata = item["metadata"]
        driver = self._drivers.get(metadata["uid"])
        if driver is not None:
            driver.stopped.set()
        if FINALIZER in metadata.get("finalizers", ()):
            patch = {"metadata": {"finalizers": None}}
            self._api.merge(f"{self.path}/{metadata['name']}", patch)
        if metadata["name"] not in self.deleted:
            self.deleted.append(metadata["name"])

    def _walk(self, item: dict, driver: Driver) -> None:
        for row in self.scripts.get(driver.step, USUAL):
            if driver.stopped.is_set() or self._stop.wait(_PAUSE_SECONDS):
                return
            if row == VANISH:
                self._until_answered(lambda: self._vanish(item))
                return
            if row == HANG:
                driver.stopped.wait(120)
                return
            if row == DRIVE:
                went_well = self._drive(item, driver)
                end = (
                    ("Complete", "SUCCEEDED") if went_well else ("Complete", "FAILED", "AppFailed")
                )
                self._until_answered(lambda end=end: self._tell(item, end))
            elif self._until_answered(lambda row=row: self._tell(item, row)) is None:
                return

    def _vanish(self, item: dict) -> object:
        name = item["metadata"]["name"]
        self._api.merge(f"{self.path}/{name}", {"metadata": {"finalizers": None}})
        return self._api.delete(f"{self.path}/{name}")

    def _drive(self, item: dict, driver: Driver) -> bool:
        files = self._until_answered(lambda: self._mounted(item))
        if files is None:
            return False  # The head never started: its Secret is gone.
        driver.files.update(files)
        self.driven.append(driver.name)
        try:
            return self._run(driver)
        except BaseException as fault:  # Told to the test, which must not see it pass.
            self.faults.append(fault)
            return False

    def _mounted(self, item: dict) -> dict[str, str] | None:
        """What the head finds in its Secrets; nothing where one of them is missing."""
        pod = item["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
        (container,) = pod["containers"]
        where = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        files = {}
        for volume in pod["volumes"]:
            if "secret" not in volume:
                continue
            name = volume["secret"]["secretName"]
            found = self._api.get(f"/api/v1/namespaces/{self._namespace}/secrets/{name}")
            if found is None:
                return None
            for one in volume["secret"]["items"]:
                text = base64.b64decode(found["data"][one["key"]]).decode()
                files[f"{where[volume['name']]}/{one['path']}"] = text
        return files

    def _tell(self, item: dict, row: Status, message: str = "") -> dict:
        deployment, job, *reason = row
        status = {
            "jobDeploymentStatus": deployment,
            "jobStatus": job,
            "reason": reason[0] if reason else None,
            "message": message or None,
        }
        path = f"{self.path}/{item['metadata']['name']}/status"
        body = {"metadata": {"uid": item["metadata"]["uid"]}, "status": status}
        return self._api.merge(path, body)

    def _until_answered(self, ask: Callable[[], object]):
        """Ask until the API server answers; nothing where the object is gone."""
        while not self._stop.is_set():
            try:
                return ask()
            except OSError:
                self._stop.wait(0.5)
            except AssertionError as refusal:
                if " 404 NotFound" in str(refusal) or " 409 Conflict" in str(refusal):
                    return None
                self._stop.wait(0.5)
        return None


def invalid(item: dict) -> str:
    """What KubeRay would find wrong with a RayJob that the API server has let pass."""
    metadata, spec = item["metadata"], item["spec"]
    cluster = spec.get("rayClusterSpec") or {}
    templates = [cluster.get("headGroupSpec", {}), *cluster.get("workerGroupSpecs", ())]
    problems = {
        "the name is no short DNS-1035 label": not _NAME.fullmatch(metadata["name"]),
        "a suspended job must shut down": bool(
            spec.get("suspend") and not spec.get("shutdownAfterJobFinishes")
        ),
        "exactly one of rayClusterSpec and clusterSelector": (
            bool(cluster) == bool(spec.get("clusterSelector"))
        ),
        "a pod template has no container": any(
            not group.get("template", {}).get("spec", {}).get("containers") for group in templates
        ),
        "ttlSecondsAfterFinished without shutdown": bool(
            spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes")
        ),
        "deletionStrategy beside shutdownAfterJobFinishes": bool(
            spec.get("deletionStrategy") and spec.get("shutdownAfterJobFinishes")
        ),
        "a feature whose gate is off": bool(
            {"networkPolicy", "tlsOptions", "historyServerOptions"} & set(cluster)
        ),
        "resources and rayStartParams both": any(
            group.get("resources") and "num-cpus" in group.get("rayStartParams", {})
            for group in templates
        ),
    }
    return next((problem for problem, found in problems.items() if found), "")


def _driver(item: dict, files: dict[str, str]) -> Driver:
    pod = item["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (container,) = pod["containers"]
    return Driver(
        name=item["metadata"]["name"],
        step=item["metadata"].get("labels", {}).get(STEP, ""),
        command=item["spec"]["entrypoint"],
        environment={entry["name"]: entry["value"] for entry in container.get("env", ())},
        files=files,
        stopped=threading.Event(),
    )
