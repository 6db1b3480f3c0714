"""Datasets that are registered by a run where they lie: once, again after a failure, never here."""

from __future__ import annotations

import dataclasses

import pytest

from primum import signing
from primum.application import budgets, registering
from primum.application.platform import Registering
from primum.application.ports import RunStatus
from primum.application.step_door import step_door
from primum.domain.canonical import JSON
from primum.domain.conditions import Reason
from primum.domain.errors import Refused, Unavailable
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.study.credentials import credential_from_payload
from primum.domain.study.steps import REGISTER, StepOutcome, StepStatus
from primum.resources import conversion

FOUND: dict[str, JSON] = {
    "digest": "sha256:" + "7" * 64,
    "units": 600,
    "trainUnits": 480,
    "message": "two columns",
}


class Hospital:
    """A platform whose budgets are registered by runs, and who says how those runs end."""

    def __init__(self, ward, memories):
        self.ward, self.runner = ward, memories.MemoryRunner()
        conduct = dataclasses.replace(ward.platform.conduct, registering=Registering.IN_A_RUN)
        self.platform = ward.with_port(
            runner=self.runner, conduct=conduct, datasets=memories.MemoryDatasets({})
        )
        spec = dict(ward.get("PrivacyBudget", "scans").spec)
        spec["dataset"] = {"uri": "sim://elsewhere", "unit": "Patient"}
        ward.resources.apply(ward.key("PrivacyBudget", "far"), spec, labels={})

    def look(self):
        budgets.reconcile_budget(self.platform, self.ward.get("PrivacyBudget", "far"))
        return self.ward.shown(self.ward.key("PrivacyBudget", "far"), "Ready")

    @property
    def contexts(self):
        return [steps[0] for _, steps in self.runner.launched.values()]

    def end(self, *, status=StepStatus.SUCCEEDED, reason=Reason.STEP_SUCCEEDED, message=""):
        """What the run's process does, through the door that its credential opens."""
        context = self.contexts[-1]
        door = step_door(self.platform, context.credential, outcome_id=context.outcome_id)
        uid, generation = str(context.study["uid"]), int(str(context.study["generation"]))
        found = Evidence(EvidenceKind.REGISTRATION, REGISTER, uid, generation, "", None, FOUND, {})
        records = (found,) if status is StepStatus.SUCCEEDED else ()
        outcome = StepOutcome(
            outcome_id=context.outcome_id,
            step=REGISTER,
            status=status,
            reason=reason.value,
            message=message,
            receipts=(),
            evidence=tuple(item.digest for item in records),
            artifacts=(),
            body_seconds="1",
        )
        door.record(outcome, records)
        self.runner.statuses[context.run_id] = RunStatus.SUCCEEDED


@pytest.fixture
def hospital(ward, memories):
    return Hospital(ward, memories)


def test_a_run_registers_once_and_its_word_opens_the_account(hospital):
    assert hospital.look().startswith("Unknown Pending: a run registers")
    assert hospital.look().startswith("Unknown Pending")
    (context,) = hospital.contexts
    assert (context.step, context.is_heavy, dict(context.tickets)) == (REGISTER, False, {})
    assert context.owner == {"kind": "PrivacyBudget", "name": "far"}
    hospital.end()
    assert hospital.look() == "True Registered"
    assert hospital.look() == "True Registered"
    assert len(hospital.runner.launched) == 1
    account = hospital.ward.ledger.account(
        str(hospital.ward.get("PrivacyBudget", "far").status["accountId"])
    )
    assert (account.terms.units, account.terms.dataset_digest) == (600, FOUND["digest"])
    assert hospital.ward.ledger.reservations(study_uid=str(context.study["uid"])) == ()


def test_its_credential_opens_nothing_and_ends_with_the_run(hospital):
    hospital.look()
    (context,) = hospital.contexts
    envelope = signing.decode_token(context.credential)
    signer = hospital.platform.signer
    scope = credential_from_payload(signer.open(envelope, signing.RUN_CREDENTIAL_TYPE))
    assert (dict(scope.accesses), scope.accounts, scope.readable) == ({}, (), ())
    hospital.end()
    hospital.look()
    door = step_door(hospital.platform, context.credential, outcome_id=context.outcome_id)
    with pytest.raises(Refused, match="has ended"):
        door.begun()


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (Reason.INVALID_SPEC, "False InvalidSpec: column age must hold numbers"),
        (Reason.DATASET_UNREADABLE, "False DatasetUnreadable: column age must hold numbers"),
    ],
)
def test_what_is_wrong_is_told_and_tried_again_later(hospital, reason, shown):
    hospital.look()
    hospital.end(status=StepStatus.FAILED, reason=reason, message="column age must hold numbers")
    assert hospital.look() == shown
    assert hospital.look() == shown
    assert len(hospital.runner.launched) == 1
    hospital.ward.clock.advance(registering.FIRST_PAUSE_SECONDS)
    hospital.look()
    assert len({context.outcome_id for context in hospital.contexts}) == 2
    hospital.end()
    assert hospital.look() == "True Registered"


def test_a_run_that_died_is_told_and_one_that_vanished_is_launched_again(hospital):
    hospital.look()
    (run,) = hospital.runner.launched
    hospital.runner.launched.clear()
    hospital.runner.statuses.clear()
    assert hospital.look().startswith("Unknown Pending")
    assert list(hospital.runner.launched) == [run]
    hospital.runner.statuses[run] = RunStatus.FAILED
    assert "left no outcome; see its logs" in hospital.look()


def test_pauses_between_attempts_are_bounded(hospital):
    hospital.look()
    for _ in range(12):
        hospital.end(status=StepStatus.FAILED, reason=Reason.INVALID_SPEC, message="no")
        hospital.look()
        hospital.ward.clock.advance(registering.PAUSE_SECONDS_MAX)
        hospital.look()
    assert len(hospital.runner.launched) == 13


def test_a_lowered_guarantee_is_registered_anew_and_reaches_the_account(hospital):
    hospital.look()
    hospital.end()
    hospital.look()
    key = hospital.ward.key("PrivacyBudget", "far")
    spec = dict(hospital.ward.get("PrivacyBudget", "far").spec)
    spec["guarantee"] = {**spec["guarantee"], "epsilon": "1.5"}
    hospital.ward.resources.apply(key, spec, labels={})
    assert hospital.look().startswith("Unknown Pending")
    hospital.end()
    assert hospital.look() == "True Registered"
    account_id = str(hospital.ward.get("PrivacyBudget", "far").status["accountId"])
    assert str(hospital.ward.ledger.account(account_id).terms.epsilon) == "1.5"


def test_nobody_who_plans_waits_for_it_or_starts_it(hospital):
    spec = conversion.budget_spec(hospital.ward.get("PrivacyBudget", "far"))
    with pytest.raises(Unavailable, match="still to be registered"):
        budgets.registered_dataset(hospital.platform, spec)
    assert hospital.runner.launched == {}
