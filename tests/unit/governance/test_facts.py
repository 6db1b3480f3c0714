"""Do facts hold only what is known, current, and about what is released?"""

from __future__ import annotations

from primum.domain.canonical import canonical_json
from primum.domain.governance.facts import Settlement, gate_facts
from primum.domain.study.spec import DataRole, StudyInput


def test_what_is_not_known_yet_is_absent(make):
    facts = gate_facts(study=make.study(epsilon=None, delta=None))
    assert "plan" not in facts
    assert "claim" not in facts
    assert "settlement" not in facts
    assert facts["evidence"] == {}
    assert not {"epsilon", "delta", "unit"} & set(facts["study"])


def test_numbers_are_exact_text(make):
    facts = make.gate_facts()
    assert facts["study"]["epsilon"] == "3.0"
    assert facts["plan"]["epsilon"] == "2.998"
    assert facts["plan"]["steps"] == 72
    assert canonical_json(facts)  # Refuses floats.


def test_a_kind_of_evidence_without_a_record_is_a_missing_key(make):
    facts = make.gate_facts(evidence=(make.evidence("SelfTest", "DPSGD"),))
    assert set(facts["evidence"]) == {"SelfTest"}


def test_stale_and_foreign_evidence_is_left_out(make):
    records = (
        make.evidence("SelfTest", "DPSGD", generation=2),
        make.evidence("SelfTest", "DPSGD", study_uid="another"),
        make.evidence("Membership", "OneRunCanary", subject="sha256:another"),
    )
    assert make.gate_facts(evidence=records)["evidence"] == {}


def complete(make, settlement, inputs=("wisconsin",)):
    study = make.study(inputs=tuple(StudyInput(DataRole.PRIVATE, budget=b) for b in inputs))
    return make.gate_facts(study=study, settlement=settlement)["settlement"]["complete"]


def test_settlement_is_complete_when_every_budget_is_resolved_once(make):
    one, two = (Settlement(name, "Charged", True, True) for name in ("wisconsin", "other"))
    assert complete(make, (one,))
    assert complete(make, (one, two), ("wisconsin", "other"))
    assert not complete(make, (one,), ("wisconsin", "other"))
    assert not complete(make, (two,))
    assert not complete(make, ())
    assert not complete(make, (one, one))
