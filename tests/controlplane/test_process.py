"""The operator's own process, with the rights that the chart gives it and no others.

``kubectl apply`` of the first example, pods that run the real steps, replicas that are killed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import helm
import pytest
import yaml
from kubelet import Kubelet
from ledger_server import served
from manifests import path
from simulated_kfp import Processes, SimulatedKfp
from simulated_kuberay import SimulatedKubeRay

from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.canonical import canonical_json
from primum.entrypoints import bootstrap
from primum.entrypoints import settings as platform_settings
from primum_operators import settings as operator_settings

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "breast-cancer"
OPERATOR = "primum-operator"


@pytest.fixture
def folder(tmp_path):
    """The platform's home; its workers are stopped afterwards. Sockets want a short path."""
    with tempfile.TemporaryDirectory(prefix="primum-", ignore_cleanup_errors=True) as made:
        yield pathlib.Path(made)


def free_port() -> int:
    """A port that nobody listens on; every worker of a session needs its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Replicas:
    """Operator processes of one hospital."""

    def __init__(self, control_plane, chart, folder, database, namespace):
        token = control_plane.token(helm.NAMESPACE, OPERATOR)
        config = control_plane.kubeconfig_of(f"operator-{namespace}", token)
        told = _environment(chart, OPERATOR)
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")},
            **{k: v for k, v in told.items() if k.startswith("PRIMUM_OPERATOR_")},
            "PRIMUM_HOME": str(folder / "home"),
            "PRIMUM_DATABASE_URL": database,
            "PRIMUM_WORKERS": "1",
            "PRIMUM_OPERATOR_KUBECONFIG": config,
            "PRIMUM_OPERATOR_RUN_SECONDS": "1",
            "PRIMUM_OPERATOR_RESYNC_SECONDS": "5",
        }
        self._folder = folder
        self.running: dict[str, subprocess.Popen] = {}
        self.ports: dict[str, int] = {}

    def also(self, **told: str) -> None:
        """Further settings of every replica that is started from now on."""
        self._environment |= told

    def own_settings(self):
        """The operator's own settings."""
        return operator_settings.from_environment(self._environment)

    def settings(self):
        """The settings that steps and tests share with the operator."""
        names = ("PRIMUM_HOME", "PRIMUM_DATABASE_URL", "PRIMUM_WORKERS")
        return platform_settings.from_environment({n: self._environment[n] for n in names})

    def start(self, identity: str) -> None:
        port = free_port()
        own = {
            "PRIMUM_OPERATOR_IDENTITY": identity,
            "PRIMUM_OPERATOR_PROBE_PORT": str(port),
        }
        with (self._folder / f"{identity}.log").open("wb") as log:
            self.running[identity] = subprocess.Popen(
                [sys.executable, "-m", "primum_operators"],
                env={**self._environment, **own},
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        self.ports[identity] = port

    def page(self, identity: str, name: str) -> str:
        """A page of a replica, or nothing while it does not answer."""
        url = f"http://127.0.0.1:{self.ports[identity]}/{name}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.read().decode()
        except OSError:
            return ""

    def leading(self, identity: str) -> bool:
        return "primum_operator_leading 1.0" in self.page(identity, "metrics")

    def end(self, identity: str, with_signal=signal.SIGTERM) -> int:
        process = self.running.pop(identity)
        process.send_signal(with_signal)
        return process.wait(60)

    def log(self, identity: str) -> str:
        return (self._folder / f"{identity}.log").read_text(errors="replace")

    def stop(self) -> None:
        for identity in tuple(self.running):
            self.end(identity, signal.SIGKILL)
        bootstrap.stop_compute(self.settings())


def _environment(manifests, name):
    (deployment,) = (
        item
        for item in manifests
        if item["kind"] == "Deployment" and item["metadata"]["name"] == name
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {item["name"]: item.get("value", "") for item in container["env"]}


@pytest.fixture
def replicas(control_plane, chart, folder, new_postgresql, namespace):
    made = Replicas(control_plane, chart, folder, new_postgresql(), namespace)
    try:
        yield made
    finally:
        made.stop()


def mounted_steps(folder, steps):
    """What a pod finds of its Secret."""
    mounted = pathlib.Path(tempfile.mkdtemp(prefix="steps-", dir=folder))
    for number, step in enumerate(steps):
        (mounted / f"{number:03d}-{step.step}.json").write_bytes(canonical_json(step.to_json()))
    return mounted


@pytest.fixture
def pods(api, control_plane, namespace, replicas, folder):
    """A kubelet whose containers are the real process of a run."""
    environment = {**os.environ, **replicas.settings().environment()}

    def container(steps):
        mounted = mounted_steps(folder, steps)
        done = subprocess.run(
            [sys.executable, "-m", "primum.entrypoints.walk", str(mounted)],
            env=environment,
            check=False,
        )
        return done.returncode == 0

    with Kubelet(api, container, namespace=namespace, manages=control_plane.manages) as kubelet:
        yield kubelet


def wait(holds, *, seconds, message):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, message()
        time.sleep(0.2)


def shown(api, namespace, kind, name, condition):
    found = api.get(path(kind, namespace, name)) or {}
    listed = found.get("status", {}).get("conditions", ())
    return next((f"{c['status']} {c['reason']}" for c in listed if c["type"] == condition), "")


def conditions(api, namespace):
    """Every condition of the example's Study, for a failing test."""
    found = api.get(path("Study", namespace, "malignancy")) or {}
    return [
        f"{c['type']}={c['status']} {c['reason']} {c['message']}"
        for c in found.get("status", {}).get("conditions", ())
    ]


def apply(control_plane, namespace, *names):
    """``kubectl apply`` of examples, in the test's own namespace."""
    found = [
        document
        for name in names
        for document in yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8"))
    ]
    for document in found:
        document["metadata"].pop("namespace", None)
    # As JSON: YAML written again would no longer quote a decimal such as 1e-5.
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", text=text)


@pytest.mark.ray
@pytest.mark.postgres
@pytest.mark.timeout(600)
def test_the_first_example_goes_from_kubectl_apply_to_served_with_two_replicas(
    control_plane, api, namespace, replicas, pods
):
    replicas.start("replica-a")
    replicas.start("replica-b")
    apply(control_plane, namespace, "budget.yaml", "study.yaml")
    wait(
        lambda: shown(api, namespace, "Study", "malignancy", "Launched").startswith("True"),
        seconds=200,
        message=lambda: replicas.log("replica-a") + replicas.log("replica-b"),
    )
    found = []
    wait(
        lambda: found.extend(n for n in ("replica-a", "replica-b") if replicas.leading(n)) or found,
        seconds=60,
        message=lambda: "no replica says that it leads",
    )
    leader = found[0]
    replicas.end(leader, signal.SIGKILL)
    wait(
        lambda: shown(api, namespace, "Study", "malignancy", "Succeeded")[:5] in ("True ", "False"),
        seconds=300,
        message=lambda: replicas.log("replica-a") + replicas.log("replica-b"),
    )
    (left,) = replicas.running
    ended = shown(api, namespace, "Study", "malignancy", "Succeeded")
    assert ended == "True Done", conditions(api, namespace)
    assert replicas.page(left, "healthz") == replicas.page(left, "readyz") == "ok"
    assert pods.started == list(dict.fromkeys(pods.started))
    assert pods.faults == []
    assert "Forbidden" not in replicas.log(left)
    assert "forbidden" not in replicas.log(left)
    study = api.get(path("Study", namespace, "malignancy"))
    settings = replicas.settings()
    stores = open_stores(settings.database_url, SystemClock())
    held = stores.ledger.reservations(study_uid=study["metadata"]["uid"])
    assert [item.state.value for item in held] == ["Charged"]
    assert stores.ledger.verify() == ()
    stores.close()
    assert replicas.end(left) == 0


@pytest.mark.ray
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_example_runs_through_kubeflow_pipelines(
    control_plane, api, namespace, replicas, folder
):
    """Each task is the compiled command of its step, as Kubeflow's launcher would start it."""
    tasks = Processes(folder, {**os.environ, **replicas.settings().environment()})
    with SimulatedKfp(api, tasks, tokens=("of-the-operator",)) as kfp:
        token = folder / "kfp-token"
        token.write_text("of-the-operator")
        replicas.also(
            PRIMUM_OPERATOR_RUNNER="kfp",
            PRIMUM_OPERATOR_KFP_URL=kfp.url,
            PRIMUM_OPERATOR_KFP_TOKEN_PATH=str(token),
        )
        kfp.fail("POST .*/runs$", "lost")
        replicas.start("replica-a")
        apply(control_plane, namespace, "budget.yaml", "study.yaml")
        said = lambda: replicas.log("replica-a") + "".join(tasks.outputs)  # noqa: E731
        wait(
            lambda: (
                shown(api, namespace, "Study", "malignancy", "Succeeded")[:5] in ("True ", "False")
            ),
            seconds=400,
            message=said,
        )
        assert shown(api, namespace, "Study", "malignancy", "Succeeded") == "True Done", (
            conditions(api, namespace),
            said(),
        )
        assert kfp.faults == []
        assert kfp.created == 2  # One registered the dataset.
        wait(lambda: len(kfp.finished) == 7, seconds=60, message=said)
        ran = [name for _, name in kfp.finished]
        assert ran == ["register", "notify", "validate", "job", "evaluate", "audit", "notify"]
    assert "the run ended: SUCCEEDED" in tasks.outputs[-1]
    assert "orbidden" not in replicas.log("replica-a")
    tickets = [text for text in tasks.outputs if "eyJ" in text]
    assert tickets == []  # No ticket and no credential is printed.
    assert replicas.end("replica-a") == 0


@pytest.mark.ray
@pytest.mark.postgres
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_example_runs_its_heavy_steps_in_ray_jobs(
    control_plane, api, namespace, folder, chart_with, new_postgresql, ray_definitions
):
    """Run pods and drivers are processes that know the ledger API, and no database and no key."""
    manifests = chart_with("-a", "ray.io/v1", "--set", "integrations.kuberay.enabled=true")
    replicas = Replicas(control_plane, manifests, folder, new_postgresql(), namespace)
    token = control_plane.token(namespace, "primum-launcher")
    settings = replicas.settings()
    bootstrap.prepare_home(settings)
    told = {k: v for k, v in settings.environment().items() if k != "PRIMUM_DATABASE_URL"}
    printed = folder / "printed"

    def run(command, **more):
        with printed.open("ab") as out:
            environment = {**os.environ, **told, **more}
            return subprocess.run(command, env=environment, check=False, stdout=out, stderr=out)

    def container(steps):
        mounted = mounted_steps(folder, steps)
        made = replicas.own_settings()
        walk = [sys.executable, "-m", "primum.entrypoints.walk", str(mounted)]
        config = control_plane.kubeconfig_of(f"launcher-{namespace}", token)
        return (
            run(
                walk,
                PRIMUM_COMPUTE="rayjob",
                PRIMUM_RAY_JOB=made.cluster.jobs.ray_job,
                PRIMUM_KUBECONFIG=config,
            ).returncode
            == 0
        )

    def drive(driver):
        ((_, text),) = driver.files.items()
        context = pathlib.Path(tempfile.mkdtemp(prefix="driver-", dir=folder)) / "context.json"
        context.write_text(text)
        command = driver.command.split()
        assert command[:3] == ["python", "-m", "primum.entrypoints.step"]
        # The warm workers of this machine stand for the cluster's.
        return run([sys.executable, *command[1:3], str(context)]).returncode == 0

    stores = open_stores(settings.database_url, SystemClock())
    ports = {"ledger": stores.ledger, "evidence": stores.evidence, "resources": stores.resources}
    with (
        contextlib.closing(stores),
        served(dataclasses.replace(bootstrap.platform(settings), **ports)) as ledger,
        SimulatedKubeRay(api, drive, namespace=namespace) as kuberay,
        Kubelet(api, container, namespace=namespace, manages=control_plane.manages) as pods,
    ):
        told["PRIMUM_LEDGER_URL"] = ledger.url
        said = lambda: replicas.log("replica-a") + printed.read_text(errors="replace")  # noqa: E731
        try:
            replicas.start("replica-a")
            apply(control_plane, namespace, "budget.yaml", "study.yaml")
            wait(
                lambda: (
                    shown(api, namespace, "Study", "malignancy", "Succeeded")[:5]
                    in ("True ", "False")
                ),
                seconds=400,
                message=said,
            )
            assert shown(api, namespace, "Study", "malignancy", "Succeeded") == "True Done", (
                conditions(api, namespace),
                said(),
            )
            assert replicas.end("replica-a") == 0
        finally:
            replicas.stop()
    assert (kuberay.faults, pods.faults) == ([], [])
    ran = [job["metadata"]["labels"]["primum.dev/step"] for job in kuberay.jobs()]
    assert sorted(ran) == ["audit", "job"]
    assert len(kuberay.driven) == len(set(kuberay.driven)) == 2
    assert "orbidden" not in replicas.log("replica-a")
    assert "eyJ" not in printed.read_text(errors="replace")
