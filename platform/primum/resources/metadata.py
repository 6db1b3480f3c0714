"""What every resource has beside its spec: group, version, kind, name, namespace, labels.

No spec, no status.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from primum.domain.names import ResourceKey
from primum.resources.fields import Name, Part

GROUP = "primum.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
NAMESPACE_DEFAULT = "default"
REQUESTER_LABEL = f"{GROUP}/requester"  # Who applied a Study; set by what stores it, never by them.

# Set by whoever stores the object; ignored when read back, as the API server does.
SERVER_FIELDS = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)

LabelText: TypeAlias = Annotated[str, Field(max_length=63)]
AnnotationText: TypeAlias = Annotated[str, Field(max_length=262_144)]


class Metadata(Part):
    """Name, namespace, labels and annotations."""

    name: Name = Field(description="name is unique per kind and namespace. Required.")
    namespace: Name = Field(
        default=NAMESPACE_DEFAULT,
        description="namespace is where the resource lives. Optional, default.",
    )
    labels: Annotated[dict[str, LabelText], Field(max_length=64)] = Field(
        default_factory=dict, description="labels are for selecting. Optional."
    )
    annotations: Annotated[dict[str, AnnotationText], Field(max_length=64)] = Field(
        default_factory=dict, description="annotations are notes of tools. Optional."
    )


class Resource(Part):
    """Base of the five kinds. ``kind`` and ``spec`` are narrowed by each."""

    api_version: Literal["primum.dev/v1alpha1"] = Field(
        default="primum.dev/v1alpha1", description="apiVersion is primum.dev/v1alpha1. Required."
    )
    kind: str = Field(description="kind is the resource's kind. Required.")
    metadata: Metadata = Field(description="metadata is the resource's name and labels. Required.")

    @property
    def key(self) -> ResourceKey:
        """Kind, namespace and name."""
        return ResourceKey(self.kind, self.metadata.namespace, self.metadata.name)
