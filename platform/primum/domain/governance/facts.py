"""Gate facts: what rules may look at, as one JSON object made from recorded values only.

Pure. Nothing is invented here: a fact that does not exist is a missing key, so that a rule over it
fails closed. Restricted evidence may be looked at by rules (they run in the steward's zone); it
must not be copied into a verdict, a message or a status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.governance.claims import Claim
from primum.domain.governance.evidence import Evidence
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec

EVIDENCE_MAX = 256  # Records of one Study generation; far above steps times audits.
_LIFTED = ("accountant", "noiseMultiplier", "steps", "sampleRate", "algorithm", "reviewed", "model")


@dataclass(frozen=True, slots=True)
class Settlement:
    """How one reservation of a Study was resolved.

    Args:
        budget: The budget's name.
        state: The reservation's state.
        by_receipt: Whether a trusted receipt showed what happened; otherwise it was charged in
            full.
        within_plan: Whether what happened is covered by what was reserved.
    """

    budget: str
    state: str
    by_receipt: bool
    within_plan: bool

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "budget": self.budget,
            "state": self.state,
            "byReceipt": self.by_receipt,
            "withinPlan": self.within_plan,
        }


def gate_facts(
    *,
    study: StudySpec,
    plan: Plan | None = None,
    budgets: Sequence[DatasetFacts] = (),
    evidence: Sequence[Evidence] = (),
    claim: Claim | None = None,
    settlement: Sequence[Settlement] | None = None,
    policy: Mapping[str, JSON] | None = None,
    artifacts: Sequence[str] = (),
) -> dict[str, JSON]:
    """The facts of one Study generation.

    Evidence of another Study or generation, and evidence about an artifact that is not among those
    to
    be released, is stale and left out.

    Args:
        study: What was asked for.
        plan: What was declared, once it was.
        budgets: Facts of each private dataset.
        evidence: Every record of the Study generation.
        claim: The composed claim.
        settlement: One per reservation, once they are resolved.
        policy: ``allowedPlugins``; an engine puts the resolved policy's own in its place.
        artifacts: Digests of what would be released.

    Returns:
        ``study``, ``plan``, ``budgets``, ``evidence``, ``claim``, ``settlement``, ``policy``,
        ``release``;
        a part that is not known yet is absent. Numbers are decimal strings and integers.
    """
    facts: dict[str, JSON] = {
        "study": _study(study, plan),
        "budgets": [_budget(item) for item in budgets],
        "evidence": _evidence(study, evidence, artifacts),
        "policy": dict(policy or {"allowedPlugins": []}),
        "release": {"artifacts": list(artifacts)},
    }
    if plan is not None:
        facts["plan"] = _plan(plan)
    if claim is not None:
        facts["claim"] = {"status": claim.status.value, "edges": list(claim.void_edges)}
    if settlement is not None:
        resolved = {item.budget for item in settlement}
        private = {item.budget for item in study.inputs if item.role is DataRole.PRIVATE}
        facts["settlement"] = {
            "complete": private <= resolved and len(resolved) == len(settlement),
            "budgets": [item.to_json() for item in settlement],
        }
    return facts


def _study(study: StudySpec, plan: Plan | None) -> dict[str, JSON]:
    facts: dict[str, JSON] = {
        "name": study.key.name,
        "namespace": study.key.namespace,
        "purpose": study.purpose,
        "kind": study.job_kind,
        "generation": study.generation,
        "endpoint": study.endpoint,
        "datasetRelease": study.dataset_release,
        "expectations": len(study.expectations),
        "audits": [{"kind": item.kind, "attack": item.attack} for item in study.audits],
        "roles": [item.role.value for item in study.inputs],
    }
    if study.epsilon is not None:
        facts["epsilon"] = str(study.epsilon)
    if study.delta is not None:
        facts["delta"] = str(study.delta)
    if plan is not None:
        facts["unit"] = plan.unit.value
    return facts


def _plan(plan: Plan) -> dict[str, JSON]:
    facts: dict[str, JSON] = {
        "epsilon": str(plan.epsilon),
        "delta": str(plan.delta),
        "kind": plan.kind,
        "unit": plan.unit.value,
        "neighbors": plan.neighbors.value,
        "maxCertifiable": None if plan.max_certifiable is None else str(plan.max_certifiable),
        "voidEdges": list(plan.void_edges),
        "treatments": [access.treatment.value for access in plan.accesses],
        "mechanism": dict(plan.mechanism),
    }
    return facts | {name: plan.mechanism[name] for name in _LIFTED if name in plan.mechanism}


def _budget(facts: DatasetFacts) -> dict[str, JSON]:
    return {
        "name": facts.budget,
        "unit": facts.dataset.unit.value,
        "units": facts.units,
        "neighbors": facts.neighbors.value,
        "accounting": facts.accounting,
        "epsilon": str(facts.epsilon),
        "delta": str(facts.delta),
        "disclosures": list(facts.disclosures),
    }


def _evidence(
    study: StudySpec, records: Sequence[Evidence], artifacts: Sequence[str]
) -> dict[str, JSON]:
    by_kind: dict[str, list[JSON]] = {}
    for record in records:
        current = (record.study_uid, record.generation) == (study.uid, study.generation)
        about = not record.subject or not artifacts or record.subject in artifacts
        if current and about:
            by_kind.setdefault(record.kind.value, []).append(
                {
                    "name": record.name,
                    "verdict": record.verdict.value if record.verdict else "",
                    "subject": record.subject,
                    "public": dict(record.public),
                    "restricted": dict(record.restricted),
                    "digest": record.digest,
                }
            )
    return dict(by_kind)
