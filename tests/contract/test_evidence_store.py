"""Every evidence store keeps facts as they were written: once, whole, and with their digests."""

from __future__ import annotations

import threading
from dataclasses import replace
from decimal import Decimal

import pytest

from primum.domain.accounting.events import Gaussian, NoEvent
from primum.domain.errors import Conflict, InvalidValue, Tampered
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.plan import Access, Plan, Treatment
from primum.domain.study.steps import ArtifactRef, Receipt, StepOutcome, StepStatus


def make_plan(**changes):
    base = Plan(
        study_uid="study-1",
        generation=1,
        kind="Train",
        accesses=(
            Access("train", "job", "wisconsin", Treatment.CHARGED, Gaussian(Decimal("1.31")), "x"),
            Access("validate", "validate", "wisconsin", Treatment.DISCLOSED, NoEvent()),
        ),
        epsilon=Decimal("2.998"),
        delta=Decimal("1e-5"),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        mechanism={"epochs": 20, "noiseMultiplier": "1.31"},
        parameters={"model": "Logistic"},
        steps=("validate", "job"),
        max_certifiable=Decimal("3.5"),
    )
    return replace(base, **changes)


def make_evidence(name="HeldOut", **changes):
    base = Evidence(
        kind=EvidenceKind.UTILITY,
        name=name,
        study_uid="study-1",
        generation=1,
        subject="",
        verdict=Verdict.PASS,
        public={"accuracy": "0.95"},
        restricted={"auc": "0.99"},
    )
    return replace(base, **changes)


def make_outcome(**changes):
    base = StepOutcome(
        outcome_id="outcome-1",
        step="job",
        status=StepStatus.SUCCEEDED,
        reason="StepSucceeded",
        message="trained 90 of 90 steps",
        receipts=(Receipt("train", "wisconsin", Gaussian(Decimal("1.31")), {"steps": 90}, "t"),),
        evidence=(make_evidence().digest,),
        artifacts=(ArtifactRef("Model", "file:///model", "sha256:" + "a" * 64),),
    )
    return replace(base, **changes)


@pytest.fixture
def evidence(stores):
    return stores.evidence


def record(evidence, outcome=None, records=()):
    evidence.record(outcome or make_outcome(), records, study_uid="study-1", generation=1)


def test_a_plan_comes_back_as_it_was_put(evidence):
    assert evidence.plan("study-1", 1) is None
    evidence.put_plan(make_plan())
    evidence.put_plan(make_plan())
    assert evidence.plan("study-1", 1) == make_plan()
    assert evidence.plan("study-1", 2) is None


def test_another_plan_under_the_same_id_is_a_conflict(evidence):
    evidence.put_plan(make_plan())
    with pytest.raises(Conflict, match="generation 1"):
        evidence.put_plan(make_plan(epsilon=Decimal("9")))
    assert evidence.plan("study-1", 1) == make_plan()
    evidence.put_plan(make_plan(generation=2, epsilon=Decimal("9")))


def test_a_step_begins_once(evidence):
    assert not evidence.begun("outcome-1")
    for _ in range(2):
        evidence.begin("outcome-1", study_uid="study-1", generation=1, step="job")
    assert evidence.begun("outcome-1")
    assert not evidence.begun("outcome-2")
    assert evidence.outcome("outcome-1") is None


def test_outcome_and_evidence_are_stored_together(evidence):
    records = [make_evidence(), make_evidence("Subgroups")]
    for _ in range(2):
        record(evidence, records=records)
    assert evidence.outcome("outcome-1") == make_outcome()
    assert list(evidence.evidence("study-1", 1)) == records
    assert list(evidence.evidence("study-1", 2)) == []


def test_another_outcome_under_the_same_id_is_a_conflict_and_stores_nothing(evidence):
    record(evidence, records=[make_evidence()])
    with pytest.raises(Conflict, match="outcome job"):
        record(evidence, make_outcome(message="other"), [make_evidence("Late")])
    assert evidence.outcome("outcome-1") == make_outcome()
    assert [item.name for item in evidence.evidence("study-1", 1)] == ["HeldOut"]


def test_evidence_of_another_study_is_refused(evidence):
    with pytest.raises(InvalidValue, match="evidence"):
        record(evidence, records=[make_evidence(study_uid="study-2")])
    assert evidence.outcome("outcome-1") is None


def test_facts_are_kept_by_kind_in_order(evidence):
    for key in ("b", "a", "c"):
        evidence.put_fact("Certificate", key, {"key": key, "n": 1})
    evidence.put_fact("Certificate", "a", {"n": 1, "key": "a"})
    evidence.put_fact("Note", "a", {"text": "ä\n"})
    assert [key for key, _ in evidence.facts("Certificate")] == ["b", "a", "c"]
    assert evidence.fact("Note", "a") == {"text": "ä\n"}
    assert evidence.fact("Note", "b") is None
    assert list(evidence.facts("Run")) == []


def test_a_dossier_is_everything_about_one_generation(evidence):
    from primum.domain import names

    plan, record = make_plan(), make_evidence()
    outcome = make_outcome(outcome_id=names.outcome_id("study-1", 1, "job"))
    wanted = {"Note": "study-1/1", "Run": "r", "Certificate": "study-1/1"}
    empty = evidence.dossier("study-1", 1, facts=wanted)
    assert (empty.plan, empty.outcomes, empty.evidence, empty.facts) == (None, {}, (), {})
    evidence.put_plan(plan)
    evidence.record(outcome, [record], study_uid="study-1", generation=1)
    for kind, key in (("Note", "study-1/1"), ("Note", "r"), ("Run", "r"), ("Run", "study-1/1")):
        evidence.put_fact(kind, key, {"of": key})
    found = evidence.dossier("study-1", 1, facts=wanted)
    assert (found.plan, found.outcomes) == (plan, {"job": outcome})
    assert found.evidence == (record,)
    assert found.facts == {"Note": {"of": "study-1/1"}, "Run": {"of": "r"}}
    assert evidence.dossier("study-1", 2, facts={}).plan is None


def test_a_process_that_has_not_seen_the_plan_reads_the_same_dossier(stores):
    from primum.domain import names

    if stores.kind == "memory":
        pytest.skip("memory is one process")
    wrote, facts = stores.evidence, {"Note": "study-1/1"}
    wrote.put_plan(make_plan())
    wrote.put_fact("Note", "study-1/1", {"n": 1})
    for step in ("validate", "job"):
        outcome_id = names.outcome_id("study-1", 1, step)
        outcome = make_outcome(outcome_id=outcome_id, step=step)
        record(wrote, outcome, records=[make_evidence(step)])
    later = type(wrote)(stores.database, clock=stores.clock)
    found = later.dossier("study-1", 1, facts=facts)
    assert list(found.outcomes) == ["validate", "job"]
    assert [item.name for item in found.evidence] == ["validate", "job"]
    assert found == wrote.dossier("study-1", 1, facts=facts)
    assert found == later.dossier("study-1", 1, facts=facts)


def test_a_fact_that_was_read_is_remembered_and_one_that_was_changed_is_never_read(stores):
    if stores.kind == "memory":
        pytest.skip("memory has no second door")
    store = stores.evidence
    store.put_fact("Note", "a", {"n": "1"})
    assert store.fact("Note", "a") == {"n": "1"}
    change = "UPDATE facts SET body = replace(body, '1', '2')"
    stores.database.write(lambda connection: connection.exec_driver_sql(change))
    assert store.fact("Note", "a") == {"n": "1"}
    with pytest.raises(Tampered, match="digest"):
        type(store)(stores.database, clock=stores.clock).fact("Note", "a")


def test_another_fact_under_the_same_key_is_a_conflict(evidence):
    evidence.put_fact("Note", "a", {"n": 1})
    with pytest.raises(Conflict, match="Note a"):
        evidence.put_fact("Note", "a", {"n": 2})
    assert evidence.fact("Note", "a") == {"n": 1}


def test_a_float_is_refused_because_it_has_no_canonical_form(evidence):
    with pytest.raises(InvalidValue, match="float"):
        evidence.put_fact("Note", "a", {"n": 0.1})
    assert evidence.fact("Note", "a") is None


def test_what_is_read_cannot_change_what_is_stored(evidence):
    evidence.put_fact("Note", "a", {"list": [1]})
    evidence.fact("Note", "a")["list"].append(2)
    assert evidence.fact("Note", "a") == {"list": [1]}


def test_writers_at_once_store_one_fact(evidence):
    conflicts, start = [], threading.Barrier(4)

    def work(number):
        start.wait()
        try:
            evidence.put_fact("Run", "r", {"n": number})
        except Conflict:
            conflicts.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conflicts) == 3
    assert evidence.fact("Run", "r")["n"] not in conflicts


@pytest.mark.parametrize("table", ["plans", "outcomes", "evidence", "facts"])
def test_a_changed_body_is_never_read(stores, table):
    if stores.kind == "memory":
        pytest.skip("memory has no second door")
    store = stores.evidence
    store.put_plan(make_plan())
    record(store, records=[make_evidence()])
    store.put_fact("Note", "a", {"n": "1"})
    change = f"UPDATE {table} SET body = replace(body, '1', '2')"
    stores.database.write(lambda connection: connection.exec_driver_sql(change))
    reads = {
        "plans": lambda: store.plan("study-1", 1),
        "outcomes": lambda: store.outcome("outcome-1"),
        "evidence": lambda: store.evidence("study-1", 1),
        "facts": lambda: store.facts("Note"),
    }
    with pytest.raises(Tampered, match="digest"):
        reads[table]()
