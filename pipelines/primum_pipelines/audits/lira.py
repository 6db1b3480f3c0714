"""The membership audit by shadow models: LiRA (Carlini et al. 2022; methods, sections 5.1 to 5.3).

Reports what the protocol asks for: TPR at the FPRs that the sample sizes resolve with
Clopper-Pearson intervals, AUC, balanced accuracy at a threshold calibrated on shadows, PPV at three
priors, and the bound that the ledger implies in the same axes. Opens the data through the audit's
own access.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import audits
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum_pipelines.audits.audit import CONFIDENCE, Finding, ThreatModel, membership_verdict
from primum_pipelines.audits.low_tail import smallest_fpr, tpr_bounds
from primum_pipelines.audits.parameters import whole
from primum_pipelines.audits.subject import AuditSubject

if TYPE_CHECKING:
    from primum_pipelines.attacks.membership import MembershipScores
    from primum_pipelines.attacks.shadows import Recipe

THREAT = ThreatModel(
    access="Confidence",
    architecture="GrayBox",
    server="HonestButCurious",
    data="Population",
    sampling="Iid",
)
FPRS = (0.1, 0.01, 0.001)
PRIORS = (0.5, 0.1, 0.01)
METHOD = "two-sided test at a threshold calibrated on shadows; records of one model"
SHADOWS_DEFAULT = 64
POOL_DEFAULT = 2000
POOL_OF_IMAGES_DEFAULT = 500  # 64 convolutional shadows on more take minutes on two cores.
MEMBERS_MIN = 20  # Below it even a perfect attack shows nothing worth a verdict.


class LiRA:
    """The likelihood-ratio attack with stacked shadows."""

    name = "LiRA"
    kind = EvidenceKind.MEMBERSHIP
    reviewed = True
    opens_data = True

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Train shadows with the Study's recipe and attack its model.

        Args:
            subject: The trained model and its plan.
            parameters: ``shadows`` (even, default 64), ``pool`` (records at most;
                2000 by default, 500 for images).

        Returns:
            The finding. The epsilon bound treats records of one model as independent trials, which
            they are only nearly; it can fail a Study, and says so under ``method``.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """
        from primum_pipelines.attacks.membership import attack

        shadow_count = whole(parameters, "shadows", default=SHADOWS_DEFAULT, low=4, high=1024)
        mechanism, model = subject.released_by(), subject.model()
        images = len(model.spec.input_shape) > 1
        most = POOL_OF_IMAGES_DEFAULT if images else POOL_DEFAULT
        scores = attack(
            model,
            subject.table(),
            recipe=_recipe(subject),
            shadow_count=shadow_count,
            pool_most=whole(parameters, "pool", default=most, low=20, high=100_000),
        )
        members, others = len(scores.present), len(scores.absent)
        bound = _epsilon_lower(scores, subject.delta)
        certifiable = audits.max_certifiable_two_sided(
            members=members,
            non_members=others,
            delta=subject.delta,
            confidence=float(CONFIDENCE),
        )
        verdict, reasons = membership_verdict(
            epsilon_lower=bound,
            claim=subject.claim,
            max_certifiable=certifiable,
            low_tail=smallest_fpr(
                present=[float(s) for s in scores.present],
                absent=[float(s) for s in scores.absent],
                mechanism=mechanism,
            ),
        )
        if verdict is Verdict.PASS and min(members, others) < MEMBERS_MIN:
            verdict, reasons = Verdict.INCONCLUSIVE, ("there are too few units for this attack",)
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public=_public(subject, shadow_count=shadow_count, certifiable=certifiable),
            restricted=_restricted(scores, epsilon_lower=bound),
            reasons=reasons,
        )


def _public(subject: AuditSubject, *, shadow_count: int, certifiable: float) -> dict[str, JSON]:
    bounds = tpr_bounds(subject.released_by(), fprs=FPRS)
    return {
        "threatModel": THREAT.to_json(),
        "claim": str(subject.plan.epsilon),
        "delta": str(subject.plan.delta),
        "confidence": str(CONFIDENCE),
        "shadows": shadow_count,
        "method": METHOD,
        "boundImplied": {
            decimal_text(fpr): decimal_text(tpr) for fpr, tpr in zip(FPRS, bounds, strict=True)
        },
        "maxCertifiable": decimal_text(certifiable),
    }


def _epsilon_lower(scores: MembershipScores, delta: float) -> float:
    result = audits.epsilon_lower_bound(
        true_positives=int((scores.present > scores.threshold).sum()),
        members=len(scores.present),
        false_positives=int((scores.absent > scores.threshold).sum()),
        non_members=len(scores.absent),
        delta=delta,
        confidence=float(CONFIDENCE),
    )
    return result["epsilon_lower"]


def _recipe(subject: AuditSubject) -> Recipe:
    from primum_pipelines.attacks.shadows import Recipe

    mechanism, parameters = subject.released_by(), subject.plan.parameters
    if "learningRate" not in parameters:
        raise InvalidValue("plan.parameters.learningRate", "must be stated for shadows", "nothing")
    return Recipe(
        noise_multiplier=mechanism.noise_multiplier,
        sample_rate=mechanism.sample_rate,
        steps=mechanism.steps,
        max_grad_norm=mechanism.max_grad_norm,
        learning_rate=float(str(parameters["learningRate"])),
        optimizer=str(parameters.get("optimizer", "SGD")),
        momentum=float(str(parameters.get("momentum", "0"))),
    )


def _restricted(scores: MembershipScores, *, epsilon_lower: float) -> dict[str, JSON]:
    from primum_pipelines.attacks import figures

    members, others = len(scores.present), len(scores.absent)
    area = figures.auc(scores.present, scores.absent)
    half_width = 1.96 * _auc_error(area, members, others)
    hits = int((scores.present > scores.threshold).sum())
    alarms = int((scores.absent > scores.threshold).sum())
    tpr, fpr = hits / members, alarms / others
    return {
        "lowerBound": decimal_text(epsilon_lower),
        "members": members,
        "nonMembers": others,
        "duplicatesDropped": scores.duplicates,
        "smallestResolvableFpr": decimal_text(1 / others),
        "auc": {
            "estimate": decimal_text(area),
            "lower": decimal_text(max(0.0, area - half_width)),
            "upper": decimal_text(min(1.0, area + half_width)),
        },
        "lossAuc": decimal_text(scores.loss_auc),
        "balancedAccuracy": decimal_text((tpr + 1 - fpr) / 2),
        "tprAt": {decimal_text(rate): _tpr_at(scores, rate) for rate in (*FPRS, 1 / others)},
        "ppvAt": {
            decimal_text(prior): decimal_text(
                prior * tpr / (prior * tpr + (1 - prior) * fpr) if hits or alarms else 0.0
            )
            for prior in PRIORS
        },
    }


def _tpr_at(scores: MembershipScores, fpr: float) -> dict[str, JSON]:
    """TPR at an FPR with its 95 % interval, if the non-members resolve that FPR."""
    from primum_pipelines.attacks import figures

    if fpr * len(scores.absent) < 1 - 1e-9:
        return {"resolvable": "no"}
    hits = int((scores.present > figures.threshold_at(scores.absent, fpr)).sum())
    limits = clopper_pearson_one_sided(
        successes=hits,
        trials=len(scores.present),
        tail_probability=float(1 - CONFIDENCE) / 2,
    )
    return {
        "resolvable": "yes",
        "estimate": decimal_text(hits / len(scores.present)),
        "lower": decimal_text(limits["lower"]),
        "upper": decimal_text(limits["upper"]),
    }


def _auc_error(area: float, members: int, others: int) -> float:
    """Standard error of an AUC (Hanley & McNeil 1982)."""
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    spread = area * (1 - area) + (members - 1) * (one - area**2) + (others - 1) * (two - area**2)
    return math.sqrt(max(0.0, spread) / (members * others))
