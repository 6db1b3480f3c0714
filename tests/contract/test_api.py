"""The API over ports in memory: roles, problem documents, pages, exports, counts."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from decimal import Decimal

import pytest
from api_platform import PROBLEM, bearer, identify, is_problem, make_platform
from command_line import EXAMPLES
from fastapi.testclient import TestClient
from ledger_words import EVENT, terms

from primum.adapters.identity import Role
from primum.application import budgets
from primum.domain.budget.entries import ReserveRequest
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.names import ResourceKey
from primum.domain.study.steps import StepOutcome, StepStatus
from primum.entrypoints.api.app import create_app
from primum.resources.loading import load_files

SECRET = "0.7313"  # A figure that only stewards and auditors may see.
ACTOR = "steward/ada"
PATHS = (
    "/v1/accounts",
    "/v1/entries",
    "/v1/entries.csv",
    "/v1/entries.jsonl",
    "/v1/verification",
    "/v1/studies/oncology/malignancy/evidence",
)


@pytest.fixture(scope="module")
def platform():
    """A platform with a budget, a Study with evidence, and a ledger of a few entries."""
    made = make_platform()
    for name in ("budget", "study"):
        for item in load_files([EXAMPLES / "breast-cancer" / f"{name}.yaml"]):
            made.resources.apply(item.key, item.spec_mapping(), labels={})
    budgets.reconcile_budget(
        made, made.resources.get(ResourceKey("PrivacyBudget", "oncology", "wisconsin"))
    )
    study = made.resources.get(ResourceKey("Study", "oncology", "malignancy"))
    account = made.ledger.accounts()[0].account_id
    for number in range(3):
        request = ReserveRequest(
            reservation_id=f"{number}0000000-0000-4000-8000-000000000000",
            account_id=account,
            study_uid=study.uid,
            generation=1,
            study="oncology/malignancy",
            purpose='=HYPERLINK("http://evil")',
            requester="oncology/malignancy",
            event=EVENT,
        )
        result = made.ledger.reserve([request], lease_seconds=60.0, actor=ACTOR)
        assert result.stands, result
        made.ledger.give_back(request.reservation_id, reason="@cmd", actor=ACTOR)
    evidence = Evidence(
        kind=EvidenceKind.MEMBERSHIP,
        name="OneRunCanary",
        study_uid=study.uid,
        generation=1,
        subject="",
        verdict=Verdict.PASS,
        public={"maxCertifiable": "3.5"},
        restricted={"lowerBound": SECRET},
    )
    outcome = StepOutcome(
        outcome_id="50000000-0000-4000-8000-000000000000",
        step="audit",
        status=StepStatus.SUCCEEDED,
        reason="",
        message="",
        receipts=(),
        artifacts=(),
        evidence=(evidence.digest,),
    )
    made.evidence.begin(outcome.outcome_id, study_uid=study.uid, generation=1, step="audit")
    made.evidence.record(outcome, [evidence], study_uid=study.uid, generation=1)
    return made


@pytest.fixture(scope="module")
def client(platform):
    app = create_app(platform, identify, figures={"loop_failures": lambda: 3})
    with TestClient(app, raise_server_exceptions=False) as made:
        yield made


@pytest.mark.parametrize("path", PATHS)
def test_nobody_reads_without_a_token(client, path):
    for headers in ({}, bearer("mallory"), {"Authorization": "Basic YTpi"}):
        answer = client.get(path, headers=headers)
        is_problem(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"


LEDGER = {Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR}
EVERYBODY = {*LEDGER, Role.ENGINEER, Role.SCIENTIST}
MAY_READ = {
    "/v1/accounts": EVERYBODY,
    "/v1/entries": LEDGER,
    "/v1/entries.csv": LEDGER,
    "/v1/entries.jsonl": LEDGER,
    "/v1/verification": LEDGER,
    "/v1/studies/oncology/malignancy/evidence": EVERYBODY,
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("role", list(Role))
def test_roles(client, path, role):
    answer = client.get(path, headers=bearer(role))
    if role in MAY_READ[path]:
        assert answer.status_code == 200
    else:
        assert "needs one of the roles" in is_problem(answer, 403)["detail"]


@pytest.mark.parametrize("role", sorted(EVERYBODY))
def test_restricted_evidence_only_for_stewards_and_auditors(client, role):
    answer = client.get("/v1/studies/oncology/malignancy/evidence", headers=bearer(role))
    (record,) = answer.json()
    assert record["verdict"] == "Pass"
    assert record["public"] == {"maxCertifiable": "3.5"}
    inside = role in (Role.STEWARD, Role.AUDITOR)
    assert record["restricted"] == ({"lowerBound": SECRET} if inside else None)
    assert (SECRET in answer.text) == inside


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("GET", "/docs", 404),
        ("DELETE", "/v1/accounts", 405),
        ("POST", "/v1/entries", 405),
        ("GET", "/v1/accounts/none", 404),
        ("GET", "/v1/studies/oncology/none/evidence", 404),
        ("GET", "/v1/entries?limit=0", 422),
        ("GET", "/v1/entries?limit=many", 422),
        ("GET", "/v1/entries?after=-1", 422),
        ("GET", "/v1/entries?limit=1001", 422),
        ("GET", "/v1/entries?account=" + "a" * 65, 422),
    ],
)
def test_every_error_is_a_problem_document(client, method, path, status):
    answer = client.request(method, path, headers=bearer(Role.STEWARD))
    is_problem(answer, status)
    assert (status == 405) == ("allow" in answer.headers)


def test_what_was_sent_does_not_come_back(client):
    answer = client.get("/v1/entries?limit=jane-doe-1974", headers=bearer(Role.STEWARD))
    assert "jane-doe" not in json.dumps(is_problem(answer, 422))


def test_a_fault_shows_its_type_alone(platform, capsys):
    class Broken:
        def head(self):
            raise RuntimeError("patient 17")

    app = create_app(replace(platform, ledger=Broken()), identify)
    with TestClient(app) as client:  # A fault that came through would be raised here.
        for path in ("/readyz", "/metrics", "/v1/verification"):
            answer = client.get(path, headers=bearer(Role.STEWARD))
            assert is_problem(answer, 500)["detail"] == "RuntimeError"
    said = capsys.readouterr()
    assert "patient 17" not in said.out + said.err


def test_pages_are_stable_while_the_ledger_grows(client, platform):
    every = client.get("/v1/entries?limit=1000", headers=bearer(Role.AUDITOR)).json()
    assert every["nextAfter"] is None
    seen, after = [], 0
    while after is not None:
        page = client.get(f"/v1/entries?limit=2&after={after}", headers=bearer(Role.AUDITOR)).json()
        assert len(page["items"]) <= 2
        seen += page["items"]
        after = page["nextAfter"]
        if len(seen) == 2:  # Somebody writes between two pages.
            platform.ledger.open_account(
                replace(terms(), dataset_uri="file:///else", dataset_digest="sha256:" + "e" * 64),
                actor=ACTOR,
            )
    assert seen[: len(every["items"])] == every["items"]
    assert [item["seq"] for item in seen] == list(range(1, len(seen) + 1))
    one = seen[-1]["accountId"]
    own = client.get(f"/v1/entries?account={one}", headers=bearer(Role.AUDITOR)).json()["items"]
    assert {item["accountId"] for item in own} == {one}


def test_exports_hold_every_entry_and_no_formula(client, platform):
    entries = platform.ledger.entries(limit=1000)
    answer = client.get("/v1/entries.csv", headers=bearer(Role.COMPLIANCE))
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [int(row["seq"]) for row in rows] == [entry.seq for entry in entries]
    assert [row["hash"] for row in rows] == [entry.hash for entry in entries]
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    lines = client.get("/v1/entries.jsonl", headers=bearer(Role.COMPLIANCE)).text.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [entry.seq for entry in entries]
    reserved = next(json.loads(line) for line in lines if '"Reserved"' in line)
    assert "=HYPERLINK" in json.dumps(reserved["payload"])  # JSON runs nothing.


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\n=1"])
def test_a_cell_is_never_a_formula(cell):
    from primum.entrypoints.api.exports import harmless

    assert harmless(cell) == "'" + cell
    assert harmless("plain") == "plain"


def test_accounts_add_up(client):
    listed = client.get("/v1/accounts", headers=bearer(Role.SCIENTIST)).json()
    account = next(item for item in listed if item["datasetUri"] == "sklearn://breast_cancer")
    assert account["epsilonCharged"] == account["epsilonReserved"] == "0"
    assert Decimal(account["epsilonLeft"]) <= Decimal(account["epsilon"])
    one = client.get(f"/v1/accounts/{account['accountId']}", headers=bearer(Role.SCIENTIST))
    assert one.json() == account


def test_the_record_is_verified(client, platform):
    answer = client.get("/v1/verification", headers=bearer(Role.AUDITOR)).json()
    seq, head = platform.ledger.head()
    assert answer == {"entries": seq, "head": head, "contradictions": []}


def quote(client, text, role=Role.SCIENTIST):
    headers = {**bearer(role), "Content-Type": "application/yaml"}
    return client.post("/v1/quotes", content=text, headers=headers)


def test_a_quote_says_the_price_and_spends_nothing(client, platform):
    before = platform.ledger.head()
    study = (EXAMPLES / "breast-cancer" / "study.yaml").read_text()
    study = study.replace("name: malignancy", "name: x").replace(
        "endpoint: malignancy", "endpoint: x"
    )
    answer = quote(client, study)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert Decimal("2.9") < Decimal(found["epsilon"]) <= 3
    assert found["times"] >= 1
    greedy = (EXAMPLES / "breast-cancer" / "too-greedy.yaml").read_text()
    answer = quote(client, greedy).json()
    assert (answer["times"], answer["fits"], answer["waits"]) == (0, False, "")
    assert answer["alternatives"]
    assert platform.ledger.head() == before


@pytest.mark.parametrize(
    ("text", "status", "word"),
    [
        ("", 422, "must hold at least one resource"),
        ("a: [", 422, "must be YAML"),
        ("x" * 300_000, 422, "must have at most 262144 bytes"),
        ("\xff\x00", 422, "must"),
        ("STUDY---\nSTUDY", 422, "must be declared once"),
        ("BUDGET", 422, "must hold exactly one Study"),
        ("UNKNOWN", 404, "must name a PrivacyBudget"),
        ("NON-PRIVATE", 403, "NoMechanism"),
    ],
)
def test_a_wrong_quote_is_a_problem(client, text, status, word):
    folder = EXAMPLES / "breast-cancer"
    study = (folder / "study.yaml").read_text()
    for name, value in (
        ("STUDY", study),
        ("BUDGET", (folder / "budget.yaml").read_text()),
        ("UNKNOWN", study.replace("budget: wisconsin", "budget: none")),
        ("NON-PRIVATE", (folder / "non-private.yaml").read_text()),
    ):
        text = text.replace(name, value)
    assert word in is_problem(quote(client, text), status)["detail"]


def test_counts_for_whoever_watches(client, platform):
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = dict(
        line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")
    )
    assert float(samples["primum_ledger_entries_total"]) == platform.ledger.head()[0]
    assert float(samples["primum_ledger_accounts_frozen"]) == 0
    assert float(samples["primum_loop_failures_total"]) == 3
    for word in ("oncology", "malignancy", "wisconsin", "sklearn", SECRET):
        assert word not in answer.text


def test_a_frozen_account_is_counted(platform):
    account = platform.ledger.accounts()[0].account_id
    app = create_app(platform, identify)
    with TestClient(app) as client:
        platform.ledger.freeze(account, reason="doubt", key="freeze-1", actor=ACTOR)
        try:
            assert "primum_ledger_accounts_frozen 1.0" in client.get("/metrics").text
        finally:
            platform.ledger.thaw(account, reason="fine", key="thaw-1", actor=ACTOR)
        assert "primum_ledger_accounts_frozen 0.0" in client.get("/metrics").text


def test_health_needs_no_token(client):
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_description_names_problems_tokens_and_every_path(client):
    document = client.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [PROBLEM], (path, status)
            assert ("security" in operation) == path.startswith("/v1/")


def test_answers_are_as_described(platform):
    """Whatever is asked, the answer's status, media type and shape are those of the description."""
    schemathesis = pytest.importorskip("schemathesis", reason="test group not installed")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    app = create_app(platform, identify)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) >= 10

    @settings(
        max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.one_of([operation.as_strategy() for operation in operations]),
        st.sampled_from([None, "mallory", *Role]),
    )
    def check(case, who):
        case.call_and_validate(
            headers=bearer(who) if who else {},
            excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")],
        )

    check()
