"""A simulated KServe: says of every InferenceService how it is, and takes it down when asked.

A client of a real API server, over plain HTTP, with the released CRD. It holds the finalizer that
KServe holds and writes the conditions that KServe writes; how a service does is what a test says.
"""

from __future__ import annotations

import enum
import threading

import kube_schemas
import yaml
from control_plane import Api, listed

GROUP, VERSION = "serving.kserve.io", "v1beta1"
FINALIZER = "inferenceservice.finalizers"
STOP = f"{GROUP}/stop"
_PAUSE_SECONDS = 0.1


def definition() -> dict:
    """The released CRD of InferenceServices, or a skip that says what is missing."""
    kube_schemas.released_schema("InferenceService", GROUP, VERSION)
    path = f"{kube_schemas.ASSETS}/schemas/kserve/{GROUP}_inferenceservices.yaml"
    with open(path, encoding="utf-8") as file:
        found = yaml.load(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    found.pop("status", None)
    return found


class Mood(enum.Enum):
    """How services do."""

    WELL = "well"
    NEVER_READY = "never ready"
    AWAY = "away"  # KServe itself is down: nothing is said, and nothing deleted goes


class SimulatedKServe:
    """KServe for one namespace.

    Args:
        api: The API server.
        namespace: Where it looks.
    """

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self.path = f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/inferenceservices"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.mood = Mood.WELL
        self.serving: set[str] = set()
        self.faults: list[str] = []

    def __enter__(self) -> SimulatedKServe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _work(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            if self.mood is Mood.AWAY:
                continue
            try:
                self._turn()
            except OSError:
                continue
            except AssertionError as refusal:
                if not any(code in str(refusal) for code in (" 404 ", " 409 ", " 503 ")):
                    self.faults.append(str(refusal))

    def _turn(self) -> None:
        items = listed(self._api, self.path)
        self.serving &= {item["metadata"]["name"] for item in items}
        for item in items:
            self._look(item)

    def _look(self, item: dict) -> None:
        metadata = item["metadata"]
        path = f"{self.path}/{metadata['name']}"
        finalizers = metadata.get("finalizers") or []
        if metadata.get("deletionTimestamp"):
            self.serving.discard(metadata["name"])
            left = [name for name in finalizers if name != FINALIZER]
            same = metadata["resourceVersion"]  # Others of it come and go meanwhile.
            if FINALIZER in finalizers:
                body = {"resourceVersion": same, "finalizers": left or None}
                self._api.merge(path, {"metadata": body})
            return
        if FINALIZER not in finalizers:
            self._api.merge(path, {"metadata": {"finalizers": [*finalizers, FINALIZER]}})
        stopped = (metadata.get("annotations") or {}).get(STOP) == "true"
        ready = self.mood is Mood.WELL and not stopped
        (self.serving.add if ready else self.serving.discard)(metadata["name"])
        status = _status(metadata, ready=ready, stopped=stopped)
        if (item.get("status") or {}).get("conditions") != status["conditions"]:
            self._api.merge(f"{path}/status", {"status": status})


def _status(metadata: dict, *, ready: bool, stopped: bool) -> dict:
    reason = "" if ready else ("Stopped" if stopped else "RevisionMissing")
    conditions = [
        {"type": kind, "status": str(ready), **({"reason": reason} if reason else {})}
        for kind in ("IngressReady", "PredictorReady", "Ready")
    ]
    stop = {"type": "Stopped", "status": str(stopped)}
    conditions.append(stop | ({"reason": "Stopped"} if stopped else {}))
    status: dict = {"conditions": conditions, "observedGeneration": metadata.get("generation", 1)}
    if ready:
        host = f"{metadata['name']}-{metadata['namespace']}.example.com"
        status["url"] = f"http://{host}"
        status["components"] = {"predictor": {"url": f"http://{metadata['name']}-predictor"}}
    return status
