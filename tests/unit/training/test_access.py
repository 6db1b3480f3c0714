"""Does the loader open data for the right token, and for nothing else?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from primum import signing
from primum.domain.errors import Refused
from primum_pipelines.datasets.access import open_private


@pytest.fixture
def opened(monkeypatch):
    """Notes every attempt to open a dataset, so that a refusal is seen to come first."""
    seen = []
    from primum_pipelines.datasets import access

    real = access.driver_for
    monkeypatch.setattr(access, "driver_for", lambda uri: (seen.append(uri), real(uri))[1])
    return seen


def test_a_valid_token_opens_its_dataset(zone):
    table = open_private(zone.request("job"), "train@wisconsin")
    assert table.features.shape == (569, 30)
    assert "UnitTable(569 rows" in repr(table)


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"access": "evaluate@wisconsin"}, "access must be train@wisconsin"),
        ({"budget": "other"}, "budget must be wisconsin"),
        ({"uri": "sklearn://digits"}, "uri must be sklearn://breast_cancer"),
        ({"unit": "Image"}, "unit must be Patient"),
        ({"studyUid": "study-2"}, "studyUid must be study-1"),
        ({"generation": 2}, "generation must be 1"),
        ({"expires": "2020-01-01T00:00:00Z"}, "must not have expired"),
        ({"expires": "2999-01-01T00:00:00"}, "must not have expired"),
        ({"expires": "tomorrow"}, "RFC 3339"),
    ],
)
def test_a_token_of_another_scope_opens_nothing(make_zone, opened, claims, named):
    zone = make_zone(claims=claims)
    with pytest.raises(Refused, match=named):
        open_private(zone.request("job"), "train@wisconsin")
    assert opened == []


def test_a_token_of_another_signer_opens_nothing(zone, opened):
    request = zone.request("job")
    _, other = signing.generate()
    with pytest.raises(Refused, match="signed by the platform"):
        open_private(replace(request, public_key=other), "train@wisconsin")
    assert opened == []


@pytest.mark.parametrize("text", ["", "not base64!", "e30", "W10", "AAAA" * 40_000])
def test_rubbish_opens_nothing(zone, opened, text):
    request = zone.request("job")
    with pytest.raises(Refused):
        open_private(replace(request, tokens={"train@wisconsin": text}), "train@wisconsin")
    assert opened == []


def test_a_ticket_is_no_token(zone, opened, monkeypatch):
    """Tickets look alike; only the payload type tells them apart."""
    monkeypatch.setattr(zone, "token", _as_ticket(zone.token))
    with pytest.raises(Refused, match="signed by the platform"):
        open_private(zone.request("job"), "train@wisconsin")
    assert opened == []


def _as_ticket(real):
    def token(access):
        before, signing.DATA_TOKEN_TYPE = signing.DATA_TOKEN_TYPE, signing.TICKET_TYPE
        try:
            return real(access)
        finally:
            signing.DATA_TOKEN_TYPE = before

    return token


def test_an_undeclared_access_opens_nothing(zone, opened):
    request = zone.request("job")
    tokens = {"tune@wisconsin": request.tokens["train@wisconsin"]}
    with pytest.raises(Refused, match="declared in the plan"):
        open_private(replace(request, tokens=tokens), "tune@wisconsin")
    assert opened == []
