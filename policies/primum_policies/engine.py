"""The policy engine: asks a policy's rules about facts and says what each came to.

Fails closed: a policy that cannot be read, a stage without an answer, a rule that fails in any way
all deny. Deterministic: the same policy and facts give the same verdict on every machine, so a
verdict can be recomputed from the digests it stores. Keeps no verdicts: nothing passes from a
cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import InvalidValue
from primum.domain.governance.gates import (
    GateRule,
    GateStage,
    Policy,
    RuleVerdict,
    Severity,
    StageVerdict,
)
from primum_policies import bundles, cel

_UNREADABLE = "sha256:" + "0" * 64  # Stands for the digest of what nobody could read.


class CelPolicyEngine:
    """Evaluates CEL rules. Any exception in a rule is a deny."""

    name = "cel"

    def bundle(self, name: str) -> Mapping[str, JSON] | None:
        """The spec of a built-in bundle, or ``None``."""
        return bundles.bundle_spec(name)

    def check(self, spec: Mapping[str, JSON]) -> Sequence[str]:
        """Compile every rule; returns what is wrong, or nothing.

        Args:
            spec: A GatePolicy's spec.

        Returns:
            One sentence per fault, naming the field or the rule.
        """
        try:
            policy = bundles.resolved(spec)
        except InvalidValue as fault:
            return [str(fault)]
        found = [
            f"rule {rule.name} {wrong}."
            for rule in policy.rules
            for wrong in cel.problems(rule.expression)
        ]
        if not any(rule.severity is Severity.DENY for rule in policy.at(GateStage.RELEASE)):
            found.append("spec.rules must have a rule of stage Release that denies; found none.")
        return found

    def evaluate(
        self,
        name: str,
        spec: Mapping[str, JSON],
        *,
        stage: str,
        facts: Mapping[str, JSON],
        inputs: Iterable[str],
    ) -> StageVerdict:
        """Evaluate the rules of a stage over facts.

        Args:
            name: Name of the policy, for people.
            spec: The GatePolicy's spec, or a bundle's.
            stage: One of the stages.
            facts: What ``gate_facts`` made; ``policy.allowedPlugins`` is taken from the policy
                itself.
            inputs: Digests of the records that the facts were made from.

        Returns:
            One verdict per rule; a single failed one where policy, stage or facts cannot be read.
        """
        try:
            policy = bundles.resolved(spec)
            rules = policy.at(GateStage(stage))
        except (InvalidValue, ValueError) as fault:
            return _denied(name, stage, _UNREADABLE, (), f"policy cannot be read: {fault}")
        full: dict[str, JSON] = dict(facts)
        full["policy"] = {"name": name, "allowedPlugins": list(policy.allowed_plugins)}
        try:
            digests = (digest_of(full), *sorted(inputs))
            seen = cel.cel_facts(full)
        except (InvalidValue, TypeError, ValueError, RecursionError) as fault:
            why = str(fault) if isinstance(fault, InvalidValue) else type(fault).__name__
            return _denied(name, stage, policy.digest, (), f"facts cannot be read: {why}")
        if not rules and stage == GateStage.RELEASE:
            why = "policy has no rule of stage Release"
            return _denied(name, stage, policy.digest, digests, why)
        verdicts = tuple(_ask(rule, seen) for rule in rules)
        return StageVerdict(stage, name, policy.digest, verdicts, digests)

    def resolved(self, spec: Mapping[str, JSON]) -> Policy:
        """A policy with the rules of every bundle it extends; for showing which rules are in force.

        Raises:
            InvalidValue: If it cannot be read.
        """
        return bundles.resolved(spec)


def _ask(rule: GateRule, facts: Mapping[str, Any]) -> RuleVerdict:
    try:
        passed, message = cel.ask(rule.expression, facts), rule.message
    except cel.RuleFailed as fault:
        passed, message = False, f"{rule.message} ({fault})"
    return RuleVerdict(rule.name, rule.stage.value, rule.severity.value, passed, message)


def _denied(
    name: str, stage: str, policy_digest: str, inputs: tuple[str, ...], message: str
) -> StageVerdict:
    severity = Severity.DENY.value
    rule = RuleVerdict("gates-can-be-asked", stage, severity, passed=False, message=message)
    return StageVerdict(stage, name, policy_digest, (rule,), inputs)
