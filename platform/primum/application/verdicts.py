"""Ask the policy.

Gather facts, evaluate the rules of a stage, keep what they came to with its inputs' digests.

Never answered from a cache: a stage's verdict is computed from the records as they stand and then
written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primum.application.platform import Platform
from primum.domain.accounting.events import covers
from primum.domain.budget.entries import ReservationState, ReservationView
from primum.domain.canonical import JSON, digest_of
from primum.domain.errors import NotFound
from primum.domain.governance.claims import Claim, claim_of_plan
from primum.domain.governance.evidence import Evidence
from primum.domain.governance.facts import Settlement, gate_facts
from primum.domain.governance.gates import StageVerdict, verdict_from_json
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Judgment
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import StudySpec

VERDICTS = "Verdicts"
STAGES_AFTER_RUN = ("Data", "Samples", "Promotion", "Release")


def policy_spec(platform: Platform, namespace: str, name: str) -> Mapping[str, JSON]:
    """The GatePolicy of that name in the namespace, else the built-in bundle.

    Raises:
        NotFound: If there is neither.
    """
    stored = platform.resources.get(ResourceKey("GatePolicy", namespace, name))
    if stored is not None and not stored.deleting:
        return stored.spec
    bundle = platform.policies.bundle(name)
    if bundle is None:
        raise NotFound(
            f"spec.policy must name a GatePolicy of namespace {namespace} or a built-in bundle; "
            f"found {name}, which does not exist. Apply it, and the Study goes on."
        )
    return bundle


def artifact_name(spec: StudySpec) -> str:
    """What a Study's artifact is called in claims and lineage."""
    return f"artifact of {spec.key.namespace}/{spec.key.name}"


def claim_of(spec: StudySpec, plan: Plan) -> Claim:
    """The composed privacy claim of what a plan makes."""
    return claim_of_plan(plan, artifact=artifact_name(spec))


def stage_verdict(
    platform: Platform,
    spec: StudySpec,
    plan: Plan,
    *,
    stage: str,
    evidence: Sequence[Evidence],
    budgets: Sequence[DatasetFacts] = (),
    settlement: Sequence[Settlement] | None = None,
    artifacts: Sequence[str] = (),
) -> StageVerdict:
    """What the rules of one stage make of what is known.

    Raises:
        NotFound: If the policy does not exist.
    """
    policy = policy_spec(platform, spec.key.namespace, spec.policy)
    claim = claim_of(spec, plan)
    facts = gate_facts(
        study=spec,
        plan=plan,
        budgets=budgets,
        evidence=evidence,
        claim=claim,
        settlement=settlement,
        artifacts=artifacts,
    )
    inputs = [plan.digest, *(item.digest for item in evidence)]
    return platform.policies.evaluate(spec.policy, policy, stage=stage, facts=facts, inputs=inputs)


def settlements(
    reservations: Sequence[ReservationView], names: Mapping[str, str]
) -> tuple[Settlement, ...]:
    """How each reservation was resolved, by budget name.

    Args:
        reservations: The Study's reservations.
        names: Budget name by account id.
    """
    return tuple(
        Settlement(
            budget=names.get(held.account_id, held.account_id),
            state=held.state.value,
            by_receipt=held.state is ReservationState.CHARGED and held.executed is not None,
            within_plan=held.executed is not None and covers(held.event, held.executed),
        )
        for held in reservations
    )


def judge(
    platform: Platform,
    spec: StudySpec,
    plan: Plan,
    *,
    budgets: Sequence[DatasetFacts],
    evidence: Sequence[Evidence],
    reservations: Sequence[ReservationView],
    artifacts: Sequence[str],
) -> Mapping[str, JSON]:
    """The verdicts of every stage after the run, ready to be written once."""
    names = {facts.account_id: facts.budget for facts in budgets}
    settled = settlements(reservations, names)
    verdicts = [
        stage_verdict(
            platform,
            spec,
            plan,
            stage=stage,
            evidence=evidence,
            budgets=budgets,
            settlement=settled,
            artifacts=artifacts,
        )
        for stage in STAGES_AFTER_RUN
    ]
    return {"stages": [verdict.to_json() for verdict in verdicts]}


def judgment_of(fact: Mapping[str, JSON] | None) -> Judgment | None:
    """What the written verdicts came to; whether they passed is derived again, never believed."""
    if fact is None:
        return None
    stages = fact["stages"]
    if not isinstance(stages, list | tuple):
        return Judgment(0, 0, ("the verdict record is damaged",), "")
    verdicts = [verdict_from_json(item) for item in stages if isinstance(item, Mapping)]
    rules = [rule for verdict in verdicts for rule in verdict.rules]
    failures = tuple(rule.message for rule in rules if not rule.passed and rule.severity == "Deny")
    passed = sum(rule.passed for rule in rules)
    return Judgment(passed, len(rules), failures, digest_of(fact))
