"""A registry with one released logistic model, and a client of the server that watches it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from primum import signing
from primum.adapters.serving import FolderPublisher
from primum.domain.canonical import digest_of_bytes
from primum.domain.names import ResourceKey
from primum.domain.study.steps import ArtifactRef

PRIVATE, PUBLIC = signing.generate()
RELEASE = ResourceKey("Release", "oncology", "malignancy")


def model_bytes():
    torch = pytest.importorskip("torch")
    from primum_pipelines.models import artifact

    spec = artifact.ModelSpec(
        model="Logistic",
        parameters={},
        input_shape=(2,),
        classes=("malignant", "benign"),
        positive="malignant",
        feature_names=("radius", "texture"),
        feature_low=("0", "0"),
        feature_high=("10", "10"),
        study="oncology/malignancy",
    )
    linear = torch.nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
        linear.bias.zero_()
    return artifact.to_bytes(torch.nn.Sequential(torch.nn.Flatten(), linear), spec)


@pytest.fixture(scope="session")
def model():
    return model_bytes()


@pytest.fixture
def house(tmp_path, make, model):
    """Publisher, folders, and a way to certify bytes."""
    registry = tmp_path / "registry"
    source = tmp_path / "model.safetensors"
    source.write_bytes(model)
    publisher = FolderPublisher(registry, base_url="http://here:8400", public_key=PUBLIC)
    spec = {
        "kind": "Endpoint",
        "endpoint": "malignancy",
        "artifact": {
            "kind": "Model",
            "uri": source.as_uri(),
            "digest": digest_of_bytes(model),
        },
    }

    def certificate(data=model, private=PRIVATE, **changes):
        reference = ArtifactRef("Model", source.as_uri(), digest_of_bytes(data))
        return make.certificate(private, reference=reference, **changes)

    return SimpleNamespace(
        registry=registry,
        source=source,
        publisher=publisher,
        spec=spec,
        release=RELEASE,
        certificate=certificate,
        public=PUBLIC,
        private=PRIVATE,
        model=model,
    )


@pytest.fixture
def client(house):
    testclient = pytest.importorskip("starlette.testclient")
    from primum_serving.app import create_app

    return testclient.TestClient(create_app(house.registry, house.public))
