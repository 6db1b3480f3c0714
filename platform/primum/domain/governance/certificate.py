"""The certificate: what is promised about one released artifact, and when not to promise it.

Pure: builds the statement from recorded facts and says why it must not be issued. It is refused
rather than weakened. Signing, storing and the clock are others' work; see ``primum.verification``
for reading a signed one offline. Nothing Restricted may enter: of evidence only kind, name,
verdict, digest and the public side of disclosed kinds are cited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.accounting.events import (
    LibraryEvent,
    NoEvent,
    SubsampledGaussian,
    covers,
    describe,
    flatten,
    samplings,
    worst_case,
)
from primum.domain.accounting.selection import runs_in_view
from primum.domain.budget.entries import AccountView, ReservationState, ReservationView
from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import Refused
from primum.domain.governance import statements, unprotected
from primum.domain.governance.claims import Claim, ClaimStatus
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.governance.gates import GateStage, StageVerdict
from primum.domain.quantities import Disclosure
from primum.domain.study.plan import Access, DatasetFacts, Plan, Treatment
from primum.domain.study.spec import StudySpec
from primum.domain.study.steps import ArtifactRef, Receipt

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://primum.dev/certificate/v1"
VERSION = 1
VOID_PREFIX = "void-"  # A release without a claim says so in its own name.

_JUDGED = (
    EvidenceKind.DATA_QUALITY,
    EvidenceKind.SELF_TEST,
    EvidenceKind.MEMBERSHIP,
    EvidenceKind.RECONSTRUCTION,
)
_DISCLOSED_KINDS = {
    EvidenceKind.UTILITY: Disclosure.UTILITY,
    EvidenceKind.SAMPLES: Disclosure.UTILITY,
    EvidenceKind.CALIBRATION: Disclosure.CALIBRATION,
    EvidenceKind.FAIRNESS: Disclosure.FAIRNESS,
}
_AUDIT_KINDS = (EvidenceKind.MEMBERSHIP, EvidenceKind.RECONSTRUCTION)
_LOWER_BOUNDS = ("epsilonLower", "epsLower", "lowerBound")


@dataclass(frozen=True, slots=True)
class BudgetExtract:
    """What the ledger says about one budget at the moment of issuing."""

    facts: DatasetFacts
    account: AccountView
    reservation: ReservationView


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Everything a certificate is made from.

    Args:
        study: What was asked for.
        plan: What was declared.
        claim: What the lineage allows to be said.
        artifact: What is released.
        budgets: One per private dataset.
        receipts: What the mechanisms did.
        evidence: Every record of the Study generation.
        verdicts: The gates' verdicts; the Release stage among them.
        ledger_head: Sequence number and hash of the ledger's last entry.
        issued_at: RFC 3339 time in UTC.
        issuer: Key id of the signing key.
    """

    study: StudySpec
    plan: Plan
    claim: Claim
    artifact: ArtifactRef
    budgets: tuple[BudgetExtract, ...]
    receipts: tuple[Receipt, ...]
    evidence: tuple[Evidence, ...]
    verdicts: tuple[StageVerdict, ...]
    ledger_head: tuple[int, str]
    issued_at: str
    issuer: str


def explicitly_void(study: StudySpec) -> bool:
    """Whether the Study itself says, in the release's name, that its dataset carries no claim."""
    return bool(study.dataset_release) and study.dataset_release.startswith(VOID_PREFIX)


def refusals(facts: CertificateFacts) -> list[str]:
    """Why the certificate must not be issued, in a fixed order; nothing where it may be.

    A claim that is Void is refused, unless the Study releases a dataset under a name that says so;
    such a certificate then claims nothing.
    """
    found = [*_gate_refusals(facts), *_evidence_refusals(facts)]
    if facts.claim.status is ClaimStatus.VOID:
        return found if explicitly_void(facts.study) else [facts.claim.text, *found]
    return [*_claim_refusals(facts), *_mechanism_refusals(facts), *_ledger_refusals(facts), *found]


def certificate_statement(facts: CertificateFacts) -> dict[str, JSON]:
    """The statement to sign, in in-toto form: subject, predicate type, predicate.

    Raises:
        Refused: If it must not be issued; the message lists every reason.
    """
    reasons = refusals(facts)
    if reasons:
        raise Refused("certificate must not be issued: " + " ".join(reasons))
    study, plan = facts.study, facts.plan
    predicate: dict[str, JSON] = {
        "version": VERSION,
        "issuedAt": facts.issued_at,
        "issuer": facts.issuer,
        "study": {
            "namespace": study.key.namespace,
            "name": study.key.name,
            "uid": study.uid,
            "generation": study.generation,
            "purpose": study.purpose,
            "kind": study.job_kind,
        },
        "release": _release(study),
        "artifact": {"kind": facts.artifact.kind, "digest": facts.artifact.digest},
        "claim": _claim(facts),
        "coveredAccesses": [_covered(access) for access in plan.accesses],
        "mechanisms": [
            _mechanism(receipt)
            for receipt in facts.receipts
            if not isinstance(receipt.event, NoEvent)
        ],
        "releaseModel": unprotected.release_model(study, plan, artifact_kind=facts.artifact.kind),
        "otherInputs": unprotected.other_inputs(study, plan),
        "unprotectedQuantities": unprotected.unprotected_quantities(
            [item.facts for item in facts.budgets]
        ),
        "ledger": {"seq": facts.ledger_head[0], "hash": facts.ledger_head[1]},
        "budgets": [_budget(item) for item in facts.budgets],
        "evidence": [_cited(item) for item in facts.evidence],
        "gates": [_gate(verdict) for verdict in facts.verdicts],
        "planDigest": plan.digest,
        "statements": _statements(facts),
    }
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {
                "name": f"{study.key.namespace}/{study.key.name}",
                "digest": {"sha256": facts.artifact.digest.removeprefix("sha256:")},
            }
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }


def _covered(access: Access) -> dict[str, JSON]:
    return {
        "access": access.name,
        "step": access.step,
        "budget": access.budget,
        "treatment": access.treatment.value,
        "event": access.event.to_json(),
        "why": access.why,
    }


def _gate(verdict: StageVerdict) -> dict[str, JSON]:
    return {
        "stage": verdict.stage,
        "policy": verdict.policy,
        "policyDigest": verdict.policy_digest,
        "summary": verdict.summary,
        "digest": verdict.digest,
    }


def _gate_refusals(facts: CertificateFacts) -> list[str]:
    found = [
        f"Gates of stage {verdict.stage} did not pass."
        for verdict in facts.verdicts
        if not verdict.passed
    ]
    if not any(verdict.stage == GateStage.RELEASE and verdict.rules for verdict in facts.verdicts):
        found.append("No gate of stage Release was asked.")
    return found


def _evidence_refusals(facts: CertificateFacts) -> list[str]:
    found = []
    current = (facts.study.uid, facts.study.generation)
    claimed = facts.claim.status is ClaimStatus.VALID
    judged = _JUDGED if claimed else (EvidenceKind.DATA_QUALITY,)
    for item in facts.evidence:
        what = f"{item.kind.value} {item.name}"
        if (item.study_uid, item.generation) != current:
            found.append(f"Evidence {what} belongs to another Study or generation.")
        if item.kind in judged and item.verdict is Verdict.FAIL:
            found.append(f"Evidence {what} failed.")
        bounds = [item.restricted.get(name, item.public.get(name)) for name in _LOWER_BOUNDS]
        attacked = claimed and item.kind is EvidenceKind.MEMBERSHIP
        if attacked and any(_above(bound, facts.plan.epsilon) for bound in bounds):
            found.append(f"Audit {what} found a lower bound on epsilon above the claim.")
    return found


def _claim_refusals(facts: CertificateFacts) -> list[str]:
    plan, found = facts.plan, []
    if plan.void_edges:
        found.append("The plan names edges that void the claim.")
    found += [
        f"Access {access.name} is not accounted."
        for access in plan.accesses
        if access.treatment is Treatment.UNCHARGED
    ]
    if not any(access.treatment is Treatment.CHARGED for access in plan.accesses):
        found.append("No access is charged, so there is no mechanism to speak of.")
    for item in facts.budgets:
        if plan.delta * item.facts.units >= 1:
            found.append(
                f"Delta must be below 1/{item.facts.units} for budget {item.facts.budget}."
            )
        if item.facts.dataset.unit is not plan.unit or item.facts.neighbors is not plan.neighbors:
            found.append(
                f"Budget {item.facts.budget} has another unit or neighbors than the claim."
            )
    touched = {access.budget for access in plan.accesses}
    found += [
        f"Budget {name} has no ledger extract."
        for name in sorted(touched - {item.facts.budget for item in facts.budgets})
    ]
    return found


def _mechanism_refusals(facts: CertificateFacts) -> list[str]:
    declared = {(access.name, access.budget): access for access in facts.plan.accesses}
    planned = {
        key: access for key, access in declared.items() if access.treatment is Treatment.CHARGED
    }
    found, answered = [], set()
    for receipt in facts.receipts:
        key = (receipt.access, receipt.budget)
        where = f"access {receipt.access}"
        if key in declared and key not in planned and isinstance(receipt.event, NoEvent):
            continue  # It says that no mechanism ran, which is what the plan says too.
        if key not in planned:
            found.append(f"A mechanism ran under {where}, which the plan does not charge.")
            continue
        if key in answered:
            found.append(f"There is more than one receipt for {where}: steps are unexplained.")
        answered.add(key)
        if not receipt.token_id:
            found.append(f"The receipt of {where} names no data token.")
        if not covers(planned[key].event, receipt.event):
            found.append(f"What {where} did is not covered by what was planned.")
        found += _fact_refusals(receipt, unit=facts.plan.unit.value)
    found += [
        f"Access {name} has no receipt of what happened."
        for name, budget in planned
        if (name, budget) not in answered
    ]
    return found


def _fact_refusals(receipt: Receipt, *, unit: str) -> list[str]:
    found = []
    # Neither filters nor selections change how a step was sampled.
    ran = flatten(runs_in_view(worst_case(receipt.event)))
    wanted = {how for leaf, _ in ran if isinstance(leaf, LibraryEvent) for how in samplings(leaf)}
    by_rate = any(isinstance(leaf, SubsampledGaussian) for leaf, _ in ran)
    said = str(receipt.facts.get("sampling") or "no statement")[:40]
    for how in sorted(wanted | {"Poisson"} if by_rate else wanted):
        if how != said:
            found.append(
                f"Accounting of access {receipt.access} assumed {how} sampling; found {said}."
            )
    if by_rate:
        bound = _decimal(receipt.facts.get("maxGradNorm"))
        if bound is None or bound <= 0:
            found.append(f"Access {receipt.access} reports no clipping bound.")
        clipped_per = str(receipt.facts.get("clippedPer", "nothing stated"))
        if clipped_per != unit:
            found.append(f"Access {receipt.access} clipped per {clipped_per[:40]}, not per {unit}.")
    return found


def _ledger_refusals(facts: CertificateFacts) -> list[str]:
    found = []
    for item in facts.budgets:
        name = item.facts.budget
        if item.reservation.state is not ReservationState.CHARGED:
            found.append(f"The reservation on budget {name} is not settled.")
        if item.account.frozen:
            found.append(f"Budget {name} is frozen.")
        if item.account.epsilon_spent > item.account.terms.epsilon:
            found.append(f"Budget {name} is overspent.")
        if item.facts.blocks and set(item.facts.blocks) != set(item.reservation.blocks):
            found.append(f"Budget {name} was charged for other blocks than were read.")
    return found


def _claim(facts: CertificateFacts) -> dict[str, JSON]:
    plan, claim = facts.plan, facts.claim
    if claim.status is ClaimStatus.VOID:
        return {"status": claim.status.value, "voidEdges": list(claim.void_edges)}
    return {
        "status": claim.status.value,
        "variant": "Approximate DP",
        "unit": plan.unit.value,
        "neighbors": plan.neighbors.value,
        "label": statements.strength_label(plan.epsilon),
        "parameters": [
            {"scope": "ThisRelease", "epsilon": str(plan.epsilon), "delta": str(plan.delta)},
            *(
                {
                    "scope": "CumulativeForDataset",
                    "budget": item.facts.budget,
                    "epsilon": str(item.account.epsilon_spent),
                    "delta": str(item.account.terms.delta),
                    "guaranteeEpsilon": str(item.account.terms.epsilon),
                    "guaranteeDelta": str(item.account.terms.delta),
                }
                for item in facts.budgets
            ),
        ],
        "accountant": str(plan.mechanism.get("accountant", "")),
    }


def _release(study: StudySpec) -> dict[str, JSON]:
    if study.endpoint:
        return {"kind": "Endpoint", "name": study.endpoint}
    return {"kind": "Dataset", "name": study.dataset_release or study.key.name}


def _mechanism(receipt: Receipt) -> dict[str, JSON]:
    return {
        "access": receipt.access,
        "budget": receipt.budget,
        "event": receipt.event.to_json(),
        "text": describe(receipt.event),
        "facts": dict(receipt.facts),
        "samplingVerified": receipt.facts.get("sampling") == "Poisson",
    }


def _budget(item: BudgetExtract) -> dict[str, JSON]:
    return {
        "budget": item.facts.budget,
        "accountId": item.account.account_id,
        "datasetDigest": item.account.terms.dataset_digest,
        "unit": item.account.terms.unit.value,
        "accounting": item.account.terms.policy,
        "reservationId": item.reservation.reservation_id,
        "state": item.reservation.state.value,
        "event": item.reservation.event.to_json(),
        "executed": item.reservation.executed.to_json() if item.reservation.executed else None,
        **({"blocks": list(item.facts.blocks)} if item.facts.blocks else {}),
    }


def _cited(item: Evidence) -> dict[str, JSON]:
    return {
        "kind": item.kind.value,
        "name": item.name,
        "verdict": item.verdict.value if item.verdict else None,
        "digest": item.digest,
    }


def _statements(facts: CertificateFacts) -> dict[str, JSON]:
    plan, seq = facts.plan, facts.ledger_head[0]
    audits = sum(item.kind in _AUDIT_KINDS for item in facts.evidence)
    aggregation = str(plan.mechanism.get("secureAggregation", ""))
    if facts.claim.status is ClaimStatus.VOID:
        void = facts.claim.text
        lines = statements.four_lines(
            kind=facts.study.job_kind,
            guarantee=void,
            secure_aggregation=aggregation,
            ledger_seq=seq,
            audits=audits,
        )
        return {"guarantee": void, "patient": _VOID_PATIENT, "lines": dict(lines)}
    guarantee = statements.guarantee_statement(
        epsilon=plan.epsilon, delta=plan.delta, unit=plan.unit, neighbors=plan.neighbors
    )
    lines = statements.four_lines(
        kind=facts.study.job_kind,
        guarantee=guarantee,
        secure_aggregation=aggregation,
        ledger_seq=seq,
        audits=audits,
    )
    generators = [
        str(receipt.facts["generator"])
        for receipt in facts.receipts
        if "generator" in receipt.facts
    ]
    found: dict[str, JSON] = {
        "guarantee": guarantee,
        "unit": statements.unit_statement(plan.unit, plan.epsilon, plan.delta),
        "patient": statements.patient_statement(
            epsilon=plan.epsilon, delta=plan.delta, unit=plan.unit
        ),
        "generator": statements.generator_statement(generators),
        "lines": dict(lines),
    }
    covered = plan.mechanism.get("claimCovers")
    if covered:
        found["covers"] = str(covered)
    large = statements.large_epsilon_statement(plan.epsilon)
    if large:
        found["largeEpsilon"] = large
    disclosed = _disclosed(facts)
    if disclosed:
        found["disclosed"] = disclosed
    return found


_VOID_PATIENT = (
    "There is no promise about what can be learned about you from this dataset. Information left "
    "the data "
    "it was made from without protection."
)


def _disclosed(facts: CertificateFacts) -> list[JSON]:
    """Public figures of disclosed kinds, only where every budget's disclosures allow them."""
    allowed = [set(item.facts.disclosures) for item in facts.budgets]
    return [
        {"kind": item.kind.value, "name": item.name, "figures": dict(item.public)}
        for item in facts.evidence
        if item.kind in _DISCLOSED_KINDS
        and allowed
        and all(_DISCLOSED_KINDS[item.kind].value in each for each in allowed)
    ]


def _decimal(value: object) -> Decimal | None:
    try:
        number = Decimal(str(value)) if isinstance(value, str | int | Decimal) else None
    except ArithmeticError:
        return None
    return number if number is not None and number.is_finite() else None


def _above(value: object, claim: Decimal) -> bool:
    number = _decimal(value)
    return number is not None and number > claim


def certificate_digest(envelope: Mapping[str, JSON]) -> str:
    """The digest by which a signed certificate is cited and revoked: of its whole envelope."""
    return digest_of(envelope)
