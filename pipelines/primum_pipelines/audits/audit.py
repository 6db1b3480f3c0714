"""What an audit is given, what it owes, and how measured figures become a verdict.

The rules of a verdict live here and nowhere else, so that no attack can be lenient with itself.
Inconclusive is not a pass. Must not import torch: planners read the registry of audits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Protocol

from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict

if TYPE_CHECKING:
    from primum.domain.canonical import JSON
    from primum_pipelines.audits.subject import AuditSubject

CONFIDENCE = Decimal("0.95")  # Of every lower bound and interval, unless a record says otherwise.
FAIL_CONFIDENCE = Decimal(
    "0.999"
)  # Of limits that are compared with a bound: a Fail freezes budgets.


@dataclass(frozen=True, slots=True)
class ThreatModel:
    """Whom an audit plays. Figures of different threat models are never compared.

    Args:
        access: ``Label``, ``Confidence``, ``Logit``, ``Gradient``, ``AllUpdates``, ``Weights``,
            ``SamplesOnly``, ``GeneratorQuery``, or ``Mechanism`` for a self-test.
        architecture: ``GrayBox`` (same architecture and recipe) or ``BlackBox``.
        server: ``HonestButCurious``, ``MaliciousParameters`` or ``MaliciousArchitecture``.
        data: What it knows of the data: ``None``, ``Population``, ``Prior``, ``Candidates``,
            ``AllButOne``.
        sampling: Whether members and non-members come from the same pool: ``Iid`` or ``NotIid``.
    """

    access: str
    architecture: str
    server: str
    data: str
    sampling: str

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "access": self.access,
            "architecture": self.architecture,
            "server": self.server,
            "data": self.data,
            "sampling": self.sampling,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What one audit came to.

    Args:
        kind: The evidence kind it is recorded under.
        name: The attack's name.
        verdict: Pass, Fail or Inconclusive.
        public: What may leave: verdict words, the threat model, figures of the plan.
        restricted: Everything measured.
        reasons: Why the verdict is not Pass, in words without measured figures.
        pictures: Pictures of what was measured, by file name; Restricted.
    """

    kind: EvidenceKind
    name: str
    verdict: Verdict
    public: Mapping[str, JSON]
    restricted: Mapping[str, JSON] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    def evidence(self, *, study_uid: str, generation: int, subject: str) -> Evidence:
        """The record that gates look at.

        Args:
            study_uid: The Study.
            generation: Its generation.
            subject: Digest of the artifact that was attacked, or empty for the mechanism itself.

        Returns:
            The record; the verdict and its reasons are on the public side.
        """
        public = {
            **self.public,
            "attack": self.name,
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
        }
        return Evidence(
            kind=self.kind,
            name=self.name,
            study_uid=study_uid,
            generation=generation,
            subject=subject,
            verdict=self.verdict,
            public=public,
            restricted=dict(self.restricted),
        )


class Audit(Protocol):
    """One audit. Registered under the entry-point group ``primum.audits``."""

    name: str
    kind: EvidenceKind
    reviewed: bool  # Unreviewed audits run only where the policy allows them by name.
    opens_data: bool  # Whether the plan has to declare an access for it.

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Attack the subject.

        Args:
            subject: What is attacked, and the plan it was made by.
            parameters: The Study's parameters for this audit; configuration anyone may see.

        Returns:
            The finding. Too little data is Inconclusive, never a Pass.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """


@dataclass(frozen=True, slots=True)
class LowTail:
    """The TPR at the smallest FPR that the sample sizes resolve, beside what the mechanism allows.

    Args:
        tpr_lower: One-sided Clopper-Pearson lower limit of the measured TPR.
        bound: The largest TPR that the mechanism's trade-off curve allows at the upper limit of
            the measured FPR; 1 where the samples resolve nothing.
    """

    tpr_lower: float
    bound: float


def membership_verdict(
    *,
    epsilon_lower: float | None,
    claim: float,
    max_certifiable: float | None,
    low_tail: LowTail | None,
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of a membership audit (design, section 7).

    Args:
        epsilon_lower: Lower bound on epsilon at the claim's delta; ``None`` if the attack gives
            none.
        claim: The claimed epsilon.
        max_certifiable: The largest epsilon that the audit could have shown; ``None`` if none.
        low_tail: The low-FPR figure; ``None`` if the samples resolve no FPR.

    Returns:
        | measured | verdict |
        | --- | --- |
        | lower bound above the claim | Fail |
        | TPR's lower limit above its bound | Fail |
        | audit could not have shown the claim | Inconclusive |
        | no resolvable FPR | Inconclusive |
        | otherwise | Pass |

        and the reasons for anything but Pass, without measured figures.
    """
    failed: list[str] = []
    if epsilon_lower is not None and epsilon_lower > claim:
        failed.append("the lower bound on epsilon is above the claim")
    if low_tail is not None and low_tail.tpr_lower > low_tail.bound:
        failed.append("the TPR at the smallest resolvable FPR is above its bound")
    if failed:
        return Verdict.FAIL, tuple(failed)
    unclear: list[str] = []
    if epsilon_lower is None or max_certifiable is None:
        unclear.append("the attack gives no valid lower bound on epsilon")
    elif max_certifiable < claim:
        unclear.append("the sample sizes could not have certified the claim")
    if low_tail is None:
        unclear.append("the sample sizes resolve no false positive rate")
    if unclear:
        return Verdict.INCONCLUSIVE, tuple(unclear)
    return Verdict.PASS, ()


def says_nothing(scores: Sequence[float]) -> tuple[str, ...]:
    """Why scores cannot speak for a Pass, whatever they come to; empty if they can."""
    if any(math.isnan(score) for score in scores):
        return ("the attack gave a unit no score",)
    if len(set(scores)) <= 1:
        return ("the attack gave every unit the same score",)
    return ()


def identification_verdict(
    *, success_lower: float, most: float, bound: float, trials: int, trials_min: int
) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict of a reconstruction audit by identification among candidates.

    Args:
        success_lower: One-sided Clopper-Pearson lower limit of the attack's success.
        most: What that limit could have come to: had all those trials succeeded in which the attack
            can succeed at all, without the noise.
        bound: The reconstruction robustness gamma at kappa = 1/candidates.
        trials: Independent trials.
        trials_min: Fewer can show nothing.

    Returns:
        Fail where the success is provably above the bound, Inconclusive below ``trials_min`` or
        where it could not have been above, otherwise Pass; with reasons.
    """
    if success_lower > bound:
        return Verdict.FAIL, ("identification succeeds more often than the mechanism allows",)
    if trials < trials_min:
        return Verdict.INCONCLUSIVE, ("there were too few trials to show anything",)
    if most <= bound:
        reason = "no number of successes could have been more than the mechanism allows"
        return Verdict.INCONCLUSIVE, (reason,)
    return Verdict.PASS, ()


def worst(verdicts: tuple[Verdict, ...]) -> Verdict:
    """Fail if any failed, else Inconclusive if any was or there is none, else Pass."""
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if not verdicts or Verdict.INCONCLUSIVE in verdicts:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS
