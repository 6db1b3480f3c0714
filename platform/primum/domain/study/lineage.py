"""Lineage as plain values: what is said about a Study, its run and steps, and what never is.

Shaped like OpenLineage 2-0-2 run events without the library's own fields (``producer``,
``schemaURL`` and each facet's ``_producer`` and ``_schemaURL``), which the emitter adds. Lineage
carries names, verdicts, digests, declared mechanisms and reservation ids. It never carries a
measured number, a receipt's facts or anything of ``restricted``. Run ids derive from what the run
is about, so that a repeated step speaks about the same run.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from primum.domain.canonical import JSON, digest_of
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.names import derived_uuid
from primum.domain.study.steps import ArtifactRef, StepContext, StepOutcome, StepStatus

_AUDITS = (EvidenceKind.SELF_TEST, EvidenceKind.MEMBERSHIP, EvidenceKind.RECONSTRUCTION)
_TEST_STATUS = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INCONCLUSIVE: "skip"}
_ASSERTIONS_MAX = 200  # A suite has tens; more would make one event larger than receivers accept.
_JOB_TYPE = {
    "validate": "VALIDATION",
    "job": "TRAINING",
    "evaluate": "EVALUATION",
    "audit": "AUDIT",
}
_DATASET_TYPE = {
    "Model": "MODEL",
    "Dataset": "FILE",
    "Generator": "MODEL",
    "Shadow": "MODEL",
    "Extractor": "MODEL",
}


class RunState(enum.StrEnum):
    """OpenLineage's event types that we use. Exactly one START and one of the others per run."""

    START = "START"
    COMPLETE = "COMPLETE"
    FAIL = "FAIL"
    ABORT = "ABORT"


@dataclass(frozen=True, slots=True)
class ReservationLink:
    """Which reservation answers for which access.

    Args:
        budget: The budget's name; may be empty where the account is named.
        access: The access's name; empty for a whole reservation.
        reservation_id: The ledger's reservation; empty for an access that is only inspected.
        account_id: The ledger's account; empty where the speaker does not know it.
    """

    budget: str
    access: str
    reservation_id: str
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What a gate policy came to at one stage."""

    policy: str
    policy_digest: str
    stage: str
    verdict: Verdict
    inputs: tuple[str, ...]


def study_run_id(study: Mapping[str, JSON]) -> str:
    """The lineage run of a Study generation."""
    return derived_uuid("lineage", "study", str(study["uid"]), str(study["generation"]))


def pipeline_run_id(run_id: str) -> str:
    """The lineage run of a pipeline run."""
    return derived_uuid("lineage", "pipeline", run_id)


def step_run_id(outcome_id: str) -> str:
    """The lineage run of a step; a repeated step derives the same."""
    return derived_uuid("lineage", "step", outcome_id)


def dataset_name(uri: str) -> tuple[str, str]:
    """Namespace (the scheme) and name of a dataset (its URI without credentials and query)."""
    parts = urlsplit(uri)
    if not parts.scheme:
        return "file", uri
    host = parts.netloc.rpartition("@")[2]
    return parts.scheme, f"{parts.scheme}://{host}{parts.path}"


def study_event(
    study: Mapping[str, JSON],
    state: RunState,
    *,
    at: str,
    reservations: Sequence[ReservationLink] = (),
    gates: Sequence[GateDecision] = (),
    inputs: Sequence[str] = (),
    outputs: Sequence[ArtifactRef] = (),
    message: str = "",
) -> dict[str, JSON]:
    """The event of a Study generation: START when admitted, another when it has ended.

    Args:
        study: ``{"namespace", "name", "uid", "generation", "kind"}``.
        state: The event type.
        at: RFC 3339 time.
        reservations: Reservations held for it.
        gates: Verdicts of its gates.
        inputs: URIs of the datasets it reads; repeat them on the terminal event.
        outputs: What it released; repeat them on the terminal event.
        message: Why it failed, for people; no record-level value.
    """
    facets: dict[str, JSON] = {}
    if reservations:
        facets["primum_reservation"] = _reservation_facet(reservations)
    if gates:
        facets["primum_gate"] = {"decisions": [_gate(gate) for gate in gates]}
    if state in (RunState.FAIL, RunState.ABORT):
        facets["errorMessage"] = _error(message)
    return _event(
        state,
        at=at,
        run={"runId": study_run_id(study), "facets": facets},
        job=_job(study, "", "STUDY"),
        inputs=[_input(uri) for uri in dict.fromkeys(inputs)],
        outputs=[_output(artifact) for artifact in outputs],
    )


def pipeline_event(
    study: Mapping[str, JSON], run_id: str, state: RunState, *, at: str, message: str = ""
) -> dict[str, JSON]:
    """The event of a pipeline run; its parent is the Study."""
    facets: dict[str, JSON] = {"parent": {**_study_link(study), "root": _study_link(study)}}
    if state in (RunState.FAIL, RunState.ABORT):
        facets["errorMessage"] = _error(message)
    run: dict[str, JSON] = {"runId": pipeline_run_id(run_id), "facets": facets}
    return _event(state, at=at, run=run, job=_job(study, "pipeline", "DAG"), inputs=[], outputs=[])


def step_started(
    context: StepContext, upstream: Sequence[StepOutcome], *, at: str
) -> dict[str, JSON]:
    """The START event of a step."""
    facets: dict[str, JSON] = {"parent": _step_parent(context)}
    return _event(
        RunState.START,
        at=at,
        run={"runId": step_run_id(context.outcome_id), "facets": facets},
        job=_step_job(context),
        inputs=_step_inputs(context, upstream, ()),
        outputs=[],
    )


def step_ended(
    context: StepContext,
    upstream: Sequence[StepOutcome],
    outcome: StepOutcome,
    evidence: Sequence[Evidence],
    *,
    reservations: Sequence[ReservationLink],
    at: str,
) -> dict[str, JSON]:
    """The COMPLETE or FAIL event of a step, with inputs and outputs repeated."""
    facets: dict[str, JSON] = {"parent": _step_parent(context)}
    if reservations:
        facets["primum_reservation"] = _reservation_facet(reservations)
    if outcome.receipts:
        facets["primum_charge"] = _charge_facet(outcome, reservations)
    audits = [record for record in evidence if record.kind in _AUDITS]
    if audits:
        facets["primum_audit"] = {"audits": [_audit(record) for record in audits]}
        facets["test"] = {"tests": [_test(record) for record in audits]}
    succeeded = outcome.status is StepStatus.SUCCEEDED
    if not succeeded:
        facets["errorMessage"] = _error(outcome.message)
    return _event(
        RunState.COMPLETE if succeeded else RunState.FAIL,
        at=at,
        run={"runId": step_run_id(context.outcome_id), "facets": facets},
        job=_step_job(context),
        inputs=_step_inputs(context, upstream, evidence),
        outputs=[_output(artifact) for artifact in outcome.artifacts],
    )


def _event(
    state: RunState,
    *,
    at: str,
    run: Mapping[str, JSON],
    job: Mapping[str, JSON],
    inputs: Sequence[Mapping[str, JSON]],
    outputs: Sequence[Mapping[str, JSON]],
) -> dict[str, JSON]:
    return {
        "eventType": state.value,
        "eventTime": at,
        "run": dict(run),
        "job": dict(job),
        "inputs": [dict(item) for item in inputs],
        "outputs": [dict(item) for item in outputs],
    }


def _job(study: Mapping[str, JSON], part: str, kind: str) -> dict[str, JSON]:
    job_type: JSON = {"processingType": "BATCH", "integration": "PRIMUM", "jobType": kind}
    return {**_job_key(study, part), "facets": {"jobType": job_type}}


def _job_key(study: Mapping[str, JSON], part: str) -> dict[str, JSON]:
    name = str(study["name"])
    return {"namespace": f"primum/{study['namespace']}", "name": f"{name}.{part}" if part else name}


def _study_link(study: Mapping[str, JSON]) -> dict[str, JSON]:
    return {"run": {"runId": study_run_id(study)}, "job": _job_key(study, "")}


def _step_job(context: StepContext) -> dict[str, JSON]:
    kind = str(context.study["kind"])
    job_type = _JOB_TYPE.get(context.step, "TASK")
    if context.step == "job" and kind != "Train":
        job_type = kind.upper()
    return _job(context.study, f"pipeline.{context.step}", job_type)


def _step_parent(context: StepContext) -> dict[str, JSON]:
    return {
        "run": {"runId": pipeline_run_id(context.run_id)},
        "job": _job_key(context.study, "pipeline"),
        "root": _study_link(context.study),
    }


def _step_inputs(
    context: StepContext, upstream: Sequence[StepOutcome], evidence: Sequence[Evidence]
) -> list[dict[str, JSON]]:
    budgets = _budgets_read(context)
    quality = [record for record in evidence if record.kind is EvidenceKind.DATA_QUALITY]
    inputs: dict[tuple[str, str], dict[str, JSON]] = {}
    for budget in budgets:
        uri = _uri(context.datasets, budget)
        found = [
            assertion
            for record in quality
            if record.public.get("budget", budget) == budget or len(budgets) == 1
            for assertion in _assertions(record)
        ]
        inputs[dataset_name(uri)] = _input(uri, assertions=found)
    for release in context.synthetic:
        uri = _uri(context.synthetic, release)
        inputs[dataset_name(uri)] = _input(uri)
    for outcome in upstream:
        for artifact in outcome.artifacts:
            item = _output(artifact)
            item.pop("outputFacets")
            inputs[dataset_name(artifact.uri)] = {**item, "inputFacets": {}}
    return list(inputs.values())


def _budgets_read(context: StepContext) -> list[str]:
    accesses = context.plan.get("accesses", ())
    items = accesses if isinstance(accesses, list | tuple) else ()
    names = [
        str(item["budget"])
        for item in items
        if isinstance(item, Mapping) and item["step"] == context.step
    ]
    return [name for name in dict.fromkeys(names) if name in context.datasets]


def _uri(table: Mapping[str, JSON], name: str) -> str:
    item = table[name]
    return str(item["uri"]) if isinstance(item, Mapping) else ""


def _input(uri: str, *, assertions: Sequence[Mapping[str, JSON]] = ()) -> dict[str, JSON]:
    namespace, name = dataset_name(uri)
    facets: dict[str, JSON] = {}
    if assertions:
        shown = [dict(item) for item in assertions[:_ASSERTIONS_MAX]]
        facets["dataQualityAssertions"] = {"assertions": shown}
    return {"namespace": namespace, "name": name, "facets": {}, "inputFacets": facets}


def _output(artifact: ArtifactRef) -> dict[str, JSON]:
    namespace, name = dataset_name(artifact.uri)
    facets: dict[str, JSON] = {
        "version": {"datasetVersion": artifact.digest},
        "datasetType": {
            "datasetType": _DATASET_TYPE.get(artifact.kind, "FILE"),
            "subType": artifact.kind.upper(),
        },
    }
    return {"namespace": namespace, "name": name, "facets": facets, "outputFacets": {}}


def _assertions(record: Evidence) -> list[dict[str, JSON]]:
    """Type, column and success of each assertion, and nothing else that a record may hold."""
    found = record.public.get("assertions", ())
    items = found if isinstance(found, list | tuple) else ()
    chosen: list[dict[str, JSON]] = []
    for item in items:
        if not isinstance(item, Mapping) or not isinstance(item.get("success"), bool):
            continue
        assertion: dict[str, JSON] = {
            "assertion": str(item.get("assertion", "")),
            "success": item["success"],
        }
        if item.get("column"):
            assertion["column"] = str(item["column"])
        chosen.append(assertion)
    return chosen


def _reservation_facet(links: Sequence[ReservationLink]) -> dict[str, JSON]:
    return {"reservations": [_reservation(link) for link in links]}


def _reservation(link: ReservationLink) -> dict[str, JSON]:
    shown = {
        "budget": link.budget,
        "access": link.access,
        "reservationId": link.reservation_id,
        "accountId": link.account_id,
    }
    return {name: value for name, value in shown.items() if value}


def _charge_facet(outcome: StepOutcome, links: Sequence[ReservationLink]) -> dict[str, JSON]:
    reservations = {link.access: link.reservation_id for link in links}
    charges: list[JSON] = []
    for receipt in outcome.receipts:
        event = receipt.event.to_json()
        charge: dict[str, JSON] = {
            "budget": receipt.budget,
            "access": receipt.access,
            "event": event,
            "receiptDigest": digest_of(receipt.to_json()),
        }
        if reservations.get(receipt.access):
            charge["reservationId"] = reservations[receipt.access]
        charges.append(charge)
    return {"charges": charges}


def _audit(record: Evidence) -> dict[str, JSON]:
    return {
        "kind": record.kind.value,
        "attack": record.name,
        "verdict": record.verdict.value if record.verdict else Verdict.INCONCLUSIVE.value,
        "evidenceDigest": record.digest,
    }


def _test(record: Evidence) -> dict[str, JSON]:
    status = _TEST_STATUS[record.verdict or Verdict.INCONCLUSIVE]
    return {"name": record.name, "status": status, "type": record.kind.value, "severity": "error"}


def _gate(gate: GateDecision) -> dict[str, JSON]:
    return {
        "policy": gate.policy,
        "policyDigest": gate.policy_digest,
        "stage": gate.stage,
        "verdict": gate.verdict.value,
        "evidenceDigests": list(gate.inputs),
    }


def _error(message: str) -> dict[str, JSON]:
    return {"message": message, "programmingLanguage": "PYTHON"}
