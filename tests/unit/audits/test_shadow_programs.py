"""Are shadows trained as the Study's own code would train them, whatever the recipe is?"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
from shadow_recipes import recipe

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.attacks import shadow_groups  # noqa: E402
from primum_pipelines.attacks.pool import Contributions, Pool  # noqa: E402
from primum_pipelines.attacks.shadow_groups import Groups  # noqa: E402
from primum_pipelines.attacks.shadow_program import Architecture, Program  # noqa: E402
from primum_pipelines.attacks.shadows import complementary_halves  # noqa: E402
from primum_pipelines.datasets.units import one_row_each  # noqa: E402
from primum_pipelines.fan_out import Alone  # noqa: E402
from primum_pipelines.kinds.train import fitting  # noqa: E402
from primum_pipelines.optimization.losses import TaskLoss  # noqa: E402

PICTURE = (1, 8, 8)
SMALL = Architecture("SmallCNN", {"channels": 8}, PICTURE, 3)
TABLE = Architecture("MLP", {"hidden": 6, "layers": 1}, (4,), 3)
RECORDS = 12
# Everybody takes part and nothing is drawn, so that two programs can be compared number by number.
CERTAIN = {"noiseMultiplier": "0.0", "sampleRate": "1", "steps": 5, "learningRate": "0.3"}


def make_pool(shape, *, records=RECORDS, seed=1, rows_each=1):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((records * rows_each, *shape), generator=generator)
    labels = torch.randint(3, (records * rows_each,), generator=generator)
    owners = torch.arange(records).repeat_interleave(rows_each)
    rows = Contributions(inputs, labels, owners) if rows_each > 1 else None
    members = torch.arange(records) % 2 == 0
    return Pool(inputs[::rows_each], labels[::rows_each], members, 0, contributions=rows)


def make_program(architecture=TABLE, *, seed=0, **changed):
    torch.manual_seed(seed)
    return Program(recipe(**changed), architecture, architecture.build().state_dict())


def by_the_study(program, pool, had):
    """One model as the Study's job trains it."""
    module = program.fresh()
    task = fitting.planned_training(
        module,
        (pool.inputs[had], pool.labels[had]),
        parameters=program.parameters,
        units=one_row_each(int(had.sum())),
        loss=TaskLoss(),
    )
    quiet = replace(task.mechanism, noise_multiplier=1e-9)  # The engine refuses none at all.
    fitting.planned_algorithm(program.parameters).fit(
        replace(task, mechanism=quiet, expected_units=int(had.sum()), seed=1)
    )
    return dict(module.named_parameters())


STACKED = [
    {},
    {"clipping": "PerLayer"},
    {"clipping": "Automatic"},
    {"schedule": "Cosine", "warmUp": "0.4"},
    {"schedule": "Step", "momentum": "0.5"},
    {"averaging": "0.9"},
    {"weightDecay": "0.1"},
    {"optimizer": "Adam", "learningRate": "0.01", "weightDecay": "0.1"},
    {"optimizer": "NoiseCorrectedAdam", "learningRate": "0.01"},
    {"trainable": "Head"},
]


@pytest.mark.parametrize("changed", STACKED, ids=str)
@pytest.mark.parametrize("architecture", [TABLE, SMALL], ids=["table", "images"])
def test_a_stacked_shadow_is_the_model_that_the_study_would_have_trained(architecture, changed):
    program = make_program(architecture, **{**CERTAIN, **changed, "maxGradNorm": "0.5"})
    pool = make_pool(architecture.input_shape)
    had = complementary_halves(4, RECORDS, generator=torch.Generator().manual_seed(2))
    assert program.apart(pool) == ""
    stack = program.train(pool, had, seed=3)
    # Adam divides by what may be next to nothing, so that the last digits count.
    close = 2e-3 if "Adam" in changed.get("optimizer", "") else 2e-5
    for index in (0, 3):
        expected = by_the_study(program, pool, had[index])
        for name, value in expected.items():
            assert torch.allclose(stack[name][index], value, atol=close), name


def test_what_is_frozen_stays_at_the_studys_initial_weights():
    program = make_program(**CERTAIN, trainable="Head")
    stack = program.train(make_pool((4,)), torch.ones((2, RECORDS), dtype=torch.bool), seed=3)
    assert torch.equal(stack["1.weight"][1], program.weights["1.weight"])
    assert not torch.equal(stack["3.weight"][1], program.weights["3.weight"])


APART = {
    "augmentation": {"augmentation": {"multiplicity": 3, "shift": 1, "flip": "Horizontal"}},
    "biasAware": {"biasAware": "0.05"},
    "precision": {"precision": "BFloat16"},
    "individualFilter": {
        "individualFilter": {"epochs": 6, "boundSteps": 3, "orders": [2, 4, 8]},
        "steps": 6,
    },
    "a later field": {"somethingNew": "1"},
}


@pytest.mark.parametrize("name", APART)
def test_a_recipe_that_cannot_be_stacked_is_trained_by_the_studys_own_code(name):
    architecture = SMALL if name == "augmentation" else TABLE
    program = make_program(architecture, **APART[name])
    pool = make_pool(architecture.input_shape)
    had = complementary_halves(2, RECORDS, generator=torch.Generator().manual_seed(2))
    assert program.apart(pool)
    stack = program.train(pool, had, seed=3)
    again = program.train(pool, had, seed=3)
    other = program.train(pool, had, seed=4)
    for weights, start in program.weights.items():
        assert stack[weights].shape == (2, *start.shape)
        assert torch.equal(stack[weights], again[weights])
    assert any(not torch.equal(stack[weights], other[weights]) for weights in stack)
    assert program.answers(stack, pool.inputs).shape == (2, RECORDS, 3)


def test_an_algorithm_of_a_plug_in_trains_the_shadows_too(monkeypatch):
    """A plug-in that leaves the model where it was leaves its shadows there as well."""
    program = make_program(algorithm="Idle")

    class Idle:
        def fit(self, task):
            from primum_pipelines.optimization.algorithm import TrainingReport

            return TrainingReport(((1.0, 0.5, 4),), 1.0, "Poisson", "none")

    found = fitting.extensions.load
    monkeypatch.setattr(
        fitting.extensions,
        "load",
        lambda group, name: Idle if name == "Idle" else found(group, name),
    )
    pool = make_pool((4,))
    stack = program.train(pool, torch.ones((2, RECORDS), dtype=torch.bool), seed=3)
    assert all(torch.equal(stack[n][1], value) for n, value in program.weights.items())


def test_all_rows_of_a_unit_are_learned_from_and_those_of_others_are_not():
    """With everybody in every step a shadow follows from its units' rows alone."""
    parameters = {**CERTAIN, "noiseMultiplier": "0.000000001"}
    program, pool = make_program(**parameters), make_pool((4,), rows_each=3)
    had = complementary_halves(2, RECORDS, generator=torch.Generator().manual_seed(2))
    assert "several rows" in program.apart(pool)
    stack = program.train(pool, had, seed=3)
    rows = pool.contributions

    def changed(which):
        inputs = rows.inputs.clone()
        inputs[which] += 1.0
        other = replace(pool, contributions=replace(rows, inputs=inputs))
        return program.train(other, had, seed=3)

    mine = had[0][rows.owners]
    further = torch.arange(len(mine)) % 3 == 2
    assert not torch.allclose(changed(mine & further)["1.weight"][0], stack["1.weight"][0])
    assert torch.allclose(changed(~mine)["1.weight"][0], stack["1.weight"][0], atol=1e-6)


def test_a_shadow_that_diverged_is_refused():
    program = make_program(SMALL, **{**CERTAIN, "learningRate": "3E+38", "steps": 9})
    with pytest.raises(InvalidValue, match="must stay finite"):
        program.train(make_pool(PICTURE), torch.ones((2, RECORDS), dtype=torch.bool), seed=3)


class Helpers:
    """Workers that do parts in another order, and are as many as asked for."""

    def __init__(self, count):
        self.count, self.asked = count, []

    def workers(self):
        return self.count

    def map(self, entry, shared, items):
        self.asked += items
        answers = {item: Alone().map(entry, shared, [item])[0] for item in reversed(items)}
        return [answers[item] for item in items]


@pytest.mark.parametrize("rows_each", [1, 2])
def test_it_does_not_matter_who_trains_a_group(monkeypatch, rows_each):
    monkeypatch.setattr(shadow_groups, "_HELP_SECONDS_MIN", 0.0)
    program, pool = make_program(SMALL), make_pool(PICTURE, rows_each=rows_each)
    had = complementary_halves(24, RECORDS, generator=torch.Generator().manual_seed(2))
    alone = Groups(program, pool, had, seed=7).train(24, fan_out=Alone())
    helpers = Helpers(3)
    helped = Groups(program, pool, had, seed=7).train(24, fan_out=helpers)
    assert len(helpers.asked) == 2  # The first group was trained here, to see what one costs.
    assert alone.keys() == helped.keys()
    for name, value in alone.items():
        assert torch.equal(value, helped[name])


def test_shadows_that_are_added_later_are_those_that_would_have_been_trained_at_once():
    program, pool = make_program(SMALL), make_pool(PICTURE)
    had = complementary_halves(16, RECORDS, generator=torch.Generator().manual_seed(2))
    at_once = Groups(program, pool, had, seed=7).train(16, fan_out=Alone())
    later = Groups(program, pool, had, seed=7)
    assert len(next(iter(later.train(3, fan_out=Alone()).values()))) == 8  # Whole groups.
    first = copy.copy(later.stack)
    grown = later.train(16, fan_out=Alone())
    for name, value in at_once.items():
        assert torch.equal(value, grown[name])
        assert torch.equal(value[:8], first[name])


def test_a_helper_that_cannot_train_is_no_pass(monkeypatch):
    monkeypatch.setattr(shadow_groups, "_HELP_SECONDS_MIN", -1.0)
    program = make_program(SMALL, **{**CERTAIN, "learningRate": "3E+38", "steps": 9})
    had = torch.ones((16, RECORDS), dtype=torch.bool)
    with pytest.raises(InvalidValue, match="shadow models must be trainable"):
        Groups(program, make_pool(PICTURE), had, seed=7).train(16, fan_out=Helpers(2))
