"""The pipeline of a run in a cluster: what kfp would compile, restricted, with nothing secret."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from simulated_kfp import check_documents

from primum.domain.errors import InvalidValue
from primum_pipelines import compile as compiling
from primum_pipelines.cluster_pipeline import PROTOTYPE_FILE, cluster_pipeline

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
STEPS = ("validate", "job", "evaluate", "audit")
IMAGE = "registry.example.org/primum/worker@sha256:" + "a" * 64
FOLDER = "/var/run/primum/steps"
FORM = {
    "image": IMAGE,
    "user": 65532,
    "labels": {"primum.dev/run": "r", "app.kubernetes.io/part-of": "primum"},
    "deadline_seconds": 7200,
    "keep_seconds": 3600,
    "contexts": FOLDER,
    "secret": "primum-r",
    "cpu": "2",
    "memory": "8Gi",
    "step_labels": {"primum.dev/reservation": "h"},
    "step_annotations": {"primum.dev/reservations": "h,i"},
    "environment": {"PRIMUM_HOME": "/var/lib/primum"},
    "variables": {"AWS_ACCESS_KEY_ID": ("primum-dataset-login", "id")},
    "secrets": {"/var/run/secrets/primum-data": "primum-dataset-login"},
    "claims": {
        "/var/lib/primum/artifacts": "primum-artifacts",
        "/var/lib/primum-data": "primum-dataset-scans",
    },
    "config_maps": {"/etc/primum/ledger-ca": "authorities"},
    "scratch": {"/var/lib/primum": "", "/dev/shm": "Memory"},
}


@pytest.fixture(scope="module")
def made():
    return cluster_pipeline(STEPS, **FORM)


@pytest.fixture(scope="module")
def containers(made):
    executors = made["pipeline_spec"]["deploymentSpec"]["executors"]
    return {label: item["container"] for label, item in executors.items()}


@pytest.fixture(scope="module")
def pods(made):
    kubernetes = made["platform_spec"]["platforms"]["kubernetes"]
    return kubernetes["deploymentSpec"]["executors"]


def tasks(made):
    """Every task of every graph, by name."""
    found = dict(made["pipeline_spec"]["root"]["dag"]["tasks"])
    for component in made["pipeline_spec"]["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def by_kfp(steps):
    """The same, written with kfp and kfp-kubernetes, and compiled by them."""
    from kfp import dsl, kubernetes

    components = [(step, compiling._component(step, IMAGE)) for step in steps]
    told = compiling._notification(IMAGE)

    def restrict(task, seconds, *labels):
        task.set_caching_options(enable_caching=False)
        kubernetes.set_security_context(
            task, run_as_user=65532, run_as_group=65532, run_as_non_root=True
        )
        kubernetes.set_timeout(task, seconds)
        for each in labels:
            for key, value in each.items():
                kubernetes.add_pod_label(task, key, value)

    def mount(task):
        for key, value in FORM["step_annotations"].items():
            kubernetes.add_pod_annotation(task, key, value)
        kubernetes.use_secret_as_volume(task, "primum-r", FOLDER)
        for path, name in FORM["secrets"].items():
            kubernetes.use_secret_as_volume(task, name, path)
        for variable, (name, key) in FORM["variables"].items():
            kubernetes.use_secret_as_env(task, name, {key: variable})
        for path, name in FORM["claims"].items():
            kubernetes.mount_pvc(task, name, path)
        for path, name in FORM["config_maps"].items():
            kubernetes.use_config_map_as_volume(task, name, path)
        for number, (path, kind) in enumerate(FORM["scratch"].items()):
            kubernetes.empty_dir_mount(task, f"scratch-{number}", path, medium=kind or None)

    def graph():
        end = told()
        end.set_display_name("notify")
        restrict(end, 600, FORM["labels"])
        with dsl.ExitHandler(end, name="study"):
            before = None
            for number, (step, component) in enumerate(components):
                task = component(context=f"{FOLDER}/{number:03d}-{step}.json")
                task.set_display_name(step)
                task.set_cpu_request("2").set_cpu_limit("2")
                task.set_memory_request("8Gi").set_memory_limit("8Gi")
                task.set_env_variable("PRIMUM_HOME", "/var/lib/primum")
                restrict(task, 7200, FORM["labels"], FORM["step_labels"])
                mount(task)
                if before is not None:
                    task.after(before)
                before = task

    config = dsl.PipelineConfig(active_deadline_seconds=7200, ttl_seconds_after_finished=3600)
    decorate = dsl.pipeline(name="primum-study", pipeline_config=config)
    text = compiling.compiled(lambda: decorate(compiling._with_parameters(graph, ())))
    pipeline, platform = yaml.safe_load_all(text)
    for executor in pipeline["deploymentSpec"]["executors"].values():
        found = executor["container"].get("resources", {})
        for old in [name for name in found if not name.startswith("resource")]:
            del found[old]  # Numbers that kfp still writes beside the quantities, for old servers.
    return {"pipeline_spec": pipeline, "platform_spec": platform}


@pytest.mark.parametrize("steps", [STEPS, ("audit",), ("validate", "job")], ids=len)
def test_it_is_what_kfp_compiles(steps):
    assert cluster_pipeline(steps, **FORM) == by_kfp(steps)


def test_kubeflows_own_messages_know_every_field(made):
    check_documents(made)


def test_it_is_the_same_for_the_same_run(made):
    assert cluster_pipeline(STEPS, **FORM) == made


def test_what_is_checked_in_is_what_kfp_compiles_today():
    assert PROTOTYPE_FILE.read_text(encoding="utf-8") == compiling.prototype()
    for name, text in compiling.component_files().items():
        assert (compiling.COMPONENTS_FOLDER / name).read_text(encoding="utf-8") == text


def test_a_step_runs_the_same_code_as_on_one_machine(containers):
    embedded = yaml.safe_load(compiling.compile_pipeline(STEPS, image=IMAGE))
    for label, executor in embedded["deploymentSpec"]["executors"].items():
        for part in ("command", "args", "image"):
            assert containers[label][part] == executor["container"][part]


def test_no_task_is_cached_or_retried(made):
    for name, task in tasks(made).items():
        assert not task.get("cachingOptions", {}).get("enableCache"), name
        assert "retryPolicy" not in task


def test_steps_come_one_after_the_other(made):
    chain = made["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert {name: task.get("dependentTasks", []) for name, task in chain.items()} == {
        "validate": [],
        "job": ["validate"],
        "evaluate": ["job"],
        "audit": ["evaluate"],
    }


def test_every_image_is_named_by_digest_and_installs_nothing(containers):
    for container in containers.values():
        assert container["image"] == IMAGE
        assert "pip install" not in " ".join(container["command"])


def test_every_pod_runs_as_nobody_and_not_for_ever(pods):
    assert len(pods) == len(STEPS) + 1
    for pod in pods.values():
        user = {"runAsUser": "65532", "runAsGroup": "65532", "runAsNonRoot": True}
        assert pod["securityContext"] == user
        assert int(pod["activeDeadlineSeconds"]) > 0
        assert pod["podMetadata"]["labels"]["primum.dev/run"] == "r"


def test_the_whole_run_has_a_deadline_and_goes_away(made):
    kubernetes = made["platform_spec"]["platforms"]["kubernetes"]
    assert kubernetes["pipelineConfig"] == {
        "activeDeadlineSeconds": 7200,
        "resourceTtlOnCompletion": 3600,
    }


def test_a_step_reads_its_context_from_the_runs_secret(made, pods):
    chain = made["pipeline_spec"]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    for number, step in enumerate(STEPS):
        given = chain[step]["inputs"]["parameters"]["context"]
        path = f"{FOLDER}/{number:03d}-{step}.json"
        assert given == {"runtimeValue": {"constant": path}}
        (mounted, _) = pods[f"exec-{step}"]["secretAsVolume"]
        assert (mounted["secretName"], mounted["mountPath"]) == ("primum-r", FOLDER)
    assert "inputDefinitions" not in made["pipeline_spec"]["root"]


def test_the_exit_task_has_nothing_to_settle_with(containers, pods):
    """It notifies; whether it runs or not changes nothing that anybody is charged."""
    pod = pods["exec-notify"]
    assert set(pod) == {"activeDeadlineSeconds", "podMetadata", "securityContext"}
    assert "primum.dev/reservation" not in pod["podMetadata"]["labels"]
    assert "env" not in containers["exec-notify"]
    assert "primum" not in containers["exec-notify"]["command"][-1]


def test_the_exit_task_waits_for_the_steps_however_they_end(made):
    task = made["pipeline_spec"]["root"]["dag"]["tasks"]["notify"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert task["dependentTasks"] == ["exit-handler-1"]


@pytest.mark.parametrize(
    ("steps", "changes"),
    [
        ((), {}),
        (("job", "job"), {}),
        (("Job",), {}),
        (("notify",), {}),
        (tuple(f"s{n}" for n in range(33)), {}),
        (("job",), {"image": "registry.example.org/primum/worker:latest"}),
        (("job",), {"user": 0}),
    ],
)
def test_what_cannot_be_run_as_promised_is_refused(steps, changes):
    with pytest.raises(InvalidValue):
        cluster_pipeline(steps, **{**FORM, **changes})


def test_the_operator_makes_it_without_kfp():
    code = (
        "import sys\n"
        "import primum.adapters.kfp_runs, primum.adapters.kfp_api\n"
        "from primum import extensions\n"
        "extensions.load('primum.step_runtime', 'cluster_pipeline')\n"
        "assert not any(name.split('.')[0] == 'kfp' for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
