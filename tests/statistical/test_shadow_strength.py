"""Do attacks find as much with stacked shadows as with those that the Study's own code trains?"""

from __future__ import annotations

import numpy as np
import pytest
from shadow_recipes import recipe

torch = pytest.importorskip("torch")

from primum_pipelines.attacks import scorings, signals  # noqa: E402
from primum_pipelines.attacks.figures import auc  # noqa: E402
from primum_pipelines.attacks.pool import Pool  # noqa: E402
from primum_pipelines.attacks.shadow_program import Architecture, Program  # noqa: E402
from primum_pipelines.attacks.shadows import complementary_halves  # noqa: E402

RECORDS, COLUMNS, SHADOWS, TARGETS = 240, 100, 32, 4
RECIPE = recipe(noiseMultiplier="0.01", steps=30, learningRate="2.0", trainUnits=RECORDS)


def memorizable():
    """Random labels: a model can only learn them by heart."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn((RECORDS, COLUMNS), generator=generator)
    labels = torch.randint(0, 2, (RECORDS,), generator=generator)
    return Pool(inputs, labels, torch.ones(RECORDS, dtype=torch.bool), 0)


def areas(program, pool, targets, truth):
    """AUC of attacks with shadows of this program, by attack, on each of some targets."""
    had = complementary_halves(SHADOWS, RECORDS, generator=torch.Generator().manual_seed(6))
    stack = program.train(pool, had, seed=7)
    shadows = program.answers(stack, pool.inputs).double().numpy()[:, None]
    found = {scoring: [] for scoring in (scorings.lira_online, scorings.reference)}
    for target, members in zip(targets, truth, strict=True):
        asked = signals.Asked(
            target=target[None],
            shadows=shadows,
            had=had.numpy(),
            labels=pool.labels.numpy(),
            population=np.zeros(RECORDS, dtype=bool),
        )
        for scoring, values in found.items():
            scores = scoring(asked)
            values.append(auc(scores[members], scores[~members]))
    return {scoring: float(np.mean(values)) for scoring, values in found.items()}


@pytest.mark.timeout(600)
def test_stacked_shadows_attack_as_well_as_those_of_the_studys_own_code():
    """Fixed seeds. AUC over four targets, 120 members against 120 others each.

    The standard error of one AUC near 0.8 is 0.028 (Hanley & McNeil 1982). Both ways attack the
    same targets and records, so the difference of the means varies less than sqrt(2) x 0.028 / 2;
    three times that is 0.06.
    """
    pool, architecture = memorizable(), Architecture("Logistic", {}, (COLUMNS,), 2)
    weights = architecture.build().state_dict()
    stacked = Program(RECIPE, architecture, weights)
    alone = Program({**RECIPE, "laterField": "1"}, architecture, weights)
    assert stacked.apart(pool) == ""
    assert alone.apart(pool)
    truth = complementary_halves(TARGETS, RECORDS, generator=torch.Generator().manual_seed(5))
    targets = alone.answers(alone.train(pool, truth, seed=8), pool.inputs).double().numpy()
    first = areas(stacked, pool, targets, truth.numpy())
    second = areas(alone, pool, targets, truth.numpy())
    for scoring, area in first.items():
        assert min(area, second[scoring]) > 0.65, scoring
        assert abs(area - second[scoring]) < 0.06, scoring
