"""A small Study, planned and trained by the real parts, ready to be audited."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import wisconsin

from primum import signing
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.canonical import canonical_json
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import AuditSpec, DatasetSpec
from primum.domain.study.steps import WorkRequest
from primum_pipelines.kinds.train.kind import TrainKind

URI = "sklearn://breast_cancer"
CANARIES = AuditSpec("Membership", "OneRunCanary", {"canaries": 100})
INVERSION = AuditSpec("Reconstruction", "GradientInversion", {})
LIRA = AuditSpec("Membership", "LiRA", {"shadows": 16})


def make_plan(
    *,
    audits: Sequence[AuditSpec] = (CANARIES, INVERSION),
    epochs: int = 20,
    epsilon: str = "3.0",
    algorithm: str = "DPSGD",
) -> Plan:
    """A Train plan on the bundled data."""
    study = wisconsin.make_study(
        uid="uid-1",
        epsilon=Decimal(epsilon),
        job={**wisconsin.JOB, "epochs": epochs, "algorithm": algorithm},
        audits=tuple(audits),
        endpoint="",
    )
    return TrainKind().declare(study, planning_context())


def planning_context() -> PlanningContext:
    facts = DatasetFacts(
        budget="wisconsin",
        account_id="account",
        dataset=DatasetSpec(uri=URI, unit=PrivacyUnit.PATIENT, units=569),
        units=569,
        train_units=455,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        accounting="RDP",
        epsilon=Decimal(8),
        delta=Decimal("1e-5"),
        disclosures=("Utility",),
    )
    return PlanningContext(datasets={"wisconsin": facts}, synthetic={}, accountant=RdpAccountant())


class Zone:
    """Runs steps the way the runtime does: signed tokens in, one WorkResult out."""

    def __init__(self, folder: str) -> None:
        self.private, self.public = signing.generate()
        self.folder = folder

    def request(
        self, plan: Plan, step: str, audits: Sequence[AuditSpec] = (), inputs: dict | None = None
    ) -> WorkRequest:
        return WorkRequest(
            context={
                "step": step,
                "outcomeId": f"outcome-{step}",
                "entry": "",
                "study": {
                    "namespace": "oncology",
                    "name": "malignancy",
                    "uid": plan.study_uid,
                    "generation": plan.generation,
                    "kind": plan.kind,
                },
                "plan": json.loads(canonical_json(plan.to_json())),
                "datasets": {
                    "wisconsin": {
                        "uri": URI,
                        "unit": "Patient",
                        "units": 569,
                        "options": {},
                        "disclosures": ["Utility"],
                    }
                },
                "synthetic": {},
                "expectations": [],
                "audits": [
                    {"kind": a.kind, "attack": a.attack, "parameters": dict(a.parameters)}
                    for a in audits
                ],
            },
            tokens={a.name: self._token(plan, a) for a in plan.accesses if a.step == step},
            public_key=self.public,
            artifacts_uri=self.folder,
            data_dirs=[],
            inputs=inputs or {},
        )

    def _token(self, plan, access) -> str:
        claims = {
            "id": f"token-{access.name}",
            "access": access.name,
            "budget": access.budget,
            "accountId": "account",
            "uri": URI,
            "unit": "Patient",
            "options": {},
            "studyUid": plan.study_uid,
            "generation": plan.generation,
            "reservationId": "r",
            "fence": 1,
            "expires": (datetime.now(UTC) + timedelta(minutes=10)).isoformat(),
        }
        envelope = signing.sign(self.private, signing.DATA_TOKEN_TYPE, canonical_json(claims))
        return signing.encode_token(envelope)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., WorkRequest]:
    """``trained(audits=..., algorithm=...)``: the request of the audit step of a trained Study."""
    pytest.importorskip("torch")
    pytest.importorskip("opacus")
    from primum_pipelines.kinds.train.step import train

    def make(**options) -> WorkRequest:
        zone = Zone(str(tmp_path_factory.mktemp("zone")))
        plan = make_plan(**options)
        result = train(zone.request(plan, "job"))
        job = {"artifacts": list(result.artifacts)}
        audits = options.get("audits", (CANARIES, INVERSION))
        return zone.request(plan, "audit", audits, inputs={"job": job})

    return make
