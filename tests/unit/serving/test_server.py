"""Does the server speak the protocol, serve only what is certified, and echo nothing?"""

from __future__ import annotations

import json
import logging
import os
import threading
import time

import pytest

from primum import signing
from primum.domain.canonical import canonical_json
from primum_serving import protocol

URL = "/v2/models/malignancy"


def tensor(data, *, shape=None, **changes):
    rows = len(data)
    given = {"name": "features", "shape": shape or [rows, 2], "datatype": "FP32", "data": data}
    return {"inputs": [{**given, **changes}]}


@pytest.fixture
def served(house):
    house.publisher.publish(house.release, spec=house.spec, certificate=house.certificate())
    return house


def test_health_and_server(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["name"] == "primum"


def test_metadata_shows_form_and_claim(client, served):
    found = client.get(URL).json()
    assert found["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, 2]}]
    assert [item["name"] for item in found["outputs"]] == ["label", "probability"]
    assert found["parameters"]["claim"]["status"] == "Valid"
    assert client.get(f"{URL}/ready").json() == {"name": "malignancy", "ready": True}
    assert client.get(f"{URL}/versions/{found['versions'][0]}/ready").status_code == 200
    assert client.get(f"{URL}/versions/other/ready").status_code == 404


@pytest.mark.parametrize("data", [[[9.0, 5.0], [1, 5]], [9.0, 5.0, 1, 5]])
def test_nested_and_flat_rows_are_answered(client, served, data):
    found = client.post(f"{URL}/infer", json={"id": "7", **tensor(data, shape=[2, 2])}).json()
    assert found["id"] == "7"
    label, probability = found["outputs"]
    assert label == {
        "name": "label",
        "datatype": "BYTES",
        "shape": [2],
        "data": ["malignant", "benign"],
    }
    assert probability["shape"] == [2, 2]
    first = probability["data"][:2]
    assert sum(first) == pytest.approx(1, abs=1e-6)
    assert first[0] == pytest.approx(1 / (1 + 2.718281828 ** (-2 * 2 * 0.8)), abs=1e-4)


def test_outputs_can_be_chosen(client, served):
    request = {**tensor([[1, 2]]), "outputs": [{"name": "label"}]}
    found = client.post(f"{URL}/infer", json=request).json()
    assert [item["name"] for item in found["outputs"]] == ["label"]


SECRET = 3.14159265
BAD = {
    "no inputs": {},
    "two inputs": {"inputs": [tensor([[1, 2]])["inputs"][0]] * 2},
    "name": tensor([[SECRET, 2]], name="x"),
    "datatype": tensor([[SECRET, 2]], datatype="BYTES"),
    "shape": tensor([[SECRET, 2]], shape=[1, 3]),
    "rank": tensor([SECRET, 2], shape=[2]),
    "no rows": tensor([], shape=[0, 2]),
    "negative": tensor([[SECRET, 2]], shape=[-1, 2]),
    "boolean side": tensor([[SECRET, 2]], shape=[True, 2]),
    "too few": tensor([[SECRET]], shape=[1, 2]),
    "too many": tensor([[SECRET, 2, 3]], shape=[1, 2]),
    "text": tensor([[f"{SECRET}", 2]]),
    "boolean": tensor([[True, SECRET]]),
    "null": tensor([[None, SECRET]]),
    "object": tensor([[{"a": SECRET}, 2]]),
    "not a list": {"inputs": [{**tensor([[1, 2]])["inputs"][0], "data": SECRET}]},
    "beyond FP32": tensor([[1e300, SECRET]]),
    "huge": tensor([[10**400, SECRET]]),
    "outputs": {**tensor([[1, 2]]), "outputs": [{"name": f"{SECRET}"}]},
    "outputs form": {**tensor([[1, 2]]), "outputs": "label"},
    "list": [SECRET],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_without_an_echo(client, served, name, caplog):
    caplog.set_level(logging.DEBUG)
    answer = client.post(f"{URL}/infer", json=BAD[name])
    assert answer.status_code in (400, 413)
    assert set(answer.json()) == {"error"}
    assert "3.14" not in answer.text
    assert "3.14" not in caplog.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"inputs": [NaN]}', b'{"inputs": [Infinity]}']
)
def test_bad_bodies_are_refused(client, served, body):
    answer = client.post(f"{URL}/infer", content=body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}


def test_sizes_are_bounded(client, served, monkeypatch):
    rows = protocol.ROWS_MAX + 1
    assert client.post(f"{URL}/infer", json=tensor([[1, 2]] * rows)).status_code == 413
    monkeypatch.setattr(protocol, "BODY_BYTES_MAX", 10)
    assert client.post(f"{URL}/infer", json=tensor([[1, 2]])).status_code == 413


def test_unknown_paths_and_methods_are_errors_in_the_protocol_s_form(client):
    for answer in (client.get("/v1"), client.get(f"{URL}/infer"), client.get("/docs")):
        assert answer.status_code in (404, 405)
        assert set(answer.json()) == {"error"}


def test_an_unknown_model_is_not_found(client):
    answer = client.get("/v2/models/sepsis")
    assert (answer.status_code, answer.json()) == (404, {"error": "model sepsis is not served"})
    assert client.get("/v2/models/..%2F..%2Fetc").status_code == 404


def test_a_failing_model_tells_nothing(client, served, caplog):
    registry = client.app.state.registry
    model = registry.served("malignancy").model

    class Broken:
        spec = model.spec

        def answer(self, features):
            raise RuntimeError(f"cannot multiply {features.tolist()}")

    _, good = registry._known["malignancy"]
    object.__setattr__(good, "model", Broken())
    answer = client.post(f"{URL}/infer", json=tensor([[SECRET, 2]]))
    assert (answer.status_code, answer.json()) == (500, {"error": "the model could not answer"})
    assert "3.14" not in caplog.text
    assert "RuntimeError" in caplog.text


# What is not certified is not served, however it came into the folder.


def entry_of(house):
    return house.registry / "endpoints" / "malignancy.json"


def rewrite(house, **changes):
    entry = json.loads(entry_of(house).read_bytes())
    entry_of(house).write_bytes(canonical_json({**entry, **changes}))


def flip_a_weight(house):
    path = next((house.registry / "artifacts").iterdir())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def foreign_signature(house):
    private, _ = signing.generate()
    rewrite(house, certificate=house.certificate(private=private))


def other_endpoint(house):
    entry_of(house).rename(house.registry / "endpoints" / "sepsis.json")


def renamed_entry(house):
    other_endpoint(house)
    path = house.registry / "endpoints" / "sepsis.json"
    entry = json.loads(path.read_bytes())
    path.write_bytes(canonical_json({**entry, "endpoint": "sepsis"}))


def no_certificate(house):
    rewrite(house, certificate={})


def outside_file(house):
    rewrite(house, artifact="../model.safetensors")


def absolute_file(house):
    rewrite(house, artifact=str(house.source))


def half_written(house):
    entry_of(house).write_bytes(entry_of(house).read_bytes()[:100])


@pytest.mark.parametrize(
    "change",
    [
        flip_a_weight,
        foreign_signature,
        other_endpoint,
        renamed_entry,
        no_certificate,
        outside_file,
        absolute_file,
        half_written,
    ],
)
def test_it_is_refused(client, served, change):
    change(served)
    name = "sepsis" if change in (other_endpoint, renamed_entry) else "malignancy"
    for path in ("", "/ready"):
        answer = client.get(f"/v2/models/{name}{path}")
        assert answer.status_code == 403, answer.text
    answer = client.post(f"/v2/models/{name}/infer", json=tensor([[1, 2]]))
    assert answer.status_code == 403
    assert "is not served" in answer.json()["error"]


def test_a_void_certificate_is_refused(client, served, make):
    study = make.study(job_kind="Synthesize", endpoint="", dataset_release="void-images")
    plan = make.plan(void_edges=("an edge",))
    certificate = served.certificate(study=study, plan=plan)
    entry_of(served).rename(served.registry / "endpoints" / "void-images.json")
    path = served.registry / "endpoints" / "void-images.json"
    entry = json.loads(path.read_bytes())
    path.write_bytes(
        canonical_json({**entry, "endpoint": "void-images", "certificate": certificate})
    )
    answer = client.get("/v2/models/void-images")
    assert answer.status_code == 403
    assert "no valid claim" in answer.json()["error"]


def test_certified_bytes_that_are_no_model_are_refused(client, house):
    house.source.write_bytes(b"not safetensors")
    data = b"not safetensors"
    certificate = house.certificate(data=data)
    from primum.domain.canonical import digest_of_bytes

    spec = {**house.spec, "artifact": {**house.spec["artifact"], "digest": digest_of_bytes(data)}}
    house.publisher.publish(house.release, spec=spec, certificate=certificate)
    assert client.get(URL).status_code == 403


def test_withdrawing_stops_the_next_request(client, served):
    assert client.get(URL).status_code == 200
    kept = entry_of(served).read_bytes()
    served.publisher.withdraw(served.release)
    assert client.post(f"{URL}/infer", json=tensor([[1, 2]])).status_code == 404
    entry_of(served).write_bytes(kept)  # Somebody restores the old entry from a backup.
    answer = client.post(f"{URL}/infer", json=tensor([[1, 2]]))
    assert answer.status_code == 403
    assert "revoked" in answer.json()["error"]


def test_revoking_alone_stops_the_next_request(client, served):
    assert client.get(URL).status_code == 200
    digest = client.get(URL).json()["parameters"]["certificateDigest"].removeprefix("sha256:")
    (served.registry / "revoked" / digest).touch()
    assert client.get(URL).status_code == 403


def test_a_repaired_entry_is_served_again(client, served):
    good = entry_of(served).read_bytes()
    half_written(served)
    assert client.get(URL).status_code == 403
    entry_of(served).write_bytes(good)
    assert client.get(URL).status_code == 200


def test_the_watcher_loads_before_the_first_request(client, house):
    with client:
        house.publisher.publish(house.release, spec=house.spec, certificate=house.certificate())
        registry = client.app.state.registry
        deadline = time.monotonic() + 30
        while "malignancy" not in registry._known and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "malignancy" in registry._known
        os.unlink(entry_of(house))
        while "malignancy" in registry._known and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "malignancy" not in registry._known


def test_many_first_requests_load_once(house, monkeypatch):
    from primum_serving.app import load_artifact
    from primum_serving.registry import Registry

    loads = []

    def load(data):
        loads.append(1)
        time.sleep(0.05)
        return load_artifact(data)

    house.publisher.publish(house.release, spec=house.spec, certificate=house.certificate())
    registry = Registry(house.registry, public_key=house.public, load=load)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(registry.served("malignancy")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert len(found) == 8


def test_a_served_model_shows_nothing_of_itself(house):
    from primum_serving.app import load_artifact
    from primum_serving.registry import Registry

    house.publisher.publish(house.release, spec=house.spec, certificate=house.certificate())
    registry = Registry(house.registry, public_key=house.public, load=load_artifact)
    assert "weight" not in repr(registry.served("malignancy"))
