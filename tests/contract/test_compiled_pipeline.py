"""The compiled pipeline: no cache, no installation, no retry, one image by digest, one text."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from primum.domain.errors import InvalidValue
from primum_pipelines.compile import EMBEDDED_IMAGE, compile_pipeline, context_parameter

pytestmark = [
    # From kfp's own modules on import.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

STEPS = ("validate", "job", "evaluate", "audit")
IMAGE = "registry.example.org/primum/steps@sha256:" + "a" * 64


@pytest.fixture(scope="module")
def text() -> str:
    return compile_pipeline(STEPS, image=IMAGE)


@pytest.fixture(scope="module")
def tasks(text) -> dict:
    return yaml.safe_load(text)["root"]["dag"]["tasks"]


@pytest.fixture(scope="module")
def containers(text) -> list[dict]:
    executors = yaml.safe_load(text)["deploymentSpec"]["executors"]
    return [executor["container"] for executor in executors.values()]


def test_the_document_is_ir_of_the_current_schema(text):
    document = yaml.safe_load(text)  # One document: no platform-specific second one.

    assert document["schemaVersion"].startswith("2.")
    assert document["pipelineInfo"]["name"] == "primum-study"


def test_every_step_is_one_task_of_its_name(tasks):
    assert set(tasks) == set(STEPS)


def test_no_task_is_cached_or_retried(tasks):
    for task in tasks.values():
        assert task["cachingOptions"] == {}  # kfp's spelling of off
        assert "retryPolicy" not in task
        assert "triggerPolicy" not in task


def test_steps_run_one_after_the_other(tasks):
    before = {name: task.get("dependentTasks", []) for name, task in tasks.items()}

    assert before == {
        "validate": [],
        "job": ["validate"],
        "evaluate": ["job"],
        "audit": ["evaluate"],
    }


def test_no_step_installs_anything(containers):
    for container in containers:
        assert "pip" not in " ".join([*container["command"], *container.get("args", [])])


def test_every_step_runs_the_image_that_was_named_by_digest(containers):
    assert {container["image"] for container in containers} == {IMAGE}


def test_each_step_takes_its_context_as_one_string(text, tasks):
    inputs = yaml.safe_load(text)["root"]["inputDefinitions"]["parameters"]

    assert inputs == {context_parameter(step): {"parameterType": "STRING"} for step in STEPS}
    for step, task in tasks.items():
        given = task["inputs"]["parameters"]["context"]
        assert given == {"componentInputParameter": context_parameter(step)}


def test_the_body_only_hands_over_to_the_platform(containers):
    for container in containers:
        assert container["command"][-1].rstrip().endswith("run_step(context)")


def test_the_same_steps_compile_to_the_same_text_in_another_process(text):
    call = f"compile_pipeline({STEPS!r}, image={IMAGE!r})"
    code = f"from primum_pipelines.compile import compile_pipeline; print({call}, end='')"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )

    assert other.stdout == text


def test_a_single_step_is_a_pipeline_too():
    tasks = yaml.safe_load(compile_pipeline(["audit"]))["root"]["dag"]["tasks"]

    assert list(tasks) == ["audit"]


def test_the_embedded_image_names_python_so_that_the_local_runner_does_not_warn():
    assert "python" in EMBEDDED_IMAGE


@pytest.mark.parametrize(
    ("steps", "image"),
    [
        ((), IMAGE),
        (("job", "job"), IMAGE),
        (("Job",), IMAGE),
        (("job; rm",), IMAGE),
        (tuple(f"s{n}" for n in range(33)), IMAGE),
        (("job",), "registry.example.org/primum/steps:latest"),
        (("job",), "primum@sha256:short"),
    ],
)
def test_what_cannot_be_run_as_promised_is_refused(steps, image):
    with pytest.raises(InvalidValue):
        compile_pipeline(steps, image=image)
