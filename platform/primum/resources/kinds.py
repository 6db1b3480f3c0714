"""The five kinds by name: the model of each and of its status. The only list of kinds there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from primum.resources.audits import AuditRun, AuditRunSpec, AuditRunStatus
from primum.resources.budget import PrivacyBudget, PrivacyBudgetSpec, PrivacyBudgetStatus
from primum.resources.conditions import StatusModel
from primum.resources.fields import Part
from primum.resources.policy import GatePolicy, GatePolicySpec, GatePolicyStatus
from primum.resources.release import Release, ReleaseSpec, ReleaseStatus
from primum.resources.study import Study, StudySpec, StudyStatus

AnyResource: TypeAlias = PrivacyBudget | Study | GatePolicy | Release | AuditRun


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: its names and its models.

    Args:
        name: The kind, as in YAML.
        plural: As in URLs.
        short: As people type it.
        summary: The condition that sums it up: ``Ready`` (standing) or ``Succeeded`` (bounded).
        resource: The model of the whole resource.
        spec: The model of its spec.
        status: The model of its status.
    """

    name: str
    plural: str
    short: str
    summary: str
    resource: type[AnyResource]
    spec: type[Part]
    status: type[StatusModel]


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "PrivacyBudget",
            "privacybudgets",
            "pb",
            "Ready",
            PrivacyBudget,
            PrivacyBudgetSpec,
            PrivacyBudgetStatus,
        ),
        Kind("Study", "studies", "st", "Succeeded", Study, StudySpec, StudyStatus),
        Kind(
            "GatePolicy",
            "gatepolicies",
            "gp",
            "Ready",
            GatePolicy,
            GatePolicySpec,
            GatePolicyStatus,
        ),
        Kind("Release", "releases", "rel", "Ready", Release, ReleaseSpec, ReleaseStatus),
        Kind("AuditRun", "auditruns", "ar", "Succeeded", AuditRun, AuditRunSpec, AuditRunStatus),
    )
}
