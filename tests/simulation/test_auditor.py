"""A harness that cannot fail is worthless: each planted bug must be caught within a few seeds.

Every bug is one that somebody could write on an honest day. What the auditor says about it must
name the rule.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulated.auditor import SECRET, Violation
from simulated.world import World

from primum import verification
from primum.adapters import memory
from primum.application import access as accesses
from primum.application import audits, releasing, settlement, step_services
from primum.domain.accounting.events import NoEvent
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.budget import ledger, queueing
from primum.domain.budget.decisions import Decision
from primum.domain.budget.entries import ReservationState, Result, ResultCode
from primum_pipelines import runtime

SEEDS = range(100)  # A bug that needs more would be found too late.


def caught():
    """What the auditor first says, over seeds."""
    for seed in SEEDS:
        try:
            World(seed).run()
        except Violation as violation:
            return str(violation)
    return "nothing"


def give_back_what_was_exposed(monkeypatch):
    original = ledger.give_back

    def lenient(book, reservation_id, *, reason):
        held = book.reservation(reservation_id)
        if held is not None and held.state is ReservationState.EXPOSED:
            return Decision(Result(ResultCode.ACCEPTED))
        return original(book, reservation_id, reason=reason)

    def expire(book, *, now):
        lapsed = [held for held in book.lapsed(now) if held.state in ledger.OPEN_STATES]
        asked = {"reason": "The lease ran out."}
        drafts = [ledger._returned(held, f"expire/{held.reservation_id}", asked) for held in lapsed]
        waited = queueing.expired(book, now=now)
        return Decision(Result(ResultCode.ACCEPTED), (*drafts, *waited))

    monkeypatch.setattr(ledger, "give_back", lenient)
    monkeypatch.setattr(ledger, "expire", expire)
    monkeypatch.setattr("primum.domain.budget.folding._fold_reservation", _folding_anything())


def _folding_anything():
    from primum.domain.budget import folding

    original = folding._fold_reservation

    def fold(entry, account, reservation):
        if entry.kind.value == "Returned":
            return account, folding.replace(reservation, state=ReservationState.RETURNED)
        return original(entry, account, reservation)

    return fold


def believe_that_nothing_ran(monkeypatch):
    """Without a receipt, take the step's word for it that no mechanism ran."""
    original = settlement._executed

    def executed(plan, held, outcomes):
        event, reason = original(plan, held, outcomes)
        return (NoEvent(), "no receipt") if event is None else (event, reason)

    monkeypatch.setattr(settlement, "_executed", executed)


def trust_a_receipt_without_its_token(monkeypatch):
    """Accept any receipt at both doors, and of a damaged one what is missing as nothing."""
    monkeypatch.setattr(step_services.StepRules, "_check", lambda self, outcome, evidence: None)

    def receipts(items, tokens):
        found = []
        for item in items:
            half = {"event": "Repeated", "of": item["event"].get("of"), "count": 1}
            event = half if item["tokenId"].startswith("somebody") else item["event"]
            found.append(runtime.receipt_from_json({**item, "event": event}))
        return tuple(found)

    monkeypatch.setattr(runtime, "_receipts", receipts)


def publish_without_asking(monkeypatch):
    """No refusals, no verdicts, no verification: whatever ran is served."""
    monkeypatch.setattr(releasing, "refusals", lambda facts: [])
    monkeypatch.setattr(releasing, "certificate_statement", lambda facts: {"claim": "fine"})
    monkeypatch.setattr(verification, "verify_certificate", lambda *args, **kwargs: [])


def certify_whatever_the_audits_say(monkeypatch):
    """The gates are asked, and their answer is ignored."""
    from primum.application import observing, verdicts
    from primum.domain.governance import certificate
    from primum.domain.study.lifecycle import Judgment

    monkeypatch.setattr(verdicts, "judgment_of", lambda fact: fact and Judgment(1, 1, (), ""))
    monkeypatch.setattr(observing.verdicts, "judgment_of", verdicts.judgment_of)
    monkeypatch.setattr(certificate, "refusals", lambda facts: [])
    monkeypatch.setattr(releasing, "refusals", lambda facts: [])


def mint_before_the_ledger_knows(monkeypatch):
    """The token first, the entry when there is time for it."""
    monkeypatch.setattr(
        memory.MemoryLedgerStore,
        "expose",
        lambda self, reservation_id, *, access, fence, actor: Result(ResultCode.ACCEPTED),
    )


def redeem_as_often_as_asked(monkeypatch):
    """A ticket for a mechanism that works twice."""
    original = memory.MemoryLedgerStore.expose

    def expose(self, reservation_id, *, access, fence, actor):
        result = original(self, reservation_id, access=access, fence=fence, actor=actor)
        return Result(ResultCode.ACCEPTED) if result.stands else result

    monkeypatch.setattr(memory.MemoryLedgerStore, "expose", expose)
    monkeypatch.setattr(accesses, "_once", lambda *_, **__: None)


def admit_everything(monkeypatch):
    """A budget that never runs out."""
    monkeypatch.setattr(RdpPolicy, "admits", lambda self, *, capacity, used, request: True)


def grant_whatever_waits(monkeypatch):
    """A scheduler whose word is taken for it."""
    monkeypatch.setattr(queueing, "_hold", lambda tally, claim, accounts: True)


def grant_parts_of_a_claim(monkeypatch):
    """Grants the first budget of a claim and lets the others wait."""
    original = queueing.grant

    def grant(book, proposal, *, lease_seconds, now):
        decision = original(book, proposal, lease_seconds=lease_seconds, now=now)
        return replace(decision, drafts=decision.drafts[:1])

    monkeypatch.setattr(queueing, "grant", grant)


def serve_what_was_revoked(monkeypatch):
    """A revocation that only shows in status."""
    monkeypatch.setattr(memory.MemoryPublisher, "withdraw", lambda self, release: None)


def forget_to_freeze(monkeypatch):
    """An incident that is only written down."""
    for module in (settlement, step_services, audits):
        monkeypatch.setattr(module, "freeze_account", lambda *args, **kwargs: None)


def say_what_went_wrong(monkeypatch):
    """A helpful error message."""
    monkeypatch.setattr(runtime, "scrubbed", lambda step, error: f"{step} failed: {error}")


def rewrite_an_entry(monkeypatch):
    """An administrator who corrects the past, hash and all."""
    original = memory.MemoryLedgerStore.thaw

    def thaw(self, account_id, *, reason, key, actor):
        del self.store.rows.lines[0]
        return original(self, account_id, reason=reason, key=key, actor=actor)

    monkeypatch.setattr(memory.MemoryLedgerStore, "thaw", thaw)


def forget_what_a_lost_worker_left(monkeypatch):
    """A retry that calls the body again, as retries do."""
    original = runtime._Step.request

    def request(self, tokens, *, left=None):
        return original(self, tokens)

    monkeypatch.setattr(runtime._Step, "request", request)


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (give_back_what_was_exposed, "and moved again|was returned although|never ended"),
        (believe_that_nothing_ran, "charged less than what ran"),
        (trust_a_receipt_without_its_token, "charged less than what ran|not charged in full"),
        (publish_without_asking, "was published"),
        (certify_whatever_the_audits_say, "was published with|was published although"),
        (mint_before_the_ledger_knows, "without an Exposed or Inspected entry"),
        (redeem_as_often_as_asked, "ran twice"),
        (forget_what_a_lost_worker_left, "ran twice"),
        (admit_everything, "holds epsilon"),
        (grant_whatever_waits, "holds epsilon|must fit what its account had left"),
        (grant_parts_of_a_claim, "came apart"),
        (serve_what_was_revoked, "is served although"),
        (forget_to_freeze, "never froze"),
        (say_what_went_wrong, "a record-level value got out"),
        (rewrite_an_entry, "an entry changed or disappeared"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_auditor_catches(bug, said, monkeypatch):
    import re

    bug(monkeypatch)
    found = caught()
    assert re.search(said, found), found


def test_the_secret_of_the_simulation_is_really_there():
    """The leak check means something only if bodies do hold what must not leave."""
    assert any(
        SECRET in str(list(held._evidence.values()))
        for held in [_evidence_of(seed) for seed in range(3)]
    )


def _evidence_of(seed):
    world = World(seed)
    world.run()
    return world.evidence
