"""Objects of an API server to stored resources, and status back to what is applied.

The form is Kubernetes', the content is that of ``primum.resources``. Must not talk to a server or
decide anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.resources.conversion import spec_mapping
from primum.resources.kinds import KINDS
from primum.resources.loading import checked_resource
from primum.resources.metadata import API_VERSION
from primum.resources.stored import StoredResource
from primum_operators.schema import crd

FIELD_MANAGER = "primum"  # The one name under which the platform applies anything.


def definitions() -> tuple[dict[str, Any], ...]:
    """The CustomResourceDefinitions of all five kinds."""
    return tuple(crd(kind) for kind in KINDS.values())


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
    status = found.get("status")
    return StoredResource(
        key=resource.key,
        uid=_set_by_server(metadata, "uid"),
        generation=int(_set_by_server(metadata, "generation")),
        resource_version=int(_set_by_server(metadata, "resourceVersion")),
        created=_set_by_server(metadata, "creationTimestamp"),
        spec=spec_mapping(resource),
        status=dict(status) if isinstance(status, Mapping) else {},
        labels=dict(resource.metadata.labels),
        owner=_controller(metadata),
        deleting=str(metadata.get("deletionTimestamp") or ""),
    )


def status_to_apply(stored: StoredResource, status: Mapping[str, JSON]) -> dict[str, JSON]:
    """The body of a server-side apply of a whole status.

    The uid is part of it, so that the status of a resource that was deleted is never written onto
    another one of the same name.
    """
    metadata: dict[str, JSON] = {
        "name": stored.key.name,
        "namespace": stored.key.namespace,
        "uid": stored.uid,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": stored.key.kind,
        "metadata": metadata,
        "status": dict(status),
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
