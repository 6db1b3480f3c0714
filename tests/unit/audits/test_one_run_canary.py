"""Is the one-run audit decided by what was fixed beforehand, and by nothing else?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from primum.domain.errors import InvalidValue, Tampered
from primum.domain.risk.audits import max_certifiable_one_run
from primum_pipelines.audits.one_run_canary import (
    Canaries,
    measure,
    planned_guesses,
    read_canaries,
)
from primum_pipelines.audits.subject import PlannedMechanism

pytest.importorskip("torch")

MECHANISM = PlannedMechanism("b", 3.7762, 0.25, 80, 2.0)


def artifact(coins: list[int], scores: list[str]) -> dict:
    from primum_pipelines.optimization.canaries import SealedCoins

    sealed = SealedCoins(tuple(coin == 1 for coin in coins), "ab" * 16)
    return {
        "format": 1,
        "coins": coins,
        "scores": scores,
        "salt": sealed.salt,
        "commitment": sealed.commitment,
    }


def test_sealed_coins_are_read_with_their_scores() -> None:
    assert read_canaries(artifact([1, 0], ["12.5", "-3"])) == Canaries((1, 0), (12.5, -3.0))


def test_coins_changed_after_the_training_are_tampering() -> None:
    value = artifact([1, 0, 1], ["1", "2", "3"]) | {"coins": [0, 0, 1]}
    with pytest.raises(Tampered):
        read_canaries(value)


@pytest.mark.parametrize(
    "change",
    [{"scores": ["1"]}, {"coins": [], "scores": []}, {"coins": "10"}, {"coins": [2, 0]}],
)
def test_damaged_canaries_are_refused(change: dict) -> None:
    with pytest.raises(InvalidValue):
        read_canaries(artifact([1, 0], ["1", "2"]) | change)


def test_perfect_guesses_give_the_most_that_can_be_certified() -> None:
    coins = (1, 0) * 50
    figures = measure(
        Canaries(coins, tuple(20.0 * coin for coin in coins)),
        mechanism=MECHANISM,
        claim=3.0,
        delta=1e-5,
    )
    most = max_certifiable_one_run(guesses=figures.guesses, canaries=100, delta=1e-5, p_value=0.05)
    assert figures.correct == figures.guesses < 100
    assert figures.epsilon_lower == pytest.approx(most)
    assert figures.epsilon_lower > 3.0


def test_scores_that_say_nothing_bound_nothing() -> None:
    figures = measure(
        Canaries((1, 0) * 50, (0.0,) * 100), mechanism=MECHANISM, claim=3.0, delta=1e-5
    )
    assert abs(figures.correct - figures.guesses / 2) <= 1
    assert figures.epsilon_lower == 0


@pytest.mark.parametrize(("canaries", "claim"), [(100, 3.0), (1000, 5.0), (20, 1.5), (1000, 1.0)])
def test_a_claim_that_can_be_shown_still_can(canaries: int, claim: float) -> None:
    """Fewer guesses are surer and show less: never so few that the claim is out of reach."""
    count = planned_guesses(canaries, mechanism=MECHANISM, claim=claim, delta=1e-5).count
    most = max_certifiable_one_run(guesses=count, canaries=canaries, delta=1e-5, p_value=0.05)
    assert most >= claim


def test_where_a_claim_is_out_of_reach_the_surest_tenth_shows_most() -> None:
    """A claim of 8 with 1,000 canaries of one Gaussian release, psi = 1.666."""
    gaussian = PlannedMechanism("b", 1 / 1.666, 1.0, 1, 1.0)
    planned = planned_guesses(1000, mechanism=gaussian, claim=8.0, delta=1e-5)
    assert 70 <= planned.count <= 200
    assert abs(planned.present - planned.absent) <= 2, "one Gaussian is symmetric"


def test_without_noise_only_who_is_in_the_middle_is_not_guessed() -> None:
    """Scores tell all apart, but how many are in is the coins' choice: 250 of 500, give or take."""
    quiet = replace(MECHANISM, noise_multiplier=0.0)
    planned = planned_guesses(500, mechanism=quiet, claim=1.0, delta=1e-5)
    assert abs(planned.present - planned.absent) <= 1
    assert 350 <= planned.count < 500


def test_who_sat_out_all_batches_looks_absent() -> None:
    """Three steps at rate 1/2 and little noise: who was in is plain, who was not never is."""
    sparse = PlannedMechanism("b", 0.5, 0.5, 3, 1.0)
    planned = planned_guesses(1000, mechanism=sparse, claim=20.0, delta=1e-5)
    assert planned.present > 10 * max(1, planned.absent)


def test_the_auditor_abstains_from_the_middle() -> None:
    """High and low scores are right and the others wrong: the bound is that of the former alone."""
    coins = (1, 0) * 500
    scores = [
        (40.0 if coin else -20.0) if n < 200 else (9.9 if coin else 10.1)
        for n, coin in enumerate(coins)
    ]
    gaussian = PlannedMechanism("b", 2.0, 0.25, 80, 1.0)
    figures = measure(Canaries(coins, tuple(scores)), mechanism=gaussian, claim=20.0, delta=1e-5)
    assert figures.guesses <= 200
    assert figures.correct == figures.guesses


@pytest.mark.parametrize("turned", [lambda x: 3 * x + 100, lambda x: x**3])
def test_ranks_decide_whatever_the_scale(turned) -> None:
    """A mechanism that is not what was planned moves scores; it does not hide their order."""
    generator = np.random.default_rng(4)
    coins = generator.integers(0, 2, 300)
    scores = coins * 20 + generator.standard_normal(300) * 33
    found = [
        measure(
            Canaries(tuple(coins.tolist()), tuple(values.tolist())),
            mechanism=MECHANISM,
            claim=3.0,
            delta=1e-5,
        ).correct
        for values in (scores, turned(scores))
    ]
    assert found[0] == found[1]
