"""StoredResource: a resource as a store keeps it, Kubernetes' shape in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.names import ResourceKey, derived_uuid


@dataclass(frozen=True, slots=True)
class StoredResource:
    """One declared resource with its status.

    Args:
        key: Kind, namespace and name.
        uid: Unique over recreations.
        generation: Moves only when the spec does.
        resource_version: Moves with every write.
        created: RFC 3339 time of creation.
        spec: The spec, camelCase.
        status: The status, camelCase; a projection that can be rebuilt.
        labels: Labels.
        owner: Uid of the owner, or empty.
        deleting: RFC 3339 time of the deletion request, or empty.
    """

    key: ResourceKey
    uid: str
    generation: int
    resource_version: int
    created: str
    spec: Mapping[str, JSON]
    status: Mapping[str, JSON]
    labels: Mapping[str, str]
    owner: str = ""
    deleting: str = ""


def unstored(key: ResourceKey, spec: Mapping[str, JSON]) -> StoredResource:
    """A resource as it would be stored first.

    For asking what it would cost before anybody applies it.
    """
    uid = derived_uuid("unstored", key.kind, key.namespace, key.name)
    return StoredResource(key, uid, 1, 0, "", spec, {}, {})
