"""The risk corridor of a plan: identification bound, from-scratch bound, and attacks inside.

Computed from the plan alone (privacy-theory, sections 2 to 6), so its public side may be printed
anywhere. It is a record, not an attack: its verdict says whether the measured attacks stayed
inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import from_scratch, glrt, rero
from primum_pipelines.audits.audit import Finding, ThreatModel, worst
from primum_pipelines.audits.gradient_inversion import NCC_THRESHOLD
from primum_pipelines.audits.low_tail import auc_bound, tpr_bounds
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

NAME = "RiskCorridor"
_BLIND_ERROR = 0.25  # Of the middle of the range, for the worst record in [0, 1].
_DATA_RANGE = 2.0  # Records are scaled to [-1, 1] by public bounds.
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
            **_without_direction(subject, mechanism),
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
            FPRs, ``fromScratch`` from one update and, with ``AllUpdates``, from all of them.
    """
    kappas = [rero.kappa_uniform_candidates(candidates=n) for n in CANDIDATES]
    gammas = tpr_bounds(mechanism, fprs=kappas)
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
            # Whoever guesses gray errs by this: where it is less, the attack's error says nothing.
            "mseOfBlindGuess": decimal_text(_BLIND_ERROR),
            **_decimals(from_scratch_bounds(mechanism, dimension, releases=1)),
            **_decimals(
                from_scratch_bounds(mechanism, dimension, releases=mechanism.steps),
                suffix="AllUpdates",
            ),
        },
    }


def from_scratch_bounds(
    mechanism: PlannedMechanism, dimension: int, *, releases: int
) -> dict[str, float]:
    """The analytic attack without a prior on so many updates that the record takes part in.

    Args:
        mechanism: The planned mechanism, with noise.
        dimension: Numbers in one record.
        releases: Updates that are averaged.

    Returns:
        Its expected correlation, the probability that this is at least one half, expected error
        (records scaled to [0, 1]) and loudness, for the record of the largest norm that the public
        bounds allow (privacy-theory, section 6). A blind guess may err less: only the correlation
        cannot be won by guessing.
    """
    correlation = from_scratch.ncc(
        noise_multiplier=mechanism.noise_multiplier,
        centered_norm=1.0,
        target_norm=1.0,
        dimension=dimension,
        releases=releases,
        ncc_threshold=NCC_THRESHOLD,
    )
    largest = math.sqrt(dimension)
    error = from_scratch.mse_moments(
        noise_multiplier=mechanism.noise_multiplier,
        target_norm=largest,
        dimension=dimension,
        releases=releases,
    )
    loudness = from_scratch.expected_psnr(
        noise_multiplier=mechanism.noise_multiplier,
        target_norm=largest,
        dimension=dimension,
        releases=releases,
        data_range=_DATA_RANGE,
    )
    return {
        "expectedNcc": correlation["expected_ncc"],
        "probNccAboveHalf": correlation["prob_ncc_above"],
        "expectedMse": error["mean"] / _DATA_RANGE**2,
        "expectedPsnr": loudness["expected_psnr"],
    }


def _decimals(figures: Mapping[str, float], *, suffix: str = "") -> dict[str, JSON]:
    return {f"{name}{suffix}": decimal_text(value) for name, value in figures.items()}


def _without_direction(subject: AuditSubject, mechanism: PlannedMechanism) -> dict[str, JSON]:
    """The adversary who does not know where a record pulls (privacy-theory, section 4).

    Knows everything else, but not in which batches the record was. Beside the worst case, never
    instead of it: whoever has the record knows the direction. Of models alone.
    """
    private = mechanism.noise_multiplier > 0 and mechanism.searched is None
    if "Model" not in subject.artifacts or not private:
        return {}
    from primum_pipelines.kinds.train.fitting import freeze

    module = subject.model().module
    freeze(module, {"trainable": subject.plan.parameters.get("trainable", "All")})
    numbers = sum(part.numel() for part in module.parameters() if part.requires_grad)
    return {
        "unknownDirection": {
            "dimension": numbers,
            "guarantee": "no",
            "membership": {
                decimal_text(fpr): decimal_text(
                    glrt.subsampled_composed_tpr(
                        fpr=fpr,
                        psi=1 / mechanism.noise_multiplier,
                        dimension=numbers,
                        releases=mechanism.steps,
                        q=mechanism.sample_rate,
                    )
                )
                for fpr in FPRS
            },
        }
    }
