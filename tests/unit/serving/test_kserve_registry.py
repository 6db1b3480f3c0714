"""What KServe's pod of a Release would see is what the inference server serves, and only that."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest
from starlette.testclient import TestClient

from primum.adapters.kube_manifests import endpoint
from primum.adapters.kube_manifests.parts import Owner
from primum.domain.canonical import digest_of_bytes
from primum.domain.governance.certificate import certificate_digest
from primum_serving.app import create_app

IMAGE = "registry.example.org/primum/serving@sha256:" + "1" * 64


@pytest.fixture
def wanted(house):
    return endpoint.EndpointRequest(
        namespace=house.release.namespace,
        owner=Owner("primum.dev/v1alpha1", "Release", house.release.name, "uid"),
        release=house.release.name,
        artifact_digest=digest_of_bytes(house.model),
        certificate_digest=certificate_digest(house.certificate()),
        image=IMAGE,
        claim="primum-artifacts",
        artifact=PurePosixPath("uid/1/model.safetensors"),
        public_key=house.public,
    )


def mounted(folder: Path, request: endpoint.EndpointRequest, entry, model: bytes) -> list[str]:
    """Lay out in a folder what a node would mount; gives the container's arguments."""
    claim = folder / "claim" / str(request.artifact)
    claim.parent.mkdir(parents=True)
    claim.write_bytes(model)
    pod = endpoint.inference_service(request)["spec"]["predictor"]
    (container,) = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        target = folder / mount["mountPath"].strip("/")
        volume = volumes[mount["name"]]
        if "persistentVolumeClaim" in volume:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((folder / "claim" / mount["subPath"]).read_bytes())
        if "configMap" in volume:
            assert volume["configMap"]["name"] == entry["metadata"]["name"]
            target.mkdir(parents=True, exist_ok=True)
            for name, text in entry["data"].items():
                (target / name).write_text(text)
    probe = container["readinessProbe"]["httpGet"]["path"]
    return [*container["args"], probe]


def client(folder: Path, arguments: list[str]) -> TestClient:
    told = dict(zip(arguments[:-1:2], arguments[1:-1:2], strict=True))
    registry = folder / told["--registry"].strip("/")
    return TestClient(create_app(registry, told["--public-key-text"]))


def test_the_certified_bytes_are_served_and_ready(house, wanted, tmp_path):
    entry = endpoint.release_entry(wanted, house.certificate())
    arguments = mounted(tmp_path, wanted, entry, house.model)
    with client(tmp_path, arguments) as server:
        assert server.get(arguments[-1]).status_code == 200
        tensor = {"name": "features", "datatype": "FP32", "shape": [1, 2], "data": [9, 1]}
        answer = server.post("/v2/models/malignancy/infer", json={"inputs": [tensor]})
        assert answer.status_code == 200


@pytest.mark.parametrize("wrong", ["bytes", "key", "emptied", "missing"])
def test_anything_else_is_never_ready(house, wanted, tmp_path, wrong):
    model = house.model
    if wrong == "bytes":
        model = model[:-1] + bytes([model[-1] ^ 1])
    certificate = house.certificate()
    if wrong == "key":
        from primum import signing

        certificate = house.certificate(private=signing.generate()[0])
    entry = endpoint.release_entry(wanted, None if wrong == "emptied" else certificate)
    arguments = mounted(tmp_path, wanted, entry, model)
    if wrong == "missing":
        (tmp_path / "mnt/models/artifacts/model.safetensors").unlink()
    with client(tmp_path, arguments) as server:
        assert server.get("/v2/health/live").status_code == 200
        assert server.get(arguments[-1]).status_code in (403, 404)


def test_an_entry_that_is_emptied_stops_the_server_with_its_next_request(house, wanted, tmp_path):
    entry = endpoint.release_entry(wanted, house.certificate())
    arguments = mounted(tmp_path, wanted, entry, house.model)
    with client(tmp_path, arguments) as server:
        assert server.get(arguments[-1]).status_code == 200
        (tmp_path / "mnt/models/endpoints/malignancy.json").unlink()
        assert server.get(arguments[-1]).status_code == 404
