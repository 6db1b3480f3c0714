"""What is measured of a model on held-out units, by what its labels say.

One class per row, several labels, or masks. Must not decide what may leave: that is the step's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.steps import ArtifactRef
from primum_pipelines import artifacts
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.evaluation import (
    calibration,
    figures,
    multiplicity,
    plots,
    predictions,
    readers,
    segmentation,
    several_labels,
    subgroups,
)
from primum_pipelines.evaluation.figures import Figure, Scored
from primum_pipelines.models import ensemble
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel

_AGREEMENT = 0.9  # Of members behind an answer, where the Study itself does not say.
_MASK_ROWS = 64  # Masks at a time: their probabilities are classes times as large.


@dataclass(frozen=True, slots=True)
class Place:
    """Where held-out rows come from, and where what is kept of them goes.

    Args:
        name: Of the data, for files.
        dataset: What tells this dataset's rows from others'.
        artifacts_uri: The folder of artifacts in the zone.
    """

    name: str
    dataset: str
    artifacts_uri: str

    def store(self, stem: str, ending: str, data: bytes, *, kind: str) -> ArtifactRef:
        """Keep a file of this data in the zone."""
        name = f"{stem}-{self.name.replace(':', '-')}.{ending}"
        return artifacts.store(self.artifacts_uri, name, data, kind=kind)


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of a model on one dataset.

    Args:
        found: Figures by kind of evidence.
        stored: Files that were kept.
        zone_only: Figures by kind that stay in the zone, whatever is disclosed.
    """

    found: dict[EvidenceKind, dict[str, JSON]]
    stored: list[ArtifactRef] = field(default_factory=list)
    zone_only: dict[EvidenceKind, dict[str, JSON]] = field(default_factory=dict)


def measure(
    model: LoadedModel, table: UnitTable, place: Place, *, members: Sequence[LoadedModel] = ()
) -> Measured:
    """Measure a model on the held-out units of a table.

    Args:
        model: The released model.
        table: The opened table.
        place: Where it comes from and what is kept goes.
        members: Iterates of the same run, where the job kept some.

    Raises:
        InvalidValue: If the table's labels are not of the kind that the model answers for.
    """
    if model.spec.task is not table.task:
        rule = f"must be of kind {model.spec.task}, which the model answers for"
        raise InvalidValue("dataset labels", rule, table.task.value)
    if table.task is LabelTask.SEGMENTATION:
        return _of_masks(model, table)
    if table.task is LabelTask.MULTI_LABEL:
        return _of_several_labels(model, table)
    return _of_classes(model, table, place, members)


def _of_classes(
    model: LoadedModel, table: UnitTable, place: Place, members: Sequence[LoadedModel]
) -> Measured:
    held_out = ~table.train
    scored = Scored(
        labels=table.labels[held_out],
        probabilities=model.predict_proba(table.features[held_out]),
        positive=model.spec.classes.index(model.spec.positive),
        units=table.units[held_out],
    )
    said_by = {name: said[held_out] for name, said in table.readers.items()}
    picture = plots.reliability_diagram(calibration.reliability(scored))
    diagram = place.store("reliability", "svg", picture, kind=records.PICTURE)
    said = predictions.to_bytes(predictions.of(scored, dataset=place.dataset, readers=said_by))
    answers = place.store("predictions", "npz", said, kind=predictions.ARTIFACT_KIND)
    found: dict[EvidenceKind, dict[str, JSON]] = {
        EvidenceKind.UTILITY: {
            **_shown(figures.utility(scored)),
            **subgroups.each_class(scored, model.spec.classes),
        },
        EvidenceKind.CALIBRATION: {
            **_shown(calibration.calibration(scored)),
            "reliability": _bins(scored),
            "pictures": {"reliability": diagram.digest},
        },
    }
    groups = _groups(table)
    if groups:
        found[EvidenceKind.FAIRNESS] = _named(table, subgroups.fairness(scored, groups))
    if model.adjusted:
        found[EvidenceKind.CALIBRATION]["temperature"] = model.spec.temperature
        last = replace(scored, probabilities=model.last().predict_proba(table.features[held_out]))
        found[EvidenceKind.CALIBRATION]["unadjusted"] = _shown(calibration.calibration(last))
    if model.members:
        each = model.members_say(table.features[held_out])
        agreement = float(model.spec.agreement)
        found[EvidenceKind.MULTIPLICITY] = _multiplicity(each, scored, agreement=agreement)
    elif len(members) > 1:
        each = ensemble.predict_members(members, table.features[held_out])
        average = replace(scored, probabilities=each.mean(axis=0))
        found[EvidenceKind.CALIBRATION]["ensemble"] = _shown(calibration.calibration(average))
        found[EvidenceKind.MULTIPLICITY] = _multiplicity(each, scored, agreement=_AGREEMENT)
    people = {"readers": readers.agreement(scored, said_by)} if said_by else {}
    return Measured(found, [diagram, answers], {EvidenceKind.UTILITY: dict(people)})


def _of_several_labels(model: LoadedModel, table: UnitTable) -> Measured:
    held_out = ~table.train
    answers = several_labels.Answers(
        labels=table.labels[held_out],
        probabilities=model.predict_proba(table.features[held_out]),
        units=table.units[held_out],
    )
    found: dict[EvidenceKind, dict[str, JSON]] = {
        EvidenceKind.UTILITY: several_labels.utility(answers, table.classes),
        EvidenceKind.CALIBRATION: several_labels.calibration(answers, table.classes),
    }
    groups = _groups(table)
    if groups:
        found[EvidenceKind.FAIRNESS] = _named(table, several_labels.fairness(answers, groups))
    return Measured(found)


def _of_masks(model: LoadedModel, table: UnitTable) -> Measured:
    rows = np.flatnonzero(~table.train)
    counts = []
    for start in range(0, len(rows), _MASK_ROWS):
        some = rows[start : start + _MASK_ROWS]
        said = model.predict_proba(table.features[some]).argmax(axis=1).astype(np.uint8)
        counts.append(segmentation.overlaps(said, table.labels[some], classes=len(table.classes)))
    both, predicted, actual = (np.concatenate(part) for part in zip(*counts, strict=True))
    counted = segmentation.Overlaps(both, predicted, actual, table.units[rows])
    found: dict[EvidenceKind, dict[str, JSON]] = {
        EvidenceKind.UTILITY: segmentation.utility(counted, table.classes)
    }
    groups = _groups(table)
    if groups:
        found[EvidenceKind.FAIRNESS] = _named(table, segmentation.fairness(counted, groups))
    return Measured(found)


def _groups(table: UnitTable) -> dict[str, np.ndarray]:
    return {name: numbers[~table.train] for name, numbers in table.subgroups.items()}


def _named(table: UnitTable, report: Mapping[str, JSON]) -> dict[str, JSON]:
    """Figures per subgroup under the groups' public names, in the order of their numbers."""
    found: dict[str, JSON] = {}
    for attribute, groups in report.items():
        named = {
            (table.group_name(attribute, int(key)) if key.isdigit() else key): value
            for key, value in records.mapping(groups).items()
        }
        # Who calls a group `gap` has numbers: no figure may stand in another one's place.
        found[attribute] = named if len(named) == len(records.mapping(groups)) else groups
    return found


def _multiplicity(said: np.ndarray, scored: Scored, *, agreement: float) -> dict[str, JSON]:
    """Over units: several rows of one are averaged, since a patient gets one answer."""
    assert scored.units is not None  # noqa: S101 - held-out rows have units
    _, first, owner = np.unique(scored.units, return_index=True, return_inverse=True)
    means = np.zeros((len(said), len(first), said.shape[2]))
    for mean, member in zip(means, said, strict=True):
        np.add.at(mean, owner, member)
    found = multiplicity.multiplicity(
        means / np.bincount(owner)[:, None], scored.labels[first], agreement=agreement
    )
    return {**found.to_json(), "agreement": decimal_text(agreement)}


def _bins(scored: Scored) -> list[JSON]:
    """The bins of the reliability diagram that say something, for whoever draws another."""
    return [
        {
            "confidence": decimal_text(item.confidence),
            "accuracy": decimal_text(item.accuracy),
            "rows": item.rows,
        }
        for item in calibration.reliability(scored)
        if item.units >= subgroups.GROUP_MIN
    ]


def _shown(measured: Mapping[str, Figure]) -> dict[str, JSON]:
    return {name: figure.to_json() for name, figure in measured.items()}
