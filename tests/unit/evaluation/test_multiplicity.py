"""Does multiplicity count what it says, and does abstention remove it?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.errors import InvalidValue
from primum_pipelines.evaluation import multiplicity as module
from primum_pipelines.evaluation.multiplicity import ABSTAIN, abstaining, multiplicity


def members(*said):
    """Probabilities of members that say these classes."""
    return np.eye(2)[np.array(said)] * 0.8 + 0.1


def test_shares_of_a_hand_made_ensemble():
    """Four rows; the second member differs from the best on one, the third on another."""
    labels = np.array([0, 0, 1, 1])
    found = multiplicity(
        members([0, 0, 1, 1], [1, 0, 1, 1], [0, 1, 1, 1]), labels, agreement=1.0, margin=0.3
    )
    assert found.members == 3
    assert found.ambiguity.estimate == 0.5
    assert found.discrepancy.estimate == 0.25
    assert found.coverage.estimate == 0.5
    assert found.selective_accuracy.estimate == 1


def test_a_member_that_is_worse_is_not_an_equally_good_model():
    labels = np.array([0, 0, 1, 1])
    found = multiplicity(members([0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0]), labels, agreement=0.6)
    assert found.members == 2
    assert found.ambiguity.estimate == 0


def test_an_ensemble_abstains_where_too_few_agree():
    said = np.array([[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 1]])
    assert abstaining(said, agreement=1.0).tolist() == [0, ABSTAIN, ABSTAIN]
    assert abstaining(said, agreement=0.75).tolist() == [0, 1, 1]


def noisy(members_count=10, rows=2000, seed=1):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, rows)
    logits = 4 * generator.random((1, rows, 1)) * np.where(np.eye(2)[labels], 1.0, -1.0)[None]
    logits = logits + generator.normal(size=(members_count, rows, 2))
    weights = np.exp(logits)
    return weights / weights.sum(axis=2, keepdims=True), labels


def test_abstention_removes_what_is_arbitrary():
    found = multiplicity(*noisy(), agreement=0.9)
    assert found.ambiguity.estimate > 0.1
    assert found.ambiguity_left.estimate < 0.01
    assert found.selective_accuracy.estimate > 0.95
    assert 0.3 < found.coverage.estimate < 1


def test_without_abstention_halves_contradict_each_other():
    """An agreement of just over one half abstains hardly ever: more is left than with 0.9."""
    loose = multiplicity(*noisy(), agreement=0.51)
    strict = multiplicity(*noisy(), agreement=0.9)
    assert loose.ambiguity_left.estimate > 5 * strict.ambiguity_left.estimate
    assert loose.coverage.estimate > strict.coverage.estimate


@pytest.mark.parametrize("agreement", [0.5, 0.0, 1.1, float("nan")])
def test_half_of_the_votes_are_no_majority(agreement):
    with pytest.raises(InvalidValue, match=r"above 0\.5"):
        abstaining(np.array([[0, 1]]), agreement=agreement)


def test_one_model_has_no_multiplicity():
    with pytest.raises(InvalidValue, match="two members"):
        multiplicity(members([0, 1]), np.array([0, 1]), agreement=0.9)


def test_margin_is_the_published_one():
    assert module.MARGIN == 0.01
