"""Are policies read strictly, merged by name, and verdicts combined without mercy?"""

from __future__ import annotations

import pytest

from primum.domain.errors import InvalidValue
from primum.domain.governance.gates import (
    GateStage,
    RuleVerdict,
    Severity,
    StageVerdict,
    extended,
    policy_from_spec,
    verdict_from_json,
)


def rule(name="a", **changes):
    return {"name": name, "stage": "Release", "expression": "x", "message": "m", **changes}


def test_severity_is_deny_unless_said():
    policy = policy_from_spec({"rules": [rule(), rule("b", severity="Warn")]})
    assert [item.severity for item in policy.rules] == [Severity.DENY, Severity.WARN]
    assert len(policy.at(GateStage.RELEASE)) == 2
    assert policy.at(GateStage.DATA) == ()


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"rule": []}, "spec.rule"),
        ({"rules": "x"}, "spec.rules"),
        ({"rules": [1]}, r"spec.rules\[0\]"),
        ({"rules": [rule(stage="Later")]}, r"spec.rules\[0\].stage"),
        ({"rules": [rule(severity="Maybe")]}, "severity"),
        ({"rules": [rule(expression="")]}, "expression"),
        ({"rules": [rule(expression="x" * 3000)]}, "expression"),
        ({"rules": [rule(message=" ")]}, "message"),
        ({"rules": [rule("A")]}, "name"),
        ({"rules": [rule(extra=1)]}, "extra"),
        ({"rules": [rule(), rule()]}, "spec.rules"),
        ({"rules": [rule(f"r{n}") for n in range(65)]}, "spec.rules"),
        ({"rules": [], "extends": 1}, "spec.extends"),
        ({"rules": [], "allowedPlugins": [1]}, "spec.allowedPlugins"),
    ],
)
def test_bad_policies_name_the_field(spec, field):
    with pytest.raises(InvalidValue, match=field):
        policy_from_spec(spec)


def test_a_rule_of_the_same_name_replaces_in_place():
    base = policy_from_spec({"rules": [rule("a"), rule("b")], "allowedPlugins": ["p"]})
    own = policy_from_spec({"rules": [rule("a", message="other"), rule("c")], "extends": "x"})
    merged = extended(base, own)
    assert [(item.name, item.message) for item in merged.rules] == [
        ("a", "other"),
        ("b", "m"),
        ("c", "m"),
    ]
    assert (merged.extends, merged.allowed_plugins) == ("", ("p",))
    assert merged.digest != base.digest


def verdict(*rules):
    return StageVerdict("Release", "p", "sha256:p", rules, ("sha256:i",))


def test_a_warning_does_not_deny():
    passed = RuleVerdict("a", "Release", "Deny", passed=True, message="")
    warned = RuleVerdict("b", "Release", "Warn", passed=False, message="")
    denied = RuleVerdict("c", "Release", "Deny", passed=False, message="")
    assert verdict(passed, warned).passed
    assert not verdict(passed, warned, denied).passed
    assert verdict(passed, warned, denied).failed == (warned, denied)
    assert verdict(passed, warned).summary == "1 of 2 gates passed"


def test_an_unknown_severity_denies():
    odd = RuleVerdict("a", "Release", "Deny", passed=False, message="")
    assert not verdict(odd).passed


def test_whether_a_verdict_passed_is_never_believed():
    denied = verdict(RuleVerdict("c", "Release", "Deny", passed=False, message=""))
    forged = {**denied.to_json(), "passed": True}
    assert not verdict_from_json(forged).passed
    assert verdict_from_json(denied.to_json()) == denied
