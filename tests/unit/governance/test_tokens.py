"""Is a grant read only in the exact form in which it is written?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, Tampered
from primum.domain.study.tokens import AccessGrant, from_canonical, grant_from_json

GRANT = AccessGrant(
    id="token-1",
    access="train@wisconsin",
    budget="wisconsin",
    account_id="account-1",
    uri="sklearn://breast_cancer",
    unit="Patient",
    study_uid="study-1",
    generation=1,
    reservation_id="reservation-1",
    fence=3,
    expires="2026-11-22T06:00:00.000000Z",
    options={"label": "diagnosis"},
)


def read(payload):
    return from_canonical(payload, grant_from_json, name="grant")


def test_round_trip():
    assert read(GRANT.payload) == GRANT


@pytest.mark.parametrize("name", sorted(GRANT.to_json()))
def test_every_field_is_needed(name):
    value = GRANT.to_json()
    del value[name]
    with pytest.raises(Tampered, match=name):
        grant_from_json(value)


DIVIDED = replace(
    GRANT, layout={"by": "Cohort", "column": "ward", "values": ["icu"]}, blocks=("icu",)
)


def test_blocks_are_part_of_what_is_signed():
    assert read(DIVIDED.payload) == DIVIDED
    assert b'"blocks":["icu"]' in DIVIDED.payload


@pytest.mark.parametrize(
    ("name", "value"),
    [("blocks", []), ("layout", {}), ("blocks", "icu"), ("blocks", [1]), ("layout", [])],
)
def test_a_divided_dataset_always_comes_with_its_blocks(name, value):
    with pytest.raises(Tampered, match=r"grant\.(blocks|layout) must"):
        grant_from_json({**DIVIDED.to_json(), name: value})


def test_a_grant_without_its_blocks_cannot_be_made():
    for change in ({"blocks": ()}, {"layout": {}}):
        with pytest.raises(InvalidValue, match="exactly with a layout"):
            replace(DIVIDED, **change)


@pytest.mark.parametrize(
    ("name", "value"),
    [("fence", "3"), ("fence", True), ("fence", -1), ("uri", 1), ("options", []), ("extra", 1)],
)
def test_types_are_strict(name, value):
    with pytest.raises(Tampered, match=name):
        grant_from_json({**GRANT.to_json(), name: value})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"null",
        GRANT.payload + b" ",
        GRANT.payload.replace(b'"fence":3', b'"fence":3.0'),
    ],
)
def test_other_spellings_are_tampered(payload):
    with pytest.raises(Tampered):
        read(payload)


def test_floats_in_options_are_tampered():
    text = canonical_json(GRANT.to_json()).replace(b'"diagnosis"', b"1.5")
    with pytest.raises(Tampered):
        read(text)
