"""Evaluate: how good the model is on held-out units, with intervals, calibration and subgroups.

Held-out units were never trained on. Figures are Restricted unless the plan's access is disclosed
and the budget's disclosures name them; then they are public, and the certificate lists them as
unprotected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import NotFound
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.quantities import Disclosure
from primum.domain.study.steps import ArtifactRef, Receipt, WorkRequest, WorkResult
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import open_private, token_claims
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.models.artifact import LoadedModel, from_bytes
from primum_pipelines.steps import metrics, records
from primum_pipelines.steps.metrics import Figure, Scored
from primum_pipelines.synthesis import archive

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

_DISCLOSURE_OF = {
    EvidenceKind.UTILITY: Disclosure.UTILITY,
    EvidenceKind.CALIBRATION: Disclosure.CALIBRATION,
    EvidenceKind.FAIRNESS: Disclosure.FAIRNESS,
}
_SYNTHETIC = "synthetic"


def run(request: WorkRequest) -> WorkResult:
    """Evaluate the job's model on the held-out units of every dataset of the plan.

    Returns:
        Utility, Calibration and, where the dataset has subgroups, Fairness evidence per budget.

    Raises:
        NotFound: If the job left no model.
        Tampered: If the model is not the one that the job recorded.
    """
    seconds = records.stopwatch()
    reference = records.upstream_artifact(request, "job", "Model")
    if reference is None:
        raise NotFound("job must have left an artifact of kind Model; found none.")
    model = from_bytes(artifacts.fetch(reference.uri, digest=reference.digest))
    evidence: list[Evidence] = []
    receipts = []
    for access in records.accesses_of(request, "evaluate"):
        table = open_private(request, access.name)
        require_sound(table)
        allowed = _disclosures(request, access.budget)
        evidence += _evaluated(
            request, model, table, reference, name=access.budget, allowed=allowed
        )
        token = str(token_claims(request, access.name)["id"])
        receipts.append(Receipt(access.name, access.budget, NoEvent(), {}, token))
    if not receipts:
        evidence += _on_released(request, model, reference)
    return records.report(
        message="evaluated on held-out units",
        seconds=seconds(),
        evidence=evidence,
        receipts=receipts,
    )


def _on_released(
    request: WorkRequest, model: LoadedModel, reference: ArtifactRef
) -> list[Evidence]:
    """A Study on synthetic data alone is evaluated on the held-out part of it, which is public."""
    evidence = []
    synthetic = records.mapping(request.context["synthetic"])
    for name in sorted(synthetic):
        item = records.mapping(synthetic[name])
        data = artifacts.fetch(str(item["uri"]), digest=str(item["digest"]))
        table = archive.from_bytes(data)
        allowed = frozenset(Disclosure)
        evidence += _evaluated(
            request, model, table, reference, name=f"{_SYNTHETIC}:{name}", allowed=allowed
        )
    return evidence


def _disclosures(request: WorkRequest, budget: str) -> frozenset[Disclosure]:
    dataset = records.mapping(records.mapping(request.context["datasets"])[budget])
    return frozenset(Disclosure(item) for item in records.texts(dataset["disclosures"]))


def _evaluated(
    request: WorkRequest,
    model: LoadedModel,
    table: UnitTable,
    reference: ArtifactRef,
    *,
    name: str,
    allowed: frozenset[Disclosure],
) -> list[Evidence]:
    held_out = ~table.train
    scored = Scored(
        labels=table.labels[held_out],
        probabilities=model.predict_proba(table.features[held_out]),
        positive=model.spec.classes.index(model.spec.positive),
    )
    found = {
        EvidenceKind.UTILITY: _shown(metrics.utility(scored)),
        EvidenceKind.CALIBRATION: _shown(metrics.calibration(scored)),
    }
    groups = {group: values[held_out] for group, values in table.subgroups.items()}
    if groups:
        found[EvidenceKind.FAIRNESS] = fairness(scored, groups)
    evidence = []
    for kind, figures in found.items():
        disclosed = _DISCLOSURE_OF[kind] in allowed
        public: dict[str, JSON] = {"data": name, "positive": model.spec.positive}
        evidence.append(
            records.record(
                request,
                kind,
                name=name,
                subject=reference.digest,
                verdict=None,
                public={**public, **figures} if disclosed else public,
                restricted={} if disclosed else figures,
            )
        )
    return evidence


def fairness(scored: Scored, groups: Mapping[str, np.ndarray]) -> dict[str, JSON]:
    """Figures per group and their differences to all others; small groups are not measured.

    Args:
        scored: Held-out rows.
        groups: Group number of each row, by attribute.

    Returns:
        Per attribute and group number: either ``{"masked": "fewer than 30"}`` or rates with
        intervals, ``statisticalParityDifference`` and ``equalOpportunityDifference`` (group minus
        all others).
    """
    report: dict[str, JSON] = {}
    for attribute, numbers in groups.items():
        entries: dict[str, JSON] = {}
        for number in np.unique(numbers):
            inside = numbers == number
            if inside.sum() < metrics.GROUP_MIN or (~inside).sum() < metrics.GROUP_MIN:
                entries[str(number)] = {"masked": f"fewer than {metrics.GROUP_MIN}"}
                continue
            own = metrics.group_rates(scored.where(inside))
            rest = metrics.group_rates(scored.where(~inside))
            entries[str(number)] = {
                **_shown(own),
                "statisticalParityDifference": _gap(own, rest, "positiveRate"),
                "equalOpportunityDifference": _gap(own, rest, "sensitivity"),
                "accuracyDifference": _gap(own, rest, "accuracy"),
            }
        report[attribute] = entries
    return report


def _gap(own: Mapping[str, Figure], rest: Mapping[str, Figure], name: str) -> str:
    return decimal_text(own[name].estimate - rest[name].estimate)


def _shown(figures: Mapping[str, Figure]) -> dict[str, JSON]:
    return {
        name: {
            "estimate": decimal_text(figure.estimate),
            "lower": decimal_text(figure.lower),
            "upper": decimal_text(figure.upper),
        }
        for name, figure in figures.items()
    }
