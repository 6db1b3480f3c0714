"""A step in miniature: its context, and a platform that keeps what the step does, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from primum import signing
from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import PrimumError
from primum.domain.governance.evidence import Evidence
from primum.domain.names import outcome_id
from primum.domain.study.steps import (
    DataToken,
    StepContext,
    StepOutcome,
    WorkRequest,
    WorkResult,
)

EVENT = Repeated(SubsampledGaussian(Decimal("1.31"), Decimal("0.28")), 90)
DIGEST = "sha256:" + "0" * 64
RESERVATION = "00000000-0000-5000-8000-000000000001"


def access(name: str, step: str, budget: str = "wisconsin") -> dict[str, JSON]:
    return {
        "name": name,
        "step": step,
        "budget": budget,
        "treatment": "Charged",
        "event": EVENT.to_json(),
        "why": "to test",
    }


def make_context(step: str = "job", **changes: object) -> StepContext:
    fields: dict[str, object] = {
        "step": step,
        "entry": "bodies:run",
        "study": {
            "namespace": "oncology",
            "name": "malignancy",
            "uid": "u-1",
            "generation": 1,
            "kind": "Train",
        },
        "run_id": "r-1",
        "outcome_id": outcome_id("u-1", 1, step),
        "plan": {"accesses": [access("validate", "validate"), access("train", "job")]},
        "datasets": {"wisconsin": {"uri": "sklearn://breast_cancer", "unit": "Patient"}},
        "synthetic": {},
        "expectations": [],
        "audits": [],
        "tickets": {"train": "ticket-train", "validate": "ticket-validate"},
        "upstream": {},
        "credential": "credential-of-the-run",
    }
    return StepContext(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class Recorder:
    """StepServices that remember: ``acts`` is their order, ``faults`` what to raise where."""

    result: WorkResult | Exception
    folder: str = ""
    standing: dict[str, StepOutcome] = field(default_factory=dict)
    start: str = "Fresh"
    faults: dict[str, PrimumError] = field(default_factory=dict)
    acts: list[str] = field(default_factory=list)
    events: list[Mapping[str, JSON]] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)
    requests: list[WorkRequest] = field(default_factory=list)
    key: tuple[str, str] = field(default_factory=signing.generate)

    def _act(self, name: str) -> None:
        self.acts.append(name)
        if name in self.faults:
            raise self.faults[name]

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        return self.standing.get(outcome_id)

    def begun(self, outcome_id: str) -> str:
        self._act("begun")
        return self.start

    def ready(self, entry: str) -> None:
        self._act("ready")

    def redeem(self, ticket: str) -> DataToken:
        self._act(f"redeem {ticket}")
        name = ticket.removeprefix("ticket-")
        claims = {"id": f"token-{name}", "access": name, "reservationId": RESERVATION}
        envelope = signing.sign(self.key[0], signing.DATA_TOKEN_TYPE, canonical_json(claims))
        return DataToken(
            signing.encode_token(envelope), name, "wisconsin", "sklearn://breast_cancer"
        )

    def compute(self, entry: str, request: WorkRequest) -> WorkResult:
        self._act("compute")
        self.requests.append(request)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def record(self, outcome: StepOutcome, evidence: Sequence[Evidence]) -> None:
        self._act("record")
        self.standing[outcome.outcome_id] = outcome
        self.evidence.extend(evidence)

    def lineage(self, event: Mapping[str, JSON]) -> None:
        self.acts.append(str(event["eventType"]))
        self.events.append(event)

    def public_key(self) -> str:
        return self.key[1]

    def artifacts_uri(self, study_uid: str, generation: int) -> str:
        return f"{self.folder}/{study_uid}/{generation}"

    def data_dirs(self) -> Sequence[str]:
        return ()

    def zone_dir(self) -> str:
        return "/zone"


def receipt(**changes: object) -> dict[str, JSON]:
    fields = {
        "access": "train",
        "budget": "wisconsin",
        "event": EVENT.to_json(),
        "facts": {"steps": 90},
        "tokenId": "token-train",
    }
    return {**fields, **changes}  # type: ignore[dict-item]


def make_result(**changes: object) -> WorkResult:
    fields: dict[str, object] = {
        "status": "Succeeded",
        "reason": "StepSucceeded",
        "message": "trained 90 of 90 steps",
        "receipts": (receipt(),),
        "evidence": (),
        "artifacts": ({"kind": "Model", "uri": "file:///m/m.safetensors", "digest": DIGEST},),
        "body_seconds": "1.5",
    }
    return WorkResult(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def recorder(tmp_path) -> Recorder:
    return Recorder(result=make_result(), folder=str(tmp_path))


@pytest.fixture
def step():
    """The builders of this file."""

    class Builders:
        context = staticmethod(make_context)
        result = staticmethod(make_result)
        receipt = staticmethod(receipt)
        access = staticmethod(access)

    return Builders
