"""The always-on audit: the Study's mechanism on toy data, with the Study's noise, rate and clip.

Sees no patient data, so what it measures is public. Federated plans have one mechanism per site;
each distinct one is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum_pipelines.audits.audit import Finding, ThreatModel, worst
from primum_pipelines.audits.subject import PlannedMechanism
from primum_pipelines.kinds.private_features.planned import METHOD, makes_table

if TYPE_CHECKING:
    from primum_pipelines.audits.self_test.mechanism import SelfTestResult
    from primum_pipelines.audits.subject import AuditSubject

THREAT = ThreatModel(
    access="Mechanism",
    architecture="GrayBox",
    server="MaliciousParameters",
    data="AllButOne",
    sampling="Iid",
)
MECHANISMS_MAX = 8  # Distinct mechanisms of one plan; a federation of more sites shares them.


_Test: TypeAlias = "Callable[[PlannedMechanism], SelfTestResult]"


@dataclass(frozen=True, slots=True)
class _Tested:
    mechanism: PlannedMechanism
    result: SelfTestResult


class MechanismSelfTest:
    """The mechanism self-test; runs whether a Study asks for it or not."""

    name = "MechanismSelfTest"
    reads: frozenset[str] = frozenset()
    kind = EvidenceKind.SELF_TEST
    reviewed = True
    opens_data = False

    def run(
        self,
        subject: AuditSubject,
        parameters: Mapping[str, JSON],  # noqa: ARG002 - it has none: it cannot be weakened
    ) -> Finding:
        """Test every distinct charged mechanism of the plan.

        Returns:
            Fail if any check of any mechanism failed; Inconclusive if the plan has none or one
            cannot be seen.
        """
        from primum_pipelines.audits.self_test.mechanism import FALSE_ALARM_RATE

        # What was trained without noise claims nothing that a test could contradict.
        wanted = _distinct(tuple(m for m in subject.mechanisms if m.noise_multiplier))
        algorithm, test = _table(subject) if makes_table(subject.plan) else _training(subject)
        tested = [_Tested(mechanism, test(mechanism)) for mechanism in wanted[:MECHANISMS_MAX]]
        verdict = worst(tuple(item.result.verdict for item in tested))
        left_out = len(wanted) > MECHANISMS_MAX
        if left_out and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **subject.stated(THREAT),
                "algorithm": algorithm,
                "falseAlarmRate": decimal_text(FALSE_ALARM_RATE * max(1, len(tested))),
                "mechanisms": [_public(item) for item in tested],
            },
            restricted={
                "pValues": [
                    {check.name: decimal_text(check.p_value) for check in item.result.checks}
                    for item in tested
                ]
            },
            reasons=_reasons(tested, left_out=left_out),
        )


def _training(subject: AuditSubject) -> tuple[str, _Test]:
    """How the algorithm of a Study is tested that releases noisy sums."""
    from primum_pipelines.audits.self_test.mechanism import mechanism_self_test
    from primum_pipelines.optimization.algorithm import IndividualFilter, MechanismParameters

    algorithm = subject.algorithm()

    def test(mechanism: PlannedMechanism) -> SelfTestResult:
        orders = mechanism.filter_orders
        return mechanism_self_test(
            algorithm,
            MechanismParameters(
                noise_multiplier=mechanism.noise_multiplier,
                sample_rate=mechanism.sample_rate,
                steps=mechanism.steps,
                max_grad_norm=mechanism.max_grad_norm,
                individual=IndividualFilter(mechanism.steps, orders) if orders else None,
                clipping=mechanism.clipping,
            ),
        )

    return algorithm.name, test


def _table(subject: AuditSubject) -> tuple[str, _Test]:
    """How the release of a Study is tested that makes a noisy table of its units."""
    import numpy as np

    from primum_pipelines.audits.self_test.table import noisy_table_self_test
    from primum_pipelines.kinds.private_features.features import planned_mechanism
    from primum_pipelines.kinds.private_features.mechanism import Array, TableMechanism, release
    from primum_pipelines.optimization.randomness import random_source

    def released(features: Array, labels: Array, mechanism: TableMechanism) -> Array:
        found = release(features, labels, mechanism=mechanism, source=random_source(None))
        table: Array = np.concatenate([found.features, found.codes], axis=1)
        return table

    def test(mechanism: PlannedMechanism) -> SelfTestResult:
        planned = planned_mechanism(subject.plan.mechanism)
        charged = replace(planned, noise_multiplier=mechanism.noise_multiplier)
        return noisy_table_self_test(released, charged)

    return METHOD, test


def _distinct(mechanisms: tuple[PlannedMechanism, ...]) -> list[PlannedMechanism]:
    """Mechanisms that differ in more than their budget and number of steps."""
    seen: dict[PlannedMechanism, PlannedMechanism] = {}
    for mechanism in mechanisms:
        seen.setdefault(replace(mechanism, budget="", steps=1), mechanism)
    return list(seen.values())


def _public(item: _Tested) -> dict[str, JSON]:
    return {
        "noiseMultiplier": decimal_text(item.mechanism.noise_multiplier),
        "sampleRate": decimal_text(item.mechanism.sample_rate),
        "maxGradNorm": decimal_text(item.mechanism.max_grad_norm),
        "individualFilters": bool(item.mechanism.filter_orders),
        "noiseDraws": item.result.noise_draws,
        "steps": item.result.steps,
        "runs": item.result.runs,
        "verdict": item.result.verdict.value,
        "failedChecks": list(item.result.failed),
    }


def _reasons(tested: list[_Tested], *, left_out: bool) -> tuple[str, ...]:
    reasons = [f"check {name} failed" for item in tested for name in item.result.failed] + [
        text for item in tested for text in item.result.unresolved
    ]
    if left_out:
        reasons.append(f"only {MECHANISMS_MAX} mechanisms were tested")
    if not tested:
        reasons.append("the plan has no charged mechanism to test")
    return tuple(dict.fromkeys(reasons))
