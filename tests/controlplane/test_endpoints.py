"""Releases on KServe, on a real API server: served while they stand, and no longer."""

from __future__ import annotations

import signal
import time

import pytest
import simulated_kserve
from clinic import Clinic
from kube_schemas import problems
from manifests import path
from simulated_kserve import Mood, SimulatedKServe

from primum.adapters.kube.endpoints import EndpointPublisher, EndpointSettings

# Connections that a dying API server cut are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
IMAGE = "registry.example.org/primum/serving@sha256:" + "1" * 64
SERVING, STARTING, REVOKED = "True Serving", "False NotAnswering", "False Revoked"
SECONDS = 60  # One or two on a quiet machine; this one may be thirty times slower.


class ServedClinic(Clinic):
    """A clinic whose Releases go to KServe."""

    kserve: SimulatedKServe

    def __init__(self, plane, namespace, registry):
        super().__init__(plane, namespace)
        self.registry = registry

    def integrations(self, api):
        publisher = EndpointPublisher(
            api,
            EndpointSettings(image=IMAGE, claim="primum-artifacts", service_account="worker"),
            registry=self.registry,
            public_key=self.platform.signer.public_key(),
            artifacts_uri="memory://artifacts",
            namespaces=(self.namespace,),
        )
        return {"endpoints": publisher}

    def service(self):
        """What serves the Release ``risk``, or nothing."""
        return self.api.get(f"{self.kserve.path}/risk")

    def entry(self):
        """The ConfigMap that the server reads its entry from, or nothing."""
        return self.api.get(f"/api/v1/namespaces/{self.namespace}/configmaps/risk-release")

    def ready(self, wanted, **options):
        self.wait(lambda: self.shown("Release", "risk", "Ready") == wanted, **options)

    def message(self):
        """What the Release says of its endpoint."""
        conditions = self.get("Release", "risk")["status"]["conditions"]
        return next(c["message"] for c in conditions if c["type"] == "Ready")

    def served(self):
        """Have a Study released, and its endpoint answering."""
        self.budget()
        uid = self.study()
        self.wait_ended("one")
        self.ready(SERVING)
        return uid

    def revoke(self):
        where = path("Release", self.namespace, "risk")
        self.api.merge(where, {"spec": {"revocation": {"reason": "somebody asked"}}})


@pytest.fixture(scope="module")
def kserve_definition(control_plane):
    control_plane.install([simulated_kserve.definition()])


@pytest.fixture
def clinic(control_plane, namespace, kserve_definition, tmp_path):
    found = ServedClinic(control_plane, namespace, tmp_path)
    with SimulatedKServe(found.api, namespace) as found.kserve:
        yield found
    assert found.kserve.faults == []


def test_a_release_is_served_until_it_is_revoked(clinic):
    clinic.kserve.mood = Mood.NEVER_READY
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        assert clinic.shown("Study", "one", "Succeeded") == "True Done"
        clinic.ready(STARTING)
        said = "KServe says PredictorReady: RevisionMissing"
        clinic.wait(lambda: clinic.message() == said, seconds=SECONDS)
        clinic.kserve.mood = Mood.WELL
        clinic.ready(SERVING, seconds=SECONDS)
        service, entry = clinic.service(), clinic.entry()
        release = clinic.get("Release", "risk")
        assert problems(service) == []
        assert service["metadata"]["ownerReferences"][0]["uid"] == release["metadata"]["uid"]
        assert service["spec"]["predictor"]["containers"][0]["image"] == IMAGE
        assert release["status"]["url"] == (
            f"http://risk-predictor.{clinic.namespace}.svc/v2/models/risk/infer"
        )
        assert set(entry["data"]) == {"risk.json"}
        asked = time.monotonic()
        clinic.revoke()
        clinic.wait(lambda: clinic.kserve.serving == set(), seconds=SECONDS)
        clinic.wait(lambda: clinic.service() is None, seconds=SECONDS)
        clinic.ready(REVOKED, seconds=SECONDS)
        clinic.wait(lambda: clinic.entry() is None, seconds=SECONDS)
        assert time.monotonic() - asked < 2 * SECONDS
        certificate = release["spec"]["certificate"]["digest"].removeprefix("sha256:")
        assert (clinic.registry / "revoked" / certificate).exists()
        time.sleep(6)  # More than a resync: nothing brings it back.
        assert clinic.service() is None


def test_what_somebody_deleted_or_changed_is_put_right(clinic):
    with clinic.working():
        clinic.served()
        first = clinic.service()
        clinic.api.delete(f"{clinic.kserve.path}/risk")
        clinic.wait(
            lambda: (
                (clinic.service() or first)["metadata"]["uid"] != first["metadata"]["uid"]
                and "risk" in clinic.kserve.serving
            ),
            seconds=SECONDS,
        )
        logger = {"spec": {"predictor": {"logger": {"mode": "all", "url": "http://a"}}}}
        clinic.api.merge(f"{clinic.kserve.path}/risk", logger)
        clinic.wait(lambda: "logger" not in clinic.service()["spec"]["predictor"], seconds=SECONDS)
        clinic.api.merge(
            f"{clinic.kserve.path}/risk", {"metadata": {"labels": None, "ownerReferences": None}}
        )
        clinic.api.merge(f"{clinic.kserve.path}/risk", {"spec": {"predictor": {"minReplicas": 0}}})
        labels = first["metadata"]["labels"]
        clinic.api.merge(f"{clinic.kserve.path}/risk", {"metadata": {"labels": labels}})
        clinic.wait(
            lambda: clinic.service()["spec"]["predictor"]["minReplicas"] == 1, seconds=SECONDS
        )
        assert clinic.service()["metadata"]["ownerReferences"]
        entry = clinic.entry()
        clinic.api.merge(
            f"/api/v1/namespaces/{clinic.namespace}/configmaps/risk-release", {"data": None}
        )
        clinic.wait(lambda: clinic.entry().get("data") == entry["data"], seconds=SECONDS)
        clinic.ready(SERVING)
        before = clinic.service()["metadata"]["generation"]
        clinic.wait_quiet()  # What stands is not written again.
        assert clinic.service()["metadata"]["generation"] == before


def test_stopping_an_endpoint_by_hand_is_left_as_it_is(clinic):
    where = f"{clinic.kserve.path}/risk"
    with clinic.working():
        clinic.served()
        clinic.api.merge(where, {"metadata": {"annotations": {simulated_kserve.STOP: "true"}}})
        clinic.ready(STARTING, seconds=SECONDS)
        time.sleep(6)  # More than a resync.
        assert clinic.kserve.serving == set()
        clinic.api.merge(where, {"metadata": {"annotations": {simulated_kserve.STOP: None}}})
        clinic.ready(SERVING, seconds=SECONDS)


def test_revoked_while_kserve_is_away_it_serves_nothing_and_goes_when_it_can(clinic):
    with clinic.working():
        clinic.served()
        clinic.kserve.mood = Mood.AWAY
        clinic.revoke()
        clinic.wait(lambda: not clinic.entry().get("data"), seconds=SECONDS)
        clinic.ready(REVOKED, seconds=SECONDS)
        assert "Not down yet" in clinic.message()
        assert clinic.service()["metadata"]["deletionTimestamp"]
        clinic.kserve.mood = Mood.WELL
        clinic.wait(lambda: clinic.service() is None, seconds=90)
        clinic.wait(lambda: clinic.entry() is None, seconds=90)
        clinic.wait(lambda: clinic.message() == "somebody asked", seconds=90)


def test_somebody_elses_service_of_that_name_is_never_touched(clinic):
    theirs = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "risk"},
        "spec": {"predictor": {"containers": [{"name": "theirs", "image": "theirs"}]}},
    }
    made = clinic.api.post(clinic.kserve.path, theirs)
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
        assert clinic.shown("Study", "one", "Succeeded") == "False NotReleased"
        clinic.revoke()
        clinic.ready(REVOKED)
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
    found = clinic.service()
    assert found["metadata"]["uid"] == made["metadata"]["uid"]
    assert found["spec"] == made["spec"]


def test_the_api_server_may_go_away_while_a_release_is_taken_back(clinic):
    with clinic.working():
        clinic.served()
        clinic.revoke()
        clinic.plane.end("kube-apiserver", signal.SIGKILL)
        time.sleep(1)
        clinic.plane.start_api()
        clinic.wait(lambda: clinic.service() is None, seconds=120)
        clinic.ready(REVOKED, seconds=120)


def test_a_service_whose_release_is_gone_is_swept(clinic):
    """Somebody took the finalizer off, and the owner off what serves."""
    with clinic.working("replica-a"):
        uid = clinic.served()
    where = f"{clinic.kserve.path}/risk"
    clinic.api.merge(where, {"metadata": {"ownerReferences": None}})
    for kind, name in (("Study", "one"), ("Release", "risk")):
        one = path(kind, clinic.namespace, name)
        clinic.api.merge(one, {"metadata": {"finalizers": None, "ownerReferences": None}})
        clinic.delete(kind, name)
    clinic.wait(lambda: clinic.get("Release", "risk") is None)
    assert clinic.service() is not None
    with clinic.working("replica-b") as (operator,):
        clinic.wait(lambda: clinic.service() is None)
        metrics = operator._metrics.exposition().decode()
    assert "primum_operator_orphans_removed_total" in metrics
    assert clinic.states(uid) == ["Charged"]
