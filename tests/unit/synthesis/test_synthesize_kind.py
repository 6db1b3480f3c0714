"""What a Synthesize job declares before it runs."""

from __future__ import annotations

from decimal import Decimal

import pytest

from primum.domain.accounting.events import Gaussian, NoEvent
from primum.domain.errors import InvalidValue, Refused
from primum.domain.governance.claims import ClaimStatus, claim_of_plan
from primum.domain.quantities import Neighbors
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import Treatment, plan_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines.kinds.synthesize.kind import SynthesizeKind

JOB = {"samples": 100}
FILTER = {"name": "PixelL2", "deduplicate": "Drop", "charge": "None"}


@pytest.fixture
def declare(bench):
    def run(job=None, *, facts=None, synthetic=(), **changes):
        facts = facts or bench.images("xrays")
        study = bench.study(
            "Synthesize",
            {**JOB, **(job or {})},
            [facts],
            releases=[item.release for item in synthetic],
            **changes,
        )
        return SynthesizeKind().declare(study, bench.context([facts], synthetic=synthetic))

    return run


def treatments(plan):
    return {access.name: access.treatment for access in plan.accesses}


def test_one_charged_release_and_the_standing_accesses(declare):
    plan = declare()
    assert treatments(plan) == {
        "synthesize@xrays": Treatment.CHARGED,
        "validate@xrays": Treatment.DISCLOSED,
        "evaluate@xrays": Treatment.DISCLOSED,
    }
    event = plan.accesses[0].event
    assert isinstance(event, Gaussian)
    assert plan.mechanism["noiseMultiplier"] == str(event.noise_multiplier)
    assert plan.epsilon <= Decimal("3.0")
    assert claim_of_plan(plan, artifact="samples").status is ClaimStatus.VALID
    assert plan_from_json(plan.to_json()) == plan


def test_the_noise_is_the_least_that_keeps_the_claim(declare, bench):
    plan = declare()
    less = Gaussian(plan.accesses[0].event.noise_multiplier - Decimal("0.0001"))
    accountant = bench.context([]).accountant
    assert accountant.epsilon(less, plan.delta, plan.neighbors) > Decimal("3.0")


def test_replacing_a_unit_costs_twice_the_noise(declare, bench):
    facts = bench.images("xrays")
    add = declare(facts=facts).accesses[0].event.noise_multiplier
    replaced = bench.facts(
        "xrays",
        facts.dataset.uri,
        unit=facts.dataset.unit,
        units=facts.units,
        train_units=facts.train_units,
        neighbors=Neighbors.REPLACE_ONE,
    )
    replace_one = declare(facts=replaced).accesses[0].event.noise_multiplier
    assert float(replace_one / add) == pytest.approx(2.0, abs=0.001)


def test_samples_and_iterations_cost_nothing(declare):
    assert declare({"samples": 100000, "iterations": 5000}).epsilon == declare().epsilon


def test_figures_stay_in_the_zone_without_a_disclosure(declare, bench):
    facts = bench.images("xrays")
    hidden = bench.facts(
        "xrays",
        facts.dataset.uri,
        unit=facts.dataset.unit,
        units=facts.units,
        train_units=facts.train_units,
        disclosures=(),
    )
    assert treatments(declare(facts=hidden))["evaluate@xrays"] is Treatment.INSPECTED


def test_no_privacy_is_refused_by_name(declare):
    with pytest.raises(Refused, match=r"^NoMechanism"):
        declare(epsilon=None)


def test_a_mechanism_switched_off_by_name_makes_the_claim_void(declare):
    plan = declare({"mechanism": "None"}, epsilon=None)
    assert plan.accesses[0].treatment is Treatment.UNCHARGED
    assert plan.accesses[0].event == NoEvent()
    assert plan.epsilon == Decimal("Infinity")
    assert "noiseMultiplier" not in plan.mechanism
    claim = claim_of_plan(plan, artifact="samples")
    assert claim.status is ClaimStatus.VOID
    assert "generator trained on xrays without a charge" in claim.text
    assert plan_from_json(plan.to_json()) == plan
    assert "claim Void" in SynthesizeKind().headline(plan)


def test_no_mechanism_and_a_claim_contradict_each_other(declare):
    with pytest.raises(InvalidValue, match="must be absent where the mechanism is None"):
        declare({"mechanism": "None"})


def test_an_uncharged_filter_voids_the_claim_of_a_charged_release(declare):
    plan = declare({"sampleFilter": FILTER})
    assert treatments(plan)["synthesize@xrays"] is Treatment.CHARGED
    assert treatments(plan)["filter@xrays"] is Treatment.UNCHARGED
    claim = claim_of_plan(plan, artifact="samples")
    assert claim.status is ClaimStatus.VOID
    assert "sample filter PixelL2 looked at xrays without a charge" in claim.text


def test_a_void_input_voids_what_is_made_of_it(declare):
    release = SyntheticFacts("void-x", "file", "Void", "sha256:0", ("an uncharged edge",))
    plan = declare(synthetic=[release])
    assert plan.void_edges == ("an uncharged edge (through release void-x)",)


def test_canaries_say_what_they_can_certify(declare):
    audits = [AuditSpec("Membership", "OneRunCanary", {"canaries": 100})]
    plan = declare(audits=audits)
    assert plan.mechanism["canaries"] == 100
    assert Decimal("2.9") < plan.max_certifiable < Decimal("3.6")
    assert "100 canaries" in SynthesizeKind().headline(plan)


def test_more_noise_costs_less(declare, bench):
    facts = bench.images("xrays")
    study = bench.study("Synthesize", JOB, [facts])
    kind, context = SynthesizeKind(), bench.context([facts])
    costs = [kind.with_noise(study, context, Decimal(noise)).epsilon for noise in (1, 2, 4)]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 3


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"sample": 3}, "spec.job.synthesize.sample must be one of"),
        ({"samples": 1}, "must be a whole number from 2"),
        ({"samples": "100"}, "must be a whole number"),
        ({"features": 21}, "must be even"),
        ({"method": "GAN"}, "must be one of DPMERF"),
        ({"mechanism": "none"}, "must be one of Gaussian, None"),
        ({"noiseMultiplier": "0"}, "must be above 0"),
        ({"noiseMultiplier": "0.5"}, "must keep epsilon at most 3.0"),
        ({"sampleFilter": {"name": "PixelL2"}}, "charge must be one of None; found nothing"),
        ({"sampleFilter": {**FILTER, "name": "Magic"}}, "must be one of PixelL2"),
        ({"sampleFilter": {**FILTER, "tau": "1"}}, "sampleFilter.tau must be one of"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_name(declare, job, message):
    with pytest.raises(InvalidValue, match=message):
        declare(job)


def test_delta_must_be_below_one_over_the_units(declare):
    with pytest.raises(InvalidValue, match="must be below 1/240"):
        declare(delta="0.005")


def test_two_private_inputs_are_refused(bench):
    facts = [bench.images("one"), bench.images("two", seed=1)]
    study = bench.study("Synthesize", JOB, facts)
    with pytest.raises(InvalidValue, match="one private input"):
        SynthesizeKind().declare(study, bench.context(facts))


def test_entries_name_functions_that_exist():
    import importlib

    kind = SynthesizeKind()
    for step in kind.steps:
        module, _, name = kind.entry(step).partition(":")
        assert callable(getattr(importlib.import_module(module), name))
