"""Releases without KServe, on a real API server: a Deployment and a Service of their namespace.

No controller of Deployments runs here; its part is written by the tests.
"""

from __future__ import annotations

import pytest
from clinic import Clinic
from kube_schemas import builtin_problems, unrestricted
from manifests import path

from primum.adapters.kube.api import KubeApi
from primum.adapters.kube.endpoint_forms import DEPLOYMENT
from primum.adapters.kube.endpoints import EndpointPublisher, EndpointSettings
from primum.adapters.kube_manifests import names
from primum.application.observing import CERTIFICATE
from primum.domain.errors import Refused, Unavailable
from primum.domain.names import ResourceKey

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
IMAGE = "registry.example.org/primum/serving@sha256:" + "1" * 64
THEIRS = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "risk"},
    "spec": {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "theirs"}},
        "template": {
            "metadata": {"labels": {"app": "theirs"}},
            "spec": {"containers": [{"name": "a", "image": "registry.example.org/a"}]},
        },
    },
}
SERVING, STARTING, REVOKED = "True Serving", "False NotAnswering", "False Revoked"


class DeployedClinic(Clinic):
    """A clinic whose Releases are Deployments."""

    def __init__(self, plane, namespace, registry):
        super().__init__(plane, namespace)
        self.registry = registry
        self.config = ""

    def replica(self, identity, kubeconfig="", **changes):
        return super().replica(identity, kubeconfig or self.config, **changes)

    def publisher_over(self, api):
        settings = EndpointSettings(image=IMAGE, claim="primum-artifacts", form=DEPLOYMENT)
        return EndpointPublisher(
            api,
            settings,
            registry=self.registry,
            public_key=self.platform.signer.public_key(),
            artifacts_uri="memory://artifacts",
            namespaces=(self.namespace,),
        )

    def integrations(self, api):
        return {"endpoints": self.publisher_over(api)}

    def at(self, plural):
        base = "/apis/apps/v1" if plural == "deployments" else "/api/v1"
        return f"{base}/namespaces/{self.namespace}/{plural}/risk"

    def ready(self, wanted):
        self.wait(lambda: self.shown("Release", "risk", "Ready") == wanted)

    def message(self):
        """The message of the Release's condition Ready."""
        listed = self.get("Release", "risk")["status"]["conditions"]
        return next(item["message"] for item in listed if item["type"] == "Ready")

    def runs(self):
        """What the Deployment's controller writes when every pod is ready."""
        found = self.api.get(self.at("deployments"))
        status = {
            "observedGeneration": found["metadata"]["generation"],
            "replicas": 1,
            "readyReplicas": 1,
            "availableReplicas": 1,
        }
        self.api.merge(f"{self.at('deployments')}/status", {"status": status})


@pytest.fixture
def clinic(control_plane, namespace, tmp_path):
    return DeployedClinic(control_plane, namespace, tmp_path)


def released(clinic):
    clinic.budget()
    clinic.study()
    clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "True Done"
    clinic.wait(lambda: clinic.api.get(clinic.at("deployments")))


def test_a_release_is_served_while_it_stands_and_gone_when_it_is_revoked(clinic):
    with clinic.working():
        released(clinic)
        clinic.ready(STARTING)
        clinic.runs()
        clinic.ready(SERVING)
        url = clinic.get("Release", "risk")["status"]["url"]
        assert url == f"http://risk.{clinic.namespace}.svc/v2/models/risk/infer"
        deployment = clinic.api.get(clinic.at("deployments"))
        service = clinic.api.get(clinic.at("services"))
        assert builtin_problems(deployment) == []
        assert unrestricted(deployment["spec"]["template"]["spec"]) == []
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert service["spec"]["selector"].items() <= labels.items()
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        where = path("Release", clinic.namespace, "risk")
        clinic.api.merge(where, {"spec": {"revocation": {"reason": "somebody asked"}}})
        clinic.ready(REVOKED)
        for plural in ("deployments", "services", "configmaps"):
            gone = clinic.at(plural) + ("-release" if plural == "configmaps" else "")
            clinic.wait(lambda where=gone: clinic.api.get(where) is None)
    clinic.audit_everything()


def test_it_is_not_said_to_be_gone_while_pods_of_it_may_run(clinic):
    with clinic.working():
        released(clinic)
        clinic.runs()
        clinic.ready(SERVING)
        deployment = clinic.api.get(clinic.at("deployments"))
        pods = clinic.at("deployments").replace("deployments", "replicasets")
        clinic.api.post(pods.rpartition("/")[0], replica_set(deployment))
        where = path("Release", clinic.namespace, "risk")
        clinic.api.merge(where, {"spec": {"revocation": {"reason": "somebody asked"}}})
        clinic.wait(lambda: clinic.api.get(clinic.at("services")) is None)
        clinic.wait(lambda: not clinic.api.get(f"{clinic.at('configmaps')}-release").get("data"))
        clinic.wait(lambda: clinic.api.get(pods)["metadata"].get("deletionTimestamp"))
        assert clinic.api.get(clinic.at("deployments")) is not None
        clinic.wait(lambda: "Not down yet" in clinic.message())
        clinic.api.merge(pods, {"metadata": {"finalizers": None}})
        clinic.wait(lambda: clinic.message() == "somebody asked")
        assert clinic.api.get(clinic.at("deployments")) is None


def replica_set(deployment):
    """What its controller makes of a Deployment; a finalizer stands for pods that still end."""
    metadata = deployment["metadata"]
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": metadata["name"],
            "ownerReferences": [owner],
            "finalizers": ["example.org/pods"],
        },
        "spec": {name: deployment["spec"][name] for name in ("replicas", "selector", "template")},
    }


def test_what_can_never_be_put_right_is_made_anew(clinic):
    labels = {names.MANAGED_BY: names.PLATFORM, names.RELEASE: "risk"}
    kept = {"name": "risk", "labels": labels}
    clinic.api.post(
        clinic.at("services").rpartition("/")[0],
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": kept,
            "spec": {"clusterIP": "None", "selector": {"app": "theirs"}, "ports": [{"port": 80}]},
        },
    )
    clinic.api.post(clinic.at("deployments").rpartition("/")[0], {**THEIRS, "metadata": kept})
    with clinic.working():
        clinic.budget()
        clinic.study()

        def right():
            service = clinic.api.get(clinic.at("services")) or {"spec": {}}
            deployment = clinic.api.get(clinic.at("deployments")) or {"spec": {"selector": {}}}
            address = service["spec"].get("clusterIP", "None")
            selected = deployment["spec"]["selector"].get("matchLabels", {})
            return address != "None" and selected.get(names.RELEASE) == "risk"

        clinic.wait(right)


def test_what_somebody_changed_or_deleted_is_put_right(clinic):
    with clinic.working():
        released(clinic)
        address = clinic.api.get(clinic.at("services"))["spec"]["clusterIP"]
        image = {"spec": {"template": {"spec": {"containers": [{"name": "server", "image": "x"}]}}}}
        clinic.api.merge(clinic.at("deployments"), image)
        changed = {
            "selector": {"app": "another"},
            "externalIPs": ["192.0.2.7"],
            "publicNotReadyAddresses": True,
        }
        clinic.api.merge(clinic.at("services"), {"spec": changed})

        def right():
            deployment = clinic.api.get(clinic.at("deployments"))
            (container,) = deployment["spec"]["template"]["spec"]["containers"]
            service = clinic.api.get(clinic.at("services"))["spec"]
            added = {"externalIPs", "publicNotReadyAddresses"} & service.keys()
            return container["image"] == IMAGE and "app" not in service["selector"] and not added

        clinic.wait(right)
        assert clinic.api.get(clinic.at("services"))["spec"]["clusterIP"] == address
        clinic.api.delete(clinic.at("services"))
        clinic.wait(lambda: clinic.api.get(clinic.at("services")))


def test_somebody_elses_deployment_of_that_name_is_never_touched(clinic):
    clinic.api.post(clinic.at("deployments").rpartition("/")[0], THEIRS)
    before = clinic.api.get(clinic.at("deployments"))["metadata"]["resourceVersion"]
    with clinic.working():
        clinic.budget()
        clinic.study()
        clinic.wait_ended("one")
    assert clinic.shown("Study", "one", "Succeeded") == "False NotReleased"
    after = clinic.api.get(clinic.at("deployments"))
    assert after["metadata"]["resourceVersion"] == before


def test_a_dataset_stays_where_its_run_put_it_and_stands_by_its_certificate(clinic):
    with clinic.working():
        released(clinic)
    ((_, kept),) = clinic.evidence.facts(CERTIFICATE)
    spec = {**clinic.get("Release", "risk")["spec"], "kind": "Dataset"}
    api = KubeApi(clinic.plane.kubeconfig)
    try:
        publisher = clinic.publisher_over(api)
        key = ResourceKey("Release", clinic.namespace, "risk")
        url = publisher.publish(key, spec=spec, certificate=kept["envelope"])
        below = spec["artifact"]["uri"].removeprefix("memory://artifacts/")
        assert url == f"pvc://primum-artifacts/{below}"
        other = {**spec, "artifact": {**spec["artifact"], "digest": "sha256:" + "0" * 64}}
        with pytest.raises(Refused, match="certificate must hold"):
            publisher.publish(key, spec=other, certificate=kept["envelope"])
        clinic.wait(lambda: gone(publisher, key))
        with pytest.raises(Refused, match="revoked"):
            publisher.publish(key, spec=spec, certificate=kept["envelope"])
    finally:
        api.close()


def gone(publisher, key):
    try:
        publisher.withdraw(key)
    except Unavailable:
        return False
    return True


def test_the_charts_rights_are_enough(
    control_plane, namespace, tmp_path, chart_with, operators_kubeconfig
):
    chart_with("--set", f"images.serving.digest=sha256:{'4' * 64}")
    clinic = DeployedClinic(control_plane, namespace, tmp_path)
    clinic.config = operators_kubeconfig()
    with clinic.working():
        released(clinic)
        clinic.runs()
        clinic.ready(SERVING)
        clinic.delete("Study", "one")
        clinic.wait(lambda: clinic.get("Study", "one") is None)
