"""Reconstruction audits beside gradient inversion: a malicious server, and the model's answers."""

from __future__ import annotations

from collections.abc import Mapping

from primum.domain.canonical import JSON, decimal_text
from primum.domain.governance.evidence import EvidenceKind, Verdict
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
    local_steps,
    one_update_bound,
)
from primum_pipelines.audits.parameters import CLASSIFIERS, SUMMING, whole
from primum_pipelines.audits.subject import AuditSubject

_TAIL = float(1 - FAIL_CONFIDENCE)
SERVER = ThreatModel(
    access="Gradient",
    architecture="GrayBox",
    server="MaliciousArchitecture",
    data="Candidates",
    sampling="Iid",
)
ANSWERS = ThreatModel(
    access="Confidence",
    architecture="GrayBox",
    server="HonestButCurious",
    data="Population",
    sampling="Iid",
)


class Imprint:
    """A server that swaps in an imprint layer (Fowl et al. 2022)."""

    name = "Imprint"
    attacks = SUMMING
    reads = frozenset({"batch", "bins", "candidates", "trials", "localSteps"})
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Let the Study's algorithm step an imprint layer, and look for the target.

        Args:
            subject: The trained model and its plan.
            parameters: ``candidates`` (default 100), ``trials`` (32), ``batch`` (64), ``bins``
                (128), and ``localSteps`` that an update adds up (those of a round for federated
                Studies, at most 8; else 1).

        Returns:
            Fail where identification succeeds more often than the mechanism allows.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """
        from primum_pipelines.attacks.imprinting import ImprintEffort, imprint_attack

        mechanism = subject.released_by()
        effort = ImprintEffort(
            batch=whole(parameters, "batch", default=64, low=1, high=4096),
            bins=whole(parameters, "bins", default=128, low=2, high=4096),
            candidates=whole(parameters, "candidates", default=100, low=2, high=1000),
            trials=whole(parameters, "trials", default=32, low=1, high=1000),
            local_steps=local_steps(subject, parameters),
        )
        found = imprint_attack(
            subject.table(),
            subject.model().spec,
            mechanism=mechanism,
            algorithm=subject.algorithm(),
            effort=effort,
        )
        bound = one_update_bound(
            mechanism, candidates=found.candidates, local_steps=effort.local_steps
        )
        lower, most = (
            clopper_pearson_one_sided(successes=count, trials=found.trials, tail_probability=_TAIL)[
                "lower"
            ]
            for count in (found.identified, found.trials if found.share_without_noise else 0)
        )
        verdict, reasons = identification_verdict(
            success_lower=lower,
            most=most,
            bound=bound,
            trials=found.trials,
            trials_min=TRIALS_MIN,
        )
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **subject.stated(SERVER),
                "confidence": str(FAIL_CONFIDENCE),
                "batch": found.batch,
                "bins": effort.bins,
                "localSteps": effort.local_steps,
                "trials": found.trials,
                "bounds": identification_bound(bound, candidates=found.candidates),
            },
            restricted={
                "identified": found.identified,
                "identifiedLowerLimit": decimal_text(lower),
                "shareRecovered": decimal_text(found.share_recovered),
                "shareRecoveredWithoutNoise": decimal_text(found.share_without_noise),
                "expectedShareWithoutNoise": decimal_text(found.expected_share),
            },
            reasons=reasons,
        )


class ModelInversion:
    """What the classifier takes for the image of each class (Fredrikson et al. 2015)."""

    name = "ModelInversion"
    attacks = CLASSIFIERS
    reads = frozenset({"iterations"})
    kind = EvidenceKind.RECONSTRUCTION
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Invert every class, and ask whether it is nearer to a member than to a stranger.

        Args:
            subject: The trained model and its plan.
            parameters: ``iterations``, default 500.

        Returns:
            Inconclusive at best: a class is no person, so no bound on records speaks about it. Its
            figures say whether an inversion comes nearer to some training record than to any of
            equally many that the model never saw.

        Raises:
            InvalidValue: If a parameter breaks its rule or there are no records on a side.
        """
        from primum_pipelines.attacks.class_pictures import nearest_records

        iterations = whole(parameters, "iterations", default=500, low=1, high=24_000)
        found = nearest_records(subject.model(), subject.table(), iterations=iterations)
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=Verdict.INCONCLUSIVE,
            public={"threatModel": ANSWERS.to_json(), "iterations": iterations},
            restricted={
                "nccToMembers": [decimal_text(value) for value in found.members],
                "nccToOthers": [decimal_text(value) for value in found.others],
                "nccToClassMean": [decimal_text(value) for value in found.means],
            },
            reasons=("no bound on records speaks about what a class looks like",),
            pictures={"classes.png": found.picture} if found.picture else {},
        )
