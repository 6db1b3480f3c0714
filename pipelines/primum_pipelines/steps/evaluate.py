"""Evaluate: how good the model is on held-out units, with intervals, calibration and subgroups.

Held-out units were never trained on. Figures are Restricted unless the plan's access is disclosed
and the budget's disclosures name them; then they are public, and the certificate lists them as
unprotected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON
from primum.domain.errors import NotFound
from primum.domain.governance.evidence import Evidence, EvidenceKind
from primum.domain.quantities import Disclosure
from primum.domain.study.spec import DataRole
from primum.domain.study.steps import ArtifactRef, Receipt, WorkRequest, WorkResult
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import (
    OtherInput,
    open_others,
    open_private,
    token_claims,
)
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.models import ensemble
from primum_pipelines.models.artifact import LoadedModel, from_bytes
from primum_pipelines.steps import records
from primum_pipelines.steps.measuring import Place, measure

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

_DISCLOSURE_OF = {
    EvidenceKind.UTILITY: Disclosure.UTILITY,
    EvidenceKind.CALIBRATION: Disclosure.CALIBRATION,
    EvidenceKind.FAIRNESS: Disclosure.FAIRNESS,
}


@dataclass(frozen=True, slots=True)
class _Source:
    """Where held-out rows come from: its name, what tells its rows apart, and what may leave."""

    name: str
    dataset: str
    allowed: frozenset[Disclosure]


def run(request: WorkRequest) -> WorkResult:
    """Evaluate the job's model on the held-out units of every dataset of the plan.

    Returns:
        Utility, Calibration and, where the dataset has subgroups, Fairness evidence per budget;
        Multiplicity where the job kept iterates of its run.

    Raises:
        NotFound: If the job left no model.
        Tampered: If the model is not the one that the job recorded.
    """
    seconds = records.stopwatch()
    reference = records.upstream_artifact(request, "job", "Model")
    if reference is None:
        raise NotFound("job must have left an artifact of kind Model; found none.")
    model = from_bytes(artifacts.fetch(reference.uri, digest=reference.digest))
    kept_members = records.upstream_artifact(request, "job", ensemble.ARTIFACT_KIND)
    members: tuple[LoadedModel, ...] = ()
    if kept_members is not None:
        data = artifacts.fetch(kept_members.uri, digest=kept_members.digest)
        members = ensemble.from_bytes(data)
    evidence: list[Evidence] = []
    stored: list[ArtifactRef] = []
    receipts = []
    for access in records.accesses_of(request, "evaluate"):
        table = open_private(request, access.name)
        require_sound(table)
        claims = token_claims(request, access.name)
        source = _Source(
            access.budget, str(claims["accountId"]), _disclosures(request, access.budget)
        )
        found, kept = _evaluated(request, model, table, reference, source, members=members)
        evidence += found
        stored += kept
        receipts.append(Receipt(access.name, access.budget, NoEvent(), {}, str(claims["id"])))
    if not receipts:
        evidence, stored = _on_released(request, model, reference)
    return records.report(
        message="evaluated on held-out units",
        seconds=seconds(),
        evidence=evidence,
        receipts=receipts,
        artifacts=stored,
    )


def _on_released(
    request: WorkRequest, model: LoadedModel, reference: ArtifactRef
) -> tuple[list[Evidence], list[ArtifactRef]]:
    """A Study without private data is evaluated on the held-out part of what it has: all public."""
    evidence: list[Evidence] = []
    stored: list[ArtifactRef] = []
    names: list[str] = []
    for other in open_others(request):
        if other.table.train.all():
            continue
        name = f"{other.role.value.lower()}:{other.name.rstrip('/').rpartition('/')[2]}"
        names.append(name)
        if names.count(name) > 1:
            name = f"{name}:{names.count(name)}"
        source = _Source(name, _told_apart_by(request, other), frozenset(Disclosure))
        found, kept = _evaluated(request, model, other.table, reference, source)
        evidence += found
        stored += kept
    return evidence, stored


def _told_apart_by(request: WorkRequest, other: OtherInput) -> str:
    """What is the same for every Study of this very data: a Release's name may come again."""
    if other.role is DataRole.PUBLIC:
        return other.name
    released = records.mapping(request.context["synthetic"])
    return str(records.mapping(released[other.name])["digest"])


def _disclosures(request: WorkRequest, budget: str) -> frozenset[Disclosure]:
    dataset = records.mapping(records.mapping(request.context["datasets"])[budget])
    return frozenset(Disclosure(item) for item in records.texts(dataset["disclosures"]))


def _evaluated(
    request: WorkRequest,
    model: LoadedModel,
    table: UnitTable,
    reference: ArtifactRef,
    source: _Source,
    *,
    members: Sequence[LoadedModel] = (),
) -> tuple[list[Evidence], list[ArtifactRef]]:
    place = Place(source.name, source.dataset, request.artifacts_uri)
    measured = measure(model, table, place, members=members)
    evidence = []
    for kind, found in measured.found.items():
        disclosed = _DISCLOSURE_OF.get(kind) in source.allowed
        zone_only = measured.zone_only.get(kind, {})
        public: dict[str, JSON] = {"data": source.name, "positive": model.spec.positive}
        evidence.append(
            records.record(
                request,
                kind,
                name=source.name,
                subject=reference.digest,
                verdict=None,
                public={**public, **found} if disclosed else public,
                restricted=zone_only if disclosed else {**found, **zone_only},
            )
        )
    return evidence, measured.stored
