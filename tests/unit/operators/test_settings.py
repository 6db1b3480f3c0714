"""The operator's settings: none is misspelt in silence, none is out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from primum.domain.errors import InvalidValue
from primum.entrypoints.cluster import Queues
from primum_operators import settings

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
PAGE = Path(__file__).parents[3] / "docs" / "operator.md"


def read(**told):
    told = {"JOB_IMAGE": IMAGE, "JOB_LEDGER_URL": "https://ledger:8399", **told}
    return settings.from_environment({f"PRIMUM_OPERATOR_{k}": v for k, v in told.items()})


def test_defaults_look_after_every_namespace():
    found = read()
    assert found.cluster.namespaces == ()
    assert found.cluster.home_namespace == "primum-system"
    assert found.cluster.identity
    assert (found.workers, found.resync_seconds, found.run_seconds) == (4, 60, 10)
    assert (found.probe_port, found.cluster.jobs.cpu) == (8080, "2")


def test_everything_can_be_said():
    found = read(NAMESPACES="a, b,", WORKERS="2", JOB_QUEUE="q", JOB_MEMORY="1Gi", IDENTITY="x")
    assert found.cluster.namespaces == ("a", "b")
    assert (found.workers, found.cluster.jobs.queue, found.cluster.jobs.memory) == (2, "q", "1Gi")
    assert found.cluster.identity == "x"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("RESYNC_SECONDS", "-1"),
        ("PROBE_PORT", "99999999999"),
        ("JOB_CPU", "two"),
        ("JOB_LEDGER_URL", ""),
        ("JOB_LEDGER_URL", "postgresql://ledger"),
        ("NAMESPACE", "a"),
        ("QUEUES", "Kueue"),
        ("SERVING", "knative"),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(InvalidValue):
        read(**{name: value})


def test_endpoints_and_queues_are_off_until_asked_for():
    assert read().cluster.endpoints is None
    assert read().cluster.queues is Queues.NONE
    assert read(QUEUES="kueue").cluster.queues is Queues.KUEUE
    found = read(SERVING="kserve", SERVING_IMAGE=IMAGE, JOB_ARTIFACTS_CLAIM="zoo").cluster.endpoints
    assert (found.image, found.claim, found.replicas) == (IMAGE, "zoo", 1)


@pytest.mark.parametrize(
    "told", [{}, {"SERVING_IMAGE": "serving:latest"}, {"SERVING_MEMORY": "lots"}]
)
def test_an_endpoint_that_could_not_be_made_is_refused_at_the_start(told):
    with pytest.raises(InvalidValue):
        read(**{"SERVING": "kserve", "SERVING_IMAGE": "", **told})
    if "SERVING_MEMORY" in told:
        with pytest.raises(InvalidValue, match="memory"):
            read(**{"SERVING": "kserve", "SERVING_IMAGE": IMAGE, **told})


def test_runs_go_to_kubeflow_pipelines_where_that_is_said():
    assert read().cluster.kfp is None
    url = "https://ml-pipeline.kubeflow.svc:8888"
    found = read(RUNNER="kfp", KFP_URL=url, NAMESPACES="a", KFP_TOKEN_PATH="/token").cluster.kfp
    assert found is not None
    assert (found.api.url, found.api.token_path, found.api.ca_path) == (url, "/token", "")
    assert found.namespaces == ("a",)
    assert (found.experiment, found.service_account) == ("primum", "primum-pipeline")


@pytest.mark.parametrize(
    "told",
    [
        {"RUNNER": "argo"},
        {"RUNNER": "kfp", "KFP_URL": "https://host"},
        {"RUNNER": "kfp", "NAMESPACES": "a"},
        {"RUNNER": "kfp", "NAMESPACES": "a", "KFP_URL": "ml-pipeline:8888"},
    ],
)
def test_half_of_a_runner_is_refused(told):
    with pytest.raises(InvalidValue):
        read(**told)


def test_a_tag_is_no_image():
    with pytest.raises(InvalidValue, match="by digest"):
        settings.from_environment({})


def test_every_setting_is_described():
    described = set(re.findall(r"`(PRIMUM_OPERATOR_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert described == settings.NAMES
