"""Which figures become which verdict? Inconclusive is not a pass."""

from __future__ import annotations

import pytest

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.audit import (
    LowTail,
    identification_verdict,
    membership_verdict,
    worst,
)
from primum_pipelines.audits.low_tail import smallest_fpr, tpr_bounds
from primum_pipelines.audits.subject import PlannedMechanism

P, F, U = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
INSIDE, ABOVE = LowTail(0.02, 0.2), LowTail(0.3, 0.2)
MECHANISM = PlannedMechanism("b", 3.7762, 0.281319, 72, 1.0)

MEMBERSHIP = [
    # lower, claim, certifiable, tail, verdict
    (1.1, 3.0, 3.5, INSIDE, P),
    (3.0, 3.0, 3.5, INSIDE, P),
    (3.1, 3.0, 3.5, INSIDE, F),
    (1.1, 3.0, 3.5, ABOVE, F),
    (1.1, 3.0, 2.9, INSIDE, U),
    (1.1, 3.0, 2.9, ABOVE, F),
    (1.1, 3.0, 3.5, None, U),
    (None, 3.0, None, INSIDE, U),
    (None, 3.0, None, ABOVE, F),
]


@pytest.mark.parametrize(("lower", "claim", "most", "tail", "verdict"), MEMBERSHIP)
def test_membership_verdict(lower, claim, most, tail, verdict) -> None:
    found, reasons = membership_verdict(
        epsilon_lower=lower, claim=claim, max_certifiable=most, low_tail=tail
    )
    assert found is verdict
    assert bool(reasons) is (verdict is not P)


@pytest.mark.parametrize(
    ("lower", "most", "bound", "trials", "verdict"),
    [
        (0.01, 0.9, 0.05, 64, P),
        (0.06, 0.9, 0.05, 64, F),
        (0.0, 0.9, 0.05, 4, U),
        (0.06, 0.9, 0.05, 4, F),
        (0.0, 0.9, 0.95, 64, U),
        (0.0, 0.9, 1.0, 64, U),
        (0.0, 0.0, 0.05, 64, U),
    ],
)
def test_identification_verdict(lower, most, bound, trials, verdict) -> None:
    found, _ = identification_verdict(
        success_lower=lower, most=most, bound=bound, trials=trials, trials_min=16
    )
    assert found is verdict


@pytest.mark.parametrize(
    ("verdicts", "expected"), [((P, P), P), ((P, U), U), ((U, F), F), ((), U), ((P,), P)]
)
def test_the_worst_verdict_counts(verdicts, expected) -> None:
    assert worst(verdicts) is expected


def test_low_tail_needs_both_sides() -> None:
    assert smallest_fpr(present=[], absent=[0.0], mechanism=MECHANISM) is None
    assert smallest_fpr(present=[0.0], absent=[], mechanism=MECHANISM) is None


def test_low_tail_of_a_perfect_attack_is_above_the_curve_and_of_a_blind_one_below() -> None:
    perfect = smallest_fpr(present=[9.0] * 50, absent=[0.0] * 50, mechanism=MECHANISM)
    blind = smallest_fpr(present=[0.0] * 50, absent=[9.0] * 50, mechanism=MECHANISM)
    assert perfect is not None
    assert perfect.tpr_lower > perfect.bound
    assert blind is not None
    assert blind.tpr_lower == 0


def test_tpr_bounds_lie_between_the_diagonal_and_one_and_rise() -> None:
    bounds = tpr_bounds(MECHANISM, fprs=[0.001, 0.01, 0.1, 0.5])
    assert bounds == sorted(bounds)
    assert all(
        fpr <= bound <= 1 for fpr, bound in zip([0.001, 0.01, 0.1, 0.5], bounds, strict=True)
    )
