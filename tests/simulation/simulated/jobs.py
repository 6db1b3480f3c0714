"""A job kind with a light half as strict as a real one, and a heavy half as bad as it is told."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from primum import signing
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    Laplace,
    NoEvent,
    Repeated,
    SubsampledGaussian,
    event_from_json,
)
from primum.domain.canonical import decimal_text, digest_of
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study.plan import Access, Plan, Treatment
from primum.domain.study.steps import WorkRequest, work_request_from_json
from simulated.auditor import SECRET, Auditor
from simulated.faults import Chaos, SimulatedCrash

KIND = "Simulated"
ENTRY = "simulated.jobs:body"
STEPS = ("validate", "job", "evaluate", "audit")
ATTACK = "LiRA"
MOODS = ("well",) * 12 + (
    "fails before",
    "fails midway",
    "loses its receipt",
    "damages its receipt",
    "forges its receipt",
    "exceeds its plan",
    "loses its worker",
    "loses its worker",
    "shouts",
    "fools itself",
)


def event_of(accounting: str, *, noise: str, steps: int) -> Event:
    """A mechanism that the accounting policy can add up."""
    if accounting == "RDP":
        return Repeated(SubsampledGaussian(Decimal(noise), Decimal("0.1")), steps)
    if accounting == "GDP":
        return Repeated(Gaussian(Decimal(noise) * 8), steps)
    return Repeated(Laplace(Decimal(noise) * 100), steps)


class SimulatedKind:
    """One charged access per budget, and three that are only looked at."""

    name = KIND
    steps = STEPS

    def declare(self, study: Any, context: Any) -> Plan:
        """The plan; the same for the same Study and facts."""
        if study.epsilon is None or study.delta is None:
            raise InvalidValue("spec.privacy", "must say what is claimed", "nothing")
        accesses: list[Access] = []
        epsilon = Decimal(0)
        for name, facts in context.datasets.items():
            steps = int(study.job.get("steps", "20"))
            event = event_of(facts.accounting, noise=str(study.job.get("noise", "2")), steps=steps)
            epsilon = max(epsilon, context.accountant.epsilon(event, study.delta, facts.neighbors))
            accesses += [
                Access(f"validate@{name}", "validate", name, Treatment.DISCLOSED),
                Access(f"train@{name}", "job", name, Treatment.CHARGED, event, "Trained."),
                Access(f"evaluate@{name}", "evaluate", name, Treatment.INSPECTED),
                Access(f"audit@{name}", "audit", name, Treatment.INSPECTED),
            ]
        facts = next(iter(context.datasets.values()))
        return Plan(
            study_uid=study.uid,
            generation=study.generation,
            kind=KIND,
            accesses=tuple(accesses),
            epsilon=epsilon,
            delta=study.delta,
            unit=facts.dataset.unit,
            neighbors=facts.neighbors,
            mechanism={"accountant": facts.accounting, "algorithm": "Sum", "reviewed": True},
            parameters={},
            steps=STEPS,
        )

    def entry(self, step: str) -> str:
        """Every step has the same heavy function."""
        return ENTRY

    def with_noise(self, study: Any, context: Any, noise_multiplier: Decimal) -> Plan:
        """Never asked for: the mechanism names no noise multiplier."""
        raise NotImplementedError

    def headline(self, plan: Plan) -> str:
        """One line for people."""
        return f"Simulated, epsilon {plan.epsilon}"


class Worker:
    """``Compute`` whose bodies do what their mood says; it tells the auditor what really happened.

    Args:
        chaos: Draws faults.
        moods: Draws moods; its own, so that faults do not move them.
        auditor: Is told the truth.
    """

    def __init__(self, chaos: Chaos, moods: random.Random, auditor: Auditor) -> None:
        self._chaos, self._moods, self._auditor = chaos, moods, auditor
        self.gpus = 0

    def warm(self) -> None:
        """Nothing to warm."""

    def close(self) -> None:
        """Nothing to let go of."""

    def devices(self) -> int:
        """How many GPUs there are."""
        return self.gpus

    def ready(self, entry: str) -> None:
        """A worker is there, mostly."""
        if self._chaos.fault(0.02):
            raise Unavailable("simulated: no worker")

    def call(self, entry: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Run a body, or lose it or its answer."""
        if self._chaos.fault(0.02):
            raise Unavailable("simulated: the worker vanished before")
        answer = self._body(work_request_from_json(json.loads(json.dumps(payload))))
        if self._chaos.fault(0.02):
            raise SimulatedCrash("while waiting for the worker")
        if self._chaos.fault(0.02):
            raise Unavailable("simulated: the worker vanished after")
        return answer

    def _body(self, request: WorkRequest) -> dict[str, Any]:
        claims = {name: _opened(request, token) for name, token in request.tokens.items()}
        mood = self._moods.choice(MOODS)
        if mood == "shouts":
            raise ValueError(f"could not read {SECRET}")
        step = str(request.context["step"])
        if step == "job":
            if mood == "loses its worker" or request.left:
                return self._lost_or_gone_on(request, claims, mood)
            return self._job(request, claims, mood)
        study = request.context["study"]
        good = mood in ("well", "exceeds its plan", "damages its receipt", "loses its receipt")
        verdict = (
            Verdict.PASS
            if good
            else Verdict.FAIL
            if mood == "fools itself"
            else Verdict.INCONCLUSIVE
        )
        records: list[Evidence] = []
        artifacts = _artifacts(request)
        subject = str(artifacts[0]["digest"]) if artifacts else ""

        refused = {"refused": "EstimateAboveDeadline", "reasons": ["it would take too long"]}

        def record(
            kind: EvidenceKind, name: str, verdict: Verdict | None, subject: str = ""
        ) -> None:
            private = {"who": SECRET}
            uid, generation = str(study["uid"]), int(study["generation"])
            public = refused if mood.startswith("refuses") and subject else {}
            records.append(Evidence(kind, name, uid, generation, subject, verdict, public, private))

        if step == "validate":
            for budget in request.context["datasets"]:
                record(EvidenceKind.DATA_QUALITY, budget, verdict)
            if verdict is Verdict.FAIL:
                return _result("Failed", "ExpectationsFailed", records)
        elif step == "evaluate":
            record(EvidenceKind.UTILITY, "HeldOut", None, subject)
        elif mood != "fails before":
            if study["kind"] == KIND:
                record(
                    EvidenceKind.SELF_TEST,
                    "Sum",
                    {
                        "fails midway": verdict,
                        "refuses, and is broken": Verdict.FAIL,
                    }.get(mood, Verdict.PASS),
                )
            for audit in request.context["audits"]:
                record(EvidenceKind(audit["kind"]), audit["attack"], verdict, subject)
        return _result("Succeeded", "StepSucceeded", records)

    def _job(
        self, request: WorkRequest, claims: Mapping[str, Mapping[str, Any]], mood: str
    ) -> dict[str, Any]:
        """Run the mechanism of every charged access, and report on it, as the mood wants."""
        receipts = []
        for item in request.context["plan"]["accesses"]:
            if item["step"] != "job" or item["treatment"] != "Charged":
                continue
            if mood == "fails before":
                break
            name, claim = item["name"], claims[item["name"]]
            event = _scaled(item["event"], {"fails midway": 2, "exceeds its plan": -3}.get(mood, 1))
            ran = event.to_json()
            beyond = mood == "exceeds its plan"
            self._auditor.mechanism_ran(str(claim["reservationId"]), name, ran, beyond=beyond)
            if mood == "damages its receipt":
                ran = {"event": "SubsampledGaussian", "noiseMultiplier": "-1"}
            token = "somebody else's" if mood == "forges its receipt" else claim["id"]
            facts = {
                "sampling": "Poisson",
                "maxGradNorm": "1",
                "clippedPer": "Patient",
                "generator": "os.urandom",
            }
            receipts.append(
                {
                    "access": name,
                    "budget": item["budget"],
                    "event": ran,
                    "facts": facts,
                    "tokenId": token,
                }
            )
        if mood == "loses its receipt":
            receipts = receipts[1:]
        failed = mood.startswith("fails")
        made = {
            "kind": "Model",
            "uri": "memory://artifacts/model",
            "digest": digest_of(dict(request.context["study"])),
        }
        status = ("Failed", "StepFailed") if failed else ("Succeeded", "StepSucceeded")
        return _result(*status, [], receipts=receipts, artifacts=[] if failed else [made])

    def _lost_or_gone_on(
        self, request: WorkRequest, claims: Mapping[str, Mapping[str, Any]], mood: str
    ) -> dict[str, Any]:
        """Run some of the steps that are left, or all of them, after what an earlier worker left.

        A worker that is lost had said before how far it might come, and came so far or less.
        """
        charged = [
            (item, event_from_json(item["event"]))
            for item in request.context["plan"]["accesses"]
            if item["step"] == "job" and item["treatment"] == "Charged"
        ]
        begun = int(request.left["resume"]["steps"]) if request.left else 0
        covered = reached = min(event.count for _, event in charged)  # All have the same steps.
        if mood == "loses its worker":
            covered = self._moods.randint(begun, covered)
            reached = self._moods.randint(begun, covered)
        receipts = []
        for item, planned in charged:
            name, claim = item["name"], claims[item["name"]]
            if reached > begun:
                ran = Repeated(planned.event, reached - begun).to_json()
                held = str(claim["reservationId"])
                self._auditor.mechanism_ran(held, name, ran, beyond=False, after=begun)
            said = Repeated(planned.event, covered) if covered else NoEvent()
            receipts.append(
                {
                    "access": name,
                    "budget": item["budget"],
                    "event": said.to_json(),
                    "facts": {"steps": covered},
                    "tokenId": claim["id"],
                }
            )
        made = {
            "kind": "Model",
            "uri": "memory://artifacts/model",
            "digest": digest_of(dict(request.context["study"])),
        }
        if mood != "loses its worker":
            return _result("Succeeded", "StepSucceeded", [], receipts=receipts, artifacts=[made])
        left = _result("Failed", "StepFailed", [], receipts=receipts)
        return {**left, "resume": {"steps": covered, "key": "00"}}


def _opened(request: WorkRequest, token: str) -> Mapping[str, Any]:
    """What the loader does: nothing is opened without a token that verifies."""
    payload = signing.verify(
        request.public_key, signing.decode_token(token), signing.DATA_TOKEN_TYPE
    )
    return dict(json.loads(payload))


def _artifacts(request: WorkRequest) -> list[Mapping[str, Any]]:
    job = request.inputs.get("job")
    return list(job["artifacts"]) if isinstance(job, Mapping) else []


def _scaled(event: Mapping[str, Any], divisor: int) -> Event:
    """The planned event with half its steps, or three times as many."""
    planned = event_from_json(event)
    assert isinstance(planned, Repeated)
    count = planned.count * -divisor if divisor < 0 else planned.count // divisor
    return Repeated(planned.event, count)


def _result(
    status: str,
    reason: str,
    evidence: list[Evidence],
    *,
    receipts: list[dict[str, Any]] | None = None,
    artifacts: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    return {
        "status": status,
        "reason": reason,
        "message": reason,
        "receipts": receipts or [],
        "evidence": [item.to_json() for item in evidence],
        "artifacts": artifacts or [],
        "body_seconds": decimal_text(1),
    }
