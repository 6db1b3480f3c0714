"""Workloads and AdmissionChecks of Kueue: what waits, what each stands for, and our word on it.

Whatever made a workload, its job is found by discovery; a kind that we may not read is told, and
waits. Must not decide what the word is.
"""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable, Iterator

from primum.adapters.kube.api import Json, KubeApi
from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.workload import (
    CONTROLLER,
    GROUP,
    VERSION,
    Check,
    OwnerKey,
    active_to_apply,
    is_undecided,
    state_to_apply,
)
from primum.application.workloads import Word
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.names import ResourceKey

WORKLOAD, ADMISSION_CHECK = "Workload", "AdmissionCheck"
_API = f"/apis/{GROUP}/{VERSION}"


class KueueWorkloads:
    """Workloads of every namespace; safe to use from many threads.

    Args:
        api: The API server.
        now: RFC 3339 time.
        governed: Namespaces that are governed, whatever their labels say.
    """

    def __init__(self, api: KubeApi, *, now: Callable[[], str], governed: tuple[str, ...]) -> None:
        self._api, self._now, self._governed = api, now, governed
        self._plurals: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()

    def check_served(self) -> None:
        """Ask for both kinds once.

        Raises:
            Unavailable: If the API server does not serve them.
            Refused: If we may not read them.
        """
        for plural in ("admissionchecks", "workloads"):
            next(self._api.list(f"{_API}/{plural}", limit=1), None)

    def waiting(self) -> Iterator[ResourceKey]:
        """Every AdmissionCheck of ours, then every Workload with a check to be answered."""
        for found in self._api.list(f"{_API}/admissionchecks"):
            if found["spec"].get("controllerName") == CONTROLLER:
                yield ResourceKey(ADMISSION_CHECK, "", str(found["metadata"]["name"]))
        for found in self._api.list(f"{_API}/workloads"):
            if is_undecided(found):
                metadata = found["metadata"]
                yield ResourceKey(WORKLOAD, str(metadata["namespace"]), str(metadata["name"]))

    def workload(self, key: ResourceKey) -> Json | None:
        """A Workload as it is now."""
        return self._api.get(f"{_API}/namespaces/{key.namespace}/workloads/{key.name}")

    def is_ours(self, check: str) -> bool:
        """Whether an AdmissionCheck is ours to answer."""
        found = self._api.get(f"{_API}/admissionchecks/{check}")
        return found is not None and found["spec"].get("controllerName") == CONTROLLER

    def answer_for(self, name: str) -> None:
        """Say of an AdmissionCheck of ours that we answer for it, if it does not say so yet."""
        path = f"{_API}/admissionchecks/{name}"
        found = self._api.get(path)
        if found is None or found["spec"].get("controllerName") != CONTROLLER:
            return
        body = active_to_apply(found, now=self._now())
        if body is not None:
            self._api.apply(f"{path}/status", body)

    def is_governed(self, namespace: str) -> bool:
        """Whether a namespace may hold private data.

        Raises:
            Refused: If we may not read namespaces.
        """
        if namespace in self._governed:
            return True
        found = self._api.get(f"/api/v1/namespaces/{namespace}")
        labels = (found or {}).get("metadata", {}).get("labels") or {}
        return labels.get(names.GOVERNED) == "true"

    def job(self, namespace: str, owner: OwnerKey) -> Json | None:
        """The object that a Workload stands for; ``None`` where it is gone or another one.

        Raises:
            Refused: If we may not read objects of its kind.
            Unavailable: If its kind is not served.
        """
        plural = self._plural(owner.api_version, owner.kind)
        where = _root(owner.api_version)
        name = urllib.parse.quote(owner.name, safe="")  # Somebody's word, in a path.
        found = self._api.get(f"{where}/namespaces/{namespace}/{plural}/{name}")
        if found is None or found["metadata"]["uid"] != owner.uid:
            return None
        return found

    def say(self, workload: Json, check: Check, word: Word) -> None:
        """Write our word on a Workload, if it still is what was judged.

        Raises:
            Conflict: If it is not; judge it again.
        """
        metadata = workload["metadata"]
        path = f"{_API}/namespaces/{metadata['namespace']}/workloads/{metadata['name']}/status"
        self._api.apply(path, state_to_apply(workload, check, word, now=self._now()))

    def _plural(self, api_version: str, kind: str) -> str:
        with self._lock:
            known = self._plurals.get((api_version, kind))
        if known is not None:
            return known
        found = self._api.get(_root(api_version)) or {}
        for item in found.get("resources") or ():
            if item.get("kind") == kind and "/" not in str(item["name"]):
                if not item.get("namespaced"):
                    break
                with self._lock:
                    self._plurals[api_version, kind] = str(item["name"])
                return str(item["name"])
        raise Unavailable(f"{kind} of {api_version} must be served; found no such kind.")


def _root(api_version: str) -> str:
    """The path under which a version of a group is served.

    Raises:
        InvalidValue: If that is no version of a group: it becomes part of a path.
    """
    parts = api_version.split("/")
    plain = all(part.replace("-", "").replace(".", "").isalnum() for part in parts)
    if not plain or len(parts) not in (1, 2):
        raise InvalidValue("apiVersion", "must be a group and a version", api_version)
    return f"/api/{api_version}" if len(parts) == 1 else f"/apis/{api_version}"
