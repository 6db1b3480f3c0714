"""Whether a workflow is a run that the operator launched: by Kubeflow's label on it, and a fact."""

from __future__ import annotations

import pytest
from simulated_secrets import SimulatedSecrets

from primum.adapters.kube.api import KubeApi
from primum_operators.admission.lookups import ClusterLookups

PATH = "/apis/argoproj.io/v1alpha1/namespaces/oncology/workflows/w"
FACTS = {"kfp-1": {"runId": "run-1"}}


@pytest.fixture
def cluster(tmp_path):
    with SimulatedSecrets(tmp_path) as made:
        yield made


@pytest.mark.parametrize(
    ("labels", "run", "launched"),
    [
        ({"pipeline/runid": "kfp-1"}, "run-1", True),
        ({"pipeline/runid": "kfp-1"}, "run-2", False),
        ({"pipeline/runid": "kfp-1"}, "", False),
        ({"pipeline/runid": "kfp-2"}, "run-1", False),
        ({}, "run-1", False),
        (None, "run-1", False),
    ],
)
def test_a_workflow_is_believed_by_what_kubeflow_wrote_on_it(cluster, labels, run, launched):
    cluster.kept[PATH] = {"metadata": {"name": "w", "labels": labels}}
    api = KubeApi(cluster.kubeconfig)
    lookups = ClusterLookups(api, reservation=lambda _: None, launched=FACTS.get)
    assert lookups.workflow_launched("oncology", "w", run) is launched
    assert not lookups.workflow_launched("oncology", "another", run)
    api.close()


def test_where_nothing_was_launched_there_no_workflow_is_ours(cluster):
    cluster.kept[PATH] = {"metadata": {"name": "w", "labels": {"pipeline/runid": "kfp-1"}}}
    api = KubeApi(cluster.kubeconfig)
    lookups = ClusterLookups(api, reservation=lambda _: None)
    assert not lookups.workflow_launched("oncology", "w", "run-1")
    api.close()
