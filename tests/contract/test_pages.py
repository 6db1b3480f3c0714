"""The pages without a browser: sessions, forms from elsewhere, headers, and what is escaped."""

from __future__ import annotations

import re

import pytest
from api_platform import bearer, identify, make_platform
from fastapi.testclient import TestClient
from ledger_words import HALF, HUGE, charge, expose, request, reserve, terms

from primum.adapters.identity import NOBODY, Identity, Role
from primum.domain.names import ResourceKey
from primum.entrypoints.api.app import create_app
from primum.entrypoints.api.pages import answers, charts, wording
from primum.entrypoints.api.pages.sessions import (
    COOKIE,
    IDLE_SECONDS,
    SESSIONS_MAX,
    WHOLE_SECONDS,
    Sessions,
)

SCRIPT = "<script>alert(1)</script>"
PATHS = ("/", "/ledger", "/refusals", "/releases", "/verification")


@pytest.fixture(scope="module")
def platform():
    made = make_platform()
    account, _ = made.ledger.open_account(terms(dataset_uri=f"file:///{SCRIPT}"), actor="a")
    for number in range(3):
        name = f"r{number}"
        made.clock.advance(6 * 86400)
        asked = request(account, name, event=HALF, study=f"x/{SCRIPT}", purpose=SCRIPT)
        reserve(made.ledger, asked)
        expose(made.ledger, name)
        charge(made.ledger, name)
    reserve(made.ledger, request(account, "greedy", event=HUGE, purpose=SCRIPT))
    made.resources.apply(
        ResourceKey("Release", "oncology", "model"),
        {
            "kind": "Endpoint",
            "claim": {"standing": "Void", "voidEdges": [SCRIPT]},
            "study": {"name": "malignancy"},
            "certificate": {"digest": "sha256:" + "a" * 64},
        },
        labels={},
    )
    return made


@pytest.fixture
def client(platform):
    app = create_app(platform, identify)
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as made:
        yield made


def sign_in(client, role=Role.COMPLIANCE, **headers):
    return client.post("/login", data={"token": str(role.value)}, headers=headers)


def mark(client):
    """The mark of the session's forms."""
    return re.search(r'name="form_token" value="([^"]+)"', client.get("/").text).group(1)


@pytest.mark.parametrize("path", [*PATHS, "/budgets/x"])
def test_nobody_sees_a_page_without_signing_in(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    # A token for the API opens no page: a link with it could be followed by a browser.
    assert client.get(path, headers=bearer(Role.STEWARD)).status_code == 303


@pytest.mark.parametrize("role", list(Role))
def test_who_may_sign_in(client, role):
    answer = sign_in(client, role)
    if role in (Role.COMPLIANCE, Role.STEWARD, Role.AUDITOR):
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert client.get("/").status_code == 200
    else:
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("token", ["", "mallory", "x" * 9000, "x" * 20_000])
def test_a_wrong_token_opens_nothing(client, token):
    answer = client.post("/login", data={"token": token})
    assert answer.status_code in (401, 422)
    assert "set-cookie" not in answer.headers
    assert token not in answer.text or not token


def test_the_cookie_is_kept_from_scripts_and_other_sites(client):
    text = sign_in(client).headers["set-cookie"]
    assert "HttpOnly" in text
    assert "SameSite=strict" in text
    assert "Secure" not in text  # Plain HTTP on loopback; with TLS it is:
    with TestClient(client.app, base_url="https://testserver", follow_redirects=False) as safe:
        assert "Secure" in sign_in(safe).headers["set-cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_elsewhere_is_refused(client, headers):
    assert sign_in(client, **headers).status_code == 403
    sign_in(client)
    form = {"form_token": mark(client)}
    for path in ("/verify", "/logout"):
        assert client.post(path, data=form, headers=headers).status_code == 403
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["/verify", "/logout"])
def test_a_form_without_the_sessions_mark_is_refused(client, path):
    sign_in(client)
    for form in ({}, {"form_token": "guessed"}):
        assert client.post(path, data=form).status_code == 403
    here = {"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}
    answer = client.post(path, data={"form_token": mark(client)}, headers=here)
    assert answer.status_code == 303


def test_nothing_is_verified_by_a_link(client):
    sign_in(client)
    assert client.get("/verify").status_code == 405


def test_signing_out_ends_the_session_for_good(client):
    sign_in(client)
    handle = client.cookies[COOKIE]
    client.post("/logout", data={"form_token": mark(client)})
    client.cookies.set(COOKIE, handle)
    assert client.get("/").headers["location"] == "/login"


def test_a_token_that_is_taken_back_ends_the_session(platform):
    known = {"t": Identity("ada", frozenset({Role.COMPLIANCE}))}
    app = create_app(platform, lambda token: known.get(token, NOBODY))
    with TestClient(app, follow_redirects=False) as client:
        client.post("/login", data={"token": "t"})
        assert client.get("/").status_code == 200
        known["t"] = Identity("ada", frozenset({Role.SCIENTIST}))
        assert client.get("/").status_code == 403
        del known["t"]
        assert client.get("/").headers["location"] == "/login"


def test_sessions_end_after_a_while_and_are_few():
    moment = [0.0]
    sessions = Sessions(identify, monotonic=lambda: moment[0])
    handle, _ = sessions.open("steward")
    moment[0] += IDLE_SECONDS - 1
    assert sessions.of(handle) is not None
    moment[0] += IDLE_SECONDS + 1
    assert sessions.of(handle) is None
    handle, _ = sessions.open("steward")
    for _ in range(int(WHOLE_SECONDS / 1000) + 1):
        moment[0] += 1000
        alive = sessions.of(handle)
    assert alive is None
    handles = [sessions.open("steward")[0] for _ in range(SESSIONS_MAX + 1)]
    assert sessions.of(handles[0]) is None
    assert sessions.of(handles[-1]) is not None
    assert "steward" not in repr(vars(sessions))


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_security_headers(client, path):
    sign_in(client)
    for answer in (client.get(path), client.get("/static/page.css"), client.get("/budgets/none")):
        for name, value in answers.HEADERS.items():
            if name != "Cache-Control":
                assert answer.headers[name] == value
    assert client.get(path).headers["Cache-Control"] == "no-store"


def test_nothing_that_was_written_becomes_markup(client, platform):
    sign_in(client)
    account = platform.ledger.accounts()[0].account_id
    for path in (*PATHS, f"/budgets/{account}", f"/ledger?study={SCRIPT}&actor=%22%3E{SCRIPT}"):
        text = client.get(path).text
        assert "<script" not in text, path
        assert "alert(1)" in text or path in ("/verification",), path


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/budgets/none", 404),
        ("/ledger?kind=Forgotten", 422),
        ("/ledger?since=yesterday", 400),
        ("/ledger?cursor=-1", 400),
        ("/static/../answers.py", 404),
        ("/static/answers.py", 404),
    ],
)
def test_an_error_is_a_page_that_says_nothing_of_what_was_sent(client, path, status):
    sign_in(client)
    answer = client.get(path)
    assert answer.status_code == status
    assert "yesterday" not in answer.text
    assert "Forgotten" not in answer.text


def test_a_fault_shows_its_type_alone(platform):
    from dataclasses import replace

    class Broken:
        def head(self):
            raise RuntimeError("patient 17")

    app = create_app(replace(platform, ledger=Broken()), identify)
    with TestClient(app, raise_server_exceptions=False, follow_redirects=False) as client:
        sign_in(client)
        answer = client.get("/verification")
        assert answer.status_code == 500
        assert "patient 17" not in answer.text


def test_numbers_are_never_rounded_in_favor_of_spending():
    from decimal import Decimal

    assert wording.spent(Decimal("2.001")) == "2.01"
    assert wording.left(Decimal("2.009")) == "2.00"
    assert wording.spent(None) == "none defined"
    assert wording.spent(Decimal("Infinity")) == "unbounded"
    assert wording.plain(Decimal("8.0")) == "8"
    assert wording.plain(Decimal("0.00001")) == "1E-5"
    assert wording.count(1234567) == "1\u202f234\u202f567"


def test_a_meter_never_leaves_its_frame():
    from decimal import Decimal

    meter = charts.meter(Decimal(9), Decimal(12), Decimal(8))
    assert meter.charged + meter.held <= 1000
    assert meter.text == "100 % of the budget is spent or held"
