"""A contradicted or revoked release is refused by the inference server itself, within seconds."""

from __future__ import annotations

import time
from unittest import mock

import pytest
from simulated.jobs import ATTACK
from ward import Ward

from primum.application import releases
from primum.application.platform import generation_key
from primum.application.released import CERTIFICATE
from primum.domain.canonical import digest_of
from primum.entrypoints import loop

URL = "/v2/models/malignancy/infer"
ROW = {"inputs": [{"name": "features", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
SECONDS_MAX = 20.0  # A second on a quiet machine.


@pytest.fixture
def served(house, client):
    """A ward whose Study one is served by the real publisher and the real inference server."""
    ward = Ward()
    ward.finish(ward.study(endpoint=""))
    study = ward.get("Study", "one")
    envelope = house.certificate()
    fact = {"uri": "file:///c", "digest": digest_of(envelope), "envelope": dict(envelope)}
    ward.evidence.put_fact(CERTIFICATE, generation_key(study.uid, 1), fact)
    spec = {
        **house.spec,
        "certificate": {"uri": "file:///c/malignancy-1.json", "digest": digest_of(envelope)},
        "claim": {
            "standing": "Valid",
            "epsilon": "2",
            "delta": "1e-5",
            "unit": "Patient",
            "neighbors": "AddOrRemoveOne",
            "voidEdges": [],
        },
        "study": {"name": "one", "uid": study.uid, "generation": 1},
    }
    ward.resources.apply(ward.key("Release", "malignancy"), spec, labels={})
    ward.platform = ward.with_port(publisher=house.publisher)
    control = loop.ControlLoop(ward.platform, flush_lineage=lambda: 0)
    control.look()
    with client:
        client.app.state.registry.refresh()
        assert client.post(URL, json=ROW).status_code == 200
        yield ward, control, client


def test_a_contradicted_claim_is_no_longer_served_within_seconds(served):
    ward, control, client = served
    ward.moods["audit"] = "fools itself"
    audit = {"kind": "Membership", "attack": ATTACK}
    key = ward.key("AuditRun", "again")
    ward.resources.apply(key, {"release": "malignancy", "audit": audit}, labels={})
    control.look()
    with mock.patch.object(loop, "log") as log:
        ward.runner.progress()  # The verdict is on record from here on.
        began = time.monotonic()
        control.look()
        answer = client.post(URL, json=ROW)
        took = time.monotonic() - began
        control.look()
    assert answer.status_code in (403, 404)
    assert took < SECONDS_MAX
    assert ward.ledger.account(ward.account()).frozen
    assert ward.shown(key, "Succeeded").startswith("False ClaimExceeded")
    alarms = [call.kwargs["reason"] for call in log.error.call_args_list]
    assert "ClaimExceeded" in alarms
    control.look()
    release = ward.key("Release", "malignancy")
    assert ward.shown(release, "Ready").startswith("False Revoked: contradicted by")


def test_a_release_revoked_by_hand_is_refused_with_the_next_request(served):
    ward, control, client = served
    release = ward.key("Release", "malignancy")
    releases.revoke(ward.platform, release, "a complaint")
    assert client.post(URL, json=ROW).status_code in (403, 404)
    with mock.patch.object(loop, "log") as log:
        control.look()
    assert [call.kwargs["reason"] for call in log.error.call_args_list] == ["Revoked"]
    assert ward.shown(release, "Ready") == "False Revoked: a complaint"
