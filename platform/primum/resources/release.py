"""Release: an artifact that is being served or published.

Written by the platform; people may only revoke it.
"""

from __future__ import annotations

import enum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.resources.audits import AuditPolicy
from primum.resources.conditions import StandingStatus
from primum.resources.fields import (
    Cron,
    Delta,
    Digest,
    Epsilon,
    Name,
    Part,
    Prose,
    ShortText,
    Uri,
    broken,
    cel,
    with_rules,
)
from primum.resources.metadata import Resource


class ReleaseKind(enum.StrEnum):
    """How an artifact is made available."""

    ENDPOINT = "Endpoint"
    DATASET = "Dataset"


class ArtifactKind(enum.StrEnum):
    """What an artifact is."""

    MODEL = "Model"
    DATASET = "Dataset"
    GENERATOR = "Generator"


class ClaimStanding(enum.StrEnum):
    """Whether differential privacy may be claimed."""

    VALID = "Valid"
    VOID = "Void"


class Artifact(Part):
    """A stored artifact."""

    kind: ArtifactKind = Field(description="kind is Model, Dataset, or Generator. Required.")
    uri: Uri = Field(description="uri is where the artifact lies. Required.")
    digest: Digest = Field(description="digest is the SHA-256 of its bytes. Required.")


class Claim(Part):
    """What may be said about the artifact; the certificate says the same, signed."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "(self.standing == 'Void') == (self.voidEdges.size() > 0)",
                "voidEdges must name the edges of a Void claim, and of no other",
            ),
            cel(
                "self.standing == 'Void' || (has(self.epsilon) && has(self.delta) && "
                "has(self.unit) && has(self.neighbors))",
                "a Valid claim must give epsilon, delta, unit and neighbors",
            ),
        )
    )

    standing: ClaimStanding = Field(description="standing is Valid or Void. Required.")
    epsilon: Epsilon | None = Field(
        default=None,
        description="epsilon is the claim's. Optional; with Valid.",
    )
    delta: Delta | None = Field(
        default=None,
        description="delta is the claim's. Optional; with Valid.",
    )
    unit: PrivacyUnit | None = Field(
        default=None, description="unit is whose presence is protected. Optional; with Valid."
    )
    neighbors: Neighbors | None = Field(
        default=None, description="neighbors is the relation of the claim. Optional; with Valid."
    )
    void_edges: Annotated[list[Prose], Field(max_length=16)] = Field(
        default_factory=list,
        description=(
            "voidEdges are the edges of the lineage that make the claim Void. Optional; with Void."
        ),
        json_schema_extra={"default": [], "x-kubernetes-list-type": "atomic"},
    )

    @model_validator(mode="after")
    def _complete(self) -> Claim:
        void = self.standing is ClaimStanding.VOID
        if void != bool(self.void_edges):
            raise broken("must name voidEdges exactly when standing is Void", str(self.standing))
        parts = (self.epsilon, self.delta, self.unit, self.neighbors)
        if not void and any(part is None for part in parts):
            raise broken(
                "must give epsilon, delta, unit and neighbors when standing is Valid", "less"
            )
        return self

    def text(self) -> str:
        """The claim in one line, or ``Void``."""
        if self.standing is ClaimStanding.VOID:
            return "Void"
        return f"epsilon {self.epsilon}, delta {self.delta}, unit {self.unit}, {self.neighbors}"


class CertificateRef(Part):
    """Where the signed certificate lies."""

    uri: Uri = Field(description="uri is where the certificate lies. Required.")
    digest: Digest = Field(description="digest is the SHA-256 of its bytes. Required.")


class StudyRef(Part):
    """Which Study generation made the artifact."""

    name: Name = Field(description="name is the Study's name. Required.")
    uid: ShortText = Field(description="uid is the Study's uid. Required.")
    generation: Annotated[int, Field(strict=True, ge=1, le=2**53)] = Field(
        description="generation is the Study's generation. Required."
    )


class Revocation(Part):
    """Why a release was taken back."""

    reason: Prose = Field(description="reason says why, for the record. Required.")


class ReleaseSpec(Part):
    """What is released."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            *(
                cel(
                    f"self.{name} == oldSelf.{name}",
                    f"{name} is immutable; a new result is a new Release",
                )
                for name in ("kind", "artifact", "certificate", "study", "claim")
            ),
            cel(
                "has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || "
                "self.endpoint == oldSelf.endpoint)",
                "endpoint is immutable; a new result is a new Release",
            ),
            cel(
                "!has(oldSelf.revocation) || (has(self.revocation) && self.revocation == "
                "oldSelf.revocation)",
                "revocation is final",
            ),
            cel(
                "has(self.endpoint) == (self.kind == 'Endpoint')",
                "endpoint must be given exactly when kind is Endpoint",
            ),
        )
    )

    kind: ReleaseKind = Field(description="kind is Endpoint or Dataset. Required; immutable.")
    artifact: Artifact = Field(description="artifact is what is released. Required; immutable.")
    certificate: CertificateRef = Field(
        description="certificate is the signed statement. Required; immutable.",
    )
    claim: Claim = Field(
        description="claim is what may be said about the artifact. Required; immutable.",
    )
    study: StudyRef = Field(
        description="study is the Study generation that made it. Required; immutable.",
    )
    endpoint: Name | None = Field(
        default=None,
        description=(
            "endpoint is the name it is served under. Optional; with kind Endpoint; immutable."
        ),
    )
    audit_schedule: Cron | None = Field(
        default=None,
        description="auditSchedule is when it is audited again, as cron in UTC. Optional, never.",
    )
    audit_policy: AuditPolicy | None = Field(
        default=None,
        description=(
            "auditPolicy is what begins audits besides, and how they run. Optional; its defaults "
            "where there is an auditSchedule, otherwise no audits."
        ),
    )
    revocation: Revocation | None = Field(
        default=None,
        description="revocation takes the release back for good. Optional, absent while it stands.",
    )

    @model_validator(mode="after")
    def _endpoint_of_the_kind(self) -> ReleaseSpec:
        if (self.endpoint is not None) != (self.kind is ReleaseKind.ENDPOINT):
            raise broken(
                "must have an endpoint exactly when kind is Endpoint", self.endpoint or "none"
            )
        return self


class ReleaseStatus(StandingStatus):
    """Whether it is served, and where."""

    url: ShortText | None = Field(default=None, description="url is where it is served. Optional.")
    certificate_digest: Digest | None = Field(
        default=None,
        description="certificateDigest is the digest of the certificate in force. Optional.",
    )
    last_audit: ShortText | None = Field(
        default=None, description="lastAudit is the name of the last AuditRun. Optional."
    )
    last_audit_causes: Annotated[list[ShortText], Field(max_length=5)] = Field(
        default_factory=list,
        description="lastAuditCauses are why it was made. Optional.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    next_audit: ShortText | None = Field(
        default=None,
        description="nextAudit is the next due time of the schedule, RFC 3339 in UTC. Optional.",
    )
    missed_audits: Annotated[int, Field(strict=True, ge=0, le=2**53)] | None = Field(
        default=None,
        description="missedAudits is how many due times were missed so far. Optional.",
    )
    last_missed_audit: ShortText | None = Field(
        default=None,
        description="lastMissedAudit is the last due time that was missed. Optional.",
    )


class Release(Resource):
    """Release is an artifact that is being served or published."""

    kind: Literal["Release"] = Field(default="Release", description="kind is Release. Required.")
    spec: ReleaseSpec = Field(description="spec is what is released. Required.")
