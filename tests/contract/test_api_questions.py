"""Questions people ask, over HTTP: burn-down, forecast, spending, refusals, search; who may ask."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

import pytest
from api_platform import bearer, identify, is_problem, make_platform
from fastapi.testclient import TestClient
from ledger_words import HALF, HUGE, charge, expose, request, reserve, terms

from primum.adapters.identity import Role
from primum.application import planning
from primum.entrypoints.api.app import create_app

FORMULA = '=HYPERLINK("http://evil")'
LEDGER = {Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR}
EVERYBODY = {*LEDGER, Role.ENGINEER, Role.SCIENTIST}
MAY_READ = {
    "/v1/accounts/ACCOUNT/burndown": EVERYBODY,
    "/v1/accounts/ACCOUNT/forecast": EVERYBODY,
    "/v1/accounts/ACCOUNT/spending": LEDGER,
    "/v1/accounts/ACCOUNT/reservations": LEDGER,
    "/v1/spending": LEDGER,
    "/v1/spending.csv": LEDGER,
    "/v1/spending.jsonl": LEDGER,
    "/v1/refusals": LEDGER,
    "/v1/refusals/plans": LEDGER,
}


@pytest.fixture(scope="module")
def platform():
    """A budget with five charges over a month, one reservation and one denial."""
    made = make_platform()
    account, _ = made.ledger.open_account(terms(), actor="steward/ada")
    for number in range(5):
        made.clock.advance(6 * 86400)
        name = f"r{number}"
        asked = request(
            account,
            name,
            event=HALF,
            study=f"oncology/s{number % 2}",
            requester=("ada", "grace")[number % 2],
            group="oncology",
            purpose=FORMULA,
        )
        assert reserve(made.ledger, asked, lease_seconds=1e6).stands
        expose(made.ledger, name)
        charge(made.ledger, name, reason="@cmd")
    reserve(made.ledger, request(account, "held", event=HALF), lease_seconds=1e6)
    reserve(made.ledger, request(account, "greedy", event=HUGE))
    told = {"stage": "Reserve", "reason": "Denied", "message": "What would fit: 3 epochs"}
    made.evidence.put_fact(planning.REFUSAL, "study-1/1", told)
    plan = {"stage": "Plan", "reason": "NoMechanism", "message": "privacy must be given"}
    made.evidence.put_fact(planning.REFUSAL, "uid-2/1", plan)
    return made


@pytest.fixture(scope="module")
def account(platform):
    return platform.ledger.accounts()[0].account_id


@pytest.fixture(scope="module")
def client(platform):
    with TestClient(create_app(platform, identify), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def get(client, account):
    def ask(path, role=Role.COMPLIANCE, **query):
        return client.get(path.replace("ACCOUNT", account), params=query, headers=bearer(role))

    return ask


@pytest.mark.parametrize("path", MAY_READ)
@pytest.mark.parametrize("role", list(Role))
def test_roles(get, path, role):
    answer = get(path, role)
    if role in MAY_READ[path]:
        assert answer.status_code == 200, answer.text
    else:
        assert "needs one of the roles" in is_problem(answer, 403)["detail"]


@pytest.mark.parametrize("path", MAY_READ)
def test_nobody_asks_without_a_token(client, account, path):
    is_problem(client.get(path.replace("ACCOUNT", account)), 401)


def test_no_question_spends(get, platform):
    before = platform.ledger.head(), platform.ledger.accounts()
    for path in MAY_READ:
        assert get(path).status_code == 200
    assert (platform.ledger.head(), platform.ledger.accounts()) == before


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/accounts/none/burndown", 404),
        ("/v1/accounts/none/forecast", 404),
        ("/v1/accounts/none/spending", 404),
        ("/v1/accounts/none/reservations", 404),
        ("/v1/accounts/ACCOUNT/burndown?block=north", 404),
        ("/v1/accounts/ACCOUNT/spending?by=patient", 422),
        ("/v1/accounts/ACCOUNT/spending?since=yesterday", 422),
        ("/v1/spending?limit=0", 422),
        ("/v1/spending?after=-1", 422),
        ("/v1/refusals?limit=1001", 422),
        ("/v1/entries?kind=Forgotten", 422),
    ],
)
def test_every_error_is_a_problem_document(client, account, path, status):
    answer = client.get(path.replace("ACCOUNT", account), headers=bearer(Role.STEWARD))
    is_problem(answer, status)


def test_a_burndown_goes_down_and_names_its_assumptions(get, platform, account):
    found = get("/v1/accounts/ACCOUNT/burndown").json()
    left = [Decimal(point["epsilonLeft"]) for point in found["points"]]
    assert left == sorted(left, reverse=True)
    assert left[-1] == platform.ledger.account(account).epsilon_left
    last = found["points"][-1]
    assert Decimal(last["runningBound"]) > Decimal(last["epsilonReserved"])
    assert "however Studies were chosen" in found["runningBoundHolds"]
    assert Decimal(found["epsilonInAdvance"]) < Decimal(last["epsilonCharged"])
    assert found["moreLikeTheLast"] == platform.ledger.fits(account, HALF)
    assert (found["block"], found["blocks"]) == ("whole", ["whole"])


def test_a_forecast_says_its_model_and_its_interval(get):
    (found,) = get("/v1/accounts/ACCOUNT/forecast").json()
    assert found["prospect"] == "RunsOut"
    assert found["earliest"] < found["expected"]
    assert found["charges"] == 5
    assert "if Studies go on coming at one rate and costing alike" in found["message"]


def test_spending_is_put_together_by_whom_one_asks_for(get):
    by = {}
    for word in ("requester", "group", "study", "purpose"):
        found = get("/v1/accounts/ACCOUNT/spending", by=word).json()
        by[word] = {share["name"]: Decimal(share["share"]) for share in found["shares"]}
        assert sum(by[word].values()) == 1
    assert by["requester"] == {"ada": Decimal("0.6"), "grace": Decimal("0.4")}
    assert set(by["study"]) == {"oncology/s0", "oncology/s1"}
    assert set(by["group"]) == {"oncology"}
    one = get("/v1/accounts/ACCOUNT/spending", by="study", requester="grace", since="2026-01-20")
    assert [share["name"] for share in one.json()["shares"]] == ["oncology/s1"]


def test_pages_of_charges_are_stable(get, platform):
    every = get("/v1/spending").json()
    assert every["nextAfter"] is None
    seen, after = [], 0
    while after is not None:
        page = get("/v1/spending", limit=2, after=after).json()
        seen += page["items"]
        after = page["nextAfter"]
    assert seen == every["items"]
    assert len(seen) == 5
    assert {item["requester"] for item in seen} == {"ada", "grace"}
    narrow = get("/v1/spending", study="S1", until="2026-01-15").json()["items"]
    assert [item["study"] for item in narrow] == ["oncology/s1"]


def test_exports_hold_every_charge_and_no_formula(get):
    answer = get("/v1/spending.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == 5
    for row in rows:
        for cell in row.values():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert row["purpose"] == "'" + FORMULA
    lines = [json.loads(line) for line in get("/v1/spending.jsonl").text.splitlines()]
    assert [str(line["seq"]) for line in lines] == [row["seq"] for row in rows]
    assert lines[0]["purpose"] == FORMULA  # JSON runs nothing.
    assert len(get("/v1/spending.jsonl", study="s1").text.splitlines()) == 2


def test_a_refusal_has_its_reason_and_what_would_fit(get):
    (found,) = get("/v1/refusals").json()["items"]
    assert found["code"] == "OverBudget"
    assert "short by" in found["reason"]
    assert "RDP has epsilon" in found["reason"]
    assert found["told"] == "What would fit: 3 epochs"
    assert get("/v1/refusals", account="other").json() == {"items": [], "nextAfter": None}
    (plan,) = get("/v1/refusals/plans").json()
    assert (plan["study"], plan["reason"]) == ("uid-2", "NoMechanism")


def test_what_is_held_is_listed(get):
    (held,) = get("/v1/accounts/ACCOUNT/reservations").json()
    assert (held["reservationId"], held["state"]) == ("held", "Reserved")


def test_entries_are_searched(get):
    charged = get("/v1/entries", kind="Charged", study="s0").json()["items"]
    assert [item["kind"] for item in charged] == ["Charged"] * 3
    assert get("/v1/entries", actor="steward").json()["items"][0]["kind"] == "Opened"
    late = get("/v1/entries", since="2026-01-31", until="2026-01-31").json()["items"]
    assert {item["time"][:10] for item in late} == {"2026-01-31"}


def test_every_question_is_described_with_its_fields(client):
    document = client.get("/openapi.json").json()
    for path in MAY_READ:
        operation = document["paths"][path.replace("ACCOUNT", "{account_id}")]["get"]
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"] == ["ledger"]
    forecast = document["components"]["schemas"]["BlockForecast"]["properties"]
    assert forecast["prospect"]["examples"] == ["RunsOut"]
    assert "NotEnoughHistory" in forecast["prospect"]["description"]
    assert not [path for path in document["paths"] if path in ("/", "/login", "/ledger")]
