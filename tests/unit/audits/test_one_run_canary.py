"""Is the one-run audit decided by what was fixed beforehand, and by nothing else?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from primum.domain.errors import InvalidValue, Tampered
from primum.domain.risk.audits import max_certifiable_one_run
from primum_pipelines.audits.one_run_canary import Canaries, measure, midpoint, read_canaries
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


def test_the_threshold_is_half_the_planned_shift_whatever_the_clip() -> None:
    assert midpoint(MECHANISM) == 10
    assert midpoint(replace(MECHANISM, max_grad_norm=7.0)) == 10


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
    most = max_certifiable_one_run(guesses=100, canaries=100, delta=1e-5, p_value=0.05)
    assert figures.correct == 100
    assert figures.epsilon_lower == pytest.approx(most)
    assert figures.epsilon_lower > 3.0


def test_scores_that_say_nothing_bound_nothing() -> None:
    figures = measure(
        Canaries((1, 0) * 50, (0.0,) * 100), mechanism=MECHANISM, claim=3.0, delta=1e-5
    )
    assert figures.correct == 50
    assert figures.epsilon_lower == 0
