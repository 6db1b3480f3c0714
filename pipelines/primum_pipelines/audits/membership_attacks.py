"""The membership attacks by shadow models: which scores, and whom each of them plays."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from primum.domain.canonical import JSON
from primum_pipelines.audits.audit import ThreatModel
from primum_pipelines.audits.membership import (
    SHADOW_PARAMETERS,
    STOPPING,
    Attack,
    ShadowAudit,
    effort_of,
)
from primum_pipelines.audits.parameters import choice, whole

if TYPE_CHECKING:
    from primum_pipelines.audits.subject import AuditSubject

THREAT = ThreatModel(
    access="Confidence",
    architecture="GrayBox",
    server="HonestButCurious",
    data="Population",
    sampling="Iid",
)
_LABELS = dataclasses.replace(THREAT, access="Label")
_QUERIES_MAX = 64
_VARIANTS = {**STOPPING, "variant": ("Online", "Offline")}
_LABEL_QUERIES = 10
_RMIA_SHADOWS = 8  # The published attack is strong with few (Zarifzadeh et al. 2024).


class LiRA(ShadowAudit):
    """The likelihood-ratio attack (Carlini et al. 2022).

    Parameters: ``variant`` Online (default) or Offline; ``augmentations``, further queries about
    each record, default 0.
    """

    name = "LiRA"
    reads = SHADOW_PARAMETERS | {"variant", "augmentations"}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = _VARIANTS

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        variant = choice(parameters, "variant", default="Online", options=self.words["variant"])
        more = whole(parameters, "augmentations", default=0, low=0, high=_QUERIES_MAX)
        effort = dataclasses.replace(effort_of(subject, parameters), queries=more + 1)
        scoring = scorings.lira_online if variant == "Online" else scorings.lira_offline
        return Attack(scoring, effort, THREAT, {"variant": variant, "augmentations": more})


class RMIA(ShadowAudit):
    """The pairwise ratio attack against a population (Zarifzadeh et al. 2024).

    Parameters: ``variant`` Online (default) or Offline.
    """

    name = "RMIA"
    reads = SHADOW_PARAMETERS | {"variant"}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = _VARIANTS

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        variant = choice(parameters, "variant", default="Online", options=self.words["variant"])
        effort = effort_of(subject, parameters, shadows=_RMIA_SHADOWS)
        effort = dataclasses.replace(effort, population=True)
        scoring = scorings.rmia_online if variant == "Online" else scorings.rmia_offline
        return Attack(scoring, effort, THREAT, {"variant": variant})


class Thresholds(ShadowAudit):
    """A threshold on one figure of the answer; shadows only fix the threshold.

    Parameters: ``signal`` Loss (default; Yeom et al. 2018), Confidence, Entropy or ModifiedEntropy
    (Song and Mittal 2021); ``thresholds`` Global (default) or PerClass.
    """

    name = "Thresholds"
    reads = SHADOW_PARAMETERS | {"signal", "thresholds"}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **STOPPING,
        "signal": ("Loss", "Confidence", "Entropy", "ModifiedEntropy"),
        "thresholds": ("Global", "PerClass"),
    }

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        known = {
            "Loss": scorings.loss,
            "Confidence": scorings.confidence,
            "Entropy": scorings.entropy,
            "ModifiedEntropy": scorings.modified_entropy,
        }
        signal = choice(parameters, "signal", default="Loss", options=self.words["signal"])
        spread = choice(
            parameters, "thresholds", default="Global", options=self.words["thresholds"]
        )
        scoring = known[signal] if spread == "Global" else scorings.per_class(known[signal])
        settings: dict[str, JSON] = {"signal": signal, "thresholds": spread}
        return Attack(scoring, effort_of(subject, parameters), THREAT, settings)


class Population(ShadowAudit):
    """How much easier a record is than records that nobody was trained on (Ye et al. 2022)."""

    name = "Population"

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        effort = dataclasses.replace(effort_of(subject, parameters), population=True)
        return Attack(scorings.population, effort, THREAT, {})


class Reference(ShadowAudit):
    """How many models without a record find it harder (Ye et al. 2022)."""

    name = "Reference"

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        return Attack(scorings.reference, effort_of(subject, parameters), THREAT, {})


class LabelOnly(ShadowAudit):
    """Whether copies of a record are still answered rightly (Choquette-Choo et al. 2021).

    Sees labels alone, so it ignores whatever hides confidences. Parameter: ``augmentations``,
    default 10; 0 is the gap attack.
    """

    name = "LabelOnly"
    reads = SHADOW_PARAMETERS | {"augmentations"}

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings

        more = whole(parameters, "augmentations", default=_LABEL_QUERIES, low=0, high=_QUERIES_MAX)
        effort = dataclasses.replace(effort_of(subject, parameters), queries=more + 1)
        return Attack(scorings.label_only, effort, _LABELS, {"augmentations": more})


class ShadowClassifier(ShadowAudit):
    """A classifier of members trained on shadows' answers (Shokri 2017; Paul et al. 2021).

    Parameter: ``architecture`` GrayBox (default), shadows like the target, or BlackBox, others.
    """

    name = "ShadowClassifier"
    reads = SHADOW_PARAMETERS | {"architecture"}
    words: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **STOPPING,
        "architecture": ("GrayBox", "BlackBox"),
    }

    def attack(self, subject: AuditSubject, parameters: Mapping[str, JSON]) -> Attack:
        """See the base."""
        from primum_pipelines.attacks import scorings
        from primum_pipelines.attacks.membership import Shadowing

        boxes = self.words["architecture"]
        box = choice(parameters, "architecture", default=boxes[0], options=boxes)
        effort = dataclasses.replace(effort_of(subject, parameters), shadowing=Shadowing(box))
        threat = dataclasses.replace(THREAT, architecture=box)
        return Attack(scorings.shadow_classifier, effort, threat, {"architecture": box})
