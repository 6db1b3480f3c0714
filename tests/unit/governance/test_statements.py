"""Are the sentences' numbers right? Each is checked against an independent computation."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.domain.governance import statements
from primum.domain.quantities import Neighbors, PrivacyUnit


@given(st.floats(0.05, 10), st.floats(1e-12, 1e-3), st.integers(1, 6))
def test_group_guarantee_is_the_sum_of_its_steps(epsilon, delta, size):
    """delta_k = delta * sum of e^(j epsilon), j < k: one hybrid step per unit."""
    found_epsilon, found_delta = statements.group_guarantee(
        Decimal(repr(epsilon)), Decimal(repr(delta)), size=size
    )
    expected = delta * sum(math.exp(j * epsilon) for j in range(size))
    assert float(found_epsilon) == pytest.approx(size * epsilon)
    if expected < 1:
        assert expected * (1 - 1e-9) <= float(found_delta) <= expected * 1.02
    else:
        assert found_delta == 1


def test_pure_guarantees_stay_pure():
    assert statements.group_guarantee(Decimal("0.5"), Decimal(0), size=3) == (Decimal("1.5"), 0)


@pytest.mark.parametrize(("epsilon", "percent"), [("1", "73.2"), ("3", "95.3"), ("0.1", "52.5")])
def test_posterior_of_an_even_prior_rounds_up(epsilon, percent):
    text = statements.patient_statement(
        epsilon=Decimal(epsilon), delta=Decimal("1e-5"), unit=PrivacyUnit.PATIENT
    )
    assert f"at most {percent} percent" in text
    exact = 100 / (1 + math.exp(-float(epsilon)))
    assert exact <= float(percent) < exact + 0.1


def test_a_guarantee_names_epsilon_delta_unit_and_neighbors():
    text = statements.guarantee_statement(
        epsilon=Decimal("3.0"),
        delta=Decimal("0.00001"),
        unit=PrivacyUnit.PATIENT,
        neighbors=Neighbors.REPLACE_ONE,
    )
    for part in ("e^3.0", "0.00001", "unit Patient", "replaced"):
        assert part in text


def test_every_unit_has_its_sentence():
    assert set(statements.UNIT_SENTENCES) == set(PrivacyUnit)


def test_a_group_that_delta_gives_up_on_is_promised_nothing():
    text = statements.unit_statement(PrivacyUnit.IMAGE, Decimal(15), Decimal("1e-5"))
    assert "nothing, because delta reaches 1" in text


@pytest.mark.parametrize(
    ("epsilon", "label"),
    [
        ("0.5", "Strong"),
        ("1", "Strong"),
        ("1.01", "Reasonable"),
        ("10", "Reasonable"),
        ("11", "Weak"),
    ],
)
def test_labels(epsilon, label):
    assert statements.strength_label(Decimal(epsilon)) == label


def test_large_begins_above_twenty():
    assert statements.large_epsilon_statement(Decimal(20)) == ""
    assert "MEMBERSHIP" in statements.large_epsilon_statement(Decimal("20.1"))


def test_no_generator_is_said():
    assert "No mechanism reported" in statements.generator_statement([])


def test_secure_aggregation_is_named_under_security_only():
    lines = statements.four_lines(
        kind="Federate", guarantee="g", secure_aggregation="SecAgg+", ledger_seq=1, audits=1
    )
    assert [name for name, text in lines.items() if "SecAgg+" in text] == ["security"]
    assert "1 audit is cited" in lines["verifiability"]
    assert lines["privacy"] == "g"
