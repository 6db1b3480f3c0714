"""The reconstruction audit: what one noisy update of the Study gives away of a record.

Geiping et al. 2020 by optimization, the analytic inversion of methods 7.2 as the upper anchor, and
identification among candidates, which is what the reconstruction-robustness bound speaks about
(privacy-theory, sections 5 and 6). Opens the data through the audit's own access; records stay in
the worker, figures stay Restricted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.risk import from_scratch, rero
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import (
    FAIL_CONFIDENCE,
    Finding,
    ThreatModel,
    identification_verdict,
)
from primum_pipelines.audits.low_tail import tpr_bounds
from primum_pipelines.audits.parameters import whole
from primum_pipelines.audits.subject import AuditSubject, PlannedMechanism

if TYPE_CHECKING:
    from primum_pipelines.attacks.reconstruction import Reconstruction

THREAT = ThreatModel(
    access="Gradient",
    architecture="GrayBox",
    server="HonestButCurious",
    data="Candidates",
    sampling="Iid",
)
NCC_THRESHOLD = (
    0.5  # Above it people recognize a picture; a probability is published, not a mean alone.
)
TRIALS_MIN = 16
_TAIL = float(1 - FAIL_CONFIDENCE) / 2  # Two ways of identification are tried; they share it.


@dataclass(frozen=True, slots=True)
class ReconstructionBounds:
    """What the plan alone says about reconstruction. All of it is public.

    Args:
        candidates: Equally likely records the adversary chooses among.
        gamma_one_update: Most likely success of identification from one update (ReRo, Gaussian).
        gamma_all_updates: The same from every update of the training (ReRo, DP-SGD).
        expected_ncc: Of the best unbiased attack without a prior on one update, worst-case record.
        prob_ncc_above: That this attack's NCC is at least ``NCC_THRESHOLD``.
    """

    candidates: int
    gamma_one_update: float
    gamma_all_updates: float
    expected_ncc: float
    prob_ncc_above: float

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "candidates": self.candidates,
            "kappa": decimal_text(Decimal(1) / self.candidates),
            "gammaOneUpdate": decimal_text(self.gamma_one_update),
            "gammaAllUpdates": decimal_text(self.gamma_all_updates),
            "expectedNcc": decimal_text(self.expected_ncc),
            "nccThreshold": decimal_text(NCC_THRESHOLD),
            "probNccAboveThreshold": decimal_text(self.prob_ncc_above),
        }


class GradientInversion:
    """The gradient inversion audit."""

    name = "GradientInversion"
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Attack single updates of the Study's mechanism on the Study's model.

        Args:
            subject: The trained model and its plan.
            parameters: ``candidates`` (default 100), ``trials`` (64), ``targets`` of the
                optimization (8 for tables, 1 for images), ``iterations`` (300), ``restarts`` (2).

        Returns:
            Fail where identification succeeds more often than the mechanism allows.
        """
        from primum_pipelines.attacks.reconstruction import ReconstructionEffort, reconstruct

        mechanism = subject.released_by()
        model = subject.model()
        images = len(model.spec.input_shape) > 1
        effort = ReconstructionEffort(
            candidates=whole(parameters, "candidates", default=100, low=2, high=1000),
            trials=whole(parameters, "trials", default=64, low=1, high=1000),
            targets=whole(parameters, "targets", default=1 if images else 8, low=1, high=64),
            iterations=whole(parameters, "iterations", default=300, low=1, high=24_000),
            restarts=whole(parameters, "restarts", default=2, low=1, high=16),
        )
        measured = reconstruct(
            model,
            subject.table(),
            mechanism=mechanism,
            algorithm=subject.algorithm(),
            effort=effort,
        )
        bounds = reconstruction_bounds(
            mechanism, candidates=measured.candidates, dimension=measured.dimension
        )
        verdict, reasons = identification_verdict(
            success_lower=max(
                _lower(measured.identified_by_gradient, measured.trials),
                _lower(measured.optimized.identified, measured.targets),
            ),
            bound=bounds.gamma_one_update,
            trials=measured.trials,
            trials_min=TRIALS_MIN,
        )
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                "threatModel": THREAT.to_json(),
                "claim": str(subject.plan.epsilon),
                "delta": str(subject.plan.delta),
                "confidence": str(FAIL_CONFIDENCE),
                "trials": measured.trials,
                "targets": measured.targets,
                "iterations": effort.iterations,
                "bounds": bounds.to_json(),
            },
            restricted=_restricted(measured),
            reasons=reasons,
            pictures={"reconstructions.png": measured.picture} if measured.picture else {},
        )


def reconstruction_bounds(
    mechanism: PlannedMechanism, *, candidates: int, dimension: int
) -> ReconstructionBounds:
    """The formal bounds for a plan; no data is needed.

    Args:
        mechanism: The planned mechanism.
        candidates: Equally likely candidates; kappa is one over it.
        dimension: Numbers in a record.

    Returns:
        The bounds. The norm of the record is private, so the worst case is taken: no mean to
        subtract.
    """
    kappa = rero.kappa_uniform_candidates(candidates=candidates)
    scratch = from_scratch.ncc(
        noise_multiplier=mechanism.noise_multiplier,
        centered_norm=1.0,
        target_norm=1.0,
        dimension=dimension,
        releases=1,
        ncc_threshold=NCC_THRESHOLD,
    )
    return ReconstructionBounds(
        candidates=candidates,
        gamma_one_update=rero.gaussian_bound(psi=1 / mechanism.noise_multiplier, kappa=kappa),
        gamma_all_updates=tpr_bounds(mechanism, fprs=[kappa])[0],
        expected_ncc=scratch["expected_ncc"],
        prob_ncc_above=scratch["prob_ncc_above"],
    )


def _lower(successes: int, trials: int) -> float:
    if not trials:
        raise InvalidValue("trials", "must be at least 1", trials)
    limits = clopper_pearson_one_sided(successes=successes, trials=trials, tail_probability=_TAIL)
    return limits["lower"]


def _restricted(measured: Reconstruction) -> dict[str, JSON]:
    optimized = measured.optimized
    figures = {
        "ncc": optimized.ncc_mean,
        "nccWorst": optimized.ncc_worst,
        "nccWithoutNoise": optimized.ncc_without_noise,
        "nccBaseline": optimized.ncc_baseline,
        "nccAnalytic": measured.ncc_analytic,
        "nccLinearPrior": measured.ncc_linear_prior,
        "psnr": optimized.psnr_mean,
        "psnrWithoutNoise": optimized.psnr_without_noise,
        "psnrBaseline": optimized.psnr_baseline,
        "mse": optimized.mse_mean,
        "mseBaseline": optimized.mse_baseline,
        "ssim": optimized.ssim_mean,
        "ssimWithoutNoise": optimized.ssim_without_noise,
        "ssimBaseline": optimized.ssim_baseline,
        "featureDistance": optimized.feature_distance,
        "featureDistanceBaseline": optimized.feature_distance_baseline,
        "recognizable": optimized.recognizable,
        "recognizableBaseline": optimized.recognizable_baseline,
        "meanGradientNorm": measured.gradient_norm_mean,
    }
    return {
        **{name: decimal_text(value) for name, value in figures.items() if value is not None},
        "identifiedByGradient": measured.identified_by_gradient,
        "identifiedByReconstruction": measured.optimized.identified,
        "identifiedLowerLimit": decimal_text(
            _lower(measured.identified_by_gradient, measured.trials)
        ),
        "baselineBeaten": "yes" if optimized.ncc_mean > optimized.ncc_baseline else "no",
    }
