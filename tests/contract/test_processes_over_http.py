"""What the platform's own processes ask over HTTP: who may, what travels, what is signed.

The store contract runs over it in the tests of the stores; this is about everything around it.
"""

from __future__ import annotations

import base64
import inspect
import json
import pathlib
from dataclasses import replace
from decimal import Decimal

import pytest
from api_platform import bearer, identify, is_problem, make_platform
from control_plane import Authority
from fastapi.testclient import TestClient
from ledger_server import served
from ledger_words import EVENT, HALF, request, terms

from primum import signing
from primum.adapters.identity import Role
from primum.adapters.ledger_api import calls, codec
from primum.adapters.ledger_api.calls import PORTS, SIGNED, call_of
from primum.adapters.ledger_api.client import LedgerApiClient, Repeat
from primum.adapters.ledger_api.stores import RemoteSigner, remote_stores
from primum.adapters.memory import MemorySigner
from primum.application.ports import Dossier, LedgerStore
from primum.domain.accounting.charges import Charge
from primum.domain.budget.entries import (
    AccountTerms,
    EntryKind,
    ReservationView,
    ReserveRequest,
    Result,
    ResultCode,
)
from primum.domain.budget.lines import Line
from primum.domain.budget.rules import Quota, QuotaScope, Rules
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Tampered, Unavailable
from primum.domain.names import ResourceKey
from primum.entrypoints import bootstrap, settings
from primum.entrypoints.api.app import create_app

HEAD = "/v1/platform/ledger/head"


@pytest.fixture
def platform():
    return make_platform()


@pytest.fixture(scope="module")
def client():
    with TestClient(create_app(make_platform(), identify), raise_server_exceptions=False) as made:
        yield made


@pytest.fixture
def remote(ledger_api, platform):
    ledger_api.app.state.platform = platform
    return ledger_api.client


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.PLATFORM])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (HEAD, {"arguments": {}}),
        ("/v1/platform/sign", {"payloadType": signing.TICKET_TYPE, "payload": "e30="}),
    ],
)
def test_no_role_of_people_reaches_it(client, role, path, body):
    is_problem(client.post(path, json=body, headers=bearer(role)), 403)
    is_problem(client.get("/v1/platform/public-key", headers=bearer(role)), 403)


def test_nobody_reaches_it_without_a_token(client):
    is_problem(client.post(HEAD, json={"arguments": {}}), 401)
    is_problem(client.post(HEAD, json={"arguments": {}}, headers=bearer("mallory")), 401)


def test_it_is_in_no_description_for_people(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert not [path for path in paths if "platform" in path or "steps" in path]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/platform/ledger/nothing", {"arguments": {}}, 404),
        ("/v1/platform/ledger/__class__", {"arguments": {}}, 404),
        ("/v1/platform/ledger/_rows", {"arguments": {}}, 404),
        ("/v1/platform/resources/list", {"arguments": {}}, 404),
        ("/v1/platform/signer/sign", {"arguments": {}}, 404),
        (HEAD, {}, 422),
        (HEAD, {"arguments": []}, 422),
        (HEAD, {"arguments": {"more": 1}}, 422),
        ("/v1/platform/ledger/account", {"arguments": {}}, 422),
        ("/v1/platform/ledger/account", {"arguments": {"account_id": 7}}, 422),
        ("/v1/platform/ledger/entries", {"arguments": {"limit": "many"}}, 422),
        ("/v1/platform/ledger/entries", {"arguments": {"limit": True}}, 422),
        ("/v1/platform/ledger/reserve", {"arguments": {"requests": [{}]}}, 422),
    ],
)
def test_what_is_no_method_or_no_argument_is_refused(client, path, body, status):
    is_problem_of(client.post(path, json=body, headers=bearer(Role.PLATFORM)), status)


def is_problem_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_a_body_without_end_is_refused(client):
    body = b'{"arguments": {"x": "' + b"x" * (17 * 2**20) + b'"}}'
    answer = client.post(HEAD, content=body, headers=bearer(Role.PLATFORM))
    assert answer.status_code == 422
    assert "xxx" not in answer.text


# What is signed.


@pytest.mark.parametrize("kind", SIGNED)
def test_the_api_signs_for_the_operator(remote, platform, kind):
    signer = RemoteSigner(remote)
    envelope = signer.sign(kind, b'{"a":1}')
    assert platform.signer.open(envelope, kind) == b'{"a":1}'
    assert signer.open(envelope, kind) == b'{"a":1}'
    assert signer.public_key() == platform.signer.public_key()


@pytest.mark.parametrize("kind", [signing.DATA_TOKEN_TYPE, signing.CHECKPOINT_TYPE, "text/plain"])
def test_it_signs_nothing_that_it_makes_itself(remote, kind):
    with pytest.raises(Refused, match="must be asked to sign one of"):
        RemoteSigner(remote).sign(kind, b"{}")


@pytest.mark.parametrize("payload", ["", "!", 7, base64.b64encode(b"x" * (4 * 2**20 + 1)).decode()])
def test_it_signs_no_payload_that_is_none(client, payload):
    body = {"payloadType": signing.TICKET_TYPE, "payload": payload}
    answer = client.post("/v1/platform/sign", json=body, headers=bearer(Role.PLATFORM))
    is_problem_of(answer, 422)


def test_an_answer_under_another_key_is_not_believed(remote, platform, ledger_api):
    signer = RemoteSigner(remote)
    signer.public_key()
    ledger_api.app.state.platform = replace(platform, signer=MemorySigner())
    with pytest.raises(Tampered):
        signer.sign(signing.TICKET_TYPE, b"{}")


# What travels.


def travelled(kind, value):
    return codec.decode(kind, json.loads(json.dumps(codec.encode(value))))


VALUES = [
    (AccountTerms, terms()),
    (ReserveRequest, request("account", "r1", HALF, blocks=("a", "b"), group="g")),
    (Rules, Rules(quotas=(Quota(QuotaScope.REQUESTER, Decimal("1.50"), "ada@x"),))),
    (Charge, Charge.of({"8": 4 * 10**18, "2": 1})),
    (Result, Result(ResultCode.OVER_BUDGET, "no", 7, {"a": "0.1 under RDP"})),
    (Line, Line(1, "0" * 64, "a", "Opened", "", "k", "s", "t", "{}", "f" * 64)),
    (EntryKind, EntryKind.OPENED),
    (Decimal, Decimal("1E-30")),
    (tuple[str, Result], ("a", Result(ResultCode.ACCEPTED))),
    (float, 0.1),
    (float, 3),
    (int, 2**63),
    (str | None, None),
]


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=lambda value: str(value)[:20])
def test_values_come_back_as_they_were(kind, value):
    assert travelled(kind, value) == value


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 1.5),
        (int, True),
        (int, "1"),
        (str, 1),
        (str, None),
        (bool, 1),
        (Decimal, 1.5),
        (Decimal, "many"),
        (EntryKind, "Something"),
        (tuple[str, int], ["a"]),
        (tuple[str, ...], "abc"),
        (Result, {"code": "Accepted"}),
        (Result, {**codec.encode(Result(ResultCode.ACCEPTED)), "more": 1}),
        (Result, []),
        (Line, ["1"]),
        (Charge, {"amounts": [["b", 1], ["a", 1]]}),
        (ReservationView, None),
        (Quota, {"per": "Requester", "epsilon": "-1", "name": ""}),
    ],
)
def test_what_is_not_of_its_type_is_refused(kind, value):
    with pytest.raises(InvalidValue):
        codec.decode(kind, value)


def test_a_strange_value_does_not_leave():
    with pytest.raises(InvalidValue, match="must be one that a port declares"):
        codec.encode(object())


@pytest.mark.parametrize("port", PORTS)
def test_every_method_of_every_port_travels(port):
    """A method with a type that nobody can read would be found by its first caller."""
    methods = [
        name
        for name, item in vars(PORTS[port]).items()
        if inspect.isfunction(item) and not name.startswith("_")
    ]
    assert len(methods) >= 10
    for name in methods:
        found = call_of(port, name)
        assert set(found.types) >= set(found.signature.parameters) - {"self"}
        for kind in found.types.values():
            assert "ForwardRef" not in str(kind), (name, kind)


def test_what_would_do_more_when_repeated_is_asked_once():
    once = {"schedule", "expire", "checkpoint"}
    names = [name for name in vars(LedgerStore) if not name.startswith("_")]
    never = {name for name in names if call_of("ledger", name).repeat is Repeat.NEVER}
    assert never == once


def test_a_dossier_travels_whole(remote, platform):
    found = remote_stores(remote).evidence.dossier("study", 1, facts={"Note": "k"})
    assert found == Dossier(None, {}, (), {})
    platform.evidence.put_fact("Note", "k", {"text": "x", "list": [1, {"a": None}]})
    found = remote_stores(remote).evidence.dossier("study", 1, facts={"Note": "k"})
    assert found.facts == {"Note": {"text": "x", "list": [1, {"a": None}]}}


class Failing:
    def __init__(self, error):
        self.error = error

    def head(self):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        Conflict("the same id with other content"),
        NotFound("there is none"),
        Refused("no"),
        Tampered("bytes changed"),
        InvalidValue("spec.epsilon", "must be above 0", "-1", "Write a larger one."),
        InvalidValue("x", "must be short", "y" * 500),
        InvalidValue("x", "must be a number", 7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_come_back_by_name(remote, platform, ledger_api, error):
    ledger_api.app.state.platform = replace(platform, ledger=Failing(error))
    with pytest.raises(type(error)) as raised:
        remote_stores(remote).ledger.head()
    assert str(raised.value) == str(error)
    for part in ("field", "rule", "remedy"):
        assert getattr(raised.value, part, None) == getattr(error, part, None)


def test_an_answer_that_is_late_is_waited_for_and_no_longer(remote, platform, ledger_api):
    gone = Failing(Unavailable("the database went away", retry_seconds=0.0))
    ledger_api.app.state.platform = replace(platform, ledger=gone)
    impatient = LedgerApiClient(ledger_api.url, lambda: Role.PLATFORM.value, patience_seconds=0.3)
    with pytest.raises(Unavailable):
        remote_stores(impatient).ledger.head()
    impatient.close()


def test_a_fault_says_its_type_alone(remote, platform, ledger_api):
    fault = Failing(KeyError("patient 42"))
    ledger_api.app.state.platform = replace(platform, ledger=fault)
    impatient = LedgerApiClient(ledger_api.url, lambda: Role.PLATFORM.value, patience_seconds=0.0)
    with pytest.raises(Unavailable) as raised:
        remote_stores(impatient).ledger.head()
    impatient.close()
    assert "KeyError" in str(raised.value)
    assert "patient" not in str(raised.value)


def test_what_is_no_method_is_no_attribute(remote):
    with pytest.raises(AttributeError):
        _ = remote_stores(remote).ledger.nothing
    with pytest.raises(TypeError):
        remote_stores(remote).ledger.account()


def test_resources_are_the_clusters(remote):
    with pytest.raises(Refused, match="must be the cluster's"):
        remote_stores(remote).resources.get(ResourceKey("Study", "a", "b"))


def test_only_the_platforms_key_signs_a_checkpoint(remote, platform):
    ledger = remote_stores(remote).ledger
    envelope = ledger.checkpoint(RemoteSigner(remote), actor="s")
    assert platform.signer.open(envelope, signing.CHECKPOINT_TYPE)
    with pytest.raises(Refused, match="signs with the platform's key"):
        ledger.checkpoint(MemorySigner(), actor="s")
    assert calls.call_of("ledger", "signed_head").repeat is Repeat.SAFE


# TLS and settings.


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"), "ca")


def test_the_certificate_is_checked_with_the_authorities_that_are_named(
    authority, platform, tmp_path
):
    certificate, key = authority.issue("api")
    other = Authority(tmp_path, "other")
    token = {"token": lambda: Role.PLATFORM.value}
    with served(platform, identify, ssl_certfile=certificate, ssl_keyfile=key) as server:
        good = LedgerApiClient(server.url, ca_file=authority.file, **token)
        assert remote_stores(good).ledger.head() == (0, "0" * 64)
        good.close()
        for ca in (other.file, ""):
            bad = LedgerApiClient(server.url, ca_file=ca, patience_seconds=0.0, **token)
            with pytest.raises(Unavailable, match="SSLCertVerificationError"):
                remote_stores(bad).ledger.head()
            bad.close()


def test_a_process_with_a_ledger_url_opens_no_database_and_makes_no_key(
    remote, platform, ledger_api, tmp_path
):
    token = tmp_path / "token"
    told = settings.from_environment(
        {
            "PRIMUM_HOME": str(tmp_path / "home"),
            "PRIMUM_LEDGER_URL": ledger_api.url,
            "PRIMUM_TOKEN_FILE": str(token),
        }
    )
    token.write_text("mallory\n")
    bootstrap.prepare_home(told)
    with pytest.raises(Refused):
        bootstrap.stores(told).ledger.head()
    token.write_text("platform\n")  # Replaced, as Kubernetes does.
    made = bootstrap.platform(told)
    account, result = made.ledger.open_account(terms(), actor="steward")
    assert result.stands
    assert platform.ledger.account(account).terms == terms()
    assert made.ledger.fits(account, EVENT) > 0
    assert made.signer.public_key() == platform.signer.public_key()
    assert sorted(path.name for path in pathlib.Path(told.home).iterdir()) == ["lineage", "serving"]
    made.signer._client.close()
