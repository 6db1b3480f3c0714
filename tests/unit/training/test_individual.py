"""Train with individual filters: planned, priced, run, and told without a word about any unit."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from sampled_step import presence
from torch import nn

from primum import extensions
from primum.domain.accounting.events import (
    Composed,
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
    covers,
    event_from_json,
)
from primum.domain.accounting.individual import FILTER_ORDERS
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import evidence_from_json
from primum.domain.quantities import Neighbors
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import plan_from_json
from primum.domain.study.spec import AuditSpec, DataRole, StudyInput
from primum_pipelines.audits.low_tail import auc_bound, tpr_bounds
from primum_pipelines.audits.one_run_canary import OneRunCanary
from primum_pipelines.audits.subject import AuditSubject, mechanisms_of, subject_of
from primum_pipelines.kinds.train.kind import TrainKind
from primum_pipelines.kinds.train.step import train
from primum_pipelines.kinds.training import executed_event
from primum_pipelines.optimization import dpsgd
from primum_pipelines.optimization.algorithm import (
    IndividualFilter,
    MechanismParameters,
    TrainingReport,
    TrainingTask,
    fields_read,
)
from primum_pipelines.optimization.dpsgd import DPSGD
from primum_pipelines.optimization.individual_filter import RenyiFilter

KIND = TrainKind()
CANARIES = (AuditSpec("Membership", "OneRunCanary", {"canaries": 100}),)


@pytest.fixture
def filtered(study):
    """The example's Study, run for 30 epochs within the cost of 20."""

    def make(epochs=30, **changes):
        return study(job={**study().job, "individualFilter": {"epochs": epochs}}, **changes)

    return make


def job_access(plan):
    return next(access for access in plan.accesses if access.step == "job")


def test_the_plan_reserves_the_bound_and_says_how_long_it_runs(filtered, planning):
    plan = KIND.declare(filtered(), planning())
    step = SubsampledGaussian(Decimal(plan.mechanism["noiseMultiplier"]), Decimal("0.276458"))
    event = job_access(plan).event
    assert event == IndividuallyFiltered(Repeated(step, 73), FILTER_ORDERS)
    assert plan.mechanism["steps"] == 109
    assert plan.mechanism["individualFilter"]["boundSteps"] == 73
    assert Decimal("2.99") < plan.epsilon <= Decimal("3.0")
    assert plan_from_json(plan.to_json()) == plan
    assert "20 epochs (individual filters, run for 30)" in KIND.headline(plan)
    assert "its own loss" in job_access(plan).why


def test_running_longer_costs_nothing_more(filtered, study, planning):
    context = planning()
    short, long = (KIND.declare(filtered(epochs), context) for epochs in (21, 400))
    assert job_access(short).event == job_access(long).event
    plain = KIND.declare(study(), context)
    more = Decimal(short.mechanism["noiseMultiplier"]) / Decimal(plain.mechanism["noiseMultiplier"])
    assert 1 <= more < Decimal("1.01")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epochs": 20}, "individualFilter.epochs must be a whole number from 21"),
        ({"epochs": "30"}, "individualFilter.epochs must be a whole number"),
        ({}, "individualFilter.epochs must be a whole number"),
        ({"epochs": 30, "rate": 1}, "individualFilter.rate must be one of epochs"),
        (30, "individualFilter must be an object"),
    ],
)
def test_a_wrong_filter_is_named(study, planning, given, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job={**study().job, "individualFilter": given}), planning())


def test_filters_say_nothing_about_replacements(filtered, facts, planning):
    with pytest.raises(InvalidValue, match="unless the budget's neighbors are AddOrRemoveOne"):
        KIND.declare(filtered(), planning(facts(neighbors=Neighbors.REPLACE_ONE)))


def test_an_algorithm_that_has_no_filters_is_not_asked_for_them(filtered, planning, monkeypatch):
    monkeypatch.setattr(dpsgd.DPSGD, "reads", frozenset())
    with pytest.raises(InvalidValue, match=r"individualFilter must be absent .* found DPSGD"):
        KIND.declare(filtered(), planning())


def test_released_data_needs_no_filters(filtered, planning):
    inputs = (StudyInput(DataRole.SYNTHETIC, release="copy"),)
    facts = SyntheticFacts("copy", "d.npz", "Valid", "sha256:0")
    with pytest.raises(InvalidValue, match="must be absent where no data is private"):
        KIND.declare(filtered(inputs=inputs), planning(synthetic={"copy": facts}))


def test_what_would_fit_keeps_the_filters(filtered, planning):
    greedy, context = filtered(epsilon=Decimal("7.9")), planning()
    plan = KIND.declare(greedy, context)
    noise = Decimal(plan.mechanism["noiseMultiplier"])
    fewer = replace(greedy, job={**greedy.job, "epochs": greedy.job["epochs"] // 2})
    cheaper = KIND.with_noise(fewer, context, noise)
    assert cheaper.epsilon < plan.epsilon
    assert "individualFilter" in cheaper.mechanism


def test_the_receipt_states_the_filter_and_what_was_reserved(make_zone, filtered):
    zone = make_zone(study=filtered(audits=CANARIES))
    result = train(zone.request("job"))
    (receipt,) = result.receipts
    assert event_from_json(receipt["event"]) == job_access(zone.plan).event
    assert receipt["facts"]["steps"] == 109
    assert receipt["facts"]["sampling"] == "Poisson"
    assert result.message == "trained 109 of 109 steps"
    canonical_json({"result": [dict(item) for item in result.receipts]})


def test_nothing_about_a_unit_leaves_the_step(make_zone, filtered, caplog, capsys, monkeypatch):
    """Receipt, evidence, message, artifacts, output and logs hold no sum and no list of units.

    The filter of the run is caught to know what must not be found: what units paid, who left.
    """
    kept = []
    real = RenyiFilter.__init__

    def remember(self, **given):
        real(self, **given)
        kept.append(self)

    monkeypatch.setattr(RenyiFilter, "__init__", remember)
    caplog.set_level(logging.DEBUG)
    zone = make_zone(study=filtered(200))
    result = train(zone.request("job"))
    (state,) = kept
    assert 0 < state.dropped < 463
    assert repr(state) == f"RenyiFilter({len(FILTER_ORDERS)} orders)"
    said = capsys.readouterr()
    (record,) = [evidence_from_json(item) for item in result.evidence]
    assert set(record.restricted) == {"trainLoss", "clippedShare", "filteredOutShare"}
    public = json.dumps([dict(record.public), *result.receipts, result.message]) + caplog.text
    everything = public + said.out + said.err + json.dumps(dict(record.restricted))
    assert str(record.restricted["filteredOutShare"]) not in public
    assert not any(str(value) in everything for value in np.unique(state._paid) if value)
    assert str(state.dropped) not in set(public.replace('"', " ").split())
    assert [item["kind"] for item in result.artifacts] == ["Model"]
    assert max(len(item) for item in public.split('"')) < 1000


def test_canaries_are_units_too_and_leave_at_the_bound(make_zone, filtered, planning):
    """Included canaries outrank excluded ones, and their sums cover the bound's steps alone."""
    audits = (AuditSpec("Membership", "OneRunCanary", {"canaries": 600}),)
    asked = filtered(60, audits=audits)
    zone = make_zone(study=asked, plan=KIND.with_noise(asked, planning(), Decimal("3.80")))
    result = train(zone.request("job"))
    sealed = json.loads((Path(zone.folder) / "canaries.json").read_text())
    coins = np.array(sealed["coins"], dtype=bool)
    scores = np.array([float(item) for item in sealed["scores"]])
    # They show what 73 steps tell, not 218: within 5 errors (6e-7).
    for inside, (mean, variance) in presence(noise=3.80, rate=0.276458).items():
        told = scores[coins == inside]
        assert abs(told.mean() - 73 * mean) < 5 * (73 * variance / len(told)) ** 0.5
        assert told.std() == pytest.approx((73 * variance) ** 0.5, rel=5 / (2 * len(told)) ** 0.5)
    subject = AuditSubject(
        request=zone.request("audit"),
        plan=zone.plan,
        mechanisms=mechanisms_of(zone.plan),
        artifacts={item["kind"]: item for item in result.artifacts},
    )
    finding = OneRunCanary().run(subject, {})
    assert finding.public["canaries"] == 600
    assert Decimal(finding.restricted["lowerBound"]) < zone.plan.epsilon


def test_audits_know_the_bound_and_that_only_its_renyi_curve_is_proved(make_zone, filtered):
    zone = make_zone(study=filtered())
    (mechanism,) = mechanisms_of(zone.plan)
    assert (mechanism.steps, mechanism.filter_orders) == (73, FILTER_ORDERS)
    described = replace(zone.plan, accesses=())
    assert mechanisms_of(described) == (replace(mechanism, budget=""),)
    assert subject_of(zone.request("audit")).mechanisms == (mechanism,)
    plain = replace(mechanism, filter_orders=())
    fprs = [0.001, 0.01, 0.1, 0.5]
    assert all(
        loose > tight
        for loose, tight in zip(
            tpr_bounds(mechanism, fprs=fprs), tpr_bounds(plain, fprs=fprs), strict=True
        )
    )
    assert auc_bound(plain) < auc_bound(mechanism) < 1


def test_the_bound_of_a_full_batch_is_the_gaussians(make_zone, filtered):
    zone = make_zone(study=filtered())
    (mechanism,) = mechanisms_of(zone.plan)
    full = replace(mechanism, sample_rate=1.0, noise_multiplier=20.0, steps=10)
    psi = 10**0.5 / 20
    by_order = [(0.1 * np.exp(a * psi * psi / 2)) ** ((a - 1) / a) for a in FILTER_ORDERS]
    assert tpr_bounds(full, fprs=[0.1])[0] == pytest.approx(min(by_order))


PARAMETERS = {"noiseMultiplier": "3.78", "sampleRate": "0.3"}
STEP = SubsampledGaussian(Decimal("3.78"), Decimal("0.3"))
RULE = IndividualFilter(10, (2, 4))


def report(*executed, individual=RULE):
    return TrainingReport(
        executed=executed,
        max_grad_norm=1.0,
        sampling="Poisson",
        generator="",
        individual=individual,
    )


@pytest.mark.parametrize(
    ("told", "event"),
    [
        (report((3.78, 0.3, 25)), IndividuallyFiltered(Repeated(STEP, 10), (2, 4))),
        (report((3.78, 0.3, 10)), Repeated(STEP, 10)),
        (report((3.78, 0.3, 4)), Repeated(STEP, 4)),
        (report((3.78, 0.3, 25), individual=None), Repeated(STEP, 25)),
        (
            report((3.78, 0.3, 20), (3.0, 0.3, 5)),
            Composed(
                (
                    Repeated(STEP, 20),
                    Repeated(SubsampledGaussian(Decimal("3.0"), Decimal("0.3")), 5),
                )
            ),
        ),
    ],
    ids=["filtered", "up to the bound", "ended early", "not filtered", "two noises"],
)
def test_filters_are_stated_only_where_they_speak_for_every_step(told, event):
    executed = executed_event(told, PARAMETERS)
    assert executed == event
    planned = IndividuallyFiltered(Repeated(STEP, 10), (2, 4))
    within = isinstance(event, IndividuallyFiltered) or event in (
        Repeated(STEP, 10),
        Repeated(STEP, 4),
    )
    assert covers(planned, executed) is within


def test_an_algorithm_that_ran_on_without_filters_is_not_covered(make_zone, filtered, monkeypatch):
    """A plug-in that ignores the filters tells on itself: every step counts in full."""
    zone = make_zone(study=filtered())
    real = dpsgd.DPSGD.fit

    def ignoring(self, task):
        return real(self, replace(task, mechanism=replace(task.mechanism, individual=None)))

    monkeypatch.setattr(dpsgd.DPSGD, "fit", ignoring)
    result = train(zone.request("job"))
    executed = event_from_json(result.receipts[0]["event"])
    assert executed.count == 109
    assert not covers(job_access(zone.plan).event, executed)


class Push(nn.Module):
    """Row i moves weight i by a gradient of its own size."""

    def __init__(self, rows):
        super().__init__()
        self.weights = nn.Linear(rows, 1, bias=False)
        nn.init.zeros_(self.weights.weight)

    def forward(self, rows):
        return self.weights(rows).squeeze(1)


def taken_part(sizes, *, steps, bound_steps, noise=1e-3):
    """In how many full-batch steps each row was seen to move its weight."""
    rows, module, path = len(sizes), Push(len(sizes)), []

    def snapshot(done=0, planned=0):
        path.append(module.weights.weight.detach().clone().flatten())

    snapshot()
    DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(torch.diag(torch.tensor(sizes)),),
            loss=lambda m, x: m(x),
            expected_units=rows,
            mechanism=MechanismParameters(
                noise, 1.0, steps, 1.0, IndividualFilter(bound_steps, FILTER_ORDERS)
            ),
            learning_rate=float(rows),
            seed=5,
            on_step=snapshot,
        )
    )
    moved = -torch.diff(torch.stack(path), dim=0)
    return (moved > torch.tensor(sizes).clamp(max=1) / 2).sum(dim=0).tolist()


def test_who_contributes_half_takes_part_four_times_as_long():
    """Without sampling a step costs the square of the norm, at every order alike."""
    sizes = [5.0, 1.0, 0.5, 0.25, 0.1]
    found = taken_part(sizes, steps=70, bound_steps=4)
    assert found[:2] == [4, 4]
    assert found[2] in (15, 16)  # A hair of rounding up may cost the last step.
    assert found[3] in (63, 64)
    assert found[4] == 70


def test_the_reviewed_algorithm_says_that_it_filters():
    assert "individualFilter" in fields_read(extensions.load("primum.training_algorithms", "DPSGD"))
