"""Gates: rules over facts, by stage, and what they came to. Pure; rules are evaluated elsewhere.

A policy is a list of named CEL rules. Missing evidence, an unknown name, an error or an answer that
is not a boolean all count as a failed rule; nothing here or in an engine may turn "cannot tell"
into a pass. Waivers do not exist: what a policy may relax, it relaxes by name in its own text,
which is digested.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import InvalidValue

RULES_MAX = 64  # People argue about each of them.
EXPRESSION_LENGTH_MAX = 2048  # A longer rule is a program, and belongs into several rules.
MESSAGE_LENGTH_MAX = 500
ALLOWED_PLUGINS_MAX = 64

_RULE_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_SPEC_FIELDS = ("extends", "rules", "allowedPlugins")
_RULE_FIELDS = ("name", "stage", "severity", "expression", "message")


class GateStage(enum.StrEnum):
    """When a rule is asked."""

    ADMISSION = "Admission"  # over the plan, before anything is reserved
    DATA = "Data"  # after validation
    SAMPLES = "Samples"  # over synthetic samples
    PROMOTION = "Promotion"  # before a model takes an endpoint over
    RELEASE = "Release"  # before a certificate is signed


class Severity(enum.StrEnum):
    """What a failed rule does."""

    DENY = "Deny"
    WARN = "Warn"


@dataclass(frozen=True, slots=True)
class GateRule:
    """One rule.

    Args:
        name: Unique in its policy; a DNS label.
        stage: When it is asked.
        severity: Whether it denies or only warns.
        expression: A CEL expression that must give ``true``.
        message: What people read when it did not.
    """

    name: str
    stage: GateStage
    severity: Severity
    expression: str
    message: str

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "name": self.name,
            "stage": self.stage.value,
            "severity": self.severity.value,
            "expression": self.expression,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """What a GatePolicy says.

    Args:
        extends: Name of a built-in bundle whose rules come first, or empty.
        rules: Its rules in order.
        allowed_plugins: Names of unreviewed plug-ins that may run under it.
    """

    extends: str
    rules: tuple[GateRule, ...]
    allowed_plugins: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "extends": self.extends,
            "rules": [rule.to_json() for rule in self.rules],
            "allowedPlugins": list(self.allowed_plugins),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form; of a resolved policy it covers every rule in force."""
        return digest_of(self.to_json())

    def at(self, stage: GateStage) -> tuple[GateRule, ...]:
        """The rules of one stage, in order."""
        return tuple(rule for rule in self.rules if rule.stage is stage)


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What one gate rule came to."""

    rule: str
    stage: str
    severity: str  # Deny | Warn
    passed: bool
    message: str

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "rule": self.rule,
            "stage": self.stage,
            "severity": self.severity,
            "passed": self.passed,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class StageVerdict:
    """What all rules of one stage came to, with the digests it looked at.

    Args:
        stage: The stage.
        policy: Name of the policy.
        policy_digest: Digest of the resolved policy: every rule in force.
        rules: One verdict per rule, in order.
        inputs: Digest of the facts first, then of every record they were made from.
    """

    stage: str
    policy: str
    policy_digest: str
    rules: tuple[RuleVerdict, ...]
    inputs: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no rule of severity Deny failed."""
        return all(rule.passed or rule.severity != "Deny" for rule in self.rules)

    @property
    def failed(self) -> tuple[RuleVerdict, ...]:
        """The rules that did not pass, warnings included."""
        return tuple(rule for rule in self.rules if not rule.passed)

    @property
    def summary(self) -> str:
        """One line for people, e.g. ``5 of 5 gates passed``."""
        passed = sum(rule.passed for rule in self.rules)
        return f"{passed} of {len(self.rules)} gates passed"

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "stage": self.stage,
            "policy": self.policy,
            "policyDigest": self.policy_digest,
            "passed": self.passed,
            "rules": [rule.to_json() for rule in self.rules],
            "inputs": list(self.inputs),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form."""
        return digest_of(self.to_json())


def verdict_from_json(value: Mapping[str, JSON]) -> StageVerdict:
    """Read a verdict back from its canonical form. ``passed`` is derived again, never believed."""
    return StageVerdict(
        stage=str(value["stage"]),
        policy=str(value["policy"]),
        policy_digest=str(value["policyDigest"]),
        rules=tuple(
            RuleVerdict(
                rule=str(item["rule"]),
                stage=str(item["stage"]),
                severity=str(item["severity"]),
                passed=item["passed"] is True,
                message=str(item["message"]),
            )
            for item in _items("rules", value["rules"])
            if isinstance(item, Mapping)
        ),
        inputs=tuple(str(item) for item in _items("inputs", value["inputs"])),
    )


def policy_from_spec(spec: Mapping[str, JSON]) -> Policy:
    """A policy from the spec of a GatePolicy.

    Args:
        spec: ``{"extends"?, "rules": [{"name", "stage", "severity"?, "expression", "message"}],
            "allowedPlugins"?}``. Severity is ``Deny`` where it is not given.

    Raises:
        InvalidValue: If a field is missing, unknown, or breaks its rule; names it.
    """
    _known("spec", spec, _SPEC_FIELDS)
    rules = tuple(
        _rule(f"spec.rules[{index}]", item)
        for index, item in enumerate(_items("spec.rules", spec.get("rules", ())))
    )
    if len(rules) > RULES_MAX:
        raise InvalidValue("spec.rules", f"must hold at most {RULES_MAX} rules", len(rules))
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise InvalidValue("spec.rules", "must have distinct names", name)
    plugins = _items("spec.allowedPlugins", spec.get("allowedPlugins", ()))
    if len(plugins) > ALLOWED_PLUGINS_MAX or not all(isinstance(item, str) for item in plugins):
        rule = f"must list at most {ALLOWED_PLUGINS_MAX} names"
        raise InvalidValue("spec.allowedPlugins", rule, len(plugins))
    return Policy(
        extends=_text("spec.extends", spec.get("extends") or ""),
        rules=rules,
        allowed_plugins=tuple(str(item) for item in plugins),
    )


def extended(base: Policy, policy: Policy) -> Policy:
    """A policy over the one it extends: a rule of the same name replaces, in place; others follow.

    Args:
        base: The extended policy, itself resolved.
        policy: The extending one.

    Returns:
        A policy that extends nothing.
    """
    own = {rule.name: rule for rule in policy.rules}
    known = {rule.name for rule in base.rules}
    rules = [own.get(rule.name, rule) for rule in base.rules]
    rules += [rule for rule in policy.rules if rule.name not in known]
    plugins = dict.fromkeys((*base.allowed_plugins, *policy.allowed_plugins))
    return replace(policy, extends="", rules=tuple(rules), allowed_plugins=tuple(plugins))


def _rule(field: str, value: JSON) -> GateRule:
    if not isinstance(value, Mapping):
        raise InvalidValue(field, "must be an object", type(value).__name__)
    _known(field, value, _RULE_FIELDS)
    name = _text(f"{field}.name", value.get("name"))
    if not _RULE_NAME.fullmatch(name):
        raise InvalidValue(f"{field}.name", "must be a DNS label", name)
    expression = _text(f"{field}.expression", value.get("expression"))
    message = _text(f"{field}.message", value.get("message"))
    for part, text, limit in (
        ("expression", expression, EXPRESSION_LENGTH_MAX),
        ("message", message, MESSAGE_LENGTH_MAX),
    ):
        if not 0 < len(text.strip()) <= limit:
            raise InvalidValue(f"{field}.{part}", f"must have 1 to {limit} characters", len(text))
    return GateRule(
        name=name,
        stage=GateStage(_choice(f"{field}.stage", value.get("stage"), tuple(GateStage))),
        severity=Severity(
            _choice(f"{field}.severity", value.get("severity", "Deny"), tuple(Severity))
        ),
        expression=expression,
        message=message,
    )


def _known(field: str, value: Mapping[str, JSON], names: Sequence[str]) -> None:
    for name in value:
        if name not in names:
            raise InvalidValue(f"{field}.{name}", f"must be one of {', '.join(names)}", str(name))


def _items(field: str, value: JSON) -> Sequence[JSON]:
    if not isinstance(value, list | tuple):
        raise InvalidValue(field, "must be a list", type(value).__name__)
    return value


def _text(field: str, value: JSON) -> str:
    if not isinstance(value, str):
        raise InvalidValue(field, "must be text", type(value).__name__)
    return value


def _choice(field: str, value: JSON, options: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in options:
        raise InvalidValue(field, f"must be one of {', '.join(options)}", value)
    return value
