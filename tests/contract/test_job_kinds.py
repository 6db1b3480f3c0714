"""Does every registered job kind keep the protocol? Runs over everything in ``primum.job_kinds``.

A kind that is registered without a Study here fails the first test: it must not escape the suite.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import pytest
from wisconsin import DATASET_KINDS

from primum import extensions
from primum.domain.accounting.events import NoEvent
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, Refused, UnsupportedEvent
from primum.domain.names import ResourceKey
from primum.domain.quantities import Neighbors, PrivacyUnit
from primum.domain.study.jobs import PlanningContext, SyntheticFacts
from primum.domain.study.plan import DatasetFacts, Treatment, plan_from_json
from primum.domain.study.spec import DataRole, DatasetSpec, StudyInput, StudySpec

GROUP = "primum.job_kinds"
KINDS = extensions.names(GROUP)
JOBS = {
    "Train": {"model": "Logistic", "epochs": 5, "batchSize": 64, "maxGradNorm": "1.0"},
    "Synthesize": {"samples": 200},
    "Federate": {
        "model": "Logistic",
        "rounds": 3,
        "localEpochs": 1,
        "batchSize": 32,
        "maxGradNorm": "1.0",
    },
    "PrivateFeatures": {"model": "MLP"},
}
SITES = {"Federate": ("cleveland", "hungarian")}
STEPS = ("validate", "job", "evaluate", "audit")
HEAVY = ("torch", "opacus", "flwr", "ray", "great_expectations", "sklearn", "pandas", "kfp")


def make_study(kind, **changes):
    makes_data = kind in DATASET_KINDS
    budgets = SITES.get(kind, ("wisconsin",))
    study = StudySpec(
        key=ResourceKey("Study", "oncology", "a-study"),
        uid="study-1",
        generation=1,
        purpose="Keep the protocol",
        inputs=tuple(StudyInput(DataRole.PRIVATE, budget=name) for name in budgets),
        epsilon=Decimal("3.0"),
        delta=Decimal("1e-5"),
        job_kind=kind,
        job=JOBS[kind],
        workers=1,
        gpus_per_worker=0,
        expectations=(),
        audits=(),
        policy="clinical-default",
        endpoint="" if makes_data else "an-endpoint",
        dataset_release="some-data" if makes_data else "",
        audit_schedule="",
    )
    return replace(study, **changes)


def make_facts(budget, **changes):
    uri = "sklearn://breast_cancer" if budget == "wisconsin" else f"uci-heart://{budget}"
    facts = DatasetFacts(
        budget=budget,
        account_id=f"account-{budget}",
        dataset=DatasetSpec(uri, PrivacyUnit.PATIENT),
        units=300,
        train_units=240,
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
        accounting="RDP",
        epsilon=Decimal("8.0"),
        delta=Decimal("1e-5"),
        disclosures=("Utility",),
    )
    return replace(facts, **changes)


def make_context(kind, *, accountant=None, synthetic=None, **changes):
    budgets = SITES.get(kind, ("wisconsin",))
    return PlanningContext(
        {name: make_facts(name, **changes) for name in budgets},
        synthetic or {},
        accountant or RdpAccountant(),
    )


@pytest.fixture(params=KINDS)
def kind(request):
    return extensions.load(GROUP, request.param)()


def test_a_release_of_what_the_kind_does_not_make_is_refused(kind):
    """It would fail after the charge, when there is nothing of the sort to release."""
    other = {"endpoint": "x", "dataset_release": ""}
    if kind.name not in DATASET_KINDS:
        other = {"endpoint": "", "dataset_release": "x"}
    with pytest.raises(InvalidValue, match=r"spec\.release\..* must be absent"):
        kind.declare(make_study(kind.name, **other), make_context(kind.name))


def test_every_registered_kind_is_in_the_suite():
    assert set(KINDS) == set(JOBS)


def test_the_kind_is_registered_under_its_name(kind):
    assert extensions.load(GROUP, kind.name) is type(kind)


def test_a_plan_survives_its_wire_form(kind):
    plan = kind.declare(make_study(kind.name), make_context(kind.name))
    assert plan_from_json(json.loads(canonical_json(plan.to_json()))) == plan


def test_the_same_study_gives_the_same_plan(kind):
    first = kind.declare(make_study(kind.name), make_context(kind.name))
    second = kind.declare(make_study(kind.name), make_context(kind.name))
    assert first.digest == second.digest


@pytest.mark.parametrize("accountant", [RdpAccountant(), GdpAccountant()], ids=lambda a: a.name)
def test_the_plan_stays_within_the_claim(kind, accountant):
    study, context = make_study(kind.name), make_context(kind.name, accountant=accountant)
    try:
        plan = kind.declare(study, context)
    except UnsupportedEvent:
        assert accountant.name != "RDP"  # An accountant may decline what it cannot vouch for.
        return
    charged = [a.event for a in plan.accesses if a.treatment is Treatment.CHARGED]
    assert charged
    assert 0 < plan.epsilon <= study.epsilon
    for event in charged:
        assert accountant.epsilon(event, study.delta, plan.neighbors) <= plan.epsilon


def test_units_with_several_examples_are_clipped_as_units_or_refused(kind):
    """What clips row by row must not be given the rows of one unit as several."""
    uri, unit = "csv://ward.csv", PrivacyUnit.PATIENT
    options = {"label": "sick", "features": {"age": ["0", "100"]}, "unitColumn": "mrn"}
    for most in (1, 2):
        bounded = DatasetSpec(uri, unit, options={**options, "maxExamplesPerUnit": most})
        context = make_context(kind.name, dataset=bounded)
        if most == 1:
            kind.declare(make_study(kind.name), context)
        elif kind.name in ("Train", "PrivateFeatures"):
            plan = kind.declare(make_study(kind.name), context)
            assert plan.mechanism["unitExamplesMax"] == most
        else:
            with pytest.raises(InvalidValue, match="must have one example per unit"):
                kind.declare(make_study(kind.name), context)


def test_accesses_name_declared_budgets_and_known_steps_once(kind):
    plan = kind.declare(make_study(kind.name), make_context(kind.name))
    names = [access.name for access in plan.accesses]
    assert len(set(names)) == len(names)
    assert {access.step for access in plan.accesses} <= set(plan.steps)
    assert {access.budget for access in plan.accesses} == set(make_context(kind.name).datasets)
    for access in plan.accesses:
        assert (access.treatment is Treatment.CHARGED) == (access.event != NoEvent())
        assert access.why


def test_utility_is_inspected_where_it_is_not_disclosed(kind):
    plan = kind.declare(make_study(kind.name), make_context(kind.name, disclosures=()))
    treated = {a.treatment for a in plan.accesses if a.step == "evaluate"}
    assert treated == {Treatment.INSPECTED}


def test_no_privacy_is_refused_by_name(kind):
    study = make_study(kind.name, epsilon=None, delta=None)
    with pytest.raises(Refused, match=r"^NoMechanism"):
        kind.declare(study, make_context(kind.name))


def test_a_delta_of_one_over_n_is_refused(kind):
    study = make_study(kind.name, delta=Decimal("0.01"))
    with pytest.raises(InvalidValue, match="delta"):
        kind.declare(study, make_context(kind.name, delta=Decimal("0.1")))


def test_an_unknown_parameter_is_refused(kind):
    study = make_study(kind.name, job={**JOBS[kind.name], "misspelled": 1})
    with pytest.raises(InvalidValue, match="misspelled"):
        kind.declare(study, make_context(kind.name))


def test_more_noise_costs_less(kind):
    study, context = make_study(kind.name), make_context(kind.name)
    costs = [kind.with_noise(study, context, Decimal(n)).epsilon for n in ("2", "4", "8")]
    assert costs[0] > costs[1] > costs[2] > 0


def test_less_of_a_lever_costs_less_under_the_same_noise(kind):
    study, context, noise = make_study(kind.name), make_context(kind.name), Decimal("4")
    for name, words in kind.levers.items():
        assert words.format(7).replace("7", "") != words
        asked = study.job.get(name, 4)
        costs = [
            kind.with_noise(replace(study, job={**study.job, name: value}), context, noise).epsilon
            for value in (asked, max(1, asked // 2))
        ]
        assert costs[1] < costs[0] or asked == 1, name


def test_an_uncharged_generator_voids_what_comes_after(kind):
    edge = "generator trained on wisconsin without a charge"
    facts = SyntheticFacts("void-data", "d.npz", "Void", "sha256:0", (edge,))
    study = make_study(kind.name)
    inputs = (*study.inputs, StudyInput(DataRole.SYNTHETIC, release="void-data"))
    context = make_context(kind.name, synthetic={"void-data": facts})
    try:
        plan = kind.declare(replace(study, inputs=inputs), context)
    except InvalidValue:
        return  # a kind may have no use for synthetic inputs
    assert any(edge in item for item in plan.void_edges)


def test_the_headline_is_one_line(kind):
    line = kind.headline(kind.declare(make_study(kind.name), make_context(kind.name)))
    assert line.startswith(kind.name)
    assert "\n" not in line
    assert len(line) < 120


def test_every_step_has_a_heavy_function(kind):
    assert tuple(kind.steps) == STEPS
    for step in kind.steps:
        module, _, function = kind.entry(step).partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_planning_imports_nothing_heavy(kind):
    """In a fresh process: importing the kind and its registry must stay cheap."""
    program = (
        "import sys; from primum import extensions;"
        f"extensions.load({GROUP!r}, {kind.name!r})();"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
