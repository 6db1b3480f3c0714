"""The control plane of a session, or of each of its workers: CRDs installed, a namespace per test.

Starting takes 5 to 20 seconds on two cores. Where assets are missing, tests skip and say how to
get them; ``PRIMUM_TEST_CONTROL_PLANE=required`` makes that a failure, as in continuous integration.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib

import helm
import pytest
import simulated_kuberay
from control_plane import ControlPlane, MissingAssets, find_assets

from primum.adapters.kube.api import KubeApi
from primum.resources.kinds import KINDS
from primum_operators.schema import crd

ROOT = pathlib.Path(__file__).parents[2]
_NUMBERS = itertools.count(1)
DIGEST = "sha256:" + "5" * 64
RIGHTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
PATHS = {
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}


def pytest_collection_modifyitems(items):
    """A marker, so that they can be asked for."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.controlplane)


@pytest.fixture(scope="session")
def control_plane(pytestconfig):
    """A running control plane with the CRDs of this checkout."""
    try:
        assets = find_assets(pytestconfig.cache.mkdir("kube-assets"))
    except MissingAssets as missing:
        if os.environ.get("PRIMUM_TEST_CONTROL_PLANE") == "required":
            pytest.fail(str(missing))
        pytest.skip(str(missing))
    plane = ControlPlane(assets)
    try:
        plane.start()
        plane.install([crd(kind) for kind in KINDS.values()])
        yield plane
    finally:
        plane.stop()


@pytest.fixture(scope="session")
def ray_definitions(control_plane):
    """The released CRD of KubeRay's RayJobs, served by the control plane."""
    control_plane.install([simulated_kuberay.definition()])


@pytest.fixture
def api(control_plane):
    """The API server, as its administrator."""
    return control_plane.api


@pytest.fixture
def namespace(api):
    """A namespace of this test."""
    name = f"test-{next(_NUMBERS)}"
    api.post(
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
    )
    return name


@pytest.fixture
def connect():
    """A function that makes the product's own clients; they are closed afterwards."""
    made = []

    def client(kubeconfig, **options):
        made.append(KubeApi(kubeconfig, **options))
        return made[-1]

    yield client
    for one in made:
        one.close()


@contextlib.contextmanager
def applied_chart(api, namespace, *further):
    """The chart's manifests for a namespace, while its service accounts and rights stand."""
    manifests = helm.rendered(
        *further, "--set", f"governed.namespaces={{{namespace}}},images.worker.digest={DIGEST}"
    )
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": helm.NAMESPACE}}
    api.create("/api/v1/namespaces", space)
    applied = []
    for item in manifests:
        if item["kind"] in RIGHTS:
            where = item["metadata"].get("namespace", "")
            collection = PATHS[item["kind"]].format(namespace=where)
            name = f"{collection}/{item['metadata']['name']}"
            api.delete(name)
            api.post(collection, item)
            applied.append(name)
    yield manifests
    for name in applied:
        api.delete(name)


@pytest.fixture
def chart(api, namespace):
    """The chart for the namespace of this test."""
    with applied_chart(api, namespace) as manifests:
        yield manifests


@pytest.fixture
def chart_with(api, namespace):
    """A function that applies the chart for the namespace of this test with further arguments."""
    with contextlib.ExitStack() as stack:
        yield lambda *further: stack.enter_context(applied_chart(api, namespace, *further))


@pytest.fixture
def operators_kubeconfig(control_plane, api, namespace):
    """A function that gives the operator's own rights, which the chart gave before.

    Besides, a clinic keeps its Lease where its Studies are.
    """

    def made():
        group, name = "rbac.authorization.k8s.io", "lease-of-this-test"
        where = f"/apis/{group}/v1/namespaces/{namespace}"
        rule = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}
        head = {"apiVersion": f"{group}/v1", "metadata": {"name": name}}
        api.post(f"{where}/roles", {**head, "kind": "Role", "rules": [rule]})
        who = {"kind": "ServiceAccount", "name": "primum-operator", "namespace": helm.NAMESPACE}
        reference = {"apiGroup": group, "kind": "Role", "name": name}
        binding = {**head, "kind": "RoleBinding", "roleRef": reference, "subjects": [who]}
        api.post(f"{where}/rolebindings", binding)
        token = control_plane.token(helm.NAMESPACE, "primum-operator")
        return control_plane.kubeconfig_of(f"operator-{namespace}", token)

    return made


@pytest.fixture(scope="session")
def with_chart():
    """``applied_chart``, for fixtures of a module."""
    return applied_chart


@pytest.fixture(scope="module")
def governed(control_plane):
    """A namespace of this module, with the chart's rights in it."""
    name = f"test-{next(_NUMBERS)}"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    control_plane.api.post("/api/v1/namespaces", body)
    with applied_chart(control_plane.api, name):
        yield name
