"""Does every example Study plan as its file says: within its claim, refused, or Void?"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from primum import extensions
from primum.application.ports import StoredResource
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.errors import InvalidValue, Refused
from primum.domain.study.jobs import PlanningContext, SyntheticFacts
from primum.domain.study.plan import DatasetFacts, Treatment
from primum.domain.study.spec import DataRole
from primum.resources import conversion
from primum.resources.loading import load_files
from primum_pipelines.datasets.registration import register

FILES = sorted((Path(__file__).parents[2] / "examples").glob("*/*.yaml"))
UNITS = {  # as registering the datasets counts them
    "sklearn://breast_cancer": (569, 463),
    "medmnist://pneumoniamnist": (5311, 4690),
    "uci-heart://cleveland": (303, 229),
    "uci-heart://hungarian": (294, 224),
    "uci-heart://switzerland": (123, 98),
    "uci-heart://va": (200, 153),
    "csv://diabetic_data.csv.gz": (71518, 57287),
    "csv://admissions.csv": (1200, 983),  # of the three months of winter.yaml
}
REFUSED = {"as-usual"}
VOID = {"void-biopsies", "laundered", "filtered-xrays", "unprotected"}
PLUGIN = {"leaky": "LeakySGD"}
FREE = {"biopsy-model"}  # on released data alone


def stored(loaded):
    return StoredResource(
        key=loaded.key,
        uid=f"uid-{loaded.key.name}",
        generation=1,
        resource_version=1,
        created="2026-01-01T00:00:00Z",
        spec=loaded.spec_mapping(),
        status={},
        labels={},
        owner="",
        deleting="",
    )


def all_of(kind):
    return {
        item.key.name: stored(item)
        for file in FILES
        for item in load_files([file])
        if item.key.kind == kind
    }


def facts_of(resource):
    budget = conversion.budget_spec(resource)
    units, train_units = UNITS[budget.dataset.uri]
    return DatasetFacts(
        budget=budget.key.name,
        account_id="account",
        dataset=budget.dataset,
        units=units,
        train_units=train_units,
        neighbors=budget.neighbors,
        accounting=budget.accounting,
        epsilon=budget.epsilon,
        delta=budget.delta,
        disclosures=tuple(item.value for item in budget.disclosures),
    )


STUDIES = all_of("Study")


@pytest.fixture(scope="module")
def context():
    edge = "generator trained on wisconsin without a charge"
    void = SyntheticFacts("void-biopsies", "d.npz", "Void", "sha256:0", (edge,))
    datasets = {name: facts_of(item) for name, item in all_of("PrivacyBudget").items()}
    table = SyntheticFacts("biopsy-features", "d.npz", "Valid", "sha256:0")
    released = {item.release: item for item in (void, table)}
    return PlanningContext(datasets, released, RdpAccountant())


def declared(name, context):
    study = conversion.study_spec(STUDIES[name])
    return study, extensions.load("primum.job_kinds", study.job_kind)().declare(study, context)


def is_void(plan):
    return bool(plan.void_edges) or any(a.treatment is Treatment.UNCHARGED for a in plan.accesses)


@pytest.mark.parametrize("name", sorted(set(STUDIES) - REFUSED - VOID - FREE - set(PLUGIN)))
def test_an_ordinary_example_stays_within_its_claim(name, context):
    study, plan = declared(name, context)
    assert 0 < plan.epsilon <= study.epsilon
    assert not is_void(plan)
    if study.audits and name != "everything":
        assert plan.max_certifiable is None or plan.max_certifiable >= plan.epsilon


@pytest.mark.parametrize("name", sorted(FREE))
def test_an_example_on_released_data_alone_costs_nothing(name, context):
    _, plan = declared(name, context)
    assert plan.accesses == ()
    assert plan.epsilon == 0
    assert not is_void(plan)


@pytest.mark.parametrize("name", sorted(VOID))
def test_a_laundering_example_is_void_before_it_runs(name, context):
    _, plan = declared(name, context)
    assert is_void(plan)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_example_without_a_mechanism_is_refused(name, context):
    with pytest.raises(Refused, match=r"^NoMechanism"):
        declared(name, context)


@pytest.mark.parametrize(("name", "plugin"), PLUGIN.items())
def test_an_example_with_a_plugin_names_what_is_missing(name, plugin, context):
    if plugin in extensions.names("primum.training_algorithms"):
        _, plan = declared(name, context)
        assert plan.mechanism["reviewed"] is False
    else:
        with pytest.raises(InvalidValue, match=plugin):
            declared(name, context)


def test_the_greedy_example_asks_for_more_than_the_budget_and_is_told_what_fits(context):
    study, plan = declared("everything", context)
    budget = context.datasets["wisconsin"]
    assert plan.epsilon > budget.epsilon
    kind = extensions.load("primum.job_kinds", study.job_kind)()
    noise = Decimal(str(plan.mechanism["noiseMultiplier"]))
    for lever in kind.levers:
        less = replace(study, job={**study.job, lever: study.job[lever] // 4})
        assert kind.with_noise(less, context, noise).epsilon < plan.epsilon


def test_the_made_up_patients_are_as_many_as_these_tests_say(tmp_path):
    folder = Path(__file__).parents[2] / "examples" / "blocks"
    made = subprocess.run(
        [sys.executable, folder / "make_data.py"], capture_output=True, check=True
    )
    (tmp_path / "admissions.csv").write_bytes(made.stdout)
    dataset = conversion.budget_spec(all_of("PrivacyBudget")["admissions"]).dataset
    found = register(
        {
            "uri": dataset.uri,
            "unit": dataset.unit.value,
            "options": dataset.options,
            "layout": dataset.layout.to_json(),
            "dataDirs": [str(tmp_path)],
        }
    )
    winter = [found["blocks"][name] for name in ("2025-01", "2025-02", "2025-03")]
    assert tuple(sum(sizes) for sizes in zip(*winter, strict=True)) == UNITS[dataset.uri]
    assert found["units"] == 2400


def test_the_examples_use_private_data_of_declared_budgets(context):
    for name, item in STUDIES.items():
        for entry in conversion.study_spec(item).inputs:
            assert entry.role is not DataRole.PRIVATE or entry.budget in context.datasets, name
