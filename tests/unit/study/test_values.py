"""The small values that everything is made of.

Canonical JSON, names, quantities, schedules, conditions, messages.
"""

from __future__ import annotations

import datetime
from collections import UserDict
from decimal import Decimal

import pytest

from primum.domain.canonical import canonical_json, decimal_text, digest_of, digest_of_bytes
from primum.domain.conditions import Condition, ConditionType, Reason, Status, merged
from primum.domain.errors import InvalidValue, Unavailable
from primum.domain.governance.headlines import public_headline, restricted_headline, spoken
from primum.domain.names import (
    ResourceKey,
    check_name,
    derived_uuid,
    outcome_id,
    reservation_id,
    run_id,
)
from primum.domain.quantities import parse_decimal, parse_delta, parse_epsilon, round_down, round_up
from primum.domain.schedule import parse_schedule


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.1 + 0.2, "0.3"),
        (1e-5, "0.00001"),
        (1e-9, "1E-9"),
        (1e21, "1000000000000000000000"),
        (Decimal("2.50"), "2.5"),
        (Decimal("1e3"), "1000"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
        (Decimal("Infinity"), "inf"),
    ],
)
def test_a_number_has_one_text(value, text):
    assert decimal_text(value) == text


def test_a_boolean_is_no_number():
    with pytest.raises(InvalidValue, match="must not be a boolean"):
        decimal_text(True)


def test_a_value_has_one_byte_string():
    assert (
        canonical_json({"b": [1, None], "a": "ä", "c": True})
        == '{"a":"ä","b":[1,null],"c":true}'.encode()
    )
    assert canonical_json(UserDict({"a": (1, 2)})) == b'{"a":[1,2]}'
    assert digest_of({"a": 1}) == digest_of_bytes(b'{"a":1}')
    assert digest_of({"a": 1}).startswith("sha256:")


@pytest.mark.parametrize(
    ("value", "path"),
    [(1.0, "value "), ({"a": [0, {"b": 0.5}]}, r"value\.a\[1\]\.b"), ((0.5,), r"value\[0\]")],
)
def test_a_float_has_no_canonical_form(value, path):
    with pytest.raises(InvalidValue, match=f"^{path}.*must not be a float"):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1}, b"bytes", object()])
def test_what_is_not_json_is_refused(value):
    with pytest.raises(InvalidValue, match="must be JSON"):
        canonical_json([value])


@pytest.mark.parametrize("name", ["a", "a-1", "0", "a" * 63])
def test_a_name_is_a_dns_label(name):
    assert check_name("metadata.name", name) == name


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a.b", "a\n"])
def test_other_names_are_refused(name):
    with pytest.raises(InvalidValue, match=r"metadata\.name must be a DNS label"):
        check_name("metadata.name", name)


def test_ids_are_derived_from_what_they_are_about():
    ids = [
        reservation_id("u", 1, "a"),
        reservation_id("u", 2, "a"),
        outcome_id("u", 1, "a"),
        run_id("u", 1),
    ]
    assert len(set(ids)) == 4
    assert run_id("u", 1) == run_id("u", 1)
    assert derived_uuid("a", "b") != derived_uuid("ab")
    assert str(ResourceKey("Study", "ward", "one")) == "Study ward/one"


@pytest.mark.parametrize(
    ("text", "number"), [("3.0", "3.0"), (" 1e-5 ", "0.00001"), (Decimal(2), "2")]
)
def test_a_decimal_is_quoted(text, number):
    assert parse_decimal("spec.x", text) == Decimal(number)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3.0, 'Write epsilon: "3.0"'),
        (3, 'Write epsilon: "3"'),
        ("three", "must be a quoted decimal such as"),
        ("inf", "must be finite"),
        ("nan", "must be finite"),
        ("0", "must be above 0"),
        ("-1", "must be above 0"),
        ("1000001", "at most 1000000"),
    ],
)
def test_other_epsilons_are_refused(value, said):
    with pytest.raises(InvalidValue, match=said):
        parse_epsilon("spec.epsilon", value)


@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5"])
def test_other_deltas_are_refused(value):
    with pytest.raises(InvalidValue, match="must be above 0 and below 1"):
        parse_delta("spec.delta", value)


def test_good_quantities():
    assert parse_epsilon("e", "1000000") == 1_000_000
    assert parse_delta("d", "1e-5") == Decimal("0.00001")


def test_a_spend_rounds_up_and_a_cap_rounds_down():
    assert (round_up(Decimal("1.00001"), 4), round_down(Decimal("1.99999"), 4)) == (
        Decimal("1.0001"),
        Decimal("1.9999"),
    )
    assert (round_up(Decimal("-1.00001"), 4), round_down(Decimal(2), 4)) == (
        Decimal("-1.0000"),
        Decimal("2.0000"),
    )


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        ("* * * * *", "2026-03-04T05:06:59", "2026-03-04T05:06"),
        ("0 3 * * 0", "2026-03-04T05:06", "2026-03-01T03:00"),  # Wednesday; the Sunday before
        ("0 3 * * 7", "2026-03-04T05:06", "2026-03-01T03:00"),  # 7 is Sunday too
        ("30 23 31 12 *", "2026-03-04T05:06", "2025-12-31T23:30"),
        ("*/20 8-10 * * 1-5", "2026-03-04T07:00", "2026-03-03T10:40"),
        ("50/5 * * * *", "2026-03-04T05:52", "2026-03-04T05:50"),
        ("0 0 13 * 5", "2026-03-14T00:00", "2026-03-13T00:00"),  # either day field
        ("0 0 1,15 * *", "2026-03-14T00:00", "2026-03-01T00:00"),
        ("0 0 29 2 *", "2026-03-04T00:00", "2024-02-29T00:00"),
        ("0 0 31 2 *", "2026-03-04T00:00", None),
        ("59 23 * * *", "2026-03-04T00:00", "2026-03-03T23:59"),
    ],
)
def test_when_a_schedule_was_last_due(schedule, now, due):
    found = parse_schedule("spec.auditSchedule", schedule).last_due(at(now))
    assert found == (at(due) if due else None)


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "@daily", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "5-2 * * * *"],
)
def test_other_schedules_are_refused(text):
    with pytest.raises(InvalidValue, match=r"spec\.auditSchedule must have"):
        parse_schedule("spec.auditSchedule", text)


def condition(kind, status, **changes):
    return Condition(ConditionType(kind), Status(status), Reason.PENDING, **changes)


def test_a_transition_time_moves_only_with_the_status():
    before = (
        condition("Succeeded", "Unknown", last_transition_time="t1"),
        condition("Planned", "True"),
    )
    after = (condition("Succeeded", "Unknown", message="x" * 2000), condition("Ready", "True"))
    found = merged(before, after, now="t2")
    assert [item.type for item in found] == ["Planned", "Succeeded", "Ready"]
    assert [item.last_transition_time for item in found] == ["", "t1", "t2"]
    assert len(found[1].message) == 1024
    moved = merged(found, (condition("Succeeded", "True"), condition("Planned", "True")), now="t3")
    assert [item.last_transition_time for item in moved] == ["t3", "t3", "t2"]


def test_a_message_names_what_must_hold_and_what_was_found():
    assert (
        str(InvalidValue("spec.x", "must be one", 2, "Write 1."))
        == "spec.x must be one; found 2. Write 1."
    )
    assert str(InvalidValue("spec.x", "must be short", "y" * 500)).endswith("y....")
    assert len(str(InvalidValue("spec.x", "must be short", "y" * 500))) < 160
    assert Unavailable("no answer", retry_seconds=1.0).retry_seconds == 1.0


def test_names_are_spoken():
    assert [spoken(name) for name in ("OneRunCanary", "LiRA", "DPSGD")] == [
        "one run canary",
        "LiRA",
        "DPSGD",
    ]


INTERVAL = {"estimate": "0.951", "lower": "0.9", "upper": "0.98"}


def test_a_public_headline_is_told_from_public_figures_alone(make):
    said = make.evidence(
        "Utility", "HeldOut", None, public={"accuracy": INTERVAL}, restricted={"accuracy": "1"}
    )
    assert public_headline(said) == "accuracy 0.95 (0.90-0.98)"
    assert (
        public_headline(
            make.evidence("Utility", "HeldOut", None, restricted={"accuracy": INTERVAL})
        )
        == ""
    )
    assert public_headline(make.evidence("Membership", "LiRA", public={"accuracy": INTERVAL})) == ""


def test_a_restricted_headline_compares_bound_claim_and_what_could_be_certified(make):
    def membership(lower, certifiable):
        return make.evidence(
            "Membership",
            "OneRunCanary",
            restricted={"lowerBound": lower},
            public={"maxCertifiable": certifiable},
        )

    ordered = restricted_headline([membership("1.1", "3.5")], claim="2.998")
    assert ordered == "lower bound 1.10 <= claim 3.00 <= certifiable 3.50"
    assert (
        restricted_headline([membership("4", "3.5")], claim="3")
        == "lower bound 4.00, claim 3.00, certifiable 3.50"
    )
    assert "certifiable unknown" in restricted_headline([membership("1", "unknown")], claim="3")
    inverted = make.evidence(
        "Reconstruction",
        "GradientInversion",
        restricted={"ncc": "0.1"},
        public={"bounds": {"expectedNcc": "0.2"}},
    )
    bare = make.evidence("Reconstruction", "GradientInversion", restricted={"ncc": "0.1"})
    assert restricted_headline([inverted], claim="3").endswith(
        "from-scratch bound 0.20 in expectation"
    )
    assert (
        restricted_headline([bare, make.evidence("SelfTest", "DPSGD")], claim="3")
        == "reconstruction NCC 0.10"
    )
