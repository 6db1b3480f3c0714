"""Does each rule pass what it should and deny what it should, and does absence deny?"""

from __future__ import annotations

import copy
from dataclasses import replace
from decimal import Decimal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from primum.domain.governance.claims import claim_of_plan
from primum.domain.governance.evidence import Verdict
from primum.domain.governance.facts import Settlement
from primum.domain.governance.gates import GateStage
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.plan import Access, Treatment
from primum.domain.study.spec import AuditSpec
from primum.resources.policy import GatePolicy
from primum_policies import bundles
from primum_policies.engine import CelPolicyEngine

ENGINE = CelPolicyEngine()
AFTER_RUN = ("Data", "Samples", "Promotion", "Release")


def failed_rules(bundle, facts, stage):
    spec = bundles.bundle_spec(bundle)
    verdict = ENGINE.evaluate(bundle, spec, stage=stage, facts=facts, inputs=())
    return {rule.rule for rule in verdict.rules if not rule.passed}


def passes(bundle, facts, stages=AFTER_RUN):
    spec = bundles.bundle_spec(bundle)
    return all(
        ENGINE.evaluate(bundle, spec, stage=stage, facts=facts, inputs=()).passed
        for stage in stages
    )


def evidence_but(make, kind, **changes):
    return tuple(
        replace(item, **changes) if item.kind.value == kind else item
        for item in make.all_evidence()
    )


def evidence_without(make, kind):
    return tuple(item for item in make.all_evidence() if item.kind.value != kind)


def small_plan(make, **changes):
    """A plan that strict admits too."""
    return make.plan(**{"epsilon": Decimal("2.9"), **changes})


def with_uncharged(make):
    access = Access("filter@wisconsin", "job", "wisconsin", Treatment.UNCHARGED, why="PixelL2")
    return make.plan(accesses=(*make.plan().accesses, access))


def settled(**changes):
    given = {"budget": "wisconsin", "state": "Charged", "by_receipt": True, "within_plan": True}
    return (Settlement(**{**given, **changes}),)


# One line per rule: bundle, stage, rule, and facts under which it must fail. `{}` must pass.
DENIED = [
    ("clinical-default", "Admission", "unit-is-one-for-all", lambda m: {"budgets": ()}),
    (
        "clinical-default",
        "Admission",
        "unit-is-one-for-all",
        lambda m: {"plan": m.plan(unit=PrivacyUnit.IMAGE)},
    ),
    (
        "clinical-default",
        "Admission",
        "delta-below-one-over-units",
        lambda m: {"plan": m.plan(delta=Decimal("0.0018"))},
    ),
    (
        "clinical-default",
        "Admission",
        "epsilon-capped",
        lambda m: {"plan": m.plan(epsilon=Decimal("10.001"))},
    ),
    (
        "clinical-default",
        "Admission",
        "epsilon-capped",
        lambda m: {"plan": m.plan(epsilon=Decimal(0))},
    ),
    (
        "clinical-default",
        "Admission",
        "plugin-reviewed-or-allowed",
        lambda m: {"plan": m.plan(mechanism={"algorithm": "Leaky", "reviewed": False})},
    ),
    (
        "clinical-default",
        "Admission",
        "plugin-reviewed-or-allowed",
        lambda m: {"plan": m.plan(mechanism={"algorithm": "Leaky"})},
    ),
    (
        "clinical-default",
        "Admission",
        "plugin-reviewed-or-allowed",
        lambda m: {"plan": m.plan(mechanism={"algorithm": "Leaky", "reviewed": "true"})},
    ),
    (
        "clinical-default",
        "Admission",
        "audit-can-certify-the-claim",
        lambda m: {"plan": m.plan(max_certifiable=None)},
    ),
    (
        "clinical-default",
        "Admission",
        "audit-can-certify-the-claim",
        lambda m: {"plan": m.plan(max_certifiable=Decimal("2.9"))},
    ),
    (
        "clinical-default",
        "Admission",
        "lineage-is-charged",
        lambda m: {"plan": with_uncharged(m)},
    ),
    (
        "clinical-default",
        "Admission",
        "lineage-is-charged",
        lambda m: {"plan": m.plan(void_edges=("an edge",))},
    ),
    (
        "clinical-default",
        "Data",
        "data-validated",
        lambda m: {"evidence": evidence_but(m, "DataQuality", verdict=Verdict.FAIL)},
    ),
    (
        "clinical-default",
        "Data",
        "data-validated",
        lambda m: {"budgets": (m.budget(), m.budget(budget="other"))},
    ),
    (
        "clinical-default",
        "Release",
        "self-test-passed",
        lambda m: {"evidence": evidence_but(m, "SelfTest", verdict=Verdict.INCONCLUSIVE)},
    ),
    (
        "clinical-default",
        "Release",
        "self-test-passed",
        lambda m: {"evidence": evidence_but(m, "SelfTest", verdict=None)},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Membership", verdict=Verdict.INCONCLUSIVE)},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Reconstruction", verdict=Verdict.FAIL)},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Membership", name="LiRA")},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Membership", subject="sha256:other")},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Membership", generation=2)},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"evidence": (*m.all_evidence(), m.evidence("Membership", "LiRA", Verdict.FAIL))},
    ),
    (
        "clinical-default",
        "Release",
        "audits-passed",
        lambda m: {"study": m.study(audits=(AuditSpec("Reconstruction", "GradientInversion"),))},
    ),
    ("clinical-default", "Release", "audits-passed", lambda m: {"study": m.study(audits=())}),
    (
        "clinical-default",
        "Release",
        "claim-valid",
        lambda m: {"claim": claim_of_plan(with_uncharged(m), artifact="a")},
    ),
    (
        "clinical-default",
        "Release",
        "reservation-settled",
        lambda m: {"settlement": settled(by_receipt=False)},
    ),
    (
        "clinical-default",
        "Release",
        "reservation-settled",
        lambda m: {"settlement": settled(within_plan=False)},
    ),
    (
        "clinical-default",
        "Release",
        "reservation-settled",
        lambda m: {"settlement": settled(state="Exposed")},
    ),
    (
        "clinical-default",
        "Release",
        "reservation-settled",
        lambda m: {"settlement": settled(budget="other")},
    ),
    ("clinical-default", "Release", "reservation-settled", lambda m: {"settlement": ()}),
    ("clinical-default", "Release", "reservation-settled", lambda m: {"settlement": None}),
    (
        "strict",
        "Admission",
        "epsilon-capped",
        lambda m: {"plan": small_plan(m, epsilon=Decimal("3.001"))},
    ),
    (
        "strict",
        "Admission",
        "unit-is-the-patient",
        lambda m: {"plan": small_plan(m, unit=PrivacyUnit.IMAGE)},
    ),
    (
        "strict",
        "Admission",
        "delta-a-tenth-of-one-over-units",
        lambda m: {"plan": small_plan(m, delta=Decimal("2e-4"))},
    ),
    (
        "strict",
        "Admission",
        "lineage-is-charged",
        lambda m: {"plan": small_plan(m, void_edges=("an edge",))},
    ),
    (
        "strict",
        "Admission",
        "two-audits-asked",
        lambda m: {"study": m.study(audits=(AuditSpec("Membership", "OneRunCanary"),))},
    ),
    (
        "strict",
        "Release",
        "two-audits-passed",
        lambda m: {"evidence": evidence_but(m, "Reconstruction", verdict=Verdict.INCONCLUSIVE)},
    ),
    (
        "strict",
        "Samples",
        "sample-filters-are-sound",
        lambda m: {
            "plan": small_plan(m, kind="Synthesize"),
            "evidence": (*m.all_evidence(), m.evidence("SampleFilter", "PixelL2", Verdict.FAIL)),
        },
    ),
    (
        "strict",
        "Promotion",
        "promoted-model-is-settled",
        lambda m: {"settlement": ()},
    ),
    (
        "research",
        "Admission",
        "epsilon-capped",
        lambda m: {"plan": m.plan(epsilon=Decimal("20.1"))},
    ),
    (
        "research",
        "Admission",
        "audit-can-certify-the-claim",
        lambda m: {"plan": m.plan(max_certifiable=Decimal(1))},
    ),
    (
        "research",
        "Release",
        "self-test-passed",
        lambda m: {"evidence": evidence_but(m, "SelfTest", verdict=Verdict.FAIL)},
    ),
    (
        "research",
        "Release",
        "audits-passed",
        lambda m: {"evidence": evidence_but(m, "Membership", verdict=Verdict.INCONCLUSIVE)},
    ),
    (
        "research",
        "Release",
        "no-audit-failed",
        lambda m: {"evidence": evidence_but(m, "Membership", verdict=Verdict.FAIL)},
    ),
    (
        "research",
        "Release",
        "claim-valid",
        lambda m: {"claim": claim_of_plan(with_uncharged(m), artifact="a")},
    ),
]


def base_facts(make, bundle, **changes):
    plan = changes.pop("plan", small_plan(make) if bundle == "strict" else make.plan())
    return make.gate_facts(plan=plan, **changes)


@pytest.mark.parametrize("case", DENIED, ids=lambda case: f"{case[0]}/{case[2]}")
def test_each_rule_denies_what_it_is_there_for(make, case):
    bundle, stage, rule, changes = case
    assert rule not in failed_rules(bundle, base_facts(make, bundle), stage)
    assert rule in failed_rules(bundle, base_facts(make, bundle, **changes(make)), stage)


@pytest.mark.parametrize("name", bundles.bundle_names())
def test_a_bundle_is_a_resource_that_anyone_could_apply(name):
    assert (
        GatePolicy.model_validate(yaml.safe_load(bundles.bundle_text(name))).metadata.name == name
    )


def test_every_rule_of_every_bundle_is_in_the_table():
    tested = {(bundle, rule) for bundle, _, rule, _ in DENIED}
    for name in bundles.bundle_names():
        own = {rule["name"] for rule in bundles.bundle_spec(name)["rules"]}
        assert {(name, rule) for rule in own} <= tested


@pytest.mark.parametrize("bundle", ["clinical-default", "strict", "research"])
def test_a_study_in_order_passes_every_stage(make, bundle):
    assert passes(bundle, base_facts(make, bundle), ("Admission", *AFTER_RUN))


def test_the_default_asks_five_gates_after_the_run():
    policy = bundles.resolved(bundles.bundle_spec("clinical-default"))
    assert sum(len(policy.at(GateStage(stage))) for stage in AFTER_RUN) == 5


KINDS = ("DataQuality", "SelfTest", "Membership", "Reconstruction")


@pytest.mark.parametrize("bundle", ["clinical-default", "strict", "research"])
@pytest.mark.parametrize("kind", KINDS)
def test_deleting_any_evidence_denies(make, bundle, kind):
    facts = base_facts(make, bundle, evidence=evidence_without(make, kind))
    assert not passes(bundle, facts)


@pytest.mark.parametrize("bundle", ["clinical-default", "strict", "research"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_verdict_denies(make, bundle, kind):
    facts = base_facts(make, bundle, evidence=evidence_but(make, kind, verdict=Verdict.FAIL))
    assert not passes(bundle, facts)


@pytest.mark.parametrize("bundle", ["clinical-default", "strict"])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_inconclusive_is_no_pass(make, bundle, kind):
    evidence = evidence_but(make, kind, verdict=Verdict.INCONCLUSIVE)
    assert not passes(bundle, base_facts(make, bundle, evidence=evidence))


def test_research_only_warns_about_an_inconclusive_audit(make):
    evidence = evidence_but(make, "Membership", verdict=Verdict.INCONCLUSIVE)
    facts = base_facts(make, "research", evidence=evidence)
    assert passes("research", facts)
    assert failed_rules("research", facts, "Release") == {"audits-passed"}


def test_research_admits_data_without_privacy_only_where_the_name_says_so(make):
    plan = replace(with_uncharged(make), epsilon=Decimal(0), void_edges=())
    for name, admitted in (("void-images", True), ("images", False)):
        study = make.study(job_kind="Synthesize", endpoint="", dataset_release=name)
        facts = base_facts(make, "research", study=study, plan=plan)
        assert ("epsilon-capped" not in failed_rules("research", facts, "Admission")) is admitted


def test_research_releases_void_only_where_the_name_says_so(make):
    plan = with_uncharged(make)
    void = {"plan": plan, "claim": claim_of_plan(plan, artifact="a")}
    named = make.study(job_kind="Synthesize", endpoint="", dataset_release="void-images")
    quiet = make.study(job_kind="Synthesize", endpoint="", dataset_release="images")
    model = make.study(endpoint="void-model", dataset_release="")
    assert passes("research", base_facts(make, "research", study=named, **void))
    assert not passes("research", base_facts(make, "research", study=quiet, **void))
    assert not passes("research", base_facts(make, "research", study=model, **void))
    for bundle in ("clinical-default", "strict"):
        assert not passes(bundle, base_facts(make, bundle, study=named, **void))


def test_an_unreviewed_plugin_runs_where_it_is_allowed_by_name(make):
    plan = make.plan(mechanism={"algorithm": "Leaky", "reviewed": False})
    facts = make.gate_facts(plan=plan)
    spec = {"extends": "clinical-default", "allowedPlugins": ["Leaky"]}
    verdict = ENGINE.evaluate("mine", spec, stage="Admission", facts=facts, inputs=())
    assert verdict.passed
    other = {"extends": "clinical-default", "allowedPlugins": ["Other"]}
    assert not ENGINE.evaluate("mine", other, stage="Admission", facts=facts, inputs=()).passed


def test_the_policy_itself_says_what_it_allows(make):
    """Facts that claim to allow a plug-in are overwritten by the policy's own list."""
    plan = make.plan(mechanism={"algorithm": "Leaky", "reviewed": False})
    facts = make.gate_facts(plan=plan) | {"policy": {"allowedPlugins": ["Leaky"]}}
    assert not passes("clinical-default", facts, ("Admission",))


def paths(value, prefix=()):
    """Every place in the facts."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*prefix, key)
        if isinstance(item, dict | list) and item:
            yield from paths(item, (*prefix, key))


def without(facts, path):
    """The facts with one place gone; deleting an item of a list leaves the rest."""
    copied = copy.deepcopy(facts)
    target = copied
    for key in path[:-1]:
        target = target[key]
    del target[path[-1]]
    return copied


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(data=st.data(), bundle=st.sampled_from(["clinical-default", "strict"]))
def test_no_deletion_ever_turns_a_denial_into_a_release(make, data, bundle):
    """Start from a Study that must be denied; whatever is deleted, it stays denied."""
    kind = data.draw(st.sampled_from(KINDS))
    verdict = data.draw(st.sampled_from([Verdict.FAIL, Verdict.INCONCLUSIVE, None]))
    facts = base_facts(make, bundle, evidence=evidence_but(make, kind, verdict=verdict))
    assert not passes(bundle, facts)
    path = data.draw(st.sampled_from(sorted(paths(facts), key=str)))
    if path[:1] != ("study",):  # What was asked for is not evidence; it is fixed by the resource.
        assert not passes(bundle, without(facts, path))
