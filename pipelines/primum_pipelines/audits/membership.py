"""What every membership audit by shadow models owes: scores in, figures, bound and verdict out.

Reports what the protocol asks for (methods, section 5.1): TPR at the FPRs that the sample sizes
resolve with Clopper-Pearson intervals, AUC, balanced accuracy at a threshold calibrated on shadows,
PPV at three priors, the worst subgroup, P1, and the bound that the ledger implies in the same axes.
Opens the data through the audit's own access.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import audits
from primum.domain.risk.intervals import clopper_pearson_one_sided
from primum.domain.risk.looks import Look, planned_looks
from primum_pipelines.audits.audit import CONFIDENCE, Finding, ThreatModel, membership_verdict
from primum_pipelines.audits.low_tail import smallest_fpr, tpr_bounds
from primum_pipelines.audits.parameters import CLASSIFIERS, choice, whole
from primum_pipelines.audits.shadow_recipe import program_of, unlike
from primum_pipelines.audits.subject import AuditSubject

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.attacks.figures import Array
    from primum_pipelines.attacks.membership import Effort, MembershipScores
    from primum_pipelines.attacks.signals import Scoring

FPRS = (0.1, 0.01, 0.001)
PRIORS = (0.5, 0.1, 0.01)
SHADOW_PARAMETERS = frozenset({"shadows", "pool", "stopping"})
STOPPING: Mapping[str, tuple[str, ...]] = {"stopping": ("Certain", "Never")}
METHOD = "two-sided test at a threshold calibrated on shadows; records of one model"
SHADOWS_DEFAULT = 64
POOL_DEFAULT = 2000
POOL_OF_IMAGES_DEFAULT = 500  # 64 convolutional shadows on more take minutes on two cores.
MEMBERS_MIN = 20  # Below it even a perfect attack shows nothing worth a verdict.
_GROUP_MIN = 30  # On either side: below, a subgroup's figure says nothing and may name people.
_ROC = "roc.svg"


@dataclass(frozen=True, slots=True)
class Attack:
    """One membership attack, ready to run.

    Args:
        scoring: Scores of records.
        effort: How hard it tries.
        threat: Whom it plays.
        settings: What the Study chose, for the record.
    """

    scoring: Scoring
    effort: Effort
    threat: ThreatModel
    settings: Mapping[str, JSON]


class ShadowAudit:
    """A membership audit by shadow models. Subclasses say which attack."""

    name: ClassVar[str]
    kind = EvidenceKind.MEMBERSHIP
    reviewed = True
    opens_data = True
    without_mechanism = True  # It can attack a model that no mechanism made.
    attacks = CLASSIFIERS
    reads: ClassVar[frozenset[str]] = SHADOW_PARAMETERS
    words: ClassVar[Mapping[str, tuple[str, ...]]] = STOPPING

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """The attack that the parameters ask for.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """
        raise NotImplementedError

    def run(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Finding:
        """Train shadows with the Study's recipe and attack its model, until the verdict is certain.

        Args:
            subject: The trained model and its plan.
            parameters: ``shadows`` (even), ``pool`` (records at most; 2000 by default, 500 for
                images), ``stopping`` (Certain, the default, or Never), and the attack's own.

        Returns:
            The finding. The epsilon bound treats records of one model as independent trials, which
            they are only nearly; it can fail a Study, and says so under ``method``.

        Guarantees:
            A verdict that the audit stops at is Fail, or what every score at the looks that are
            left would come to as well. Looks share the audit's error probability
            (``planned_looks``), so stopping makes no Fail more likely to be wrong.

        Raises:
            InvalidValue: If a parameter breaks its rule.
        """
        from primum_pipelines import fan_out
        from primum_pipelines.attacks import membership

        chosen = self.attack(subject, parameters)
        looks = looks_of(subject, chosen.effort, parameters)
        shop = membership.Shop(subject.held.shadows, subject.shadow_cache(), fan_out.current())
        rounds = membership.attack(
            subject.model(),
            subject.table(),
            program=program_of(subject, chosen.effort.shadowing),
            effort=chosen.effort,
            scoring=chosen.scoring,
            looks=[look.models for look in looks],
            shop=shop,
        )
        scores, found = until_certain(subject, rounds, looks)
        verdict, reasons = found.verdict, found.reasons
        other = unlike(subject)
        if other and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
            reasons = (f"shadow models cannot follow the Study's {', '.join(other)}",)
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **planned(subject, chosen.threat, method=METHOD, judgment=found),
                "shadows": chosen.effort.shadows,
                "looks": [{"shadows": look.models, "share": str(look.share)} for look in looks],
                "settings": dict(chosen.settings),
            },
            restricted=_restricted(scores, epsilon_lower=found.epsilon_lower),
            reasons=reasons,
            pictures={_ROC: _picture(self.name, scores, subject)},
        )


def looks_of(
    subject: AuditSubject, effort: Effort, parameters: Mapping[str, JSON]
) -> tuple[Look, ...]:
    """At which numbers of shadows an audit looks, fixed before any is trained.

    Raises:
        InvalidValue: If ``stopping`` is another word.
    """
    from primum_pipelines.attacks.shadow_groups import group_of
    from primum_pipelines.kinds.train.sharing import own_device

    stopping = choice(parameters, "stopping", default="Certain", options=STOPPING["stopping"])
    if stopping == "Never":
        return (Look(effort.shadows, Decimal(1)),)
    axes = len(subject.model().spec.input_shape)
    group = group_of(axes, own_device(subject.request))
    return planned_looks(effort.shadows, group=group)


def until_certain(
    subject: AuditSubject, rounds: Iterator[MembershipScores], looks: Sequence[Look]
) -> tuple[MembershipScores, Judgment]:
    """Look after look, until no score at a later one could change the verdict."""
    for number, (look, scores) in enumerate(zip(looks, rounds, strict=True)):
        found = judged(
            subject,
            present=[float(score) for score in scores.present],
            absent=[float(score) for score in scores.absent],
            threshold=scores.threshold,
            share=look.share,
        )
        left = looks[number + 1 :]
        if not left or found.verdict is Verdict.FAIL:
            break
        perfect = [
            judged(
                subject,
                present=[1.0] * len(scores.present),
                absent=[0.0] * len(scores.absent),
                threshold=0.5,
                share=later.share,
            ).verdict
            for later in left
        ]
        # No attack scores better than one without an error; and only the last look can pass.
        if set(perfect) == {Verdict.INCONCLUSIVE}:
            break
    return scores, found


def effort_of(
    subject: AuditSubject, parameters: Mapping[str, JSON], *, shadows: int = SHADOWS_DEFAULT
) -> Effort:
    """Shadows and pool as the Study gives them.

    Args:
        subject: Says whether records are images.
        parameters: ``shadows`` and ``pool``.
        shadows: Default number of shadows.

    Raises:
        InvalidValue: If a parameter breaks its rule.
    """
    from primum_pipelines.attacks.membership import Effort

    images = len(subject.model().spec.input_shape) > 1
    most = POOL_OF_IMAGES_DEFAULT if images else POOL_DEFAULT
    count = whole(parameters, "shadows", default=shadows, low=4, high=1024)
    if count % 2:
        raise InvalidValue("spec.audits.shadows", "must be even", count)
    return Effort(shadows=count, pool=whole(parameters, "pool", default=most, low=20, high=100_000))


@dataclass(frozen=True, slots=True)
class Judgment:
    """What scores come to beside the claim.

    Args:
        epsilon_lower: Lower bound on epsilon at the claim's delta.
        certifiable: The largest epsilon that so many records could have shown.
        verdict: See ``membership_verdict``; a pass needs enough records, and scores that differ.
        reasons: Why it is not Pass.
    """

    epsilon_lower: float
    certifiable: float
    verdict: Verdict
    reasons: tuple[str, ...]


def judged(
    subject: AuditSubject,
    *,
    present: Sequence[float],
    absent: Sequence[float],
    threshold: float,
    share: Decimal = Decimal(1),
) -> Judgment:
    """Judge scores at a threshold that was fixed without them.

    Args:
        subject: Its claim, and the mechanism that made it.
        present: Scores of members.
        absent: Scores of non-members.
        threshold: Above it a record is called a member.
        share: What this judgment may spend of the error probabilities, where it is one of several
            planned looks.
    """
    confidence = float(1 - (1 - CONFIDENCE) * share)
    bound = audits.epsilon_lower_bound(
        true_positives=sum(score > threshold for score in present),
        members=len(present),
        false_positives=sum(score > threshold for score in absent),
        non_members=len(absent),
        delta=subject.delta,
        confidence=confidence,
    )["epsilon_lower"]
    certifiable = audits.max_certifiable_two_sided(
        members=len(present),
        non_members=len(absent),
        delta=subject.delta,
        confidence=confidence,
    )
    verdict, reasons = membership_verdict(
        epsilon_lower=bound,
        claim=subject.claim,
        max_certifiable=certifiable,
        low_tail=smallest_fpr(
            present=present, absent=absent, mechanism=subject.released_by(), share=share
        ),
    )
    if verdict is Verdict.PASS and min(len(present), len(absent)) < MEMBERS_MIN:
        verdict, reasons = Verdict.INCONCLUSIVE, ("there are too few units for this attack",)
    if verdict is Verdict.PASS and len({*present, *absent}) == 1:
        verdict, reasons = Verdict.INCONCLUSIVE, ("the attack gave every unit the same score",)
    return Judgment(bound, certifiable, verdict, reasons)


def planned(
    subject: AuditSubject, threat: ThreatModel, *, method: str, judgment: Judgment
) -> dict[str, JSON]:
    """The public side of a membership audit: what follows from the plan and the sample sizes."""
    bounds = tpr_bounds(subject.released_by(), fprs=FPRS)
    return {
        **subject.stated(threat),
        "confidence": str(CONFIDENCE),
        "method": method,
        "boundImplied": {
            decimal_text(fpr): decimal_text(tpr) for fpr, tpr in zip(FPRS, bounds, strict=True)
        },
        "maxCertifiable": decimal_text(judgment.certifiable),
    }


def _restricted(scores: MembershipScores, *, epsilon_lower: float) -> dict[str, JSON]:
    members, others = len(scores.present), len(scores.absent)
    hits = int((scores.present > scores.threshold).sum())
    alarms = int((scores.absent > scores.threshold).sum())
    tpr, fpr = hits / members, alarms / others
    balanced = (tpr + 1 - fpr) / 2
    return {
        "lowerBound": decimal_text(epsilon_lower),
        "members": members,
        "nonMembers": others,
        "shadowsTrained": scores.shadows,
        "duplicatesDropped": scores.duplicates,
        "smallestResolvableFpr": decimal_text(1 / others),
        "auc": area_of(scores.present, scores.absent),
        "lossAuc": decimal_text(scores.loss_auc),
        "balancedAccuracy": decimal_text(balanced),
        "p1": decimal_text(privacy_utility(scores.task_accuracy, balanced)),
        "tprAt": {decimal_text(rate): _tpr_at(scores, rate) for rate in (*FPRS, 1 / others)},
        "ppvAt": {
            decimal_text(prior): decimal_text(
                prior * tpr / (prior * tpr + (1 - prior) * fpr) if hits or alarms else 0.0
            )
            for prior in PRIORS
        },
        "worstSubgroup": _worst_subgroup(scores),
    }


def privacy_utility(task_accuracy: float, attack_accuracy: float) -> float:
    """P1 of Paul et al. 2021: the harmonic mean of task accuracy and the attack's error.

    Args:
        task_accuracy: Of the model, on records it was not trained on.
        attack_accuracy: Balanced; below one half it counts as its complement, because an inverted
            attack is one.

    Returns:
        From 0 to 2/3.
    """
    error = 1 - max(attack_accuracy, 1 - attack_accuracy)
    total = task_accuracy + error
    return 2 * task_accuracy * error / total if total else 0.0


def area_of(present: Array | list[float], absent: Array | list[float]) -> dict[str, JSON]:
    """An AUC with its 95 % interval (Hanley & McNeil 1982), as decimal strings."""
    import numpy as np

    from primum_pipelines.attacks import figures

    area = figures.auc(np.asarray(present), np.asarray(absent))
    half_width = 1.96 * _auc_error(area, len(present), len(absent))
    return {
        "estimate": decimal_text(area),
        "lower": decimal_text(max(0.0, area - half_width)),
        "upper": decimal_text(min(1.0, area + half_width)),
    }


def _worst_subgroup(scores: MembershipScores) -> dict[str, JSON]:
    """The subgroup whose members are found best, of those with 30 records on either side."""
    found: list[tuple[float, dict[str, JSON]]] = []
    for attribute, (inside, outside) in scores.groups.items():
        for number in sorted({int(value) for value in inside}):
            own, rest = scores.present[inside == number], scores.absent[outside == number]
            if min(len(own), len(rest)) >= _GROUP_MIN:
                area = area_of(own, rest)
                entry: dict[str, JSON] = {"attribute": attribute, "group": number, "auc": area}
                found.append((float(str(area["estimate"])), entry))
    if not found:
        return {"masked": f"no subgroup has {_GROUP_MIN} records on either side"}
    return max(found, key=lambda item: item[0])[1] | {"compared": len(found)}


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


def _picture(name: str, scores: MembershipScores, subject: AuditSubject) -> bytes:
    """The ROC curve on logarithmic axes, beside what the mechanism allows."""
    import numpy as np

    from primum_pipelines.attacks import figures
    from primum_pipelines.evaluation import plots

    mechanism = subject.released_by()

    def bound(rates: np.ndarray) -> np.ndarray:
        return np.array(tpr_bounds(mechanism, fprs=[float(rate) for rate in rates]))

    return plots.roc_curves(
        {name: figures.roc(scores.present, scores.absent)},
        smallest=1 / len(scores.absent),
        bound=bound,
    )
