"""Objects of an API server to stored resources, and what we apply.

The form is Kubernetes', the content is that of ``primum.resources``. Must not talk to a server or
decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey
from primum.resources.conversion import spec_mapping
from primum.resources.kinds import KINDS
from primum.resources.loading import checked_resource
from primum.resources.metadata import (
    API_VERSION,
    GROUP,
    REQUESTER_LABEL,
    VERSION,
    requester_of,
)
from primum.resources.stored import StoredResource

FINALIZER = f"{GROUP}/settlement"  # Held until the ledger is settled, and for nothing else.
_SECONDS_AT = 19  # Where the fraction of an RFC 3339 time begins.


def collection(kind: str, namespace: str = "") -> str:
    """The path of a kind's objects, in one namespace or all."""
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}/{where}{KINDS[kind].plural}"


def path_of(key: ResourceKey) -> str:
    """The path of one object."""
    return f"{collection(key.kind, key.namespace)}/{key.name}"


def key_of(found: Mapping[str, Any]) -> ResourceKey:
    """Kind, namespace and name of an object."""
    metadata = found["metadata"]
    return ResourceKey(str(found["kind"]), str(metadata["namespace"]), str(metadata["name"]))


def stored_resource(found: Mapping[str, JSON]) -> StoredResource:
    """An object as read from an API server.

    Args:
        found: The object. Its spec is checked again: an older CRD may have let more pass.

    Raises:
        InvalidValue: If it is not one of our kinds, breaks a rule, or lacks what every server sets.
    """
    resource = checked_resource(found)
    metadata = found["metadata"]
    if not isinstance(metadata, Mapping):
        raise InvalidValue("metadata", "must be a mapping", type(metadata).__name__)
    return _stored(found, resource.key, spec_mapping(resource), metadata)


def unchecked_resource(found: Mapping[str, Any]) -> StoredResource:
    """An object whose spec breaks a rule, so that its status can say so; nothing else may be done.

    Raises:
        InvalidValue: If it lacks what every server sets.
    """
    spec = found.get("spec")
    return _stored(
        found, key_of(found), spec if isinstance(spec, Mapping) else {}, found["metadata"]
    )


def _stored(
    found: Mapping[str, JSON],
    key: ResourceKey,
    spec: Mapping[str, JSON],
    metadata: Mapping[str, JSON],
) -> StoredResource:
    status = found.get("status")
    deleting = str(metadata.get("deletionTimestamp") or "")
    # Marking for deletion moves metadata.generation by one although the spec stays: what was
    # planned, reserved and launched belongs to the generation before.
    generation = int(_set_by_server(metadata, "generation")) - bool(deleting)
    return StoredResource(
        key=key,
        uid=_set_by_server(metadata, "uid"),
        generation=generation,
        resource_version=int(_set_by_server(metadata, "resourceVersion")),
        created=_set_by_server(metadata, "creationTimestamp"),
        spec=spec,
        status=dict(status) if isinstance(status, Mapping) else {},
        labels=_labels(key, metadata),
        owner=_controller(metadata),
        deleting=deleting,
    )


def _labels(key: ResourceKey, metadata: Mapping[str, JSON]) -> dict[str, str]:
    """An object's labels; a Study's with the user name in place of what a label can hold of it."""
    labels, notes = (
        {k: str(v) for k, v in part.items()} if isinstance(part, Mapping) else {}
        for part in (metadata.get("labels"), metadata.get("annotations"))
    )
    requester = requester_of(labels, notes) if key.kind == "Study" else ""
    return labels | ({REQUESTER_LABEL: requester} if requester else {})


def status_to_apply(key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> dict[str, JSON]:
    """The body of a server-side apply of a whole status.

    The uid is part of it, so that the status of a resource that was deleted is never written onto
    another one of the same name.
    """
    metadata: dict[str, JSON] = {"name": key.name, "namespace": key.namespace, "uid": uid}
    return {
        "apiVersion": API_VERSION,
        "kind": key.kind,
        "metadata": metadata,
        "status": in_whole_seconds(status),
    }


def in_whole_seconds(status: Mapping[str, JSON]) -> dict[str, JSON]:
    """A status whose conditions have times as ``metav1.Time`` writes them: no fractions."""
    listed = status.get("conditions")
    if isinstance(listed, str) or not isinstance(listed, list | tuple):
        return dict(status)
    found = [dict(item) if isinstance(item, Mapping) else item for item in listed]
    for item in found:
        if isinstance(item, dict) and "." in str(item.get("lastTransitionTime", "")):
            item["lastTransitionTime"] = str(item["lastTransitionTime"])[:_SECONDS_AT] + "Z"
    return {**status, "conditions": found}


def owner_reference(kind: str, name: str, uid: str, *, api_version: str = API_VERSION) -> Any:
    """The reference of a child to the object that controls it."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def _set_by_server(metadata: Mapping[str, JSON], name: str) -> str:
    value = metadata.get(name)
    if value is None or value == "":
        raise InvalidValue(f"metadata.{name}", "must be set by the API server", "nothing")
    return str(value)


def _controller(metadata: Mapping[str, JSON]) -> str:
    owners = metadata.get("ownerReferences")
    if isinstance(owners, str) or not isinstance(owners, list | tuple):
        return ""
    controllers = (item for item in owners if isinstance(item, Mapping) and item.get("controller"))
    return next((str(item["uid"]) for item in controllers), "")
