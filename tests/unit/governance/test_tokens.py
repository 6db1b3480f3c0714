"""Is a grant read only in the exact form in which it is written?"""

from __future__ import annotations

import pytest

from primum.domain.canonical import canonical_json
from primum.domain.errors import Tampered
from primum.domain.study.tokens import AccessGrant, grant_from_json, grant_from_payload

GRANT = AccessGrant(
    id="token-1",
    access="train@wisconsin",
    budget="wisconsin",
    uri="sklearn://breast_cancer",
    unit="Patient",
    study_uid="study-1",
    generation=1,
    reservation_id="reservation-1",
    fence=3,
    expires="2026-11-22T06:00:00.000000Z",
    options={"label": "diagnosis"},
)


def test_round_trip():
    assert grant_from_payload(GRANT.payload) == GRANT


@pytest.mark.parametrize("name", sorted(GRANT.to_json()))
def test_every_field_is_needed(name):
    value = GRANT.to_json()
    del value[name]
    with pytest.raises(Tampered, match=name):
        grant_from_json(value)


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
        grant_from_payload(payload)


def test_floats_in_options_are_tampered():
    text = canonical_json(GRANT.to_json()).replace(b'"diagnosis"', b"1.5")
    with pytest.raises(Tampered):
        grant_from_payload(text)
