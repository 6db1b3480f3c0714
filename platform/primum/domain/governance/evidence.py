"""Evidence: typed, digested results that gates may look at and certificates may cite.

A record has two sides. ``public`` may leave the steward's zone: verdicts, formal bounds of a plan,
and numbers that the budget's disclosures allow. ``restricted`` is everything else: readable by
role, never in status, events, logs, lineage, metrics or a certificate. Lineage carries digests and
verdicts only.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from primum.domain.canonical import JSON, digest_of

REFUSED = "refused"
"""On the public side of an audit's record: for which reason it was not begun."""


class EvidenceKind(enum.StrEnum):
    """What kind of result it is."""

    DATA_QUALITY = "DataQuality"
    TRAINING = "Training"
    UTILITY = "Utility"
    FAIRNESS = "Fairness"
    CALIBRATION = "Calibration"
    MULTIPLICITY = "Multiplicity"
    SAMPLES = "Samples"
    SAMPLE_FILTER = "SampleFilter"
    SELF_TEST = "SelfTest"
    MEMBERSHIP = "Membership"
    RECONSTRUCTION = "Reconstruction"
    RISK_CORRIDOR = "RiskCorridor"
    REGISTRATION = "Registration"


class Verdict(enum.StrEnum):
    """What a check came to. Inconclusive is not a pass."""

    PASS = "Pass"  # noqa: S105 - a verdict, not a password
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One result about one subject.

    Args:
        kind: What kind of result.
        name: Which one of its kind, e.g. the attack's name.
        study_uid: The Study that produced it.
        generation: The Study's generation.
        subject: Digest of the artifact it speaks about, or empty for the data.
        verdict: The check's verdict, or ``None`` where there is nothing to judge.
        public: What may leave the zone. Decimal strings, integers, strings; no floats.
        restricted: What may not.
        version: The record's schema version.
    """

    kind: EvidenceKind
    name: str
    study_uid: str
    generation: int
    subject: str
    verdict: Verdict | None
    public: Mapping[str, JSON]
    restricted: Mapping[str, JSON]
    version: int = 1

    def to_json(self) -> dict[str, JSON]:
        """The canonical form that the digest is taken of."""
        return {
            "kind": self.kind.value,
            "name": self.name,
            "studyUid": self.study_uid,
            "generation": self.generation,
            "subject": self.subject,
            "verdict": self.verdict.value if self.verdict else None,
            "public": dict(self.public),
            "restricted": dict(self.restricted),
            "version": self.version,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return digest_of(self.to_json())


def evidence_from_json(value: Mapping[str, JSON]) -> Evidence:
    """Read a record back from its canonical form."""
    verdict = value["verdict"]
    return Evidence(
        kind=EvidenceKind(str(value["kind"])),
        name=str(value["name"]),
        study_uid=str(value["studyUid"]),
        generation=int(str(value["generation"])),
        subject=str(value["subject"]),
        verdict=Verdict(str(verdict)) if verdict else None,
        public=_mapping(value["public"]),
        restricted=_mapping(value["restricted"]),
        version=int(str(value["version"])),
    )


def _mapping(value: JSON) -> Mapping[str, JSON]:
    if not isinstance(value, Mapping):
        raise TypeError("evidence sides are mappings")
    return dict(value)
