"""The reconstruction audit with a generative prior: what noise hides from those who know such data.

Bounds without a prior do not speak about this adversary; the one on identification does
(privacy-theory, section 5). The prior is learned from published or made-up records alone, never
from the Study's. Opens the data through the audit's own access; records stay in the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import (
    FAIL_CONFIDENCE,
    Finding,
    ThreatModel,
    identification_verdict,
)
from primum_pipelines.audits.gradient_inversion import (
    TRIALS_MIN,
    identification_bound,
    one_update_bound,
)
from primum_pipelines.audits.parameters import SUMMING, whole
from primum_pipelines.audits.subject import AuditSubject

if TYPE_CHECKING:
    import torch

    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.attacks.prior_reconstruction import PriorReconstruction, Priors
    from primum_pipelines.models.artifact import ModelSpec

THREAT = ThreatModel(
    access="Gradient",
    architecture="GrayBox",
    server="MaliciousArchitecture",
    data="Prior",
    sampling="Iid",
)
SYNTHETIC = "Synthetic"
_WAYS = ("observed", "linear", "denoised", "sampled", "guided")  # They share the tail.
_RECORDS_DEFAULT = 2000
_LEARNING_STEPS_DEFAULT = 600
_TAIL = float(1 - FAIL_CONFIDENCE) / len(_WAYS)


class DiffusionPrior:
    """Reconstruction with a diffusion prior."""

    name = "DiffusionPrior"
    attacks = SUMMING
    reads = frozenset(
        {
            "candidates",
            "trials",
            "targets",
            "steps",
            "restarts",
            "prior",
            "records",
            "learningSteps",
        }
    )
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Attack single updates with a prior.

        Args:
            subject: The trained model and its plan.
            parameters: ``prior``: Synthetic (default), pictures that show nobody, or the address of
                a published set or of a Public input of the Study; ``records`` of it at most (2000);
                ``learningSteps`` (600); ``candidates`` (100); ``trials`` (32); ``targets`` whose
                updates are inverted (2); ``steps`` of the reverse process (60); ``restarts`` (2).

        Returns:
            Fail where identification succeeds more often than the mechanism allows.

        Raises:
            InvalidValue: If a parameter breaks its rule, or the prior is no public one.
        """
        from primum_pipelines.attacks.prior_reconstruction import (
            PriorAttackEffort,
            reconstruct_with,
        )

        mechanism, model = subject.released_by(), subject.model()
        effort = PriorAttackEffort(
            candidates=whole(parameters, "candidates", default=100, low=2, high=1000),
            trials=whole(parameters, "trials", default=32, low=1, high=1000),
            targets=whole(parameters, "targets", default=2, low=1, high=64),
            steps=whole(parameters, "steps", default=60, low=2, high=1000),
            restarts=whole(parameters, "restarts", default=2, low=1, high=16),
        )
        pool = _pool(subject, model.spec)
        priors = _priors(subject, model.spec, parameters)
        found = reconstruct_with(
            priors,
            model.module,
            pool,
            mechanism=mechanism,
            algorithm=subject.algorithm(),
            effort=effort,
        )
        bound = one_update_bound(mechanism, candidates=found.candidates)
        lower = max(_limits(found).values())
        verdict, reasons = identification_verdict(
            success_lower=lower,
            most=_lower_limit(found.trials, found.trials),
            bound=bound,
            trials=found.trials,
            trials_min=TRIALS_MIN,
        )
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **subject.stated(THREAT),
                "confidence": str(FAIL_CONFIDENCE),
                "prior": str(parameters.get("prior", SYNTHETIC)),
                "trials": found.trials,
                "targets": found.targets,
                "bounds": identification_bound(bound, candidates=found.candidates),
            },
            restricted=_restricted(found, lower=lower),
            reasons=reasons,
            pictures=found.pictures,
        )


def _pool(subject: AuditSubject, spec: ModelSpec) -> Pool:
    from primum_pipelines.attacks.pool import pool_of

    return pool_of(subject.table(), spec)


def _priors(subject: AuditSubject, spec: ModelSpec, parameters: Mapping[str, JSON]) -> Priors:
    """Both priors, from the same public records."""
    from primum_pipelines.attacks.diffusion_prior import PriorEffort
    from primum_pipelines.attacks.linear_prior import LinearPrior
    from primum_pipelines.attacks.prior_reconstruction import Priors
    from primum_pipelines.attacks.prior_records import prior_of

    most = whole(parameters, "records", default=_RECORDS_DEFAULT, low=2, high=20_000)
    learning = PriorEffort(
        steps=whole(
            parameters, "learningSteps", default=_LEARNING_STEPS_DEFAULT, low=1, high=100_000
        )
    )
    records = _records(subject, spec, str(parameters.get("prior", SYNTHETIC)), most=most)
    diffusion = prior_of(records, learning, zone_dir=subject.request.zone_dir)
    return Priors(diffusion, LinearPrior.of(records.flatten(1).double().numpy()), records)


def _records(subject: AuditSubject, spec: ModelSpec, prior: str, *, most: int) -> torch.Tensor:
    from primum_pipelines.attacks.prior_records import made_up, published
    from primum_pipelines.datasets.access import open_published

    if prior == SYNTHETIC:
        return made_up(most, shape=tuple(spec.input_shape))
    return published(open_published(subject.request, prior), spec, most=most)


def _limits(found: PriorReconstruction) -> dict[str, float]:
    """Lower limits of how often each way names the record; together they err once in 1,000."""
    counts = {
        "observed": (found.observed.named, found.trials),
        "linear": (found.linear.named, found.trials),
        "denoised": (found.denoised.named, found.trials),
        "sampled": (found.sampled.named, found.trials),
        "guided": (found.guided.identified, found.targets),
    }
    return {way: _lower_limit(*counts[way]) for way in _WAYS}


def _lower_limit(successes: int, trials: int) -> float:
    limits = clopper_pearson_one_sided(successes=successes, trials=trials, tail_probability=_TAIL)
    return limits["lower"]


def _restricted(found: PriorReconstruction, *, lower: float) -> dict[str, JSON]:
    ways = {
        "observed": found.observed,
        "linearPrior": found.linear,
        "diffusionPrior": found.denoised,
        "reverseProcess": found.sampled,
        "baseline": found.baseline,
    }
    released: dict[str, JSON] = {
        name: {
            "ncc": decimal_text(way.ncc),
            "psnr": decimal_text(way.psnr),
            "recognizable": decimal_text(way.recognizable),
            "identified": way.named,
        }
        for name, way in ways.items()
    }
    best = max(way.named for name, way in ways.items() if name != "baseline")
    return {
        "releases": released,
        "updates": {**found.guided.to_json(), "identified": found.guided.identified},
        "identified": best,
        "identifiedLowerLimit": decimal_text(lower),
        "nccDiffusionPrior": decimal_text(found.denoised.ncc),
        "baselineBeaten": "yes" if found.denoised.ncc > found.baseline.ncc else "no",
    }
