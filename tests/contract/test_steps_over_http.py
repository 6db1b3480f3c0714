"""Steps over the ledger API: the same rules as on one machine, for who shows the run's credential.

The server is the real one, on loopback; ledger and evidence are in memory.
"""

from __future__ import annotations

import http.client
import json
import logging
from dataclasses import replace

import pytest
from ledger_server import served
from simulated.auditor import SECRET
from simulated.jobs import ATTACK
from ward import Ward

from primum import signing
from primum.adapters import memory
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.adapters.ledger_api.steps import HttpStepServices
from primum.application.access import RUN_ENDED, end_run
from primum.application.audits import reconcile_audit_run
from primum.application.settlement import CONTRADICTION
from primum.domain.errors import InvalidValue, Refused, Tampered, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.names import ticket_id
from primum.domain.study.steps import Receipt, StepOutcome, StepStatus
from primum.entrypoints import bootstrap, settings

VALIDATE, JOB, EVALUATE, AUDIT = range(4)


class RemoteWard(Ward):
    """A ward whose steps ask the ledger API."""

    url = ""

    def __init__(self):
        super().__init__()
        self.clients = []

    def _services(self, context):
        return remote(self, context)


def remote(ward, context, *, credential="", patience=5.0):
    client = LedgerApiClient(
        ward.url, lambda: credential or context.credential, patience_seconds=patience
    )
    ward.clients.append(client)
    return HttpStepServices(
        context=context,
        client=client,
        worker=ward._worker,
        artifacts="memory://artifacts",
        folders=(),
    )


@pytest.fixture(scope="module")
def server():
    """One server for all; each test gives it its own platform."""
    with served(RemoteWard().platform) as found:
        yield found


@pytest.fixture
def ward(server):
    made = RemoteWard()
    made.url, server.app.state.platform = server.url, made.platform
    yield made
    for client in made.clients:
        client.close()


@pytest.fixture
def steps(ward):
    """The contexts of the steps of a launched Study."""
    ward.advance(ward.study())
    (_, launched), *_ = ward.runner.launched
    return launched


def outcome_of(context, **changes):
    fields = {
        "outcome_id": context.outcome_id,
        "step": context.step,
        "status": StepStatus.SUCCEEDED,
        "reason": "StepSucceeded",
        "message": "",
        "receipts": (),
        "evidence": (),
        "artifacts": (),
    }
    return StepOutcome(**{**fields, **changes})


def evidence_of(context, **changes):
    fields = {
        "kind": EvidenceKind.MEMBERSHIP,
        "name": "LiRA",
        "study_uid": str(context.study["uid"]),
        "generation": int(str(context.study["generation"])),
        "subject": "",
        "verdict": Verdict.PASS,
        "public": {},
        "restricted": {"lowerBound": SECRET},
    }
    return Evidence(**{**fields, **changes})


def receipt_of(ward, context, **changes):
    (access,) = [item for item in context.plan["accesses"] if item["step"] == context.step]
    uid, generation = str(context.study["uid"]), int(str(context.study["generation"]))
    (held,) = ward.ledger.reservations(study_uid=uid)
    fields = {
        "access": access["name"],
        "budget": access["budget"],
        "event": held.event,
        "facts": {},
        "token_id": ticket_id(uid, generation, access["name"]),
    }
    return Receipt(**{**fields, **changes})


def test_a_study_goes_its_way_over_http(ward):
    key = ward.study()
    ward.finish(key)
    assert ward.shown(key, "Succeeded").startswith("True Done")
    assert ward.states(key) == ["Charged"]
    assert "receipts" in ward.ledger.reservations(study_uid=ward.get("Study", "one").uid)[0].reason
    kinds = [event["eventType"] for event in ward.platform.lineage._lineage.events]
    assert kinds.count("COMPLETE") >= 5


def test_a_claim_that_is_contradicted_freezes_over_http(ward):
    ward.moods["audit"] = "fools itself"
    key = ward.study()
    ward.finish(key)
    assert "contradicted" in ward.ledger.account(ward.account()).frozen


def test_an_audit_run_reads_what_it_attacks_and_nothing_else(ward):
    ward.finish(ward.study())
    spec = {"audit": {"kind": "Membership", "attack": ATTACK}, "study": "one"}
    stored, _ = ward.resources.apply(ward.key("AuditRun", "again"), spec, labels={})
    for _ in range(8):
        reconcile_audit_run(ward.platform, ward.get("AuditRun", "again"))
        ward.runner.progress()
    assert ward.shown(stored.key, "Succeeded").startswith("True AuditsPassed")
    ((context,),) = [launched for _, launched in ward.runner.launched if len(launched) == 1]
    credential = signing.decode_token(context.credential)
    told = json.loads(ward.platform.signer.open(credential, signing.RUN_CREDENTIAL_TYPE))
    assert told["readable"] == [context.upstream["job"]]
    assert set(told["accesses"].values()) == {"Inspected"}
    assert ward.evidence.fact(RUN_ENDED, context.run_id) == {}


def test_outcomes_of_others_are_not_read(ward, steps):
    mine = remote(ward, steps[JOB])
    assert mine.outcome(steps[JOB].outcome_id) is None
    assert mine.outcome(steps[VALIDATE].outcome_id) is None
    with pytest.raises(Refused, match="may not read this outcome"):
        mine.outcome(steps[AUDIT].outcome_id)


@pytest.mark.parametrize("damage", ["none", "cut", "ticket", "stranger", "garbage"])
def test_who_shows_no_credential_of_ours_is_refused(ward, steps, damage):
    context = steps[JOB]
    payload = ward.platform.signer.open(
        signing.decode_token(context.credential), signing.RUN_CREDENTIAL_TYPE
    )
    stranger = memory.MemorySigner().sign(signing.RUN_CREDENTIAL_TYPE, payload)
    shown = {
        "none": " ",
        "cut": context.credential[:-4],
        "ticket": next(iter(context.tickets.values())),
        "stranger": signing.encode_token(stranger),
        "garbage": "x",
    }[damage]
    with pytest.raises(Refused, match="credential of a run"):
        remote(ward, context, credential=shown).begun(context.outcome_id)
    assert not ward.evidence.begun(context.outcome_id)


def test_a_credential_is_of_one_step(ward, steps):
    with pytest.raises(Refused, match="must be of the step"):
        remote(ward, steps[JOB], credential=steps[AUDIT].credential).begun("")


def test_a_credential_expires(ward, steps):
    ward.pass_time(ward.platform.conduct.credential_seconds + 1)
    with pytest.raises(Refused, match="has expired"):
        remote(ward, steps[JOB]).begun("")


def test_a_credential_ends_with_its_run(ward, steps):
    context = steps[JOB]
    mine = remote(ward, context)
    assert mine.begun("") == "Fresh"
    end_run(ward.evidence, context.run_id)
    for ask in (
        lambda: mine.begun(""),
        lambda: mine.outcome(context.outcome_id),
        lambda: mine.redeem(next(iter(context.tickets.values()))),
        lambda: mine.record(outcome_of(context), ()),
    ):
        with pytest.raises(Refused, match="has ended"):
            ask()
    assert ward.evidence.outcome(context.outcome_id) is None


def test_a_run_ends_when_its_study_is_deleted(ward, steps):
    ward.resources.request_deletion(ward.key("Study", "one"))
    ward.advance(ward.key("Study", "one"))
    with pytest.raises(Refused, match="has ended"):
        remote(ward, steps[JOB]).begun("")


def test_what_was_recorded_may_be_said_again_when_the_run_has_ended(ward, steps):
    context = steps[VALIDATE]
    mine, done = remote(ward, context), outcome_of(steps[VALIDATE])
    mine.record(done, ())
    end_run(ward.evidence, context.run_id)
    mine.record(done, ())
    with pytest.raises(Refused, match="has ended"):
        mine.record(outcome_of(context, message="another"), ())


def test_a_contradiction_is_heard_after_the_end(ward, steps):
    context = steps[AUDIT]
    end_run(ward.evidence, context.run_id)
    found = evidence_of(context, verdict=Verdict.FAIL)
    with pytest.raises(Refused, match="has ended"):
        remote(ward, context).record(outcome_of(context, evidence=(found.digest,)), (found,))
    assert "contradicted by LiRA" in ward.ledger.account(ward.account()).frozen
    assert ward.evidence.fact(CONTRADICTION, "anything") is None
    assert ward.evidence.evidence(found.study_uid, 1) == ()


def test_a_step_that_may_have_run_is_exposed(ward, steps):
    context = steps[JOB]
    (ticket,) = context.tickets.values()
    mine = remote(ward, context)
    assert [mine.begun(""), mine.begun("")] == ["Fresh", "Fresh"]
    token = mine.redeem(ticket)
    assert (token.access, token.budget) == ("train@scans", "scans")
    claims = ward.platform.signer.open(signing.decode_token(token.text), signing.DATA_TOKEN_TYPE)
    assert json.loads(claims)["reservationId"]
    assert mine.begun("") == "Exposed"


def test_only_the_process_that_redeemed_may_ask_for_a_lost_answer(ward, steps):
    (ticket,) = steps[JOB].tickets.values()
    first, second = remote(ward, steps[JOB]), remote(ward, steps[JOB])
    first.redeem(ticket)
    again = first.redeem(ticket)
    with pytest.raises(Refused, match="redeemed before"):
        second.redeem(ticket)
    assert again.access == "train@scans"
    exposed = [e for e in ward.ledger.entries() if e.kind.value == "Exposed"]
    assert len(exposed) == 1


def test_a_redemption_that_left_no_mark_is_not_repeated(ward, steps):
    """The ledger exposed it, and the process died before it was noted for whom."""
    context = steps[JOB]
    (ticket,) = context.tickets.values()
    (held,) = ward.ledger.reservations(study_uid=str(context.study["uid"]))
    ward.ledger.expose(
        held.reservation_id, access="train@scans", fence=held.fence, actor="step/job"
    )
    with pytest.raises(Refused, match="redeemed before"):
        remote(ward, context).redeem(ticket)


def test_tickets_of_another_step_or_study_are_refused(ward, steps):
    (validating,) = steps[VALIDATE].tickets.values()
    with pytest.raises(Refused, match="must cover an access of it"):
        remote(ward, steps[JOB]).redeem(validating)
    ward.advance(ward.study("two", endpoint="other"))
    (_, others) = ward.runner.launched[-1]
    (ticket,) = others[JOB].tickets.values()
    with pytest.raises(Refused, match="must be of its run"):
        remote(ward, steps[JOB]).redeem(ticket)


def test_a_forged_ticket_is_no_ticket(ward, steps):
    forged = signing.encode_token(memory.MemorySigner().sign(signing.TICKET_TYPE, b"{}"))
    with pytest.raises(Tampered):
        remote(ward, steps[JOB]).redeem(forged)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w, c: {"outcome_id": "another"}, "its own outcome"),
        (lambda w, c: {"step": "audit"}, "its own outcome"),
        (lambda w, c: {"evidence": ("sha256:" + "0" * 64,)}, "must name the evidence"),
        (lambda w, c: {"receipts": (receipt_of(w, c, token_id="x"),)}, "must name a data token"),
        (lambda w, c: {"receipts": (receipt_of(w, c, access="audit@scans"),)}, "of its own"),
        (lambda w, c: {"receipts": (receipt_of(w, c),) * 2}, "one receipt"),
        (lambda w, c: {"receipts": (receipt_of(w, c),)}, "must have opened"),
    ],
)
def test_an_outcome_that_is_not_what_the_credential_says_is_refused(ward, steps, change, said):
    context = steps[JOB]
    with pytest.raises(Refused, match=said):
        remote(ward, context).record(outcome_of(context, **change(ward, context)), ())
    assert ward.evidence.outcome(context.outcome_id) is None


def test_evidence_of_another_study_is_refused(ward, steps):
    context = steps[JOB]
    strange = evidence_of(context, study_uid="another")
    with pytest.raises(Refused, match="evidence of its run"):
        remote(ward, context).record(outcome_of(context, evidence=(strange.digest,)), (strange,))


def test_lineage_is_of_the_step_alone(ward, steps):
    client = remote(ward, steps[JOB]).client
    path = f"/v1/steps/{steps[JOB].outcome_id}/lineage"
    with pytest.raises(InvalidValue, match="must be that of the step"):
        client.ask("POST", path, {"event": {"run": {"runId": "another"}, "eventType": "START"}})


@pytest.mark.parametrize(
    ("question", "body"),
    [
        ("redeem", {"ticket": "x" * 300_000, "attempt": "a"}),
        ("redeem", {"ticket": ["x"], "attempt": "a"}),
        ("redeem", {"ticket": "x"}),
        ("lineage", {"event": "text"}),
        ("lineage", {}),
    ],
)
def test_bodies_that_are_wrong_or_endless_are_refused(ward, steps, question, body):
    client = remote(ward, steps[JOB]).client
    with pytest.raises((InvalidValue, Tampered)) as wrong:
        client.ask("POST", f"/v1/steps/{steps[JOB].outcome_id}/{question}", body)
    assert "xxx" not in str(wrong.value)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"outcome": {}, "evidence": []},
        {"outcome": {"outcomeId": "o"}, "evidence": {}},
        {"outcome": [], "evidence": [1]},
    ],
)
def test_a_damaged_record_is_refused_without_its_words(ward, steps, body):
    client = remote(ward, steps[JOB]).client
    with pytest.raises(InvalidValue):
        client.ask("PUT", f"/v1/steps/{steps[JOB].outcome_id}/outcome", body)


def test_a_body_that_is_no_json_is_refused(ward, steps):
    context = steps[JOB]
    connection = http.client.HTTPConnection(ward.url.removeprefix("http://"), timeout=60)
    headers = {"Authorization": f"Bearer {context.credential}"}
    for raw in (b"{", b"[" * 100_000, b"\xff"):
        connection.request("POST", f"/v1/steps/{context.outcome_id}/redeem", raw, headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 422
    connection.close()


def test_nothing_of_a_record_is_logged(ward, steps, caplog):
    context = steps[AUDIT]
    found = evidence_of(context)
    with caplog.at_level(logging.DEBUG):
        remote(ward, context).record(outcome_of(context, evidence=(found.digest,)), (found,))
        with pytest.raises(Refused):
            remote(ward, context).record(outcome_of(context), (found,))
    assert SECRET not in caplog.text
    assert ward.evidence.evidence(found.study_uid, 1) == (found,)


def test_the_public_key_is_the_platforms(ward, steps):
    assert remote(ward, steps[JOB]).public_key() == ward.platform.signer.public_key()


def test_secrets_are_in_no_repr(ward, steps):
    mine = remote(ward, steps[JOB])
    assert mine.attempt not in repr(mine)


class _Flaky:
    """An evidence store that fails the first few questions."""

    def __init__(self, store, failures):
        self._store, self.failures = store, failures

    def __getattr__(self, name):
        if self.failures:
            self.failures -= 1
            raise Unavailable("the database went away", retry_seconds=0.0)
        return getattr(self._store, name)


def test_an_api_that_comes_back_is_asked_again(ward, steps, server):
    context = steps[JOB]
    server.app.state.platform = ward.with_port(evidence=_Flaky(ward.evidence, 2))
    mine = remote(ward, context)
    assert mine.begun("") == "Fresh"
    (ticket,) = context.tickets.values()
    assert mine.redeem(ticket).access == "train@scans"


def test_an_api_that_restarts_in_the_middle_is_asked_again(ward, steps):
    context = steps[JOB]
    with served(ward.platform) as first:
        port = int(first.url.rpartition(":")[2])
        ward.url = first.url
        mine = remote(ward, context, patience=60.0)
        assert mine.begun("") == "Fresh"
    with served(ward.platform, port=port):
        assert mine.outcome(context.outcome_id) is None


def test_an_api_that_stays_away_is_unavailable(ward, steps):
    ward.url = "http://127.0.0.1:9"
    with pytest.raises(Unavailable, match="did not answer"):
        remote(ward, steps[JOB], patience=0.2).begun("")


def test_lineage_never_fails_a_step(ward, steps):
    ward.url = "http://127.0.0.1:9"
    remote(ward, steps[JOB], patience=0.0).lineage({})


def test_settings_choose_the_way(ward, steps, tmp_path):
    told = {"PRIMUM_HOME": str(tmp_path), "PRIMUM_LEDGER_URL": ward.url}
    found = bootstrap.step_services(settings.from_environment(told), steps[JOB])
    assert isinstance(found, HttpStepServices)
    assert found.public_key() == ward.platform.signer.public_key()
    found.client.close()
    assert not (tmp_path / "primum.db").exists()
    bare = replace(steps[JOB], credential="")
    with pytest.raises(InvalidValue, match="credential"):
        bootstrap.step_services(settings.from_environment(told), bare)


@pytest.mark.parametrize("url", ["ftp://x", "ledger:8399", "http://user:word@x", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InvalidValue, match="PRIMUM_LEDGER_URL") as wrong:
        LedgerApiClient(url, str)
    assert "word" not in str(wrong.value)


def test_authorities_must_be_there(tmp_path):
    with pytest.raises(InvalidValue, match="PRIMUM_LEDGER_CA"):
        LedgerApiClient("https://ledger", str, ca_file=str(tmp_path / "ca.crt"))
