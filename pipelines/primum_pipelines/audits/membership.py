"""What every membership audit by shadow models owes: scores in, figures, bound and verdict out.

Reports what the protocol asks for (methods, section 5.1): TPR at the FPRs that the sample sizes
resolve with Clopper-Pearson intervals, AUC, balanced accuracy at a threshold calibrated on shadows,
PPV at three priors, the worst subgroup, P1, and the bound that the ledger implies in the same axes.
Opens the data through the audit's own access.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, Verdict
from primum.domain.risk import audits
from primum.domain.risk.looks import Look, planned_looks
from primum_pipelines.audits.audit import (
    CONFIDENCE,
    Finding,
    ThreatModel,
    membership_verdict,
    says_nothing,
)
from primum_pipelines.audits.low_tail import smallest_fpr, tpr_bounds
from primum_pipelines.audits.membership_figures import (
    FPRS,
    ROC,
    measured,
    roc_picture,
    worst_subgroup,
)
from primum_pipelines.audits.parameters import CLASSIFIERS, choice, whole
from primum_pipelines.audits.shadow_recipe import (
    device_of,
    not_repeated,
    program_of,
    unlike,
)
from primum_pipelines.audits.subject import AuditSubject

if TYPE_CHECKING:
    from primum_pipelines.attacks.membership import Effort, MembershipScores
    from primum_pipelines.attacks.signals import Scoring

SHADOW_PARAMETERS = frozenset({"shadows", "pool", "stopping"})
STOPPING: Mapping[str, tuple[str, ...]] = {"stopping": ("Certain", "Never")}
METHOD = "two-sided test at a threshold calibrated on shadows; records of one model"
SHADOWS_DEFAULT = 64
POOL_DEFAULT = 2000
POOL_OF_IMAGES_DEFAULT = 500  # 64 convolutional shadows on more take minutes on two cores.
MEMBERS_MIN = 20  # Below it even a perfect attack shows nothing worth a verdict.


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
            others=subject.other_sites(),
        )
        scores, found = until_certain(subject, rounds, looks)
        verdict, reasons = found.verdict, found.reasons
        other = unlike(subject)
        if other and verdict is Verdict.PASS:
            verdict = Verdict.INCONCLUSIVE
            reasons = (f"shadow models cannot follow the Study's {', '.join(other)}",)
        left_out = list(not_repeated(subject))
        return Finding(
            kind=self.kind,
            name=self.name,
            verdict=verdict,
            public={
                **planned(subject, chosen.threat, method=METHOD, judgment=found),
                "shadows": chosen.effort.shadows,
                "looks": [{"shadows": look.models, "share": str(look.share)} for look in looks],
                "settings": dict(chosen.settings),
                **({"notRepeated": left_out} if left_out else {}),
            },
            restricted=_restricted(scores, epsilon_lower=found.epsilon_lower),
            reasons=reasons,
            pictures={
                ROC: roc_picture(self.name, scores.present, scores.absent, subject.released_by())
            },
        )


def looks_of(
    subject: AuditSubject, effort: Effort, parameters: Mapping[str, JSON]
) -> tuple[Look, ...]:
    """At which numbers of shadows an audit looks, fixed before any is trained.

    Raises:
        InvalidValue: If ``stopping`` is another word.
    """
    from primum_pipelines.attacks.shadow_groups import group_of

    stopping = choice(parameters, "stopping", default="Certain", options=STOPPING["stopping"])
    if stopping == "Never":
        return (Look(effort.shadows, Decimal(1)),)
    axes = len(subject.model().spec.input_shape)
    group = group_of(axes, device_of(subject), sites=max(1, len(subject.site_order())))
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
            threshold=scores.sharpest,
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
    if verdict is Verdict.PASS:
        reasons = says_nothing([*present, *absent])
        verdict = Verdict.INCONCLUSIVE if reasons else verdict
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
    found = measured(scores.present, scores.absent, threshold=scores.threshold)
    balanced = float(str(found["balancedAccuracy"]))
    return {
        **found,
        "lowerBound": decimal_text(epsilon_lower),
        "shadowsTrained": scores.shadows,
        "duplicatesDropped": scores.duplicates,
        "lossAuc": decimal_text(scores.loss_auc),
        "p1": decimal_text(privacy_utility(scores.task_accuracy, balanced)),
        "worstSubgroup": worst_subgroup(scores.present, scores.absent, scores.groups),
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
