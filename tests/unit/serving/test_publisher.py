"""Does the publisher publish only what is certified, once, and take it back for good?"""

from __future__ import annotations

import json

import pytest

from primum import signing
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused
from primum.domain.names import ResourceKey
from primum.domain.study.plan import Access, Treatment


def publish(house, **changes):
    given = {"spec": house.spec, "certificate": house.certificate()}
    return house.publisher.publish(house.release, **{**given, **changes})


def entries(house):
    return sorted(path.name for path in (house.registry / "endpoints").iterdir())


def test_it_says_where(house):
    assert publish(house) == "http://here:8400/v2/models/malignancy/infer"
    assert entries(house) == ["malignancy.json"]


def test_publishing_again_changes_nothing(house):
    certificate = house.certificate()
    publish(house, certificate=certificate)
    entry = house.registry / "endpoints" / "malignancy.json"
    before = entry.stat()
    publish(house, certificate=certificate)
    assert (entry.stat().st_ino, entry.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_the_bytes_are_copied(house):
    """Changing the artifact afterwards changes nothing that is served."""
    publish(house)
    house.source.write_bytes(b"something else")
    copies = list((house.registry / "artifacts").iterdir())
    assert [path.read_bytes() for path in copies] == [house.model]


def test_other_bytes_are_refused(house):
    house.source.write_bytes(house.model + b" ")
    with pytest.raises(Refused, match="other bytes"):
        publish(house)
    assert entries(house) == []


def test_a_missing_artifact_is_named(house):
    house.source.unlink()
    with pytest.raises(NotFound, match=r"model\.safetensors"):
        publish(house)


def another_key(house):
    private, _ = signing.generate()
    return {"certificate": house.certificate(private=private)}


def another_artifact(house):
    return {"certificate": house.certificate(data=b"other bytes")}


def another_endpoint(house):
    return {"spec": {**house.spec, "endpoint": "sepsis"}}


def no_certificate(house):
    return {"certificate": {}}


@pytest.mark.parametrize(
    "change", [another_key, another_artifact, another_endpoint, no_certificate]
)
def test_without_a_certificate_that_holds_nothing_is_published(house, change):
    with pytest.raises(Refused, match="certificate must hold"):
        publish(house, **change(house))
    assert entries(house) == []


def test_an_endpoint_belongs_to_one_release(house):
    publish(house)
    other = ResourceKey("Release", "cardiology", "malignancy")
    with pytest.raises(Conflict, match="Release oncology/malignancy"):
        house.publisher.publish(other, spec=house.spec, certificate=house.certificate())


def test_withdrawing_is_final(house):
    publish(house)
    house.publisher.withdraw(house.release)
    assert entries(house) == []
    with pytest.raises(Refused, match="revoked"):
        publish(house)
    house.publisher.withdraw(house.release)
    assert entries(house) == []


def test_withdrawing_another_release_changes_nothing(house):
    publish(house)
    house.publisher.withdraw(ResourceKey("Release", "oncology", "other"))
    assert entries(house) == ["malignancy.json"]


@pytest.mark.parametrize("uri", ["s3://bucket/model", "http://there/model"])
def test_only_local_artifacts_are_published_here(house, uri):
    spec = {**house.spec, "artifact": {**house.spec["artifact"], "uri": uri}}
    with pytest.raises(InvalidValue, match=r"artifact\.uri"):
        publish(house, spec=spec)


def test_names_do_not_escape_the_registry(house):
    with pytest.raises(InvalidValue, match="endpoint"):
        publish(house, spec={**house.spec, "endpoint": "../../etc/passwd"})


def dataset(house, make, name, *, void=False):
    study = make.study(job_kind="Synthesize", endpoint="", dataset_release=name)
    access = Access("filter", "job", "wisconsin", Treatment.UNCHARGED, why="PixelL2")
    plan = make.plan(accesses=(*make.plan().accesses, access)) if void else make.plan()
    release = ResourceKey("Release", "oncology", name)
    spec = {key: value for key, value in house.spec.items() if key != "endpoint"}
    certificate = house.certificate(study=study, plan=plan)
    return release, {**spec, "kind": "Dataset"}, certificate


@pytest.mark.parametrize(("name", "void"), [("images", False), ("void-images", True)])
def test_a_dataset_is_a_folder_with_its_certificate(house, make, name, void):
    release, spec, certificate = dataset(house, make, name, void=void)
    folder = house.registry / "datasets" / f"oncology.{name}"
    where = house.publisher.publish(release, spec=spec, certificate=certificate)
    assert where == str(folder)
    assert (folder / "data.safetensors").read_bytes() == house.model
    assert json.loads((folder / "certificate.json").read_bytes()) == certificate
    house.publisher.withdraw(release)
    assert not folder.exists()
    with pytest.raises(Refused, match="revoked"):
        house.publisher.publish(release, spec=spec, certificate=certificate)


def test_void_is_never_an_endpoint(house, make):
    _, _, certificate = dataset(house, make, "void-images", void=True)
    spec = {**house.spec, "endpoint": "void-images"}
    with pytest.raises(Refused, match="Valid claim"):
        house.publisher.publish(house.release, spec=spec, certificate=certificate)
