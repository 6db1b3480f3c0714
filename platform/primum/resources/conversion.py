"""Checked resources to what the domain reads, and stored resources back to documents.

No decision, no I/O.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, TypeVar

from pydantic import ValidationError

from primum.domain.budget.layout import BlockSelection
from primum.domain.canonical import JSON
from primum.domain.study import spec as domain
from primum.domain.study.jobs import SyntheticFacts
from primum.resources.audits import AuditRunSpec
from primum.resources.budget import PrivacyBudgetSpec
from primum.resources.fields import Part
from primum.resources.kinds import AnyResource
from primum.resources.policy import GatePolicySpec
from primum.resources.release import ReleaseSpec
from primum.resources.sharing import sharing_rules
from primum.resources.stored import StoredResource
from primum.resources.study import StudyData, StudySpec
from primum.resources.transitions import check_transition
from primum.resources.wording import first_problem

PartType = TypeVar("PartType", bound=Part)

__all__ = [
    "audit_run_spec",
    "budget_spec",
    "check_transition",
    "gate_policy_spec",
    "release_spec",
    "spec_mapping",
    "study_spec",
    "synthetic_facts",
    "wire_form",
]


def spec_mapping(resource: AnyResource) -> dict[str, JSON]:
    """The spec as it is stored: camelCase, decimals as written, defaults in, absent options out."""
    return wire_form(resource.spec)


def wire_form(part: Part) -> dict[str, Any]:
    """Any part of a resource in wire form."""
    dumped: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def budget_spec(stored: StoredResource) -> domain.BudgetSpec:
    """What the domain reads of a stored PrivacyBudget.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    spec = _checked(PrivacyBudgetSpec, stored)
    return domain.BudgetSpec(
        key=stored.key,
        uid=stored.uid,
        generation=stored.generation,
        dataset=domain.DatasetSpec(
            uri=spec.dataset.uri,
            unit=spec.dataset.unit,
            units=spec.dataset.units,
            options=spec.dataset.options.settings() if spec.dataset.options else {},
            layout=spec.blocks.layout() if spec.blocks else None,
        ),
        epsilon=Decimal(spec.guarantee.epsilon),
        delta=Decimal(spec.guarantee.delta),
        neighbors=spec.neighbors,
        accounting=spec.accounting.policy.value,
        disclosures=tuple(spec.disclosures),
        rules=sharing_rules(spec.unlocking, spec.scheduling, spec.quotas or ()),
    )


def study_spec(stored: StoredResource) -> domain.StudySpec:
    """What the domain reads of a stored Study.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    spec = _checked(StudySpec, stored)
    privacy, release = spec.privacy, spec.release
    return domain.StudySpec(
        key=stored.key,
        uid=stored.uid,
        generation=stored.generation,
        purpose=spec.purpose,
        inputs=tuple(_input(item) for item in spec.data),
        epsilon=Decimal(privacy.epsilon) if privacy else None,
        delta=Decimal(privacy.delta) if privacy else None,
        job_kind=spec.job.kind,
        job=spec.job.block(),
        workers=spec.job.resources.workers,
        gpus_per_worker=spec.job.resources.gpus_per_worker,
        workers_per_gpu=spec.job.resources.workers_per_gpu or 1,
        cpus_per_worker=spec.job.resources.cpus_per_worker or 0,
        expectations=tuple(wire_form(item) for item in spec.expectations),
        audits=tuple(
            domain.AuditSpec(item.kind.value, item.attack, item.settings()) for item in spec.audits
        ),
        policy=spec.policy,
        endpoint=(release.endpoint or "") if release else "",
        dataset_release=(release.dataset or "") if release else "",
        audit_schedule=(release.audit_schedule or "") if release else "",
        audit_policy=wire_form(release.audit_policy) if release and release.audit_policy else {},
    )


def _input(item: StudyData) -> domain.StudyInput:
    return domain.StudyInput(
        role=item.role,
        budget=item.budget or "",
        release=item.release or "",
        uri=item.uri or "",
        options=item.options.settings() if item.options else {},
        blocks=item.blocks.selection() if item.blocks else BlockSelection(),
    )


def gate_policy_spec(stored: StoredResource) -> GatePolicySpec:
    """The checked spec of a stored GatePolicy.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    return _checked(GatePolicySpec, stored)


def release_spec(stored: StoredResource) -> ReleaseSpec:
    """The checked spec of a stored Release.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    return _checked(ReleaseSpec, stored)


def audit_run_spec(stored: StoredResource) -> AuditRunSpec:
    """The checked spec of a stored AuditRun.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    return _checked(AuditRunSpec, stored)


def synthetic_facts(stored: StoredResource) -> SyntheticFacts:
    """What a plan may know about the data of a stored Release.

    Raises:
        InvalidValue: If the stored spec breaks a rule.
    """
    spec = _checked(ReleaseSpec, stored)
    return SyntheticFacts(
        release=stored.key.name,
        uri=spec.artifact.uri,
        claim=spec.claim.text(),
        digest=spec.artifact.digest,
        void_edges=tuple(spec.claim.void_edges),
    )


def _checked(model: type[PartType], stored: StoredResource) -> PartType:
    try:
        return model.model_validate(stored.spec, by_alias=True, by_name=False)
    except ValidationError as error:
        raise first_problem(error, model, about=str(stored.key), within="spec") from None
