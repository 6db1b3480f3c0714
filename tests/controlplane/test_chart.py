"""The chart by real Helm and kubectl on a real API server: install, upgrade, uninstall.

On the kube-apiserver alone, which serves the definitions itself here: a chart that upgrades
definitions must meet the server that holds them. Its core is older than the chart asks for, so the
copy that is installed asks for none, and the kinds that it does not serve are left out by name.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import time

import helm
import pytest
import yaml
from control_plane import ControlPlane, MissingAssets, find_assets
from manifests import BUDGET, STUDY, manifest, path

from primum.resources.kinds import KINDS

DIGEST = "sha256:" + "5" * 64
VALUES = (
    "governed.namespaces={oncology}",
    "governed.create=true",
    f"images.worker.digest={DIGEST}",
    "signing.generate=true",
    "kubectl.enabled=true",
    "policies.enabled=false",  # ValidatingAdmissionPolicies are not served by this core,
    "podDisruptionBudgets.enabled=false",  # nor is policy/v1.
)
NOT_SERVED = {
    "PodDisruptionBudget",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "Certificate",
    "Issuer",
}
OLD_CORE = "--validate=false"  # It does not know what rules of definitions are.
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ADMISSION = "/apis/admissionregistration.k8s.io/v1"
WEBHOOKS = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def plane(pytestconfig):
    try:
        assets = find_assets(pytestconfig.cache.mkdir("kube-assets"))
    except MissingAssets as missing:
        if os.environ.get("PRIMUM_TEST_CONTROL_PLANE") == "required":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    helm.helm_program()
    assets.pop("apiextensions-apiserver", None)
    made = ControlPlane(assets)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def run_helm(plane, tmp_path):
    """A function that runs Helm on the API server."""

    def call(*arguments, check=True):
        done = subprocess.run(
            [helm.helm_program(), *arguments, f"--kubeconfig={plane.kubeconfig}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return call


def copied(folder, version):
    """The chart under a version of its own, for a core of any age."""
    made = folder / version
    shutil.copytree(helm.CHART, made)
    said = yaml.safe_load((made / "Chart.yaml").read_text(encoding="utf-8"))
    said |= {"version": version}
    said.pop("kubeVersion")
    (made / "Chart.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    for file in (made / "templates" / "crd").iterdir():
        definition = without_rules(yaml.safe_load(file.read_text(encoding="utf-8")))
        file.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return made


def without_rules(value):
    """A definition without CEL rules, which this core does not know; see test_definitions.py."""
    if isinstance(value, dict):
        return {k: without_rules(v) for k, v in value.items() if k != "x-kubernetes-validations"}
    return [without_rules(item) for item in value] if isinstance(value, list) else value


def aged(chart):
    """As an older version had it: a field of Studies and a column were not there yet."""
    file = chart / "templates" / "crd" / "studies.yaml"
    definition = yaml.safe_load(file.read_text(encoding="utf-8"))
    (version,) = definition["spec"]["versions"]
    properties = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    del properties["release"]["properties"]["auditSchedule"]
    version["additionalPrinterColumns"].pop()
    file.write_text(yaml.safe_dump(definition), encoding="utf-8")
    return chart


def chosen():
    words = [word for value in VALUES for word in ("--set", value)]
    return [*words, "--disable-openapi-validation"]


def wait(holds, message):
    end = time.monotonic() + 120
    while not (found := holds()):
        assert time.monotonic() < end, message
        time.sleep(0.2)
    return found


def test_an_upgrade_reaches_definitions_and_an_uninstall_leaves_what_was_promised(
    plane, run_helm, tmp_path
):
    api, where = plane.api, ("--namespace", helm.NAMESPACE)
    old, new = aged(copied(tmp_path, "0.0.9")), copied(tmp_path, "9.0.0")
    run_helm("install", "primum", str(old), *where, "--create-namespace", *chosen())
    assert api.get(f"/apis/apps/v1/namespaces/{helm.NAMESPACE}/deployments/primum-operator")
    studies = path("Study", "oncology")
    wait(lambda: api.request("GET", studies)[0] == 200, "Studies are never served")
    code, said = api.request("POST", studies, manifest("Study", "early", STUDY))
    assert code >= 400, "what no webhook has judged must not pass"
    assert "failed calling webhook" in said["message"]
    assert open_the_door(api)
    budget = path("PrivacyBudget", "oncology")
    declared = wait(
        lambda: api.request("POST", budget, manifest("PrivacyBudget", "promised", BUDGET))[1],
        "no budget can be declared",
    )
    scheduled = {**STUDY, "release": {"endpoint": "risk", "auditSchedule": "0 3 * * 0"}}
    api.post(studies, manifest("Study", "before", scheduled))
    assert "auditSchedule" not in api.get(f"{studies}/before")["spec"]["release"]
    kept_key = secret(api, "primum-signing-key")

    run_helm("upgrade", "primum", str(new), *where, *chosen())
    wait(lambda: knows(api, "auditSchedule"), "the definition was not upgraded")
    again = api.get(f"{budget}/promised")
    assert (again["spec"], again["metadata"]["uid"]) == (
        declared["spec"],
        declared["metadata"]["uid"],
    )
    assert secret(api, "primum-signing-key") == kept_key, "another key would disown every release"
    assert open_the_door(api)

    def stored():
        plane.api.delete(f"{studies}/after")
        code, found = api.request("POST", studies, manifest("Study", "after", scheduled))
        return code == 201 and "auditSchedule" in found["spec"]["release"]

    wait(stored, "the new field is never kept")
    run_helm("upgrade", "primum", str(new), *where, *chosen())

    run_helm("uninstall", "primum", *where)
    left = {item["metadata"]["name"] for item in api.get(DEFINITIONS)["items"]}
    assert left == {f"{kind.plural}.primum.dev" for kind in KINDS.values()}
    assert api.get(f"{budget}/promised")["metadata"]["uid"] == declared["metadata"]["uid"]
    assert api.get(f"{studies}/before")
    assert secret(api, "primum-signing-key") == kept_key
    claims = api.get(f"/api/v1/namespaces/{helm.NAMESPACE}/persistentvolumeclaims")["items"]
    assert "primum-home" in {item["metadata"]["name"] for item in claims}
    assert api.get("/api/v1/namespaces/oncology")["metadata"].get("deletionTimestamp") is None
    gone = f"/apis/apps/v1/namespaces/{helm.NAMESPACE}/deployments"
    assert api.get(gone)["items"] == []
    assert open_the_door(api) == 0

    # Whoever installs again finds everything, and Helm takes it over.
    run_helm("install", "primum", str(new), *where, *chosen())
    assert api.get(f"{budget}/promised")["metadata"]["uid"] == declared["metadata"]["uid"]
    assert secret(api, "primum-signing-key") == kept_key
    run_helm("uninstall", "primum", *where)
    for item in api.get(f"/api/v1/namespaces/{helm.NAMESPACE}/persistentvolumeclaims")["items"]:
        if item["metadata"].get("deletionTimestamp"):  # Nobody here looks after claims.
            name = f"persistentvolumeclaims/{item['metadata']['name']}"
            body = {"metadata": {"finalizers": None}}
            api.merge(f"/api/v1/namespaces/{helm.NAMESPACE}/{name}", body)


def open_the_door(api):
    """Take away what asks webhooks, whom nobody answers for here; how many there were."""
    count = 0
    for plural in WEBHOOKS:
        for item in (api.get(f"{ADMISSION}/{plural}") or {"items": ()})["items"]:
            api.delete(f"{ADMISSION}/{plural}/{item['metadata']['name']}")
            count += 1
    return count


def secret(api, name):
    return api.get(f"/api/v1/namespaces/{helm.NAMESPACE}/secrets/{name}")["data"]


def knows(api, field):
    return f'"{field}"' in str(api.get(f"{DEFINITIONS}/studies.primum.dev")).replace("'", '"')


def test_the_one_file_is_applied_by_kubectl_and_again_without_a_change(plane, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not here")
    made = tmp_path / "install.yaml"
    values = " ".join(f"--set {value}" for value in (VALUES[0], VALUES[1], VALUES[2]))
    subprocess.run(
        ["make", "--silent", "install.yaml", f"INSTALL={made}", f"VALUES={values}"],
        cwd=helm.ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "HELM": helm.helm_program()},
        timeout=120,
    )
    documents = [item for item in yaml.safe_load_all(made.read_text(encoding="utf-8")) if item]
    served = [item for item in documents if item["kind"] not in NOT_SERVED]
    assert {item["kind"] for item in documents} - {item["kind"] for item in served} == NOT_SERVED
    text = yaml.safe_dump_all(without_rules(served))
    # What Helm made and left stays Helm's otherwise.
    apply = ("apply", "--server-side", "--force-conflicts", OLD_CORE, "-f", "-")
    said = plane.kubectl(*apply, text=text)
    assert said.count("serverside-applied") == len(served)
    assert open_the_door(plane.api)
    rest = [item for item in served if not item["kind"].endswith("WebhookConfiguration")]
    before = contents(plane, rest)
    plane.kubectl(*apply, text=yaml.safe_dump_all(without_rules(rest)))
    assert contents(plane, rest) == before, "applying it again changed something"


def contents(plane, documents):
    """Everything that was applied, without the API server's own bookkeeping."""
    said = plane.kubectl("get", "-f", "-", "-o", "json", text=yaml.safe_dump_all(documents))
    found = json.loads(said)["items"]
    for item in found:
        for name in ("resourceVersion", "managedFields", "generation"):
            item["metadata"].pop(name, None)
        item.pop("status", None)
    return found


def test_a_cluster_that_is_too_old_is_refused_before_anything_is_made(run_helm, plane):
    done = run_helm("install", "old", str(helm.CHART), "--namespace", "old", *chosen(), check=False)
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr
    assert plane.api.get("/api/v1/namespaces/old") is None


def test_definitions_are_small_enough_for_client_side_apply(plane):
    folder = pathlib.Path(helm.CHART) / "templates" / "crd"
    said = plane.kubectl("apply", OLD_CORE, "-f", str(folder))
    done = [line for line in said.splitlines() if line.startswith("customresourcedefinition")]
    assert len(done) == len(KINDS)
