"""Builders for a Study that may be released; tests change one thing and see what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
import wisconsin

from primum import signing
from primum.domain.accounting.charges import Charge
from primum.domain.accounting.events import NoEvent, Repeated, SubsampledGaussian
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.budget.entries import (
    AccountTerms,
    AccountView,
    ReservationState,
    ReservationView,
)
from primum.domain.budget.rules import Rules
from primum.domain.canonical import canonical_json, digest_of_bytes
from primum.domain.governance.certificate import (
    BudgetExtract,
    CertificateFacts,
    certificate_statement,
)
from primum.domain.governance.claims import claim_of_plan
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.governance.facts import Settlement, gate_facts
from primum.domain.governance.gates import RuleVerdict, StageVerdict
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import Access, DatasetFacts, Plan, Treatment
from primum.domain.study.spec import AuditSpec, DataRole, DatasetSpec, StudyInput
from primum.domain.study.steps import ArtifactRef, Receipt, WorkRequest

EVENT = Repeated(SubsampledGaussian(Decimal("1.31"), Decimal("0.281")), 72)
ARTIFACT = b"the bytes of a model"


def make_study(**changes):
    audits = (
        AuditSpec("Membership", "OneRunCanary", {"canaries": 100}),
        AuditSpec("Reconstruction", "GradientInversion"),
    )
    return wisconsin.make_study(**{"job": {"model": "Logistic"}, "audits": audits, **changes})


def make_plan(**changes):
    plan = Plan(
        study_uid="study-1",
        generation=1,
        kind="Train",
        accesses=(
            Access("train@wisconsin", "job", "wisconsin", Treatment.CHARGED, EVENT, "Trained."),
            Access("validate@wisconsin", "validate", "wisconsin", Treatment.DISCLOSED),
            Access("evaluate@wisconsin", "evaluate", "wisconsin", Treatment.INSPECTED),
        ),
        epsilon=Decimal("2.998"),
        delta=Decimal("1e-5"),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        mechanism={
            "accountant": "RDP",
            "algorithm": "DPSGD",
            "reviewed": True,
            "noiseMultiplier": "1.31",
            "sampleRate": "0.281",
            "steps": 72,
        },
        parameters={},
        steps=("validate", "job", "evaluate", "audit"),
        max_certifiable=Decimal("3.5"),
    )
    return replace(plan, **changes)


def make_budget(**changes):
    dataset = DatasetSpec("sklearn://breast_cancer", PrivacyUnit.PATIENT, 569)
    return wisconsin.make_facts(**{"dataset": dataset, "train_units": 455, **changes})


def make_extract(*, spent="2.998", state=ReservationState.CHARGED, frozen="", facts=None):
    facts = facts or make_budget()
    terms = AccountTerms(
        facts.dataset.uri,
        "sha256:" + "d" * 64,
        facts.dataset.unit,
        facts.neighbors,
        facts.epsilon,
        facts.delta,
        "RDP",
        facts.units,
    )
    charge = Charge(())
    account = AccountView(
        facts.account_id,
        terms,
        Rules(),
        (),
        (),
        charge,
        Decimal(spent),
        Decimal(0),
        Decimal("5.002"),
        frozen,
        4,
    )
    held = ReservationView(
        "reservation-1",
        facts.account_id,
        "study-1",
        1,
        "oncology/malignancy",
        state,
        1,
        "",
        EVENT,
        charge,
        charge,
        EVENT,
    )
    return BudgetExtract(facts, account, held)


def make_receipt(**changes):
    receipt = Receipt(
        access="train@wisconsin",
        budget="wisconsin",
        event=EVENT,
        facts={
            "noiseMultiplier": "1.31",
            "sampleRate": "0.281",
            "steps": 72,
            "maxGradNorm": "1",
            "sampling": "Poisson",
            "clippedPer": "Patient",
            "generator": "operating system (os.urandom)",
        },
        token_id="token-1",
    )
    return replace(receipt, **changes)


def make_evidence(kind, name, verdict=Verdict.PASS, **changes):
    record = Evidence(
        kind=EvidenceKind(kind),
        name=name,
        study_uid="study-1",
        generation=1,
        subject="",
        verdict=verdict,
        public={},
        restricted={},
    )
    return replace(record, **changes)


def all_evidence():
    digest = digest_of_bytes(ARTIFACT)
    return (
        make_evidence("DataQuality", "wisconsin"),
        make_evidence("Utility", "HeldOut", None, public={"accuracy": "0.95"}, subject=digest),
        make_evidence("SelfTest", "DPSGD"),
        make_evidence(
            "Membership", "OneRunCanary", restricted={"lowerBound": "1.1"}, subject=digest
        ),
        make_evidence("Reconstruction", "GradientInversion", subject=digest),
    )


def make_facts(*, plan=None, reference=None, **changes):
    plan = plan or make_plan()
    digest = digest_of_bytes(ARTIFACT)
    reference = reference or ArtifactRef("Model", "file:///artifacts/model", digest)
    rule = RuleVerdict("claim-valid", "Release", "Deny", True, "")
    facts = CertificateFacts(
        study=make_study(),
        plan=plan,
        claim=claim_of_plan(plan, artifact="artifact of oncology/malignancy"),
        artifact=reference,
        budgets=(make_extract(),),
        receipts=(make_receipt(),),
        evidence=all_evidence(),
        verdicts=(StageVerdict("Release", "clinical-default", "sha256:p", (rule,), ("sha256:i",)),),
        ledger_head=(7, "ab" * 32),
        issued_at="2026-11-22T06:00:00.000000Z",
        issuer="key-1",
    )
    return replace(facts, **changes)


def make_certificate(private_pem, **changes):
    payload = canonical_json(certificate_statement(make_facts(**changes)))
    return signing.sign(private_pem, signing.CERTIFICATE_TYPE, payload)


def make_gate_facts(**changes):
    plan = changes.pop("plan", make_plan())
    given = {
        "study": make_study(),
        "plan": plan,
        "budgets": (make_budget(),),
        "evidence": all_evidence(),
        "claim": claim_of_plan(plan, artifact="artifact"),
        "settlement": (Settlement("wisconsin", "Charged", True, True),),
        "artifacts": (digest_of_bytes(ARTIFACT),),
    }
    return gate_facts(**{**given, **changes})


@pytest.fixture
def make():
    return SimpleNamespace(
        study=make_study,
        plan=make_plan,
        budget=make_budget,
        extract=make_extract,
        receipt=make_receipt,
        evidence=make_evidence,
        all_evidence=all_evidence,
        facts=make_facts,
        certificate=make_certificate,
        gate_facts=make_gate_facts,
        event=EVENT,
        no_event=NoEvent(),
        artifact=ARTIFACT,
    )


class JobBench:
    """Plans jobs on small image archives and runs their steps with real data tokens."""

    def __init__(self, folder):
        self.folder = folder
        self.private_key, self.public_key = signing.generate()

    def images(self, name, *, rows=240, seed=0, duplicates=0):
        """An archive of 8 x 8 images whose upper half is brighter in class 1; and its facts."""
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, 2, rows)
        values = generator.normal(90, 30, (rows, 8, 8))
        values[:, :4] += 90 * labels[:, None, None]
        images = np.clip(values, 0, 255).astype(np.uint8)
        images[:duplicates], labels[:duplicates] = images[0], labels[0]
        split = rows * 3 // 4
        np.savez(
            self.folder / f"{name}.npz",
            train_images=images[:split],
            train_labels=labels[:split, None],
            test_images=images[split:],
            test_labels=labels[split:, None],
        )
        return self.facts(
            name,
            f"npz://{name}.npz",
            unit=PrivacyUnit.IMAGE,
            units=rows,
            train_units=split,
            options={"duplicates": "Keep"},
        )

    def facts(self, budget, uri, *, unit, units, train_units, options=None, **changes):
        dataset = DatasetSpec(uri, unit, units, options or {})
        given = {
            "budget": budget,
            "account_id": f"account-{budget}",
            "dataset": dataset,
            "units": units,
            "train_units": train_units,
            "neighbors": Neighbors.ADD_OR_REMOVE_ONE,
            "accounting": "RDP",
            "epsilon": Decimal(8),
            "delta": Decimal("1e-4"),
            "disclosures": ("Utility",),
        }
        return DatasetFacts(**{**given, **changes})

    def study(self, kind, job, facts, *, epsilon="3.0", delta="1e-4", audits=(), releases=()):
        inputs = [StudyInput(DataRole.PRIVATE, budget=item.budget) for item in facts]
        inputs += [StudyInput(DataRole.SYNTHETIC, release=name) for name in releases]
        return make_study(
            job_kind=kind,
            job=job,
            inputs=tuple(inputs),
            epsilon=None if epsilon is None else Decimal(epsilon),
            delta=None if epsilon is None else Decimal(delta),
            audits=tuple(audits),
        )

    def context(self, facts, *, synthetic=()):
        return PlanningContext(
            {item.budget: item for item in facts},
            {item.release: item for item in synthetic},
            RdpAccountant(),
        )

    def request(self, plan, step, facts, *, job=None):
        """What a worker is given for a step; ``job`` is the job step's result."""
        by_name = {item.budget: item for item in facts}
        tokens = {
            access.name: self._token(plan, access, by_name[access.budget])
            for access in plan.accesses
            if access.step == step
        }
        datasets = {
            item.budget: {
                "uri": item.dataset.uri,
                "unit": item.dataset.unit.value,
                "units": item.units,
                "options": dict(item.dataset.options),
                "disclosures": list(item.disclosures),
            }
            for item in facts
        }
        context = {
            "step": step,
            "study": {
                "namespace": "oncology",
                "name": "malignancy",
                "uid": plan.study_uid,
                "generation": plan.generation,
                "kind": plan.kind,
            },
            "plan": plan.to_json(),
            "datasets": datasets,
            "synthetic": {},
            "expectations": [],
            "audits": [],
        }
        artifacts = [] if job is None else [dict(item) for item in job.artifacts]
        return WorkRequest(
            context=json.loads(canonical_json(context)),
            tokens=tokens,
            public_key=self.public_key,
            artifacts_uri=str(self.folder / "artifacts"),
            data_dirs=(str(self.folder),),
            inputs={"job": {"artifacts": artifacts}},
        )

    def _token(self, plan, access, facts):
        claims = {
            "id": f"token-{access.name}",
            "access": access.name,
            "budget": access.budget,
            "accountId": f"account-{access.budget}",
            "uri": facts.dataset.uri,
            "unit": facts.dataset.unit.value,
            "options": dict(facts.dataset.options),
            "studyUid": plan.study_uid,
            "generation": plan.generation,
            "reservationId": "r-1",
            "fence": 1,
            "expires": "2999-01-01T00:00:00+00:00",
        }
        payload = canonical_json(claims)
        envelope = signing.sign(self.private_key, signing.DATA_TOKEN_TYPE, payload)
        return signing.encode_token(envelope)


@pytest.fixture
def bench(tmp_path):
    return JobBench(tmp_path)
