"""KubeResourceStore: declared resources where Kubernetes keeps them.

Specs of what the platform itself declares and every status are written by server-side apply under
one field manager; a finalizer is put and taken by JSON Patch, whose tests hold against whoever
writes meanwhile. Nothing is read, changed and written back. A kind that has effects outside its
object gets the finalizer before the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import structlog

from primum.adapters.kube.api import Expired, Json, KubeApi, Parts
from primum.adapters.kube.objects import (
    FINALIZER,
    collection,
    in_whole_seconds,
    key_of,
    owner_reference,
    path_of,
    status_to_apply,
    stored_resource,
    unchecked_resource,
)
from primum.application.ports import ApplyChange
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Conflict, InvalidValue, NotFound, Unavailable
from primum.domain.names import ResourceKey
from primum.resources.kinds import KINDS
from primum.resources.metadata import API_VERSION
from primum.resources.stored import StoredResource

# Read once per look. Releases are not: whether one still stands is asked right after publishing.
READ_ONCE = frozenset({"Study", "PrivacyBudget", "GatePolicy"})
OWNER_KINDS = ("Study", "Release")  # Kinds that the platform makes children of.
_LIST_ATTEMPTS = 3  # A list that gets too old between pages is read again.

log = structlog.get_logger(__name__)

Announce = Callable[..., None]
Picked = TypeVar("Picked")


class KubeResourceStore:
    """``ResourceStore`` over the Kubernetes API.

    Args:
        api: The API server.
        announce: Told of every status that was written, with what it was before.
        namespaces: Where to look; empty for all.
    """

    def __init__(
        self, api: KubeApi, *, announce: Announce | None = None, namespaces: Sequence[str] = ()
    ) -> None:
        self._api = api
        self._announce = announce
        self._namespaces = tuple(namespaces)
        self._here = threading.local()

    def apply(
        self,
        key: ResourceKey,
        spec: Mapping[str, JSON],
        *,
        labels: Mapping[str, str],
        owner: str = "",
    ) -> tuple[StoredResource, ApplyChange]:
        """Create or replace a spec; the generation moves only when the spec does.

        Raises:
            Conflict: If the resource is being deleted, or its owner is gone.
            InvalidValue: If the API server refuses the spec.
        """
        canonical_json(spec)  # Floats have no place in a spec.
        before = self._api.get(path_of(key))
        metadata: Json = {"name": key.name, "namespace": key.namespace, "labels": dict(labels)}
        metadata["finalizers"] = [FINALIZER]
        if before is not None:
            if before["metadata"].get("deletionTimestamp"):
                raise Conflict(f"{key} must not be in deletion to be applied; found it is.")
            metadata["uid"] = before["metadata"]["uid"]
        owners = self._owners(key, before, owner)
        if owners:
            metadata["ownerReferences"] = owners
        if before is not None and _says(before, spec, metadata):
            return stored_resource(before), ApplyChange.UNCHANGED
        body = {
            "apiVersion": API_VERSION,
            "kind": key.kind,
            "metadata": metadata,
            "spec": dict(spec),
        }
        after = stored_resource(self._api.apply(path_of(key), body))
        if self._pending() is not None:
            self._here.read.pop(key, None)
        return after, ApplyChange.CREATED if before is None else ApplyChange.CONFIGURED

    def get(self, key: ResourceKey) -> StoredResource | None:
        """One resource.

        Raises:
            InvalidValue: If its spec breaks a rule that its CRD let pass.
        """
        if self._pending() is not None and key in self._here.read:
            known = self._here.read[key]
            return None if known is None else self._seen(known)
        found = self._api.get(path_of(key))
        if found is None:
            self._missed(key)
            return None
        return self._seen(stored_resource(found))

    def list(self, kind: str, namespace: str = "", *, name: str = "") -> Sequence[StoredResource]:
        """Resources of a kind, in one namespace or all, of one name or all; by name.

        Those that break a rule are left out; it is said on their own status when they are looked
        at.
        """
        listed = []
        for found in self._objects(kind, namespace, name=name):
            try:
                listed.append(self._seen(stored_resource(found)))
            except InvalidValue as error:
                log.warning("resource left out", resource=str(key_of(found)), error=str(error))
        return tuple(sorted(listed, key=lambda item: item.key))

    def keys(self, kind: str) -> Sequence[ResourceKey]:
        """The keys of every resource of a kind, also of those that break a rule."""
        return self._each(kind, "", key_of)

    def check_served(self) -> None:
        """Ask for every kind once.

        Raises:
            Unavailable: If the API server does not serve one of them, now or at all.
        """
        for kind in KINDS:
            for where in self._namespaces or ("",):
                next(self._api.list(collection(kind, where), limit=1), None)

    def uids(self, kind: str) -> frozenset[str]:
        """The uids of every resource of a kind."""
        return frozenset(self._each(kind, "", lambda found: str(found["metadata"]["uid"])))

    def claim(self, key: ResourceKey) -> StoredResource | None:
        """One resource, with our finalizer on it before anything is done for it.

        Returns:
            The resource, or ``None`` where it is gone, or is being deleted and not ours to settle.

        Raises:
            InvalidValue: If its spec breaks a rule; it has the finalizer all the same.
            Conflict: If somebody else changed its finalizers meanwhile.
        """
        found = self._api.get(path_of(key))
        if found is None:
            return None
        metadata = found["metadata"]
        finalizers = metadata.get("finalizers") or []
        if FINALIZER not in finalizers:
            if metadata.get("deletionTimestamp"):
                return None
            found = self._api.patch(path_of(key), _hold(metadata, finalizers))
        return self._seen(stored_resource(found))

    def unchecked(self, key: ResourceKey) -> StoredResource | None:
        """A resource as it is, also where its spec breaks a rule."""
        found = self._api.get(path_of(key))
        return None if found is None else self._seen(unchecked_resource(found))

    def set_status(self, key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> None:
        """Replace the status of the resource with this uid; a no-op where it is gone."""
        status = in_whole_seconds(status)
        pending = self._pending()
        if pending is None:
            self._write_status(key, uid, status)
        else:
            pending[key] = (uid, status)

    @contextmanager
    def one_write_per_status(self) -> Iterator[None]:
        """One look: this thread's statuses are read back as set, and written once at its end.

        What a look read of Studies, budgets and policies it does not read again; what changes
        meanwhile wakes the next look. A status is a projection that whoever comes next can make
        again, so nothing is lost where the process dies before it was written.
        """
        pending: dict[ResourceKey, tuple[str, Mapping[str, JSON]]] = {}
        self._here.pending, self._here.before, self._here.read = pending, {}, {}
        try:
            yield
        finally:
            self._here.pending, self._here.read = None, {}
            for key, (uid, status) in pending.items():
                self._write_status(key, uid, status)

    def request_deletion(self, key: ResourceKey) -> StoredResource:
        """Mark for deletion; marking twice keeps the first time.

        Raises:
            NotFound: If it does not exist.
        """
        found = self._api.get(path_of(key))
        if found is None:
            raise NotFound(f"{key} must exist to be deleted; found none.")
        if not found["metadata"].get("deletionTimestamp"):
            self._api.delete(path_of(key), uid=found["metadata"]["uid"])
            found = self._api.get(path_of(key)) or found
        return stored_resource(found)

    def remove(self, key: ResourceKey, uid: str) -> None:
        """Let the resource with this uid go: take our finalizer off it."""
        pending = self._pending()
        if pending is not None and key in pending and pending[key][0] == uid:
            self._write_status(key, *pending.pop(key))  # Its last words, before it goes.
        if pending is not None:
            self._here.read.pop(key, None)
        found = self._api.get(path_of(key))
        if found is None or found["metadata"]["uid"] != uid:
            return
        if not found["metadata"].get("deletionTimestamp"):
            self._api.delete(path_of(key), uid=uid)
            found = self._api.get(path_of(key))
        finalizers = (found or {}).get("metadata", {}).get("finalizers") or []
        if FINALIZER in finalizers:
            try:
                self._api.patch(path_of(key), _release(uid, finalizers))
            except NotFound:
                return

    def _write_status(self, key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> None:
        before = self._status_before(key, uid)
        if before is None or before == status:
            return
        try:
            self._api.apply(f"{path_of(key)}/status", status_to_apply(key, uid, status))
        except (NotFound, Conflict):
            return  # It is gone, or another one has its name.
        if self._announce is not None:
            self._announce(key, uid, before=before, after=status)

    def _status_before(self, key: ResourceKey, uid: str) -> Mapping[str, JSON] | None:
        """The status that stands, as this thread read it; ``None`` where the resource is gone."""
        known = getattr(self._here, "before", {}).get(key)
        if known is not None and known[0] == uid:
            before: Mapping[str, JSON] = known[1]
            return before
        found = self._api.get(path_of(key))
        if found is None or found["metadata"]["uid"] != uid:
            return None
        return dict(found.get("status") or {})

    def _pending(self) -> dict[ResourceKey, tuple[str, Mapping[str, JSON]]] | None:
        return getattr(self._here, "pending", None)

    def _seen(self, found: StoredResource) -> StoredResource:
        """What this thread reads: the API server's word, under the status that it is to get."""
        pending = self._pending()
        if pending is None:
            return found
        if found.key.kind in READ_ONCE:
            self._here.read[found.key] = found
        self._here.before[found.key] = (found.uid, found.status)
        uid, status = pending.get(found.key, ("", {}))
        return replace(found, status=dict(status)) if uid == found.uid else found

    def _missed(self, key: ResourceKey) -> None:
        """Remember for this look that there is none."""
        if self._pending() is not None and key.kind in READ_ONCE:
            self._here.read[key] = None

    def _objects(self, kind: str, namespace: str, *, name: str = "") -> Sequence[Json]:
        return self._listed(kind, namespace, lambda found: found, name=name, parts=Parts.ALL)

    def _each(
        self, kind: str, namespace: str, pick: Callable[[Json], Picked]
    ) -> tuple[Picked, ...]:
        """One thing of the metadata of every object; pages of objects are not kept."""
        return self._listed(kind, namespace, pick, name="", parts=Parts.METADATA)

    def _listed(
        self,
        kind: str,
        namespace: str,
        pick: Callable[[Json], Picked],
        *,
        name: str,
        parts: Parts,
    ) -> tuple[Picked, ...]:
        if kind not in KINDS:
            return ()
        fields = f"metadata.name={name}" if name else ""
        known = {"kind": kind, "apiVersion": API_VERSION}
        picked: list[Picked] = []
        for where in (namespace,) if namespace else self._namespaces or ("",):
            path = collection(kind, where)
            for _ in range(_LIST_ATTEMPTS):
                try:
                    listed = self._api.list(path, fields=fields, parts=parts)
                    picked += [pick(found | known) for found in listed]
                    break
                except Expired:
                    continue
            else:
                raise Unavailable(f"list {path}: it changed faster than it could be read")
        return tuple(picked)

    def _owners(
        self, key: ResourceKey, before: Mapping[str, Json] | None, owner: str
    ) -> Sequence[Json]:
        standing: Sequence[Json] = (before or {}).get("metadata", {}).get("ownerReferences") or ()
        if not owner or any(item["uid"] == owner for item in standing):
            return standing
        for known, (uid, _) in getattr(self._here, "before", {}).items():
            if uid == owner and known.kind in OWNER_KINDS and known.namespace == key.namespace:
                return (owner_reference(known.kind, known.name, owner),)
        for kind in OWNER_KINDS:
            for found in self._each(kind, key.namespace, lambda found: found["metadata"]):
                if found["uid"] == owner:
                    return (owner_reference(kind, found["name"], owner),)
        raise Conflict(f"{key} must have an owner that exists; found none of that uid.")


def _says(found: Json, spec: Mapping[str, JSON], metadata: Json) -> bool:
    """Whether an object says already what is to be applied."""
    there = found["metadata"]
    return (
        found["spec"] == spec
        and (there.get("labels") or {}) == metadata["labels"]
        and (there.get("ownerReferences") or []) == list(metadata.get("ownerReferences", ()))
        and FINALIZER in (there.get("finalizers") or ())
    )


def _hold(metadata: Mapping[str, JSON], finalizers: Sequence[str]) -> Sequence[Json]:
    test = {"op": "test", "path": "/metadata/uid", "value": metadata["uid"]}
    if finalizers:
        return [test, {"op": "add", "path": "/metadata/finalizers/-", "value": FINALIZER}]
    version = {
        "op": "test",
        "path": "/metadata/resourceVersion",
        "value": metadata["resourceVersion"],
    }
    return [test, version, {"op": "add", "path": "/metadata/finalizers", "value": [FINALIZER]}]


def _release(uid: str, finalizers: Sequence[str]) -> Sequence[Json]:
    place = f"/metadata/finalizers/{finalizers.index(FINALIZER)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": place, "value": FINALIZER},
        {"op": "remove", "path": place},
    ]
