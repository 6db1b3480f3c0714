"""The verdict on a run record: what was claimed, what is so, and why they differ.

``Supported``: our bound for what was done is at most the claim, in the claim's own terms.
``Weaker``: a guarantee exists, with a larger epsilon. ``Unsupported``: the claim rests on something
that was not so, or nothing finite can be said. Fails closed: what cannot be recomputed is not
supported.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.canonical import JSON, decimal_text
from primum.domain.conformance import recomputing
from primum.domain.conformance.checks import CHECKS, Code, Finding, Severity, Situation
from primum.domain.conformance.recomputing import Bound, Recomputed
from primum.domain.conformance.records import RunRecord
from primum.domain.quantities import EPSILON_MAX
from primum.domain.risk.collusion import Exposure, exposures

ROUNDING = Decimal("1E-6")  # Reported epsilons are multiples of it, rounded up.


class Verdict(enum.StrEnum):
    """What is left of a claim."""

    SUPPORTED = "Supported"
    WEAKER = "Weaker"
    UNSUPPORTED = "Unsupported"


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict on one record.

    Args:
        record: The record.
        found: What was recomputed.
        verdict: The verdict.
        findings: Why, the gravest first.
        exposures: What each group with a budget of its own is exposed to; empty without such.
    """

    record: RunRecord
    found: Recomputed
    verdict: Verdict
    findings: tuple[Finding, ...]
    exposures: tuple[Exposure, ...] = ()

    @property
    def guarantee(self) -> Bound | None:
        """The bound that answers the claim."""
        return recomputing.claimed_part(self.record, self.found)

    def to_json(self) -> dict[str, JSON]:
        """For scripts; numbers are decimal strings."""
        claim, found = self.record.claim, self.found
        return {
            "record": self.record.name,
            "format": self.record.source.value,
            "verdict": self.verdict.value,
            "claim": {
                "epsilon": decimal_text(claim.epsilon),
                "delta": decimal_text(claim.delta),
                "unit": claim.unit.value,
                "neighbors": claim.neighbors.value,
                "scope": claim.scope.value,
                "accounting": claim.accounting.value,
            },
            "guarantee": {
                "epsilon": _text(found.total),
                "epsilonOneStep": _text(found.one_step),
                "epsilonRdp": None if found.renyi is None else decimal_text(found.renyi),
                "delta": decimal_text(claim.delta),
                "unit": self.record.unit.value,
                "neighbors": found.neighbors.value,
                "accountant": found.total.accountant if found.total else None,
                "basis": found.total.basis if found.total else found.why,
                "psi": None if found.psi is None else decimal_text(found.psi),
                "steps": sum(phase.steps for phase in self.record.executed)
                + self.record.library_steps,
            },
            "findings": [
                {
                    "code": finding.code.value,
                    "severity": finding.severity.value,
                    "message": finding.message,
                    "claimed": finding.claimed,
                    "actual": finding.actual,
                }
                for finding in self.findings
            ],
            "individualBudgets": self._individual(),
        }

    def _individual(self) -> JSON:
        budgets = self.record.individual
        if budgets is None:
            return None
        bound = budgets.excess_bound
        return {
            "method": budgets.method.value,
            "excessBound": None if bound is None else decimal_text(bound),
            "groups": [
                {
                    "epsilon": decimal_text(item.group.epsilon),
                    "share": decimal_text(item.group.share),
                    "trueEpsilon": decimal_text(item.epsilon),
                    "excess": decimal_text(item.excess),
                    "excessCap": decimal_text(item.cap),
                    "advantage": decimal_text(item.advantage),
                    "advantageReference": decimal_text(item.advantage_reference),
                }
                for item in self.exposures
            ],
        }


def _text(bound: Bound | None) -> str | None:
    return None if bound is None else decimal_text(bound.epsilon)


def check(record: RunRecord) -> Report:
    """Recompute what a run guarantees and hold its claim against it.

    Guarantees:
        ``Supported`` only if a proved bound of ours, for what the record says was done, is at most
        the claimed epsilon at the claimed delta, for the claimed unit and neighbors.

    Args:
        record: The run.

    Returns:
        The verdict with every finding.
    """
    found = recomputing.recompute(record)
    bound = recomputing.claimed_part(record, found)
    claim = record.claim
    # A bound for another relation or another unit says nothing about this claim.
    comparable = found.neighbors is claim.neighbors and record.unit is claim.unit
    enough = bound is not None and bound.epsilon <= claim.epsilon + ROUNDING
    exposed = _exposures(record)
    kept = all(item.within for item in exposed) and not _above_promise(record, exposed)
    holds = comparable and enough and not record.mismatches and kept
    now = Situation(record, found, holds, exposed)
    findings = [item for item in (test(now) for test in CHECKS) if item is not None]
    if not now.holds and all(item.severity is Severity.WARNS for item in findings):
        findings.append(
            Finding(
                Code.EPSILON_UNDERSTATED,
                Severity.WEAKENS,
                "The claimed epsilon is below what this run guarantees.",
                now.claimed,
                now.epsilon,
            )
        )
    order = list(Severity)
    findings.sort(key=lambda item: order.index(item.severity))
    return Report(record, found, _verdict(now, findings, bound), tuple(findings), exposed)


def _exposures(record: RunRecord) -> tuple[Exposure, ...]:
    """Nothing where the run itself has no bound: then no group has one."""
    if record.individual is None or recomputing.uncovered(record):
        return ()
    steps = sum(phase.steps for phase in record.executed)
    return exposures(record.individual, delta=float(record.claim.delta), steps=steps)


def _above_promise(record: RunRecord, exposed: tuple[Exposure, ...]) -> bool:
    bound = record.individual.excess_bound if record.individual else None
    return bound is not None and any(item.excess > float(bound) for item in exposed)


def _verdict(now: Situation, findings: list[Finding], bound: Bound | None) -> Verdict:
    broken = any(item.severity is Severity.BREAKS for item in findings)
    if now.holds and not broken:
        return Verdict.SUPPORTED
    meaningless = bound is None or bound.epsilon > EPSILON_MAX
    comparable = now.found.neighbors is now.record.claim.neighbors
    return Verdict.UNSUPPORTED if broken or meaningless or not comparable else Verdict.WEAKER
