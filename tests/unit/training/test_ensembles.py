"""An ensemble of one run's iterates: kept for nothing more, measured, and never public."""

from __future__ import annotations

from decimal import Decimal

import pytest

pytest.importorskip("torch")

from primum.domain.accounting.events import event_from_json
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import EvidenceKind, evidence_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.kinds.train.step import train
from primum_pipelines.models import ensemble
from primum_pipelines.steps import evaluate

CANARIES = (AuditSpec("Membership", "OneRunCanary", {"canaries": 50}),)


@pytest.fixture
def zone(make_zone, study):
    return make_zone(study=study(job={**study().job, "ensemble": 8}, audits=CANARIES))


def test_members_cost_what_the_run_costs_and_are_measured(zone, make_zone, study):
    result = train(zone.request("job"))
    alone = make_zone(study=study(audits=CANARIES)).plan
    charged = [a.event for a in zone.plan.accesses if a.step == "job"]
    assert charged == [a.event for a in alone.accesses if a.step == "job"]
    assert [event_from_json(item["event"]) for item in result.receipts] == charged
    kept = next(item for item in result.artifacts if item["kind"] == ensemble.ARTIFACT_KIND)
    members = ensemble.from_bytes(artifacts.fetch(kept["uri"], digest=kept["digest"]))
    assert len(members) == 8
    inputs = {"job": {"artifacts": result.artifacts}}
    seen = evaluate.run(zone.request("evaluate", inputs=inputs))
    found = {item.kind: item for item in map(evidence_from_json, seen.evidence)}
    told = found[EvidenceKind.MULTIPLICITY]
    assert set(told.public) == {"data", "positive"}
    assert told.restricted["members"] >= 2
    left, ambiguity, coverage = (
        Decimal(told.restricted[name]["estimate"])
        for name in ("ambiguityLeft", "ambiguity", "coverage")
    )
    # Of those who are answered; nobody is ambiguous among them who was not among all.
    assert left * coverage <= ambiguity + Decimal("1e-9")
    together = found[EvidenceKind.CALIBRATION].restricted["ensemble"]["ece"]
    assert 0 <= Decimal(together["estimate"]) < Decimal("0.2")


def test_no_ensemble_without_private_training(make_zone, study):
    for count in (1, 65, "many"):
        with pytest.raises(InvalidValue, match="ensemble"):
            make_zone(study=study(job={**study().job, "ensemble": count}))
