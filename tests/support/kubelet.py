"""A simulated kubelet: takes the pods of runs and lets a function stand for their containers.

It reads what a kubelet would mount, and writes the phases that a kubelet would write. Where no
controller manager runs, it also writes what the Job controller would.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable

from control_plane import Api

from primum.domain.study.steps import StepContext, context_from_json

RUN = "primum.dev/run"
_PAUSE_SECONDS = 0.1


class Kubelet:
    """Runs the pods of runs in threads.

    Args:
        api: The API server.
        body: What a container does with its steps; a false answer is a container that failed.
        namespace: Where it looks.
        manages: Whether a controller manager makes pods of Jobs.
    """

    def __init__(
        self,
        api: Api,
        body: Callable[[list[StepContext]], bool],
        *,
        namespace: str,
        manages: bool,
    ) -> None:
        self._api, self._body, self._namespace, self._manages = api, body, namespace, manages
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.started: list[str] = []
        self.faults: list[BaseException] = []
        self.paused = threading.Event()
        self.admits: Callable[[dict], bool] = lambda _item: True

    def __enter__(self) -> Kubelet:
        self._start(self._watch)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            if self.paused.is_set():
                continue
            try:
                for item in self._api.get(self._path())["items"]:
                    self._admit(item)
            except (OSError, AssertionError):
                continue  # The API server is away; a kubelet waits for it.

    def _admit(self, item: dict) -> None:
        uid = item["metadata"]["uid"]
        steps = self._mounts(item) if uid not in self._seen and self._is_new(item) else None
        if steps is not None and self.admits(item):
            self._seen.add(uid)
            self._start(self._run, item, steps)

    def _path(self) -> str:
        if self._manages:
            return f"/api/v1/namespaces/{self._namespace}/pods?labelSelector={RUN}"
        return f"/apis/batch/v1/namespaces/{self._namespace}/jobs?labelSelector={RUN}"

    def _is_new(self, item: dict) -> bool:
        if item["metadata"].get("deletionTimestamp"):
            return False
        if self._manages:
            return item["status"].get("phase") == "Pending"
        return not item.get("status") and not item["spec"].get("suspend")

    def _mounts(self, item: dict) -> list[StepContext] | None:
        """The steps in the pod's Secret; a pod whose Secret is not there does not start."""
        spec = item["spec"] if self._manages else item["spec"]["template"]["spec"]
        names = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
        path = f"/api/v1/namespaces/{self._namespace}/secrets/{names['steps']}"
        found = self._api.get(path)
        if found is None:
            return None
        texts = [base64.b64decode(found["data"][name]) for name in sorted(found["data"])]
        return [context_from_json(json.loads(text)) for text in texts]

    def _run(self, item: dict, steps: list[StepContext]) -> None:
        if self._tell(item, "Running") is None:
            return  # It was gone before it began.
        self.started.append(item["metadata"]["labels"][RUN])
        try:
            went_well = self._body(steps)
        except BaseException as fault:  # Told to the test, which must not see it pass.
            self.faults.append(fault)
            went_well = False
        self._tell(item, "Succeeded" if went_well else "Failed")

    def _tell(self, item: dict, phase: str) -> object:
        """Write a phase, whenever the API server is there again; None where the pod is gone."""
        return self._until_answered(lambda: self._write(item, phase))

    def _until_answered(self, ask: Callable[[], object]):
        while not self._stop.is_set():
            try:
                return ask()
            except OSError:
                self._stop.wait(0.5)
            except AssertionError as refusal:
                if " 404 NotFound" in str(refusal):
                    return None
                self._stop.wait(0.5)
        return None

    def _write(self, item: dict, phase: str) -> dict:
        name = item["metadata"]["name"]
        if self._manages:
            path = f"/api/v1/namespaces/{self._namespace}/pods/{name}/status"
            return self._api.merge(path, {"status": {"phase": phase}})
        path = f"/apis/batch/v1/namespaces/{self._namespace}/jobs/{name}/status"
        return self._api.merge(path, {"status": _job_status(phase)})


def _job_status(phase: str) -> dict:
    now = "2026-11-22T06:00:00Z"
    if phase == "Running":
        return {"startTime": now, "active": 1}
    kind = "Complete" if phase == "Succeeded" else "Failed"
    counted = {"succeeded": 1} if phase == "Succeeded" else {"failed": 1}
    moved = {"lastTransitionTime": now, "lastProbeTime": now}
    ended = {"completionTime": now} if phase == "Succeeded" else {}
    condition = {"type": kind, "status": "True", **moved}
    return {"active": None, **counted, **ended, "conditions": [condition]}
