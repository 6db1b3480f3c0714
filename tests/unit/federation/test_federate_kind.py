"""What a Federate job declares before it runs."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.errors import InvalidValue, Refused
from primum.domain.study.plan import Treatment, plan_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines.kinds.federate.kind import FederateKind

JOB = {"model": "Logistic", "rounds": 5, "batchSize": 20, "maxGradNorm": "1.0"}


@pytest.fixture
def sites(bench):
    return [bench.images("north", rows=240), bench.images("south", rows=120, seed=1)]


@pytest.fixture
def declare(bench, sites):
    def run(job=None, *, facts=None, **changes):
        facts = sites if facts is None else facts
        study = bench.study("Federate", {**JOB, **(job or {})}, facts, **changes)
        return FederateKind().declare(study, bench.context(facts))

    return run


def charged(plan):
    return {a.budget: a.event for a in plan.accesses if a.treatment is Treatment.CHARGED}


def test_every_site_has_its_own_accesses_and_its_own_noise(declare):
    plan = declare()
    assert {access.name for access in plan.accesses} == {
        f"{purpose}@{site}"
        for purpose in ("train", "validate", "evaluate")
        for site in ("north", "south")
    }
    # Batch 20 of 180 and of 90 training units: rates 1/9 and 2/9, rounded up.
    north, south = charged(plan)["north"], charged(plan)["south"]
    assert north.event.sample_rate == Decimal("0.111112")
    assert south.event.sample_rate == Decimal("0.222223")
    assert (north.count, south.count) == (5 * 9, 5 * 5)
    assert south.event.noise_multiplier > north.event.noise_multiplier
    assert plan.mechanism["noiseMultiplier"] == str(south.event.noise_multiplier)
    assert plan_from_json(plan.to_json()) == plan


def test_every_site_keeps_the_claim_by_itself(declare, bench):
    plan, accountant = declare(), bench.context([]).accountant
    costs = [
        accountant.epsilon(event, plan.delta, plan.neighbors) for event in charged(plan).values()
    ]
    assert plan.epsilon == max(costs)
    assert plan.epsilon <= Decimal("3.0")
    for event in charged(plan).values():
        less = event.event.noise_multiplier - Decimal("0.0001")
        weaker = Repeated(SubsampledGaussian(less, event.event.sample_rate), event.count)
        assert accountant.epsilon(weaker, plan.delta, plan.neighbors) > Decimal("3.0")


def test_the_plan_says_whom_the_claim_covers(declare):
    plan = declare()
    assert "cohorts are taken to be disjoint" in plan.mechanism["claimCovers"]
    assert "a unit of two sites is a group of two" in plan.accesses[0].why


def test_headline_names_sites_rounds_and_noise(declare):
    audits = [AuditSpec("Membership", "OneRunCanary", {"canaries": 50})]
    line = FederateKind().headline(declare(audits=audits))
    assert line.startswith("Federate Logistic, 2 sites, 5 rounds, noise multiplier ")
    assert line.endswith("(RDP), 50 canaries")


def test_one_noise_multiplier_for_all_costs_less_where_it_is_larger(bench, sites):
    study, kind = bench.study("Federate", JOB, sites), FederateKind()
    costs = [
        kind.with_noise(study, bench.context(sites), Decimal(noise)).epsilon for noise in (1, 2, 4)
    ]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 3


def test_fewer_rounds_cost_less_under_the_planned_noise(bench, sites):
    study, kind = bench.study("Federate", JOB, sites), FederateKind()
    context = bench.context(sites)
    plan = kind.declare(study, context)
    noise = Decimal(plan.mechanism["noiseMultiplier"])
    assert "rounds" in kind.levers
    fewer = replace(study, job={**study.job, "rounds": 2})
    assert kind.with_noise(fewer, context, noise).epsilon < plan.epsilon


def test_no_privacy_is_refused_by_name(declare):
    with pytest.raises(Refused, match=r"^NoMechanism"):
        declare(epsilon=None)


def test_one_site_is_no_federation(declare, sites):
    with pytest.raises(InvalidValue, match="at least 2 sites"):
        declare(facts=sites[:1])


def test_sites_must_agree_on_columns_and_classes(declare, sites):
    options = {**sites[1].dataset.options, "classes": ["sick", "well"]}
    other = replace(sites[1], dataset=replace(sites[1].dataset, options=options))
    with pytest.raises(InvalidValue, match="the same classes at every site"):
        declare(facts=[sites[0], other])


@pytest.mark.parametrize(
    ("job", "changes", "message"),
    [
        ({"epochs": 3}, {}, "spec.job.federate.epochs must be one of"),
        ({"batchSize": 100}, {}, "at most 90, the training units of budget south"),
        ({"aggregation": "Median"}, {}, "must be one of SizeWeighted"),
        ({"rounds": 0}, {}, "must be a whole number from 1"),
        ({"model": "Oracle"}, {}, "must be one of ComplexCNN, Logistic"),
        ({"noiseMultiplier": "0.3"}, {}, "must keep epsilon at most"),
        ({}, {"delta": "0.005"}, "must be below 1/240"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_name(declare, job, changes, message):
    with pytest.raises(InvalidValue, match=message):
        declare(job, **changes)


def test_entries_name_functions_that_exist():
    import importlib

    kind = FederateKind()
    for step in kind.steps:
        module, _, name = kind.entry(step).partition(":")
        assert callable(getattr(importlib.import_module(module), name))
