"""Does every registered policy engine keep the port's words? Any doubt is a denial."""

from __future__ import annotations

from importlib import metadata

import pytest

from primum.domain.governance.gates import verdict_from_json
from primum_policies.engine import CelPolicyEngine

SPEC = {
    "rules": [
        {
            "name": "small",
            "stage": "Release",
            "expression": "plan.epsilon <= 3.0",
            "message": "Epsilon must be at most 3.",
        },
        {
            "name": "advice",
            "stage": "Release",
            "severity": "Warn",
            "expression": "plan.epsilon <= 1.0",
            "message": "Epsilon had better be at most 1.",
        },
    ]
}


def registered():
    found = metadata.entry_points(group="primum.policy_engines")
    return {item.name: item.load() for item in found} or {"cel": CelPolicyEngine}


@pytest.fixture(params=sorted(registered()))
def engine(request):
    return registered()[request.param]()


def ask(engine, facts, *, spec=SPEC, stage="Release", inputs=()):
    return engine.evaluate("mine", spec, stage=stage, facts=facts, inputs=inputs)


def test_rules_are_answered_in_order(engine):
    verdict = ask(engine, {"plan": {"epsilon": "2.5"}})
    assert [(rule.rule, rule.passed) for rule in verdict.rules] == [
        ("small", True),
        ("advice", False),
    ]
    assert verdict.passed
    assert not ask(engine, {"plan": {"epsilon": "3.1"}}).passed


def test_inputs_are_kept_as_digests(engine):
    one = ask(engine, {"plan": {"epsilon": "2.5"}}, inputs=["sha256:b", "sha256:a"])
    two = ask(engine, {"plan": {"epsilon": "2.6"}}, inputs=["sha256:a", "sha256:b"])
    assert one.inputs[1:] == two.inputs[1:] == ("sha256:a", "sha256:b")
    assert one.inputs[0] != two.inputs[0]
    assert one.policy_digest == two.policy_digest


def test_the_same_question_has_the_same_answer(engine):
    facts = {"plan": {"epsilon": "2.5"}}
    one = ask(engine, facts)
    assert one == ask(type(engine)(), facts)
    assert verdict_from_json(one.to_json()) == one


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"plan": {}},
        {"plan": {"epsilon": None}},
        {"plan": {"epsilon": "small"}},
        {"plan": {"epsilon": 2.5}},
        {"plan": {"epsilon": "inf"}},
        {"plan": {"epsilon": ["2.5"]}},
        {"plan": [2]},
        {"plan": {"epsilon": "2.5", "more": list(range(10_000))}},
    ],
)
def test_missing_or_odd_facts_deny(engine, facts):
    verdict = ask(engine, facts)
    assert not verdict.passed
    assert verdict.rules


@pytest.mark.parametrize(
    "spec",
    [
        {"rules": [{**SPEC["rules"][0], "expression": "plan.epsilon <="}]},
        {"rules": [{**SPEC["rules"][0], "expression": "true"}]},
        {"rules": [{**SPEC["rules"][0], "expression": "nobody.knows"}]},
        {"rules": [SPEC["rules"][1]]},
        {"rules": []},
        {"rules": SPEC["rules"], "extends": "no-such-bundle"},
        {"rule": []},
    ],
)
def test_a_faulty_policy_is_found_and_denies_or_only_warns(engine, spec):
    assert engine.check(spec)
    verdict = ask(engine, {"plan": {"epsilon": "0.5"}}, spec=spec)
    warns_only = [rule.get("severity") for rule in spec.get("rules", [])] == ["Warn"]
    assert verdict.passed == warns_only


def test_an_answer_that_is_no_boolean_denies(engine):
    spec = {"rules": [{**SPEC["rules"][0], "expression": "plan.epsilon"}]}
    verdict = ask(engine, {"plan": {"epsilon": "1"}}, spec=spec)
    assert not verdict.passed
    assert "true or false" in verdict.rules[0].message


def test_a_sound_policy_has_nothing_to_check(engine):
    assert list(engine.check(SPEC)) == []


def test_a_release_without_rules_is_denied(engine):
    other = {"rules": [{**SPEC["rules"][0], "stage": "Data"}]}
    assert not ask(engine, {"plan": {"epsilon": "1"}}, spec=other).passed
    assert ask(engine, {"plan": {"epsilon": "1"}}, spec=other, stage="Data").passed


def test_an_unknown_stage_is_denied(engine):
    assert not ask(engine, {"plan": {"epsilon": "1"}}, stage="Whenever").passed


def test_bundles_are_found_by_name(engine):
    for name in ("clinical-default", "strict", "research"):
        assert list(engine.check(engine.bundle(name))) == []
    assert engine.bundle("no-such-bundle") is None
    assert engine.bundle("../bundles/strict") is None


def test_an_own_policy_extends_a_bundle(engine):
    verdict = ask(engine, {}, spec={**SPEC, "extends": "clinical-default"})
    names = [rule.rule for rule in verdict.rules]
    assert names[-2:] == ["small", "advice"]
    assert "claim-valid" in names
    bundle = ask(engine, {}, spec=engine.bundle("clinical-default"))
    assert bundle.policy_digest != verdict.policy_digest
