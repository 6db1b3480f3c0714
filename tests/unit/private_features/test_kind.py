"""What a PrivateFeatures job declares before it runs, and what it refuses by then."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from scipy.stats import norm

from primum.domain.accounting.events import Gaussian
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.errors import InvalidValue, Refused
from primum.domain.governance.claims import ClaimStatus, claim_of_plan
from primum.domain.quantities import Neighbors
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import DatasetFacts, Treatment, plan_from_json
from primum.domain.study.spec import AuditSpec, DataRole, StudyInput
from primum_pipelines.kinds.private_features.kind import PrivateFeaturesKind

JOB = {"model": "SmallCNN"}
EDGE = "generator trained on xrays without a charge"
# Standard deviation over sensitivity at which a Gaussian is (epsilon, delta)-DP, exactly (Balle and
# Wang 2018, theorem 8).
GOLDEN = [("1", "1e-5", 3.7306316), ("3", "1e-5", 1.3905935), ("8", "1e-5", 0.6002291)]


@pytest.fixture
def declare(bench):
    def run(job=None, *, facts=None, synthetic=(), accountant=None, public=(), **changes):
        facts = facts or bench.images("xrays")
        study = bench.study(
            "PrivateFeatures",
            {**JOB, **(job or {})},
            [facts],
            releases=[item.release for item in synthetic],
            **changes,
        )
        more = tuple(StudyInput(DataRole.PUBLIC, uri=uri) for uri in public)
        study = replace(study, inputs=(*study.inputs, *more))
        context = bench.context([facts], synthetic=synthetic)
        if accountant is not None:
            context = replace(context, accountant=accountant)
        return PrivateFeaturesKind().declare(study, context)

    return run


def treatments(plan):
    return {access.name: access.treatment for access in plan.accesses}


def exact_delta(sigma, epsilon):
    """Balle and Wang (2018), equation 6, at sensitivity 1."""
    below = norm.cdf(1 / (2 * sigma) - epsilon * sigma)
    return below - math.exp(epsilon) * norm.cdf(-1 / (2 * sigma) - epsilon * sigma)


def replaced(facts: DatasetFacts) -> DatasetFacts:
    return replace(facts, neighbors=Neighbors.REPLACE_ONE)


def test_one_charged_release_and_the_standing_accesses(declare):
    plan = declare()
    assert treatments(plan) == {
        "features@xrays": Treatment.CHARGED,
        "validate@xrays": Treatment.DISCLOSED,
        "evaluate@xrays": Treatment.DISCLOSED,
    }
    assert plan.accesses[0].event == Gaussian(Decimal(str(plan.mechanism["noiseMultiplier"])))
    assert plan.mechanism["rows"] == 180
    assert claim_of_plan(plan, artifact="table").status is ClaimStatus.VALID
    assert plan_from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("epsilon", "delta", "sigma"), GOLDEN)
@pytest.mark.parametrize("neighbors", list(Neighbors))
def test_the_noise_is_that_of_the_exact_gaussian_mechanism(
    declare, bench, epsilon, delta, sigma, neighbors
):
    """Sensitivity C for a unit that is there or not, 2 C for one that is replaced."""
    facts = replace(bench.images("xrays"), neighbors=neighbors, delta=Decimal(delta))
    plan = declare(facts=facts, epsilon=epsilon, delta=delta, accountant=GdpAccountant())
    sensitivity = 2 if neighbors is Neighbors.REPLACE_ONE else 1
    found = float(plan.accesses[0].event.noise_multiplier)
    assert found == pytest.approx(sensitivity * sigma, rel=2e-4)
    assert exact_delta(found / sensitivity, float(epsilon)) <= float(delta)


def test_golden_values_are_those_of_the_formula():
    for epsilon, delta, sigma in GOLDEN:
        assert exact_delta(sigma, float(epsilon)) == pytest.approx(float(delta), rel=1e-4)


def test_the_noise_is_the_least_that_keeps_the_claim(declare, bench):
    plan = declare()
    less = Gaussian(plan.accesses[0].event.noise_multiplier - Decimal("0.0001"))
    accountant = bench.context([]).accountant
    assert accountant.epsilon(less, plan.delta, plan.neighbors) > Decimal("3.0")


@pytest.mark.parametrize("job", [{"rows": 5000}, {"clip": "7.5"}, {"labelShare": "0.9"}], ids=str)
def test_what_is_no_noise_costs_nothing(declare, job):
    assert declare(job).epsilon == declare().epsilon


def test_status_and_certificate_call_it_experimental_and_name_what_is_better(declare):
    plan = declare()
    assert "experimental" in PrivateFeaturesKind().headline(plan)
    assert plan.accesses[0].why.startswith("Experimental:")
    assert "trainable: Head is more accurate" in str(plan.mechanism["experimental"])


def test_canaries_say_what_they_can_certify(declare):
    plan = declare(audits=[AuditSpec("Membership", "OneRunCanary", {"canaries": 100})])
    assert plan.mechanism["canaries"] == 100
    assert Decimal("2.9") < plan.max_certifiable < Decimal("3.6")


def test_an_extractor_never_learns_from_what_nobody_charged(declare):
    release = SyntheticFacts("void-x", "file", "Void", "sha256:0", (EDGE,))
    with pytest.raises(InvalidValue, match="must have a claim that covers") as refused:
        declare({"epochs": 2}, synthetic=[release])
    assert EDGE in str(refused.value)
    assert "void-x" in str(refused.value)


@pytest.mark.parametrize("claim", ["Void", "", "Unknown"])
def test_a_release_without_a_valid_claim_is_no_teacher(declare, claim):
    with pytest.raises(InvalidValue, match="because the extractor learns from it"):
        declare({"epochs": 2}, synthetic=[SyntheticFacts("x", "file", claim, "sha256:0")])


def test_a_release_whose_claim_covers_it_may_teach_the_extractor(declare):
    plan = declare({"epochs": 2}, synthetic=[SyntheticFacts("x", "file", "Valid", "sha256:0")])
    assert plan.parameters["epochs"] == 2
    assert plan.void_edges == ()
    assert claim_of_plan(plan, artifact="table").status is ClaimStatus.VALID


def test_a_protected_dataset_is_no_public_teacher(declare, bench):
    """Were it declared Public, the extractor would have seen it without a charge."""
    facts = bench.images("xrays")
    study = bench.study("PrivateFeatures", {**JOB, "epochs": 1}, [facts])
    public = StudyInput(DataRole.PUBLIC, uri="npz://xrays.npz")
    context = replace(bench.context([facts]), protected=frozenset({"npz://xrays.npz"}))
    with pytest.raises(InvalidValue, match="PrivacyBudget protects"):
        PrivateFeaturesKind().declare(replace(study, inputs=(*study.inputs, public)), context)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ({"epoch": 3}, "spec.job.privateFeatures.epoch must be one of"),
        ({"epochs": 3}, "must be absent without a public or released input"),
        ({"model": "Convnet"}, "model must be one of"),
        ({"model": "UNet"}, "must answer for labels of kind MultiClass"),
        ({"rows": 179}, "must be at least 180, the training units of budget xrays"),
        ({"clip": "0"}, "clip must be above 0"),
        ({"labelShare": "0"}, "labelShare must be above 0"),
        ({"labelShare": "0.001"}, "labelShare must be from 0.01 to 0.99"),
        ({"labelShare": "1"}, "labelShare must be from 0.01 to 0.99"),
        ({"noiseMultiplier": "0.2"}, "must keep epsilon at most 3.0"),
        ({"modelParameters": {"width": 3}}, "modelParameters.width must be one of"),
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_refused_with_its_name(declare, job, message):
    with pytest.raises(InvalidValue, match=message):
        declare(job)


def test_an_extractor_with_something_to_learn_from_says_for_how_long(declare):
    with pytest.raises(InvalidValue, match="must say for how many epochs"):
        declare(synthetic=[SyntheticFacts("x", "file", "Valid", "sha256:0")])


def test_no_privacy_is_refused_by_name(declare):
    with pytest.raises(Refused, match=r"^NoMechanism"):
        declare(epsilon=None)


def test_delta_must_be_below_one_over_the_units(declare):
    with pytest.raises(InvalidValue, match="must be below 1/240"):
        declare(delta="0.005")


def test_two_private_inputs_are_refused(bench):
    facts = [bench.images("one"), bench.images("two", seed=1)]
    study = bench.study("PrivateFeatures", JOB, facts)
    with pytest.raises(InvalidValue, match="one private input"):
        PrivateFeaturesKind().declare(study, bench.context(facts))


@pytest.mark.parametrize(
    ("kind", "attack"),
    [
        ("Membership", "LiRA"),
        ("Membership", "GeneratorLoss"),
        ("Membership", "MeanEmbedding"),
        ("Reconstruction", "Copies"),
        ("Reconstruction", "GradientInversion"),
        ("Reconstruction", "DiffusionPrior"),
        ("Reconstruction", "Imprint"),
        ("Reconstruction", "ModelInversion"),
        ("Reconstruction", "PrivacySusceptibility"),
    ],
)
def test_attacks_on_something_else_are_refused_before_anything_is_spent(declare, kind, attack):
    with pytest.raises(InvalidValue, match=r"what job\.kind: PrivateFeatures makes"):
        declare(audits=[AuditSpec(kind, attack, {})])


@pytest.mark.parametrize("attack", ["DOMIAS", "SampleDistance"])
def test_attacks_by_distance_declare_their_access(declare, attack):
    plan = declare(audits=[AuditSpec("Membership", attack, {})])
    assert treatments(plan)["audit@xrays"] is Treatment.DISCLOSED
