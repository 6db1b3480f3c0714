"""Federate, heavy half: opens every site by its own token, trains, says what each site ran.

Each site's receipt states what that site executed, also when another site failed. Imported only
inside a compute worker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from primum.domain.accounting.events import NoEvent
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound, PrimumError, Refused
from primum.domain.governance.evidence import EvidenceKind
from primum.domain.study.plan import Access
from primum.domain.study.steps import WorkRequest, WorkResult
from primum_pipelines import artifacts
from primum_pipelines.datasets.access import open_private
from primum_pipelines.datasets.checks import require_classified, require_sound
from primum_pipelines.datasets.table import UnitTable
from primum_pipelines.evaluation import figures as figures_of
from primum_pipelines.federation.server import federate
from primum_pipelines.federation.site import Site
from primum_pipelines.kinds.federate.planned import (
    SiteRows,
    planned_mechanism,
    planned_site,
    planned_terms,
    site_of,
)
from primum_pipelines.kinds.reporting import StepReport, discloses
from primum_pipelines.kinds.training import executed_event, fresh_model, model_spec, whole
from primum_pipelines.models import artifact as model_file
from primum_pipelines.models.artifact import ModelSpec, scale
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import MechanismParameters
from primum_pipelines.progress import Progress
from primum_pipelines.steps import evaluate as site_evaluation
from primum_pipelines.steps import records


@dataclass(frozen=True, slots=True, repr=False)
class _Opened:
    """One site's access, its table and its part of the plan."""

    access: Access
    table: UnitTable
    mechanism: MechanismParameters
    train_units: int

    def rows(self, spec: ModelSpec) -> SiteRows:
        """The training split, scaled by public bounds."""
        train = self.table.train
        features = torch.from_numpy(scale(self.table.features[train], spec))
        return SiteRows(features, torch.from_numpy(self.table.labels[train]), self.train_units)


def run(request: WorkRequest) -> WorkResult:
    """The job step.

    Returns:
        A ``Model`` artifact, one receipt per site, Training evidence. Where a site failed, a failed
        result with the receipts of the sites whose executed steps are known; the others are charged
        in full.
    """
    report = StepReport(request)
    parameters = report.plan.parameters
    opened = [_opened(request, report, access) for access in report.accesses("train")]
    spec = _shared_spec(request, report, opened)
    planted_at, sealed = _sealed(report, opened)
    sites = [
        planned_site(
            parameters,
            item.access.budget,
            item.rows(spec),
            module=fresh_model(spec),
            sealed=sealed if item.access.budget == planted_at else None,
        )
        for item in opened
    ]
    progress = Progress(request)
    module = fresh_model(spec)
    try:
        final = federate(
            sites,
            initial={name: value.numpy() for name, value in module.state_dict().items()},
            terms=[
                planned_terms(parameters, item.access.budget, units=item.train_units, module=module)
                for item in opened
            ],
            rounds=whole(parameters, "rounds"),
            on_round=lambda done, total: progress.update(
                done, total, "rounds of federated averaging"
            ),
        )
    except (Refused, InvalidValue) as problem:
        _add_receipts(report, opened, sites)
        return report.failed(_message(problem, sites))
    module.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in final.items()})
    stored = artifacts.store(
        request.artifacts_uri,
        model_file.FILE_NAME,
        model_file.to_bytes(module, spec),
        kind="Model",
    )
    report.add_artifact(stored)
    _add_receipts(report, opened, sites)
    _add_canaries(request, report, sites)
    _add_training_evidence(report, sites, subject=stored.digest)
    return report.succeeded(f"trained {parameters['rounds']} rounds at {len(sites)} sites")


def evaluate(request: WorkRequest) -> WorkResult:
    """The evaluate step: the shared model at every site, and on all sites' held-out units together.

    Returns:
        Per site what the common evaluation gives, and Utility evidence ``pooled``; that one is
        public only where every site's budget discloses Utility.
    """
    seconds = records.stopwatch()
    per_site = site_evaluation.run(request)
    made = records.upstream_artifact(request, "job", "Model")
    if made is None:
        raise NotFound("job must have left an artifact of kind Model; found none.")
    model = model_file.from_bytes(artifacts.fetch(made.uri, digest=made.digest))
    accesses = records.accesses_of(request, "evaluate")
    tables = [open_private(request, access.name) for access in accesses]
    scored = figures_of.Scored(
        labels=np.concatenate([table.labels[~table.train] for table in tables]),
        probabilities=np.concatenate(
            [model.predict_proba(table.features[~table.train]) for table in tables]
        ),
        positive=model.spec.classes.index(model.spec.positive),
        units=np.concatenate([table.units[~table.train] for table in tables]),
    )
    figures: dict[str, JSON] = {
        name: figure.to_json() for name, figure in figures_of.utility(scored).items()
    }
    disclosed = all(discloses(request, access.budget, "Utility") for access in accesses)
    public: dict[str, JSON] = {
        "data": "pooled",
        "sites": len(accesses),
        "positive": model.spec.positive,
    }
    pooled = records.record(
        request,
        EvidenceKind.UTILITY,
        name="pooled",
        subject=made.digest,
        verdict=None,
        public={**public, **figures} if disclosed else public,
        restricted={} if disclosed else figures,
    )
    evidence = [pooled.to_json(), *per_site.evidence]
    return replace(
        per_site,
        message=f"evaluated on held-out units of {len(accesses)} sites",
        evidence=evidence,
        body_seconds=decimal_text(seconds()),
    )


def _opened(request: WorkRequest, report: StepReport, access: Access) -> _Opened:
    table = open_private(request, access.name)
    require_sound(table)
    require_classified(table, job="Federate")
    parameters, budget = report.plan.parameters, access.budget
    units = whole(site_of(parameters, budget), "trainUnits")
    return _Opened(access, table, planned_mechanism(parameters, budget), units)


def _shared_spec(request: WorkRequest, report: StepReport, opened: list[_Opened]) -> ModelSpec:
    """What the shared model is; every site must see the same columns and bounds."""
    specs = [model_spec(request, report.plan.parameters, item.table) for item in opened]
    for item, spec in zip(opened, specs, strict=True):
        if spec != specs[0]:
            rule = "must have the columns, classes and bounds of the other sites"
            raise InvalidValue(f"dataset of {item.access.budget}", rule, "others")
    return specs[0]


def _sealed(report: StepReport, opened: list[_Opened]) -> tuple[str, canaries.SealedCoins | None]:
    """Canaries go to the site that reveals most: an audit compares them with its mechanism."""
    planted = whole(report.plan.parameters, "canaries")
    if not planted:
        return "", None
    rounds = whole(report.plan.parameters, "rounds")

    def reveals(item: _Opened) -> float:
        m = item.mechanism
        return m.sample_rate * math.sqrt(m.steps * rounds) / m.noise_multiplier

    return max(opened, key=reveals).access.budget, canaries.seal(planted)


def _add_receipts(report: StepReport, opened: list[_Opened], sites: list[Site]) -> None:
    """One receipt per site whose executed steps are known."""
    planned = _mapping(report.plan.parameters["sites"])
    for item, site in zip(opened, sites, strict=True):
        if site.failure is not None:
            continue
        if not site.executed:
            report.add_receipt(item.access, NoEvent(), {"reason": "ended before the first round"})
            continue
        done = site.report
        report.add_receipt(
            item.access,
            executed_event(done, _mapping(planned[item.access.budget])),
            {
                "noiseMultiplier": [decimal_text(noise) for noise, _, _ in done.executed],
                "sampleRate": [decimal_text(rate) for _, rate, _ in done.executed],
                "steps": [count for _, _, count in done.executed],
                "maxGradNorm": decimal_text(done.max_grad_norm),
                "clippedPer": report.plan.unit.value,  # require_classified: one row is one unit
                "sampling": done.sampling,
                "generator": done.generator,
            },
        )


def _add_canaries(request: WorkRequest, report: StepReport, sites: list[Site]) -> None:
    for site in sites:
        sealed = site.task.sealed
        if sealed is None:
            continue
        done = site.report
        found = canaries.scores(done)
        data = canaries.to_bytes(sealed, found)
        kind = canaries.ARTIFACT_KIND
        report.add_artifact(
            artifacts.store(request.artifacts_uri, canaries.FILE_NAME, data, kind=kind)
        )


def _add_training_evidence(report: StepReport, sites: list[Site], *, subject: str) -> None:
    mechanism = report.plan.mechanism
    public: dict[str, JSON] = {
        name: mechanism[name]
        for name in ("algorithm", "reviewed", "rounds", "aggregation", "canaries", "claimCovers")
    }
    public["sites"] = {
        site.task.name: [
            {
                "noiseMultiplier": decimal_text(noise),
                "sampleRate": decimal_text(rate),
                "steps": steps,
            }
            for noise, rate, steps in site.executed
        ]
        for site in sites
    }
    for site in sites:
        if site.task.sealed is not None:
            public["canarySite"] = site.task.name
            public["canaryCommitment"] = site.task.sealed.commitment
    report.add_evidence(
        EvidenceKind.TRAINING,
        str(mechanism["algorithm"]),
        subject=subject,
        public=public,
        restricted={},
    )


def _message(problem: PrimumError, sites: list[Site]) -> str:
    for site in sites:
        if isinstance(site.failure, PrimumError):
            return f"site {site.task.name} failed: {site.failure}"
    return str(problem)


def _mapping(value: JSON) -> Mapping[str, JSON]:
    return records.mapping(value)
