"""The operator's settings: none is misspelt in silence, none is out of range."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from primum.domain.errors import InvalidValue
from primum_operators import settings

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
PAGE = Path(__file__).parents[3] / "docs" / "operator.md"


def read(**told):
    return settings.from_environment(
        {"PRIMUM_OPERATOR_JOB_IMAGE": IMAGE, **{f"PRIMUM_OPERATOR_{k}": v for k, v in told.items()}}
    )


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
        ("NAMESPACE", "a"),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(InvalidValue):
        read(**{name: value})


def test_a_tag_is_no_image():
    with pytest.raises(InvalidValue, match="by digest"):
        settings.from_environment({})


def test_every_setting_is_described():
    described = set(re.findall(r"`(PRIMUM_OPERATOR_\w+)`", PAGE.read_text(encoding="utf-8")))
    assert described == settings.NAMES
