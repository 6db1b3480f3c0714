"""Synthesize, heavy half: release an embedding once, train a generator on it, draw samples.

Private data is read for the release and, if a sample filter was declared, for the filter; nothing
else in ``run`` may see it. Imported only inside a compute worker.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from primum import extensions
from primum.domain.accounting.events import Gaussian, NoEvent
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.steps import WorkRequest, WorkResult
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import open_private
from primum_pipelines.datasets.checks import require_classified, require_sound
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.kinds.reporting import StepReport, discloses
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import TrainingReport
from primum_pipelines.progress import Progress
from primum_pipelines.sample_filters.filter import GROUP as FILTER_GROUP
from primum_pipelines.sample_filters.filter import Duplicates, FittedFilter, SampleFilter
from primum_pipelines.sample_filters.quality import FilterQuality, measure
from primum_pipelines.steps import records
from primum_pipelines.synthesis import archive, merf
from primum_pipelines.synthesis.generator import (
    ConditionalGenerator,
    GeneratorTask,
    draw,
    train_generator,
)
from primum_pipelines.synthesis.utility import synthetic_utility

GENERATOR_FILE = "generator.safetensors"
_SEED_BITS = 31
_ROUNDS_MAX = (
    10  # Draws to replace rejected samples; more would hide a filter that rejects nearly all.
)
_PROGRESS_STEPS = 50


@dataclass(frozen=True, slots=True, repr=False)
class _Filter:
    """A fitted sample filter with what it is worth."""

    sample_filter: SampleFilter
    fitted: FittedFilter
    quality: FilterQuality
    settings: Mapping[str, JSON]


@dataclass(frozen=True, slots=True, repr=False)
class _Drawn:
    """Samples in released form, and how many were rejected on the way."""

    table: UnitTable
    rejected: int


def run(request: WorkRequest) -> WorkResult:
    """The job step.

    Returns:
        A ``Dataset`` and a ``Generator`` artifact, the receipt of the release, and the filter's
        evidence. Where a sample filter cannot be fitted, a failed result whose receipt says that
        nothing ran.
    """
    report = StepReport(request)
    parameters = report.plan.parameters
    access = report.accesses("synthesize")[0]
    table = open_private(request, access.name)
    require_sound(table)
    require_classified(table, job="Synthesize")  # The embedding is clipped per row.
    try:
        fitted = _fit_filter(request, report)
    except InvalidValue as error:
        report.add_receipt(access, NoEvent(), {"reason": "the sample filter was refused"})
        return report.failed(str(error))
    seed = secrets.randbits(_SEED_BITS)
    features = merf.FourierFeatures.draw(
        features=int(str(parameters["features"])),
        dimension=int(np.prod(table.features.shape[1:])),
        seed=seed,
    )
    embedding = _release(request, report, table, features)
    generator = train_generator(
        GeneratorTask(
            embedding=embedding,
            features=features,
            dimension=features.frequencies.shape[1],
            steps=int(str(parameters["iterations"])),
            seed=seed,
        ),
        on_step=_progress(request),
    )
    drawn = _draw(generator, like=table, count=int(str(parameters["samples"])), kept_by=fitted)
    digest = _store(request, report, generator, drawn, seed=seed)
    if fitted is not None:
        _filter_evidence(report, fitted, drawn, subject=digest)
    return report.succeeded(f"{parameters['samples']} samples drawn")


def evaluate(request: WorkRequest) -> WorkResult:
    """The evaluate step: train on synthetic, test on real, beside train on real.

    Returns:
        Evidence of kind Samples; its headline is public where the budget discloses Utility.
    """
    report = StepReport(request)
    access = report.accesses("evaluate")[0]
    table = open_private(request, access.name)
    require_sound(table)
    made = records.upstream_artifact(request, "job", "Dataset")
    if made is None:
        raise NotFound("job must have left an artifact of kind Dataset; found none.")
    synthetic = archive.from_bytes(artifacts.fetch(made.uri, digest=made.digest))
    positive = str(report.plan.parameters["positive"])
    utility = synthetic_utility(
        synthetic=synthetic, real=table, positive=table.classes.index(positive)
    )
    public: dict[str, JSON] = {"data": access.budget, "positive": positive}
    if discloses(request, access.budget, "Utility"):
        public |= utility.headline()
    report.add_evidence(
        EvidenceKind.SAMPLES,
        "TrainOnSyntheticTestOnReal",
        subject=made.digest,
        public=public,
        restricted=utility.to_json(),
    )
    report.add_receipt(access, NoEvent(), {})
    return report.succeeded("synthetic samples evaluated on held-out units")


def _fit_filter(request: WorkRequest, report: StepReport) -> _Filter | None:
    """Fit and measure the declared sample filter under its own access.

    Raises:
        InvalidValue: If its threshold is degenerate.
    """
    accesses = report.accesses("filter")
    if not accesses:
        return None
    settings = report.plan.parameters["sampleFilter"]
    if not isinstance(settings, Mapping):
        raise InvalidValue("sampleFilter", "must be an object", type(settings).__name__)
    table = open_private(request, accesses[0].name)
    values = archive.unit_interval(table)
    reference, held_out = values[table.train], values[~table.train]
    sample_filter: SampleFilter = extensions.load(FILTER_GROUP, str(settings["name"]))()
    duplicates = Duplicates(str(settings["deduplicate"]))
    seed = secrets.randbits(_SEED_BITS)
    fitted = sample_filter.fit(reference, held_out, duplicates=duplicates, seed=seed)
    quality = measure(sample_filter, fitted, reference=reference, held_out=held_out, seed=seed)
    return _Filter(sample_filter, fitted, quality, settings)


def _release(
    request: WorkRequest, report: StepReport, table: UnitTable, features: merf.FourierFeatures
) -> merf.Embedding:
    """The one look at the training units, with the receipt of what it did."""
    parameters = report.plan.parameters
    access = report.accesses("synthesize")[0]
    noise = Decimal(str(parameters["noiseMultiplier"]))
    train = table.train
    contributions = merf.Contributions(
        features,
        rows=archive.unit_interval(table)[train].reshape(int(train.sum()), -1),
        labels=table.labels[train],
        units=table.units[train],
        classes=len(table.classes),
    )
    if noise == 0:
        report.add_receipt(access, NoEvent(), {"mechanism": "None", "charge": "None"})
        return merf.embedding_of(contributions.total(), noise_multiplier=0.0)
    planted = int(str(parameters["canaries"]))
    sealed = canaries.seal(planted) if planted else None
    algorithm = extensions.load("primum.training_algorithms", str(parameters["algorithm"]))()
    noisy, done = merf.release_sum(
        contributions,
        algorithm=algorithm,
        noise_multiplier=float(noise),
        expected_units=int(str(parameters["trainUnits"])),
        sealed=sealed,
    )
    report.add_receipt(access, _executed(done), _facts(done))
    if sealed is not None:
        found = canaries.scores(done)
        stored = artifacts.store(
            request.artifacts_uri,
            canaries.FILE_NAME,
            canaries.to_bytes(sealed, found),
            kind=canaries.ARTIFACT_KIND,
        )
        report.add_artifact(stored)
    return merf.embedding_of(noisy, noise_multiplier=float(noise))


def _executed(done: TrainingReport) -> Gaussian:
    """The release as executed; anything but one full step of clipping bound 1 is not one."""
    runs = [run for run in done.executed if run[2]]
    if len(runs) != 1 or runs[0][1] != 1.0 or runs[0][2] != 1 or done.max_grad_norm > 1.0:
        rule = "must be one step at sample rate 1 with clipping bound 1"
        raise InvalidValue("executed mechanism", rule, f"{len(runs)} runs")
    return Gaussian(Decimal(decimal_text(runs[0][0])))


def _facts(done: TrainingReport) -> dict[str, JSON]:
    noise, rate, steps = done.executed[0]
    return {
        "noiseMultiplier": decimal_text(noise),
        "sampleRate": decimal_text(rate),
        "steps": steps,
        "maxGradNorm": decimal_text(done.max_grad_norm),
        "sampling": "every unit once",
        "generator": done.generator,
    }


def _draw(
    generator: ConditionalGenerator, *, like: UnitTable, count: int, kept_by: _Filter | None
) -> _Drawn:
    """Draw until ``count`` samples are kept, classes in equal shares before filtering.

    Raises:
        InvalidValue: If the filter rejects nearly all.
    """
    kept: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    missing, rejected = count, 0
    for _ in range(_ROUNDS_MAX):
        vectors, drawn = draw(generator, count=missing, seed=secrets.randbits(_SEED_BITS))
        shaped = vectors.numpy().reshape(missing, *like.features.shape[1:])
        table = archive.released_form(shaped, like)
        keep = np.ones(missing, dtype=bool)
        if kept_by is not None:
            keep = kept_by.fitted.decide(kept_by.fitted.score(archive.unit_interval(table)))
        kept.append(shaped[keep])
        labels.append(drawn.numpy()[keep])
        rejected += int((~keep).sum())
        missing -= int(keep.sum())
        if not missing:
            break
    if missing:
        rule = "must keep enough of what the generator draws"
        raise InvalidValue("sampleFilter", rule, "too few samples kept", "Change the generator.")
    table = archive.released_form(np.concatenate(kept), like)
    return _Drawn(replace(table, labels=np.concatenate(labels).astype(np.int64)), rejected)


def _store(
    request: WorkRequest,
    report: StepReport,
    generator: ConditionalGenerator,
    drawn: _Drawn,
    *,
    seed: int,
) -> str:
    """Store samples and generator; returns the digest of the samples."""
    folder = request.artifacts_uri
    dataset = artifacts.store(
        folder, archive.FILE_NAME, archive.to_bytes(drawn.table), kind="Dataset"
    )
    metadata = {
        "study": records.study_name(request),
        "method": str(report.plan.mechanism["method"]),
        "classes": json.dumps(list(drawn.table.classes)),
        "features": str(report.plan.parameters["features"]),
        "featureSeed": str(seed),
    }
    data = generator.to_bytes(metadata)
    report.add_artifact(dataset)
    report.add_artifact(artifacts.store(folder, GENERATOR_FILE, data, kind="Generator"))
    return dataset.digest


def _filter_evidence(report: StepReport, used: _Filter, drawn: _Drawn, *, subject: str) -> None:
    restricted = used.quality.to_json(delta=float(report.plan.delta))
    restricted |= {
        "threshold": decimal_text(used.fitted.threshold),
        "kept": len(drawn.table.labels),
        "rejected": drawn.rejected,
    }
    report.add_evidence(
        EvidenceKind.SAMPLE_FILTER,
        used.sample_filter.name,
        subject=subject,
        verdict=used.quality.verdict,
        public={
            "filter": used.sample_filter.name,
            "charge": used.settings["charge"],
            "deduplicate": used.settings["deduplicate"],
        },
        restricted=restricted,
    )


def _progress(request: WorkRequest) -> Callable[[int, int], None]:
    progress = Progress(request)

    def tell(done: int, planned: int) -> None:
        if done % max(1, planned // _PROGRESS_STEPS) == 0 or done == planned:
            progress.update(done, planned, f"generator trained {done} of {planned} iterations")

    return tell
