"""Every event we emit is valid OpenLineage, our facets are as published, nothing else goes."""

from __future__ import annotations

import copy
import http.server
import json
import os
import threading
from decimal import Decimal
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
from referencing import Registry, Resource

from primum.adapters.openlineage import FileDestination, HttpDestination, Outbox
from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.study import lineage
from primum.domain.study.lineage import GateDecision, ReservationLink, RunState
from primum.domain.study.steps import (
    ArtifactRef,
    Receipt,
    StepContext,
    StepOutcome,
    StepStatus,
)

AT = "2026-11-22T06:00:00.000000Z"
PRODUCER = "https://primum.dev/primum"
DIGEST = "sha256:" + "a" * 64
RESERVATION = "00000000-0000-5000-8000-000000000001"
STUDY = {
    "namespace": "oncology",
    "name": "malignancy",
    "uid": "u",
    "generation": 2,
    "kind": "Train",
}
MODEL = ArtifactRef("Model", "file:///zone/u/2/model.safetensors", DIGEST)


def context(step: str) -> StepContext:
    return StepContext(
        step=step,
        entry="bodies:run",
        study=STUDY,
        run_id="r",
        outcome_id=f"outcome-{step}",
        plan={"accesses": [{"name": step, "step": step, "budget": "wisconsin"}]},
        datasets={"wisconsin": {"uri": "s3://user:secret@store/wisconsin.csv?sig=secret"}},
        synthetic={"earlier": {"uri": "file:///zone/earlier.npz", "digest": DIGEST}},
        expectations=[],
        audits=[],
        tickets={},
        upstream={},
    )


def outcome(step: str, status: StepStatus = StepStatus.SUCCEEDED) -> StepOutcome:
    event = Repeated(SubsampledGaussian(Decimal("1.31"), Decimal("0.28")), 90)
    receipts = (Receipt(step, "wisconsin", event, {"steps": 90, "lossAtEnd": "0.31337"}, "t"),)
    reason = "StepSucceeded" if status is StepStatus.SUCCEEDED else "StepFailed"
    return StepOutcome(
        f"outcome-{step}", step, status, reason, f"{step} ended", receipts, (), (MODEL,)
    )


def evidence(kind: EvidenceKind, verdict: Verdict | None, public: dict) -> Evidence:
    return Evidence(kind, kind.value, "u", 2, "", verdict, public, {"lowerBound": "0.31337"})


ASSERTIONS = {
    "budget": "wisconsin",
    "assertions": [
        {
            "assertion": "expect_column_values_to_be_between",
            "column": "mean_radius",
            "success": True,
            "severity": "critical",
            "observed": "0.31337",
        },
        {"assertion": "expect_table_row_count_to_be_between", "column": "", "success": False},
    ],
}
EVIDENCE = (
    evidence(EvidenceKind.DATA_QUALITY, Verdict.FAIL, ASSERTIONS),
    evidence(EvidenceKind.SELF_TEST, Verdict.PASS, {}),
    evidence(EvidenceKind.MEMBERSHIP, Verdict.INCONCLUSIVE, {"maxCertifiable": "3.5"}),
    evidence(EvidenceKind.RECONSTRUCTION, None, {}),
    evidence(EvidenceKind.UTILITY, None, {"accuracy": "0.95"}),
)
LINKS = (ReservationLink("wisconsin", "job", RESERVATION, "account-1"),)
WHOLE = (ReservationLink(budget="", access="", reservation_id=RESERVATION, account_id="account-1"),)
GATES = tuple(
    GateDecision("clinical-default", DIGEST, stage, Verdict.PASS, (DIGEST,))
    for stage in ("Admission", "Data", "Samples", "Promotion", "Release")
)


def every_event() -> dict[str, dict]:
    """One event of each form that the platform emits."""
    up = (outcome("job"),)
    return {
        "study starts": lineage.study_event(
            STUDY, RunState.START, at=AT, reservations=LINKS, inputs=["sklearn://breast_cancer"]
        ),
        "study completes": lineage.study_event(
            STUDY,
            RunState.COMPLETE,
            at=AT,
            reservations=WHOLE,
            gates=GATES,
            inputs=["sklearn://breast_cancer", "/data/pneumonia.npz"],
            outputs=[MODEL],
        ),
        "study aborts": lineage.study_event(STUDY, RunState.ABORT, at=AT, message="Denied"),
        "pipeline starts": lineage.pipeline_event(STUDY, "r", RunState.START, at=AT),
        "pipeline fails": lineage.pipeline_event(STUDY, "r", RunState.FAIL, at=AT, message="lost"),
        "step starts": lineage.step_started(context("job"), (), at=AT),
        **{
            f"{step} completes": lineage.step_ended(
                context(step), up, outcome(step), EVIDENCE, reservations=LINKS, at=AT
            )
            for step in ("validate", "job", "evaluate", "audit")
        },
        "step fails": lineage.step_ended(
            context("job"), (), outcome("job", StepStatus.FAILED), (), reservations=(), at=AT
        ),
        "inspected access": lineage.step_ended(
            context("audit"),
            (),
            outcome("audit"),
            (),
            reservations=[ReservationLink("b", "audit", "")],
            at=AT,
        ),
    }


EVENTS = every_event()


@pytest.fixture(scope="module")
def specification() -> Path:
    folder = os.environ.get("PRIMUM_TEST_ASSETS")
    if not folder:
        pytest.skip("PRIMUM_TEST_ASSETS does not name a folder with the OpenLineage specification")
    return Path(folder) / "schemas" / "openlineage"


@pytest.fixture(scope="module")
def registry(specification: Path) -> Registry:
    documents = [specification / "OpenLineage.json", *(specification / "facets").glob("*.json")]
    loaded = [json.loads(path.read_text()) for path in documents] + list(published().values())
    return Registry().with_resources((item["$id"], Resource.from_contents(item)) for item in loaded)


def published() -> dict[str, dict]:
    """Our facet schemas as they are shipped in the package, by name."""
    folder = resources.files("primum.adapters.openlineage") / "facets"
    return {
        item.name.removesuffix(".json"): json.loads(item.read_text()) for item in folder.iterdir()
    }


def emitted(event: dict) -> dict:
    """An event as the library serializes it."""
    from openlineage.client.serde import Serde

    from primum.adapters.openlineage.emitter import run_event

    return json.loads(Serde.to_json(run_event(event, producer=PRODUCER)))


def check(registry: Registry, reference: str, value: object) -> None:
    validator = jsonschema.Draft202012Validator(
        {"$ref": reference},
        registry=registry,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )
    validator.validate(value)


def facets_of(event: dict) -> list[tuple[str, dict]]:
    items = [*event["run"]["facets"].items(), *event["job"]["facets"].items()]
    for dataset in [*event["inputs"], *event["outputs"]]:
        for part in ("facets", "inputFacets", "outputFacets"):
            items.extend(dataset.get(part, {}).items())
    return items


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_is_valid_openlineage(registry, name):
    event = emitted(EVENTS[name])

    check(registry, event["schemaURL"], event)
    assert event["producer"] == PRODUCER


@pytest.mark.parametrize("name", EVENTS)
def test_every_facet_is_valid_under_the_schema_it_names(registry, name):
    for _, facet in facets_of(emitted(EVENTS[name])):
        check(registry, facet["_schemaURL"], facet)


def test_every_facet_of_ours_is_emitted_and_published():
    """A schema nobody emits, or a facet nobody published, would go unnoticed otherwise."""
    seen = {
        facet["_schemaURL"].rpartition("/")[2]
        for event in EVENTS.values()
        for name, facet in facets_of(emitted(event))
        if name.startswith("primum_")
    }

    assert seen == set(published())


@pytest.mark.parametrize("name", published())
def test_a_published_schema_is_closed_and_names_itself(name):
    schema = published()[name]
    jsonschema.Draft202012Validator.check_schema(schema)

    assert schema["$id"] == f"https://primum.dev/lineage/facets/1-0-0/{name}.json"
    assert all(part["additionalProperties"] is False for part in schema["$defs"].values())


def test_terminal_events_repeat_inputs_and_outputs(registry):
    start, end = emitted(EVENTS["step starts"]), emitted(EVENTS["job completes"])
    names = [item["name"] for item in end["inputs"]]

    assert start["run"]["runId"] == end["run"]["runId"]
    assert {item["name"] for item in start["inputs"]} <= set(names)
    assert "file:///zone/u/2/model.safetensors" in names
    assert [item["name"] for item in end["outputs"]] == ["file:///zone/u/2/model.safetensors"]


def test_a_step_s_parent_is_the_run_and_its_root_the_study():
    parent = emitted(EVENTS["job completes"])["run"]["facets"]["parent"]

    assert parent["run"]["runId"] == emitted(EVENTS["pipeline starts"])["run"]["runId"]
    assert parent["root"]["run"]["runId"] == emitted(EVENTS["study starts"])["run"]["runId"]


def test_assertions_are_an_input_facet_with_type_column_and_success_alone():
    facet = emitted(EVENTS["validate completes"])["inputs"][0]["inputFacets"][
        "dataQualityAssertions"
    ]

    assert facet["assertions"] == [
        {
            "assertion": "expect_column_values_to_be_between",
            "column": "mean_radius",
            "success": True,
        },
        {"assertion": "expect_table_row_count_to_be_between", "success": False},
    ]


def test_no_measured_number_and_no_credential_gets_out():
    text = json.dumps([emitted(event) for event in EVENTS.values()])

    for secret in ("0.31337", "0.95", '3.5"', "secret"):
        assert secret not in text


@pytest.mark.parametrize(
    "spoil",
    [
        lambda event: event["run"]["facets"].update(secrets={"a": "b"}),
        lambda event: event["run"]["facets"]["primum_audit"].update(numbers=[]),
        lambda event: event["run"]["facets"]["primum_audit"]["audits"][0].update(lowerBound="1.1"),
        lambda event: event["run"]["facets"]["primum_charge"]["charges"][0].update(epsilon="3"),
        lambda event: event["run"]["facets"]["test"]["tests"][0].update(measured="1.1"),
        lambda event: event["inputs"][0]["inputFacets"].update(statistics={}),
        lambda event: event["outputs"][0]["outputFacets"].update(
            outputStatistics={"rowCount": 569}
        ),
        lambda event: event.pop("job"),
        lambda event: event["run"].update(runId="not a uuid"),
        lambda event: event.update(eventType="PERHAPS"),
    ],
)
def test_what_is_not_published_is_refused_not_passed_on(spoil):
    event = copy.deepcopy(EVENTS["audit completes"])
    spoil(event)

    with pytest.raises(InvalidValue):
        emitted(event)


# Delivery through the library's own transports.


@pytest.fixture
def server():
    """A receiver that answers with the next of ``answers`` and keeps what it was sent."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.received.append(
                (self.path, self.headers.get("Authorization"), json.loads(body))
            )
            self.send_response(self.server.answers.pop(0) if self.server.answers else 201)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.received, server.answers = [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_file_holds_one_valid_event_per_line(tmp_path, registry):
    path = tmp_path / "lineage" / "events.ndjson"
    outbox = Outbox(tmp_path / "outbox.db", [FileDestination(path, PRODUCER)])
    for event in EVENTS.values():
        outbox.put(event)

    delivered = outbox.flush()

    lines = path.read_text().splitlines()
    assert len(lines) == delivered > 0
    for line in lines:
        check(registry, "https://openlineage.io/spec/2-0-2/OpenLineage.json", json.loads(line))


def test_http_receivers_get_events_with_their_key(tmp_path, server):
    url = f"http://127.0.0.1:{server.server_port}"
    outbox = Outbox(tmp_path / "outbox.db", [HttpDestination(url, PRODUCER, api_key="k")])
    outbox.put(EVENTS["step starts"])

    assert outbox.flush() == 1

    path, key, body = server.received[0]
    assert (path, key) == ("/api/v1/lineage", "Bearer k")
    assert body["run"]["runId"] == EVENTS["step starts"]["run"]["runId"]


@pytest.mark.parametrize("status", [500, 503, 429, 401])
def test_a_receiver_in_trouble_is_tried_again(server, status):
    server.answers = [status]
    emitter = HttpDestination(f"http://127.0.0.1:{server.server_port}", PRODUCER).open()

    with pytest.raises(Unavailable):
        emitter.emit(EVENTS["step starts"])
    emitter.emit(EVENTS["step starts"])
    emitter.close()

    assert len(server.received) == 2


def test_an_event_that_a_receiver_refuses_for_good_is_not_tried_again(server):
    server.answers = [422]
    emitter = HttpDestination(f"http://127.0.0.1:{server.server_port}", PRODUCER).open()

    with pytest.raises(InvalidValue):
        emitter.emit(EVENTS["step starts"])
    emitter.close()


def test_a_receiver_that_is_not_there_is_unavailable(server):
    port = server.server_port
    emitter = HttpDestination(
        f"http://127.0.0.1:{port + 1 if port < 65535 else port - 1}", PRODUCER
    ).open()

    with pytest.raises(Unavailable):
        emitter.emit(EVENTS["step starts"])
    emitter.close()


def test_the_environment_adds_nothing_to_an_event(monkeypatch, tmp_path):
    """openlineage-python's client would add variables and tags from its own configuration."""
    monkeypatch.setenv("OPENLINEAGE__FACETS__ENVIRONMENT_VARIABLES", '["HOME"]')
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    path = tmp_path / "events.ndjson"
    emitter = FileDestination(path, PRODUCER).open()

    emitter.emit(EVENTS["step starts"])
    emitter.close()

    assert json.loads(path.read_text()) == emitted(EVENTS["step starts"])
