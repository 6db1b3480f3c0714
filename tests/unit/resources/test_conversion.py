"""Resources become what the domain reads; specs change only where they may; status is honest."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from primum.domain.accounting.charges import Charge
from primum.domain.budget.entries import AccountTerms, AccountView
from primum.domain.budget.rules import Rules
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey
from primum.domain.quantities import Disclosure, Neighbors, PrivacyUnit
from primum.domain.study.spec import AuditSpec, DataRole, StudyInput
from primum.resources import conversion, status
from primum.resources.kinds import KINDS
from primum.resources.loading import load_files
from primum.resources.stored import StoredResource

EXAMPLES = Path(__file__).parents[3] / "examples"
DIGEST = "sha256:" + "0" * 64
RELEASE: dict[str, Any] = {
    "kind": "Dataset",
    "artifact": {"kind": "Dataset", "uri": "file:///a/samples.npz", "digest": DIGEST},
    "certificate": {"uri": "file:///a/certificate.json", "digest": DIGEST},
    "claim": {
        "standing": "Valid",
        "epsilon": "3.0",
        "delta": "1e-5",
        "unit": "Image",
        "neighbors": "AddOrRemoveOne",
    },
    "study": {"name": "s", "uid": "u", "generation": 1},
}


def make_stored(kind: str, spec: Mapping[str, Any], **changes: Any) -> StoredResource:
    values: dict[str, Any] = {
        "key": ResourceKey(kind, "oncology", "thing"),
        "uid": "uid-1",
        "generation": 3,
        "resource_version": 9,
        "created": "2026-11-22T06:00:00.000000Z",
        "spec": spec,
        "status": {},
        "labels": {},
    }
    return StoredResource(**(values | changes))


def example(file: str, name: str) -> dict[str, Any]:
    (spec,) = [i.spec_mapping() for i in load_files([EXAMPLES / file]) if i.key.name == name]
    return spec


def test_a_budget_becomes_exact_values() -> None:
    spec = conversion.budget_spec(
        make_stored("PrivacyBudget", example("breast-cancer/budget.yaml", "wisconsin"))
    )
    assert spec.epsilon == Decimal("8.0")
    assert spec.delta == Decimal("0.00001")
    assert spec.dataset.uri == "sklearn://breast_cancer"
    assert spec.dataset.unit is PrivacyUnit.PATIENT
    assert spec.dataset.units is None
    assert spec.neighbors is Neighbors.ADD_OR_REMOVE_ONE
    assert (spec.accounting, spec.disclosures) == ("RDP", (Disclosure.UTILITY,))
    assert (spec.uid, spec.generation) == ("uid-1", 3)


def test_declared_feature_columns_reach_the_driver_as_bounds() -> None:
    options = {
        "label": "y",
        "unitColumn": "patient",
        "features": [{"name": "age", "low": "0", "high": "100"}],
    }
    dataset = {"uri": "csv://ward.csv", "unit": "Patient", "options": options}
    guarantee = {"epsilon": "1", "delta": "1e-6"}
    spec = conversion.budget_spec(
        make_stored("PrivacyBudget", {"dataset": dataset, "guarantee": guarantee})
    )
    assert spec.dataset.options == {
        "label": "y",
        "unitColumn": "patient",
        "features": {"age": ["0", "100"]},
    }


def test_a_study_becomes_what_job_kinds_and_steps_read() -> None:
    spec = conversion.study_spec(
        make_stored("Study", example("breast-cancer/study.yaml", "malignancy"))
    )
    assert spec.inputs == (StudyInput(DataRole.PRIVATE, budget="wisconsin"),)
    assert (spec.epsilon, spec.delta) == (Decimal("3.0"), Decimal("1e-5"))
    assert spec.job_kind == "Train"
    assert spec.job["maxGradNorm"] == "1.0"
    assert spec.job["batchSize"] == 128
    assert spec.job["algorithm"] == "DPSGD"
    assert "resources" not in spec.job
    assert spec.audits[0] == AuditSpec("Membership", "OneRunCanary", {"canaries": 100})
    assert spec.expectations[0]["type"] == "ExpectColumnValuesToBeBetween"
    assert (spec.endpoint, spec.dataset_release) == ("malignancy", "")
    assert spec.policy == "clinical-default"


def test_a_study_without_privacy_stays_without() -> None:
    spec = conversion.study_spec(
        make_stored("Study", example("breast-cancer/non-private.yaml", "as-usual"))
    )
    assert (spec.epsilon, spec.delta) == (None, None)


def test_a_plug_in_kind_gets_its_parameters_and_plug_in_attacks_theirs() -> None:
    study = example("breast-cancer/study.yaml", "malignancy")
    study["job"] = {"kind": "Segment", "parameters": {"depth": "4"}}
    study["audits"] = [{"kind": "Membership", "attack": "Own", "parameters": {"width": "2"}}]
    spec = conversion.study_spec(make_stored("Study", study))
    assert (spec.job_kind, spec.job) == ("Segment", {"depth": "4"})
    assert spec.audits == (AuditSpec("Membership", "Own", {"width": "2"}),)


def test_a_stored_spec_that_breaks_a_rule_is_refused_with_its_name() -> None:
    with pytest.raises(InvalidValue, match=r"Study oncology/thing: spec\.purpose must"):
        conversion.study_spec(make_stored("Study", {}))


def test_synthetic_facts_carry_the_claim_and_its_void_edges() -> None:
    facts = conversion.synthetic_facts(make_stored("Release", RELEASE))
    assert facts.release == "thing"
    assert facts.claim == "epsilon 3.0, delta 1e-5, unit Image, AddOrRemoveOne"
    assert (facts.uri, facts.digest, facts.void_edges) == ("file:///a/samples.npz", DIGEST, ())
    void = RELEASE | {"claim": {"standing": "Void", "voidEdges": ["generator without charge"]}}
    facts = conversion.synthetic_facts(make_stored("Release", void))
    assert (facts.claim, facts.void_edges) == ("Void", ("generator without charge",))


def test_every_example_is_stored_and_read_back_unchanged() -> None:
    for item in load_files(sorted(EXAMPLES.glob("breast-cancer/*.yaml"))):
        model = KINDS[item.key.kind].spec
        again = model.model_validate(item.spec_mapping(), by_alias=True, by_name=False)
        assert conversion.wire_form(again) == item.spec_mapping()


BUDGET = ResourceKey("PrivacyBudget", "oncology", "wisconsin")
STUDY = ResourceKey("Study", "oncology", "malignancy")


def changed(spec: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    name, _, rest = path.partition(".")
    if not rest:
        return {key: item for key, item in {**spec, name: value}.items() if item is not None}
    return {**spec, name: changed(spec[name], rest, value)}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("guarantee.epsilon", "7.5"),
        ("guarantee.epsilon", "8.00"),
        ("guarantee.delta", "1e-6"),
        ("disclosures", []),
        ("neighbors", None),
        ("accounting", None),
    ],
)
def test_a_budget_may_be_lowered(path: str, value: Any) -> None:
    old = example("breast-cancer/budget.yaml", "wisconsin")
    conversion.check_transition(BUDGET, old, changed(old, path, value))


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            "guarantee.epsilon",
            "8.1",
            "PrivacyBudget oncology/wisconsin: spec.guarantee.epsilon must be at most 8.0, "
            "because a promise is not taken back; found 8.1.",
        ),
        (
            "guarantee.delta",
            "2e-5",
            "PrivacyBudget oncology/wisconsin: spec.guarantee.delta must be at most 1e-5, "
            "because a promise is not taken back; found 2e-5.",
        ),
        (
            "dataset.unit",
            "Image",
            "PrivacyBudget oncology/wisconsin: spec.dataset.unit must stay as declared; found a "
            "change from Patient to Image. Declare another PrivacyBudget; what was spent on the "
            "dataset stays spent.",
        ),
        ("dataset.units", 569, "spec.dataset.units must stay as declared"),
        ("neighbors", "ReplaceOne", "spec.neighbors must stay as declared"),
        ("accounting", {"policy": "GDP"}, "spec.accounting.policy must stay as declared"),
    ],
)
def test_a_budget_may_not_change_otherwise(path: str, value: Any, sentence: str) -> None:
    old = example("breast-cancer/budget.yaml", "wisconsin")
    with pytest.raises(InvalidValue) as caught:
        conversion.check_transition(BUDGET, old, changed(old, path, value))
    assert sentence in str(caught.value)


def test_a_study_may_not_change_but_may_write_out_its_defaults() -> None:
    old = example("breast-cancer/study.yaml", "malignancy")
    bare = changed(old, "policy", None)
    conversion.check_transition(STUDY, bare, old)
    with pytest.raises(InvalidValue) as caught:
        conversion.check_transition(STUDY, old, changed(old, "privacy.epsilon", "2.0"))
    assert str(caught.value) == (
        "Study oncology/malignancy: spec.privacy.epsilon must stay as declared; found a change "
        "from 3.0 to 2.0. Delete the Study and declare it again, or give the new one another name."
    )


def test_a_release_may_be_revoked_once_and_for_good() -> None:
    key = ResourceKey("Release", "oncology", "thing")
    revoked = {**RELEASE, "revocation": {"reason": "the lower bound exceeded the claim"}}
    conversion.check_transition(key, RELEASE, revoked)
    for undone in (RELEASE, {**RELEASE, "revocation": {"reason": "other"}}):
        with pytest.raises(InvalidValue, match="a revocation is final"):
            conversion.check_transition(key, revoked, undone)
    moved = changed(RELEASE, "artifact.uri", "file:///other")
    with pytest.raises(InvalidValue, match=r"spec\.artifact\.uri must stay as declared"):
        conversion.check_transition(key, RELEASE, moved)


def test_a_policy_may_change() -> None:
    key = ResourceKey("GatePolicy", "oncology", "house")
    conversion.check_transition(key, {"extends": "strict"}, {"extends": "research"})


READY = Condition(ConditionType.READY, Status.TRUE, Reason.REGISTERED, "", 3)


def test_conditions_keep_their_time_until_their_status_moves() -> None:
    stored = make_stored("PrivacyBudget", {})
    first = status.with_conditions(stored, (READY,), now="t1")
    stored = make_stored("PrivacyBudget", {}, status=first)
    assert status.with_conditions(stored, (READY,), now="t2") == first
    found = status.condition(first, ConditionType.READY)
    assert found is not None
    assert found.last_transition_time == "t1"
    assert first["observedGeneration"] == 3


def test_a_condition_that_cannot_be_read_is_observed_again() -> None:
    assert status.conditions_of({"conditions": [{"type": "Unheard"}, {"status": "True"}]}) == ()
    assert status.conditions_of({}) == ()
    assert status.condition({"conditions": "?"}, ConditionType.READY) is None


def test_spent_is_rounded_up_and_left_is_rounded_down() -> None:
    assert status.spent_text(Decimal("2.99991")) == "3"
    assert status.left_text(Decimal("4.99999")) == "4.9999"
    assert status.spent_text(Decimal("Infinity")) == "inf"


def test_a_budget_without_a_readable_account_keeps_what_was_known() -> None:
    known = {"accountId": "a-1", "epsilonSpent": "3", "units": 569}
    stored = make_stored("PrivacyBudget", {}, status=known)
    projected = status.budget_status(stored, (READY,), None, units=None, now="t1")
    assert {name: projected[name] for name in known} == known


def make_account(**changes: Any) -> AccountView:
    terms = AccountTerms(
        dataset_uri="sklearn://breast_cancer",
        dataset_digest=DIGEST,
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        epsilon=Decimal("8.0"),
        delta=Decimal("1e-5"),
        policy="RDP",
        units=569,
    )
    values: dict[str, Any] = {
        "account_id": "a-1",
        "terms": terms,
        "rules": Rules(),
        "blocks": (),
        "quotas": (),
        "capacity": Charge(()),
        "epsilon_spent": Decimal("2.999923"),
        "epsilon_reserved": Decimal("2.999923"),
        "epsilon_left": Decimal("5.000077"),
        "frozen": "",
        "entries": 3,
    }
    return AccountView(**(values | changes))


def test_a_budget_shows_its_account_and_thaws_with_it() -> None:
    stored = make_stored("PrivacyBudget", {}, status={"frozen": "claim exceeded"})
    shown = status.budget_status(stored, (READY,), make_account(), units=569, now="t1")
    assert shown["epsilonSpent"] == "3"
    assert shown["epsilonLeft"] == "5"
    assert (shown["accountId"], shown["datasetDigest"], shown["units"]) == ("a-1", DIGEST, 569)
    assert "frozen" not in shown
    KINDS["PrivacyBudget"].status.model_validate(shown, by_alias=True, by_name=False)
    frozen = make_account(frozen="claim exceeded by Study oncology/leaky")
    shown = status.budget_status(stored, (READY,), frozen, units=569, now="t2")
    assert shown["frozen"] == "claim exceeded by Study oncology/leaky"


def test_the_other_kinds_are_read_back_checked() -> None:
    policy = conversion.gate_policy_spec(make_stored("GatePolicy", {"extends": "strict"}))
    assert (policy.extends, policy.rules, policy.allowed_plugins) == ("strict", [], [])
    release = conversion.release_spec(make_stored("Release", RELEASE))
    assert release.claim.epsilon == "3.0"
    run = {"release": "thing", "audit": {"kind": "Membership", "attack": "LiRA", "shadows": 64}}
    audit = conversion.audit_run_spec(make_stored("AuditRun", run)).audit
    assert audit.settings() == {"shadows": 64}


def test_a_new_spec_that_breaks_a_rule_is_refused_before_it_is_compared() -> None:
    old = example("breast-cancer/study.yaml", "malignancy")
    with pytest.raises(InvalidValue, match=r"Study oncology/malignancy: spec\.data must have at"):
        conversion.check_transition(STUDY, old, changed(old, "data", []))


def test_a_release_may_change_its_schedule_only() -> None:
    key = ResourceKey("Release", "oncology", "thing")
    conversion.check_transition(key, RELEASE, {**RELEASE, "auditSchedule": "0 3 * * 0"})
