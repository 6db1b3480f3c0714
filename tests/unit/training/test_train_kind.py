"""Does Train declare what it does, calibrate to the claim, and refuse what it cannot do?"""

from __future__ import annotations

from decimal import Decimal

import pytest

from primum.domain.accounting.events import Repeated, SubsampledGaussian
from primum.domain.errors import InvalidValue, NotFound, Refused
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.jobs import SyntheticFacts
from primum.domain.study.plan import Treatment, plan_from_json
from primum.domain.study.spec import AuditSpec, DataRole, DatasetSpec, StudyInput
from primum_pipelines.kinds.train.kind import TrainKind

KIND = TrainKind()
SYNTHETIC = StudyInput(DataRole.SYNTHETIC, release="void-biopsies")
LAUNDRY = SyntheticFacts("void-biopsies", "d.npz", "Void", "sha256:0", ("generator uncharged",))


def test_the_plan_is_calibrated_to_the_claim(study, planning):
    context = planning()
    plan = KIND.declare(study(), context)
    train = next(access for access in plan.accesses if access.step == "job")
    assert train.event == Repeated(
        SubsampledGaussian(Decimal(plan.mechanism["noiseMultiplier"]), Decimal("0.276458")), 73
    )
    assert train.treatment is Treatment.CHARGED
    assert Decimal("2.99") < plan.epsilon <= Decimal("3.0")
    less = Decimal(plan.mechanism["noiseMultiplier"]) - Decimal("0.0001")
    assert KIND.with_noise(study(), context, less).epsilon > 3
    assert plan_from_json(plan.to_json()) == plan


def test_every_step_has_its_access(study, planning):
    plan = KIND.declare(study(), planning())
    treated = {access.step: access.treatment for access in plan.accesses}
    assert treated == {
        "job": Treatment.CHARGED,
        "validate": Treatment.DISCLOSED,
        "evaluate": Treatment.DISCLOSED,
    }


def test_every_look_at_private_data_is_declared_or_excluded_with_its_reason(study, facts, planning):
    """Normalization is excluded, evaluation declared; the job itself looks for nothing else."""
    for disclosures, how in ((("Utility",), "leaves, as the budget's"), ((), "no figure of it")):
        plan = KIND.declare(study(), planning(facts(disclosures=disclosures)))
        why = {access.step: access.why for access in plan.accesses}
        assert why["job"].endswith("scaled by bounds that the steward declared; none is measured.")
        assert "held-out units" in why["evaluate"]
        assert how in why["evaluate"]


def test_evaluation_stays_inside_where_utility_is_not_disclosed(study, facts, planning):
    plan = KIND.declare(study(), planning(facts(disclosures=())))
    assert next(a for a in plan.accesses if a.step == "evaluate").treatment is Treatment.INSPECTED


def test_canaries_are_planned_with_what_they_can_certify(study, planning):
    audits = (AuditSpec("Membership", "OneRunCanary", {"canaries": 100}),)
    plan = KIND.declare(study(audits=audits), planning())
    assert plan.parameters["canaries"] == 100
    assert Decimal("3.4") < plan.max_certifiable < Decimal("3.5")
    assert KIND.headline(plan).endswith("(RDP), 100 canaries")


def test_a_given_noise_multiplier_is_taken(study, planning):
    job = {**study().job, "noiseMultiplier": "5.0"}
    plan = KIND.declare(study(job=job), planning())
    assert plan.mechanism["noiseMultiplier"] == "5"
    assert plan.epsilon < 3


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"epochs": "20"}, "epochs must be a whole number"),
        ({"batchSize": 464}, "batchSize must be at most 463"),
        ({"maxGradNorm": "0"}, "maxGradNorm must be above 0"),
        ({"maxGradNorm": 1.0}, "maxGradNorm must be a quoted decimal"),
        ({"momentum": "1"}, "momentum must be at least 0 and below 1"),
        ({"optimizer": "Newton"}, "optimizer must be one of SGD, Adam"),
        ({"algorithm": "Nothing"}, "algorithm must be one of"),
        ({"model": "Oracle"}, "model must be one of"),
        ({"modelParameters": {"depth": 3}}, "modelParameters.depth must not be present"),
        (
            {"model": "MLP", "modelParameters": {"hiddn": "8"}},
            r"modelParameters.hiddn must be one of hidden.*Did you mean hidden\?",
        ),
        (
            {"noiseMultiplier": "0.5"},
            r"spec\.job\.train\.noiseMultiplier must keep epsilon at most 3",
        ),
        ({"augmentation": {"multiplicity": 2}}, "augmentation must be absent for tables"),
        (
            {"momentum": "0.9", "optimizer": "Adam"},
            "momentum must be absent with Adam, which has its own",
        ),
        ({"epoch": 3}, "epoch must be one of"),
    ],
)
def test_a_wrong_parameter_is_named(study, planning, changes, named):
    job = {**study().job, **changes}
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job=job), planning())


def test_no_privacy_is_refused(study, planning):
    with pytest.raises(Refused, match=r"^NoMechanism"):
        KIND.declare(study(epsilon=None, delta=None), planning())


@pytest.mark.parametrize(
    ("delta", "named"), [("0.01", "below 1/569"), ("2e-5", "delta of budget wisconsin")]
)
def test_a_delta_that_promises_too_little_is_refused(study, planning, delta, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(delta=Decimal(delta)), planning())


def test_two_private_inputs_are_for_federate(study, facts, planning):
    inputs = (StudyInput(DataRole.PRIVATE, budget="a"), StudyInput(DataRole.PRIVATE, budget="b"))
    with pytest.raises(InvalidValue, match=r"one private input.*Use Federate"):
        KIND.declare(study(inputs=inputs), planning(facts(budget="a"), facts(budget="b")))


def test_a_public_input_is_named_in_the_plan_and_costs_nothing(study, facts, planning):
    inputs = (*study().inputs, StudyInput(DataRole.PUBLIC, uri="sklearn://digits"))
    digits = [str(number) for number in range(10)]
    options = {"table": "index.csv", "label": "digit", "classes": digits, "shape": [8, 8]}
    own = DatasetSpec("images://scans", PrivacyUnit.IMAGE, options=options)
    plan = KIND.declare(study(inputs=inputs), planning(facts(dataset=own)))
    assert [item["uri"] for item in plan.parameters["publicInputs"]] == ["sklearn://digits"]
    assert {access.budget for access in plan.accesses} == {"wisconsin"}


def test_the_recipe_stands_in_the_plan_and_changes_no_cost(study, facts, planning):
    recipe = {
        "clipping": "Automatic",
        "gradients": "Ghost",
        "schedule": "Cosine",
        "warmUp": "0.1",
        "averaging": "0.99",
        "weightDecay": "0.001",
        "augmentation": {"multiplicity": 4, "shift": 2, "flip": "Horizontal"},
        "biasAware": "0.05",
        "trainable": "Head",
        "optimizer": "NoiseCorrectedAdam",
    }
    options = {"table": "index.csv", "label": "finding", "classes": ["no", "yes"]}
    scans = DatasetSpec("images://scans", PrivacyUnit.IMAGE, options=options)
    context = planning(facts(dataset=scans))
    plain = KIND.declare(study(), context)
    plan = KIND.declare(study(job={**study().job, **recipe}), context)
    assert {name: plan.parameters[name] for name in recipe} == recipe
    assert plan.accesses == plain.accesses
    assert plan.mechanism["clipping"] == "Automatic"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"clipping": "Loose"}, "clipping must be one of Flat, PerLayer, Automatic"),
        ({"gradients": "Fast"}, "gradients must be one of Auto, Ghost, Formed, Functional"),
        ({"schedule": "Exponential"}, "schedule must be one of Constant, Cosine, Step, Linear"),
        ({"averaging": "1"}, "averaging must be at least 0 and below 1"),
        ({"warmUp": "-0.1"}, "warmUp must be at least 0"),
        ({"augmentation": {}}, "augmentation.multiplicity must be a whole number from 1 to 64"),
        ({"augmentation": {"multiplicity": 2, "blur": 1}}, "augmentation.blur must be one of"),
        ({"augmentation": 4}, "augmentation must be an object"),
        ({"trainable": "Body"}, "trainable must be one of All, Head"),
    ],
)
def test_a_wrong_recipe_is_named(study, planning, given, named):
    with pytest.raises(InvalidValue, match=named):
        KIND.declare(study(job={**study().job, **given}), planning())


def test_a_plan_says_how_many_examples_a_unit_may_contribute(study, facts, planning):
    options = {
        "label": "sick",
        "features": {"age": ["0", "100"]},
        "classes": ["no", "yes"],
        "unitColumn": "patient",
        "maxExamplesPerUnit": 5,
    }
    dataset = DatasetSpec("csv://d.csv", PrivacyUnit.PATIENT, options=options)
    plan = KIND.declare(study(), planning(facts(dataset=dataset)))
    assert plan.mechanism["unitExamplesMax"] == 5
    assert KIND.declare(study(), planning()).mechanism["unitExamplesMax"] == 1


def test_synthetic_data_does_not_launder(study, planning):
    """Its own noise is real, but a generator that was not charged voids the claim."""
    inputs = (SYNTHETIC, *study().inputs)
    plan = KIND.declare(study(inputs=inputs), planning(synthetic={"void-biopsies": LAUNDRY}))
    assert plan.void_edges == ("generator uncharged (through release void-biopsies)",)
    assert any(access.treatment is Treatment.CHARGED for access in plan.accesses)


def test_released_data_alone_costs_nothing_and_inherits_the_edge(study, planning):
    plan = KIND.declare(study(inputs=(SYNTHETIC,)), planning(synthetic={"void-biopsies": LAUNDRY}))
    assert plan.accesses == ()
    assert plan.epsilon == 0
    assert plan.void_edges
    assert "no charge" in KIND.headline(plan)


@pytest.mark.parametrize("lever", KIND.levers)
def test_less_of_a_lever_costs_less_under_the_planned_noise(study, planning, lever):
    greedy, context = study(epsilon=Decimal("7.9")), planning()
    plan = KIND.declare(greedy, context)
    noise = Decimal(plan.mechanism["noiseMultiplier"])
    less = study(job={**greedy.job, lever: greedy.job[lever] // 2})
    cheaper = KIND.with_noise(less, context, noise)
    assert cheaper.epsilon < plan.epsilon
    assert cheaper.mechanism["noiseMultiplier"] == plan.mechanism["noiseMultiplier"]


def test_an_unknown_plugin_group_entry_is_not_found():
    from primum import extensions

    with pytest.raises(NotFound, match=r"primum.models must have Oracle"):
        extensions.load("primum.models", "Oracle")
