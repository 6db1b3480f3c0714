"""What every resource has beside its spec: group, version, kind, name, namespace, labels.

No spec, no status.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from primum.domain.names import ResourceKey
from primum.resources.fields import Name, Part

GROUP = "primum.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
NAMESPACE_DEFAULT = "default"
# Who applied a Study; set by what stores it, never by them. In a cluster an annotation of the same
# name has the user name as it is, and the label what of it a label can hold.
REQUESTER_LABEL = f"{GROUP}/requester"
_DIGEST_PREFIX, _DIGEST_LENGTH = "sha256.", 40  # 160 bits: two users must not share a quota.
_USER_LENGTH_MAX = 253  # What the ledger takes for a name is longer.
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

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


def requester_label(user: str) -> str:
    """A user name as the value of a label: itself where it can be one, else its digest.

    No two user names have the same: one that looks like a digest is digested too.
    """
    if _LABEL_VALUE.fullmatch(user) and not user.startswith(_DIGEST_PREFIX):
        return user
    return _DIGEST_PREFIX + hashlib.sha256(user.encode()).hexdigest()[:_DIGEST_LENGTH]


def requester_of(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    """Who asked, as quotas name them: the user name where it was noted, else the label."""
    noted = annotations.get(REQUESTER_LABEL, "")
    usable = 0 < len(noted) <= _USER_LENGTH_MAX and noted.isprintable()
    return noted if usable else labels.get(REQUESTER_LABEL, "")
