"""PrivateFeatures, heavy half: freeze an extractor, release a noisy table once, measure its use.

The extractor is made before private data is opened. Private data is read for the one release;
nothing else in ``run`` may see it. Imported only inside a compute worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

from primum.domain.accounting.events import Gaussian, NoEvent
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.governance.evidence import EvidenceKind
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import OtherInput, open_others, open_private
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.kinds.private_features.features import (
    as_dataset,
    extractor_from_bytes,
    in_released_form,
    inverse_penalty,
    of_units,
    planned_mechanism,
)
from primum_pipelines.kinds.private_features.mechanism import ReleasedTable, release
from primum_pipelines.kinds.private_features.planned import EXTRACTOR, FIGURES
from primum_pipelines.kinds.reporting import StepReport, discloses
from primum_pipelines.kinds.train.fitting import fit_ordinary
from primum_pipelines.kinds.training import fresh_model, model_spec, require_same_form, whole
from primum_pipelines.models import artifact as model_files
from primum_pipelines.models.extractor import FrozenExtractor
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.randomness import random_source
from primum_pipelines.steps import records
from primum_pipelines.synthesis import archive
from primum_pipelines.synthesis.utility import synthetic_utility

if TYPE_CHECKING:
    from primum.domain.study.steps import WorkRequest, WorkResult
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import ModelSpec
    from primum_pipelines.optimization.canaries import SealedCoins

EXTRACTOR_FILE = "extractor.safetensors"


def run(request: WorkRequest) -> WorkResult:
    """The job step.

    Returns:
        A ``Dataset`` (the noisy table) and an ``Extractor`` artifact, canaries where planned, and
        the receipt of the release. Where the extractor is refused, a failed result whose receipt
        says that nothing ran.

    Raises:
        Refused: If the data token does not cover the access.
        InvalidValue: If the data is unsound, or has more training units than the table has rows.
    """
    report = StepReport(request)
    parameters = report.plan.parameters
    access = report.accesses("features")[0]
    others = open_others(request)
    table = open_private(request, access.name)
    require_sound(table)
    _require_classified(table)
    spec = model_spec(request, parameters, table)
    try:
        require_same_form(others, table)
        data = _extractor(spec, others, parameters)
        extractor = extractor_from_bytes(data)
        extractor.rehearse()
    except InvalidValue as problem:  # Public facts were enough to refuse it.
        report.add_receipt(access, NoEvent(), {"reason": "the extractor was refused"})
        return report.failed(str(problem))
    count = whole(parameters, "canaries")
    sealed = canaries.seal(count) if count else None
    released = _release(report, table, extractor, sealed=sealed)
    dataset = as_dataset(released, table, planned_mechanism(parameters))
    folder = request.artifacts_uri
    report.add_artifact(
        artifacts.store(folder, archive.FILE_NAME, archive.to_bytes(dataset), kind="Dataset")
    )
    report.add_artifact(artifacts.store(folder, EXTRACTOR_FILE, data, kind=EXTRACTOR))
    if sealed is not None:
        scores = [float(score) for score in released.canary_scores]
        content = canaries.to_bytes(sealed, scores)
        kind = canaries.ARTIFACT_KIND
        report.add_artifact(artifacts.store(folder, canaries.FILE_NAME, content, kind=kind))
    return report.succeeded(f"{parameters['rows']} noisy rows released")


def evaluate(request: WorkRequest) -> WorkResult:
    """The evaluate step: train on the noisy table, test on held-out features without noise.

    Returns:
        Evidence of kind Samples, beside the same classifier trained on features without noise; its
        headline is public where the budget discloses Utility.

    Raises:
        NotFound: If the job left no table or no extractor.
    """
    report = StepReport(request)
    access = report.accesses("evaluate")[0]
    table = open_private(request, access.name)
    require_sound(table)
    made = {kind: _made(request, kind) for kind in ("Dataset", EXTRACTOR)}
    mechanism = planned_mechanism(report.plan.parameters)
    extractor = extractor_from_bytes(made[EXTRACTOR][0])
    noisy = archive.from_bytes(made["Dataset"][0])
    positive = str(report.plan.parameters["positive"])
    utility = synthetic_utility(
        synthetic=noisy,
        real=in_released_form(extractor, table, mechanism, released=noisy),
        inverse_penalty=inverse_penalty(noisy, mechanism),
        positive=table.classes.index(positive),
    )
    public: dict[str, JSON] = {"data": access.budget, "positive": positive}
    if discloses(request, access.budget, "Utility"):
        public |= utility.headline()
    report.add_evidence(
        EvidenceKind.SAMPLES,
        "TrainOnNoisyFeatures",
        subject=made["Dataset"][1],
        public=public,
        restricted=utility.to_json(),
    )
    report.add_receipt(access, NoEvent(), {})
    return report.succeeded("noisy features evaluated on held-out units")


def _made(request: WorkRequest, kind: str) -> tuple[bytes, str]:
    """Bytes and digest of what the job left."""
    found = records.upstream_artifact(request, "job", kind)
    if found is None:
        raise NotFound(f"job must have left an artifact of kind {kind}; found none.")
    return artifacts.fetch(found.uri, digest=found.digest), found.digest


def _extractor(
    spec: ModelSpec, others: Sequence[OtherInput], parameters: Mapping[str, JSON]
) -> bytes:
    """The file of the extractor: public initial weights, trained on public and released rows."""
    module = fresh_model(spec)
    for other in others:
        fit_ordinary(module, other.table, spec, parameters=parameters)
    return model_files.to_bytes(module, spec)


def _release(
    report: StepReport,
    table: UnitTable,
    extractor: FrozenExtractor,
    *,
    sealed: SealedCoins | None,
) -> ReleasedTable:
    """The one look at the training units, with the receipt of what it did."""
    parameters = report.plan.parameters
    mechanism = planned_mechanism(parameters)
    source = random_source(None)
    features, labels = of_units(extractor, table.only(table.train))
    released = release(features, labels, mechanism=mechanism, source=source, sealed=sealed)
    facts: dict[str, JSON] = {name: str(parameters[name]) for name in FIGURES}
    facts |= {
        "sampleRate": "1",
        "steps": 1,
        "sampling": "every unit once, at a random place",
        "clippedPer": report.plan.unit.value,
        "generator": source.name,
    }
    event = Gaussian(Decimal(str(parameters["noiseMultiplier"])))
    report.add_receipt(report.accesses("features")[0], event, facts)
    return released


def _require_classified(table: UnitTable) -> None:
    if table.task is not LabelTask.MULTI_CLASS:
        rule = "must be one class per row for PrivateFeatures"
        raise InvalidValue("dataset labels", rule, table.task.value)
