"""The reconstruction audit: what a noisy update of the Study gives away of a record.

An update is one step, or in a federated Study what a site sends after several local steps.

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
from primum_pipelines.audits.parameters import SUMMING, whole
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
_LOCAL_STEPS_USUAL = 8
_LOCAL_STEPS_MAX = 32  # Simulating them costs as many times one step.
_TAIL = float(1 - FAIL_CONFIDENCE) / 2  # Two ways of identification are tried; they share it.


@dataclass(frozen=True, slots=True)
class ReconstructionBounds:
    """What the plan alone says about reconstruction. All of it is public.

    Args:
        candidates: Equally likely records the adversary chooses among.
        gamma_one_update: Most likely success of identification from one update (ReRo, Gaussian):
            one step, or several local steps that the record takes part in.
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
            **identification_bound(self.gamma_one_update, candidates=self.candidates),
            "gammaAllUpdates": decimal_text(self.gamma_all_updates),
            "expectedNcc": decimal_text(self.expected_ncc),
            "nccThreshold": decimal_text(NCC_THRESHOLD),
            "probNccAboveThreshold": decimal_text(self.prob_ncc_above),
        }


class GradientInversion:
    """The gradient inversion audit."""

    name = "GradientInversion"
    attacks = SUMMING
    reads = frozenset({"candidates", "trials", "targets", "iterations", "restarts", "localSteps"})
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Attack single updates of the Study's mechanism on the Study's model.

        Args:
            subject: The trained model and its plan.
            parameters: ``candidates`` (default 100), ``trials`` (64), ``targets`` of the
                optimization (8 for tables, 1 for images), ``iterations`` (300), ``restarts`` (2),
                ``localSteps`` that an update adds up (those of a round for federated Studies, at
                most 8; else 1).

        Returns:
            Fail where identification succeeds more often than the mechanism allows.
        """
        from primum_pipelines.attacks.reconstruction import ReconstructionEffort, reconstruct

        mechanism, steps = subject.released_by(), local_steps(subject, parameters)
        model = subject.model()
        images = len(model.spec.input_shape) > 1
        effort = ReconstructionEffort(
            candidates=whole(parameters, "candidates", default=100, low=2, high=1000),
            trials=whole(parameters, "trials", default=64, low=1, high=1000),
            targets=whole(parameters, "targets", default=1 if images else 8, low=1, high=64),
            iterations=whole(parameters, "iterations", default=300, low=1, high=24_000),
            restarts=whole(parameters, "restarts", default=2, low=1, high=16),
            local_steps=steps,
            step_size=step_size(subject) if steps > 1 else 0.0,
        )
        measured = reconstruct(
            model,
            subject.table(),
            mechanism=mechanism,
            algorithm=subject.algorithm(),
            effort=effort,
        )
        bounds = reconstruction_bounds(
            mechanism,
            candidates=measured.candidates,
            dimension=measured.dimension,
            local_steps=effort.local_steps,
        )
        verdict, reasons = identification_verdict(
            success_lower=max(
                _lower(measured.identified_by_gradient, measured.trials),
                _lower(measured.optimized.identified, measured.targets),
            ),
            most=_lower(measured.identified_without_noise, measured.trials),
            bound=bounds.gamma_one_update,
            trials=measured.trials,
            trials_min=TRIALS_MIN,
        )
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **subject.stated(THREAT),
                "confidence": str(FAIL_CONFIDENCE),
                "trials": measured.trials,
                "targets": measured.targets,
                "iterations": effort.iterations,
                "localSteps": effort.local_steps,
                "bounds": bounds.to_json(),
            },
            restricted=_restricted(measured),
            reasons=reasons,
            pictures={"reconstructions.png": measured.picture} if measured.picture else {},
        )


def local_steps(subject: AuditSubject, parameters: Mapping[str, JSON]) -> int:
    """How many steps one observed update adds up: ``localSteps``, or those of a federated round.

    Raises:
        InvalidValue: If it is no whole number from 1 to 32.
    """
    planned = int(str(_site(subject).get("stepsPerRound", 1)))
    usual = min(planned, _LOCAL_STEPS_USUAL)
    return whole(parameters, "localSteps", default=usual, low=1, high=_LOCAL_STEPS_MAX)


def step_size(subject: AuditSubject) -> float:
    """What a step of the plan moves the parameters by, per unit of the sum of clipped gradients.

    Raises:
        InvalidValue: If the plan does not state learning rate or batch size.
    """
    parameters = subject.plan.parameters
    for name in ("learningRate", "batchSize"):
        if name not in parameters:
            raise InvalidValue(f"plan.parameters.{name}", "must be stated for updates", "nothing")
    return float(str(parameters["learningRate"])) / float(str(parameters["batchSize"]))


def _site(subject: AuditSubject) -> Mapping[str, JSON]:
    """What the plan says of the site whose mechanism reveals most; empty if not federated."""
    sites = subject.plan.mechanism.get("sites")
    if not isinstance(sites, Mapping):
        return {}
    budget = subject.released_by().budget
    found = sites.get(budget, next(iter(sites.values()), {}))
    return found if isinstance(found, Mapping) else {}


def identification_bound(gamma: float, *, candidates: int) -> dict[str, JSON]:
    """What one update allows, as evidence states it: success gamma among equal candidates."""
    return {
        "candidates": candidates,
        "kappa": decimal_text(Decimal(1) / candidates),
        "gammaOneUpdate": decimal_text(gamma),
    }


def one_update_bound(
    mechanism: PlannedMechanism, *, candidates: int, local_steps: int = 1
) -> float:
    """How often at most one update names a record that took part in all its steps (ReRo).

    Args:
        mechanism: The planned mechanism; without noise nothing is bounded.
        candidates: Equally likely candidates.
        local_steps: Steps that the update adds up.
    """
    if not mechanism.noise_multiplier:
        return 1.0
    return rero.gaussian_composed(
        psi_per_release=1 / mechanism.noise_multiplier,
        releases=local_steps,
        kappa=rero.kappa_uniform_candidates(candidates=candidates),
    )


def reconstruction_bounds(
    mechanism: PlannedMechanism, *, candidates: int, dimension: int, local_steps: int = 1
) -> ReconstructionBounds:
    """The formal bounds for a plan; no data is needed.

    Args:
        mechanism: The planned mechanism.
        candidates: Equally likely candidates; kappa is one over it.
        dimension: Numbers in a record.
        local_steps: Steps that one update adds up; the record takes part in all of them.

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
        releases=local_steps,
        ncc_threshold=NCC_THRESHOLD,
    )
    return ReconstructionBounds(
        candidates=candidates,
        gamma_one_update=one_update_bound(
            mechanism, candidates=candidates, local_steps=local_steps
        ),
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
    found: dict[str, JSON] = {
        **optimized.to_json(),
        "nccAnalytic": decimal_text(measured.ncc_analytic),
        "meanGradientNorm": decimal_text(measured.gradient_norm_mean),
        "identifiedByGradient": measured.identified_by_gradient,
        "identifiedByReconstruction": optimized.identified,
        "identifiedWithoutNoise": measured.identified_without_noise,
        "identifiedLowerLimit": decimal_text(
            _lower(measured.identified_by_gradient, measured.trials)
        ),
        "baselineBeaten": "yes" if optimized.ncc_mean > optimized.ncc_baseline else "no",
    }
    if measured.ncc_linear_prior is not None:
        found["nccLinearPrior"] = decimal_text(measured.ncc_linear_prior)
    return found
