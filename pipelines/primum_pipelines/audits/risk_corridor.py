"""The risk corridor of a plan: identification bound, from-scratch bound, and attacks inside.

Computed from the plan alone (privacy-theory, sections 2 to 6), so its public side may be printed
anywhere. It is a record, not an attack: its verdict says whether the measured attacks stayed
inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import rero
from primum_pipelines.audits.audit import Finding, ThreatModel, worst
from primum_pipelines.audits.gradient_inversion import reconstruction_bounds
from primum_pipelines.audits.low_tail import auc_bound, tpr_bounds
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

NAME = "RiskCorridor"
CANDIDATES = (2, 10, 100, 1000)
FPRS = (0.001, 0.01, 0.1)
_THREAT = ThreatModel(
    access="AllUpdates",
    architecture="GrayBox",
    server="MaliciousArchitecture",
    data="AllButOne",
    sampling="Iid",
)
_CORRELATIONS = {
    "nccBaseline": "guess",
    "ncc": "optimization",
    "nccAnalytic": "analytic",
    "nccLinearPrior": "with a linear prior",
    "nccDiffusionPrior": "with a learned prior",
}
_MEASURED = (
    "lowerBound",
    "ncc",
    "nccAnalytic",
    "nccDiffusionPrior",
    "identifiedLowerLimit",
    "auc",
)


def risk_corridor(subject: AuditSubject, *, dimension: int, findings: Sequence[Finding]) -> Finding:
    """The corridor of the Study's most revealing mechanism, with what the audits measured.

    Args:
        subject: The Study's result and plan.
        dimension: Numbers in one record, public.
        findings: What the audits found; their figures go to the restricted side.

    Returns:
        Pass where every measured attack of the Study passed; Inconclusive where nothing was
        measured.
    """
    mechanism = subject.released_by()
    measured = [item for item in findings if item.kind is not EvidenceKind.SELF_TEST]
    verdict = worst(tuple(item.verdict for item in measured))
    reasons = () if verdict is Verdict.PASS else ("not every attack on this result passed",)
    return Finding(
        kind=EvidenceKind.RISK_CORRIDOR,
        name=NAME,
        verdict=verdict,
        public={
            **subject.stated(_THREAT),
            **plan_bounds(mechanism, dimension=dimension),
        },
        restricted={
            item.name: {
                name: item.restricted[name] for name in _MEASURED if name in item.restricted
            }
            for item in measured
        },
        reasons=reasons if measured else ("no attack was planned",),
        pictures={"corridor.svg": _picture(mechanism, dimension, measured)},
    )


def _picture(mechanism: PlannedMechanism, dimension: int, measured: Sequence[Finding]) -> bytes:
    """Both edges with the measured attacks inside."""
    from primum_pipelines.evaluation import plots

    bounds = plan_bounds(mechanism, dimension=dimension)
    edges, scratch = (
        records.mapping(bounds["identification"]),
        records.mapping(bounds["fromScratch"]),
    )
    named: dict[str, tuple[int, float, float]] = {}
    correlations: dict[str, float] = {}
    for item in measured:
        told, limits = item.restricted, item.public.get("bounds")
        if "identifiedLowerLimit" in told and isinstance(limits, Mapping):
            hits = told.get("identifiedByGradient", told.get("identified", 0))
            success = int(str(hits)) / int(str(item.public["trials"]))
            low = float(str(told["identifiedLowerLimit"]))
            named[item.name] = (int(str(limits["candidates"])), success, low)
        correlations |= {
            words: float(str(told[name])) for name, words in _CORRELATIONS.items() if name in told
        }
    return plots.corridor(
        plots.Corridor(
            candidates=CANDIDATES,
            bounds=[float(str(edges[str(count)])) for count in CANDIDATES],
            named=named,
            scratch=float(str(scratch["expectedNcc"])),
            correlations=correlations,
        )
    )


def plan_bounds(mechanism: PlannedMechanism, *, dimension: int) -> dict[str, JSON]:
    """Both edges of the corridor and the membership bounds, from the mechanism alone.

    Args:
        mechanism: The planned mechanism.
        dimension: Numbers in one record.

    Returns:
        JSON with decimal texts: ``identification`` per number of candidates, ``membership`` at
            FPRs, ``fromScratch``.
    """
    kappas = [rero.kappa_uniform_candidates(candidates=n) for n in CANDIDATES]
    gammas = tpr_bounds(mechanism, fprs=kappas)
    scratch = reconstruction_bounds(mechanism, candidates=CANDIDATES[0], dimension=dimension)
    return {
        "noiseMultiplier": decimal_text(mechanism.noise_multiplier),
        "sampleRate": decimal_text(mechanism.sample_rate),
        "steps": mechanism.steps,
        "identification": {
            str(count): decimal_text(gamma) for count, gamma in zip(CANDIDATES, gammas, strict=True)
        },
        "membership": {
            decimal_text(fpr): decimal_text(tpr)
            for fpr, tpr in zip(FPRS, tpr_bounds(mechanism, fprs=FPRS), strict=True)
        },
        "membershipAuc": decimal_text(auc_bound(mechanism)),
        "fromScratch": {
            "dimension": dimension,
            "expectedNcc": decimal_text(scratch.expected_ncc),
            "probNccAboveHalf": decimal_text(scratch.prob_ncc_above),
        },
    }
