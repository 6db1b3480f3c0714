"""What was measured of one Study's model, line by line. Reads; spends nothing.

A figure that a budget does not disclose is there only for who may read it in the zone; pictures are
drawn of private units, and are for the zone alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from primum.application.comparing import View
from primum.application.ports import EvidenceStore
from primum.domain.canonical import JSON
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.names import outcome_id
from primum.domain.study.steps import ArtifactRef
from primum.resources.stored import StoredResource

_MEASURED = (
    EvidenceKind.UTILITY,
    EvidenceKind.CALIBRATION,
    EvidenceKind.FAIRNESS,
    EvidenceKind.MULTIPLICITY,
)
_INTERVAL = frozenset(("estimate", "lower", "upper"))
_MASKED = "masked"
_PICTURE = "Picture"


@dataclass(frozen=True, slots=True)
class Line:
    """One figure.

    Args:
        kind: Of the evidence, such as ``Utility``.
        data: Whose held-out units it was measured on: a budget, or released data.
        figure: Its name; a figure of a part has the part's names before it, ``sex/F/rocAuc``.
        value: ``estimate``, ``lower`` and ``upper`` of a 95 % interval, or why it is ``masked``.
        view: From where it may be seen.
    """

    kind: str
    data: str
    figure: str
    value: Mapping[str, JSON]
    view: View

    def to_json(self) -> dict[str, JSON]:
        """For scripts."""
        return {
            "kind": self.kind,
            "data": self.data,
            "figure": self.figure,
            **self.value,
            "view": self.view.value,
        }


def lines(stored: StoredResource, evidence: EvidenceStore, *, view: View) -> tuple[Line, ...]:
    """Every figure of the Study's model that may be seen.

    Args:
        stored: The Study.
        evidence: Its evidence.
        view: From where it is looked at.
    """
    records = evidence.evidence(stored.uid, stored.generation)
    return tuple(
        line
        for kind in _MEASURED
        for record in records
        if record.kind is kind
        for line in _of_record(record, view)
    )


def pictures(stored: StoredResource, evidence: EvidenceStore) -> tuple[ArtifactRef, ...]:
    """Pictures that the Study's steps left in the zone."""
    plan = evidence.plan(stored.uid, stored.generation)
    steps: Sequence[str] = () if plan is None else plan.steps
    outcomes = (evidence.outcome(outcome_id(stored.uid, stored.generation, step)) for step in steps)
    return tuple(
        artifact
        for outcome in outcomes
        if outcome is not None
        for artifact in outcome.artifacts
        if artifact.kind == _PICTURE
    )


def _of_record(record: Evidence, view: View) -> Iterator[Line]:
    sides = [(record.public, View.PUBLIC)]
    if view is View.ZONE:
        sides.append((record.restricted, View.ZONE))
    for side, where in sides:
        for name, value in _figures(side):
            yield Line(record.kind.value, record.name, name, value, where)


def _figures(found: Mapping[str, JSON]) -> Iterator[tuple[str, Mapping[str, JSON]]]:
    for name, value in found.items():
        if not isinstance(value, Mapping):
            continue
        if set(value) == _INTERVAL or set(value) == {_MASKED}:
            yield name, value
            continue
        for inner, figure in _figures(value):
            yield f"{name}/{inner}", figure
