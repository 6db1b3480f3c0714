"""The default deployment: one process holds ledger and key, everybody else asks it.

API and operator are their own processes, each with the rights that the chart gives its account and
no others; the pods of runs know nothing but the address and what their run's Secret says.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import helm
import pytest
import yaml
from kubelet import Kubelet
from manifests import path

from primum.adapters.cluster_identity import AUDIENCE
from primum.adapters.ledger_api.client import LedgerApiClient
from primum.adapters.ledger_api.stores import RemoteSigner, remote_stores
from primum.adapters.sql import open_stores
from primum.adapters.system import SystemClock
from primum.domain.canonical import canonical_json
from primum.domain.errors import Refused, Unavailable
from primum.entrypoints import bootstrap
from primum.entrypoints import settings as platform_settings

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples" / "breast-cancer"
START_SECONDS = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class Deployment:
    """API, operator and pods of one hospital, over one control plane."""

    def __init__(self, control_plane, chart, folder, namespace):
        self.plane, self.folder, self.namespace = control_plane, folder, namespace
        self.url = f"https://localhost:{free_port()}"
        self._certificates = folder / "tls"
        self._certificates.mkdir()
        (secret,) = (item for item in chart if item["metadata"]["name"] == "primum-api-tls")
        for name, text in secret["data"].items():
            (self._certificates / name).write_bytes(base64.b64decode(text))
        self._authority = str(self._certificates / "ca.crt")
        self.database = f"sqlite:///{folder / 'api' / 'primum.db'}"
        (deployment,) = (
            item
            for item in chart
            if item["kind"] == "Deployment" and item["metadata"]["name"] == "primum-operator"
        )
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        told = {item["name"]: item.get("value", "") for item in container["env"]}
        self._own = {k: v for k, v in told.items() if k.startswith("PRIMUM_OPERATOR_")}
        self._bare = {k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")}
        self._token = folder / "token"
        self._token.write_text(control_plane.token_for(helm.NAMESPACE, "primum-operator", AUDIENCE))
        self.shared = {
            "PRIMUM_HOME": str(folder / "home"),
            "PRIMUM_LEDGER_URL": self.url,
            "PRIMUM_LEDGER_CA": self._authority,
            "PRIMUM_WORKERS": "1",
        }
        self.running: dict[str, subprocess.Popen] = {}

    def _start(self, name, command, environment):
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**self._bare, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_api(self):
        token = self.plane.token(helm.NAMESPACE, "primum-api")
        config = self.plane.kubeconfig_of(f"api-{self.namespace}", token)
        environment = {
            "PRIMUM_HOME": str(self.folder / "api"),
            "PRIMUM_DATABASE_URL": self.database,
            "PRIMUM_API_PORT": self.url.rpartition(":")[2],
        }
        command = ["primum.entrypoints.api", "--cluster", f"--kubeconfig={config}"]
        command.append(f"--certificates={self._certificates}")
        self._start("api", command, environment)
        end = time.monotonic() + START_SECONDS
        while not self._ready():
            assert self.running["api"].poll() is None, self.log("api")
            assert time.monotonic() < end, self.log("api")
            time.sleep(0.2)

    def start_operator(self):
        token = self.plane.token(helm.NAMESPACE, "primum-operator")
        own = {
            "PRIMUM_OPERATOR_KUBECONFIG": self.plane.kubeconfig_of(f"op-{self.namespace}", token),
            "PRIMUM_OPERATOR_RUN_SECONDS": "1",
            "PRIMUM_OPERATOR_RESYNC_SECONDS": "5",
            "PRIMUM_OPERATOR_IDENTITY": "replica-a",
            "PRIMUM_OPERATOR_PROBE_PORT": str(free_port()),
            "PRIMUM_TOKEN_FILE": str(self._token),
        }
        self._start("operator", ["primum_operators"], {**self.shared, **self._own, **own})

    def start_workers(self):
        """Ray beforehand: on a machine that is busy it takes longer than a step waits."""
        compute = bootstrap.compute(platform_settings.from_environment(self.shared))
        end = time.monotonic() + 2 * START_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(Unavailable):
                return compute.ready("primum_pipelines.steps.validate:validate")
        raise AssertionError("Ray did not start")

    def container(self, steps):
        """The real process of a run's pod."""
        mounted = pathlib.Path(tempfile.mkdtemp(prefix="steps-", dir=self.folder))
        for number, step in enumerate(steps):
            name = f"{number:03d}-{step.step}.json"
            (mounted / name).write_bytes(canonical_json(step.to_json()))
        with (self.folder / "pods.log").open("ab") as log:
            command = [sys.executable, "-m", "primum.entrypoints.walk", str(mounted)]
            environment = {**self._bare, **self.shared}
            done = subprocess.run(command, env=environment, check=False, stdout=log, stderr=log)
        return done.returncode == 0

    def client(self, token=None):
        return LedgerApiClient(
            self.url,
            lambda: token or self._token.read_text(),
            ca_file=self._authority,
            patience_seconds=30.0,
        )

    def end(self, name, with_signal=signal.SIGTERM):
        process = self.running.pop(name)
        process.send_signal(with_signal)
        return process.wait(60)

    def log(self, name):
        found = self.folder / f"{name}.log"
        return found.read_text(errors="replace") if found.exists() else ""

    def logs(self):
        return "".join(self.log(name) for name in ("api", "operator", "pods"))

    def stop(self):
        for name in tuple(self.running):
            self.end(name, signal.SIGKILL)
        bootstrap.stop_compute(platform_settings.from_environment(self.shared))

    def _ready(self):
        context = ssl.create_default_context(cafile=self._authority)
        try:
            with urllib.request.urlopen(
                f"{self.url}/readyz", timeout=10, context=context
            ) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture
def deployment(control_plane, chart_with, namespace):
    """The API speaks TLS, with the certificate that the chart made."""
    chart = chart_with("--set", "api.tls.hosts={localhost}")
    with tempfile.TemporaryDirectory(prefix="primum-", ignore_cleanup_errors=True) as folder:
        made = Deployment(control_plane, chart, pathlib.Path(folder), namespace)
        try:
            made.start_api()
            yield made
        finally:
            made.stop()


def conditions(api, namespace):
    found = api.get(path("Study", namespace, "malignancy")) or {}
    listed = found.get("status", {}).get("conditions", ())
    return {c["type"]: f"{c['status']} {c['reason']} {c['message']}" for c in listed}


def apply(control_plane, namespace, *names):
    found = [
        document
        for name in names
        for document in yaml.safe_load_all((EXAMPLES / name).read_text(encoding="utf-8"))
    ]
    for document in found:
        document["metadata"].pop("namespace", None)
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": found})
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", text=text)


def wait(holds, *, seconds, message):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, message()
        time.sleep(0.2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_study_is_released_while_the_api_alone_holds_ledger_and_key(
    control_plane, api, namespace, deployment
):
    """The API is killed in the middle, and comes back."""
    said = lambda: f"{conditions(api, namespace)}\n{deployment.logs()}"  # noqa: E731
    with Kubelet(
        api, deployment.container, namespace=namespace, manages=control_plane.manages
    ) as pods:
        deployment.start_workers()
        deployment.start_operator()
        apply(control_plane, namespace, "budget.yaml", "study.yaml")
        wait(
            lambda: conditions(api, namespace).get("Launched", "").startswith("True"),
            seconds=200,
            message=said,
        )
        deployment.end("api", signal.SIGKILL)
        deployment.start_api()
        wait(
            lambda: conditions(api, namespace).get("Succeeded", "")[:5] in ("True ", "False"),
            seconds=300,
            message=said,
        )
        assert conditions(api, namespace)["Succeeded"].startswith("True Done"), said()
        assert pods.faults == []
    home = deployment.folder / "home"
    assert not (home / "keys").exists()
    assert not (home / "primum.db").exists()
    assert "eyJ" not in deployment.logs()  # No ticket, credential or token is printed.
    study = api.get(path("Study", namespace, "malignancy"))
    client = deployment.client()
    remote = remote_stores(client)
    held = remote.ledger.reservations(study_uid=study["metadata"]["uid"])
    assert [item.state.value for item in held] == ["Charged"]
    assert "receipt" in held[0].reason
    client.close()
    stores = open_stores(deployment.database, SystemClock())
    assert stores.ledger.verify() == ()
    stores.close()
    assert deployment.end("operator") == 0


def test_the_ledger_is_for_the_operators_own_account_alone(control_plane, deployment, namespace):
    client = deployment.client()
    signer = RemoteSigner(client)
    assert remote_stores(client).ledger.head() == (0, "0" * 64)
    assert signer.public_key().startswith("-----BEGIN PUBLIC KEY")
    client.close()
    others = {
        "webhook": control_plane.token_for(helm.NAMESPACE, "primum-webhook", AUDIENCE),
        "worker": control_plane.token_for(namespace, "primum-worker", AUDIENCE),
        "for another": control_plane.token_for(helm.NAMESPACE, "primum-operator", "vault"),
        "nobody": "eyJhbGciOiJub25lIn0.e30.",
    }
    for name, token in others.items():
        stranger = deployment.client(token)
        with pytest.raises(Refused):
            remote_stores(stranger).ledger.head()
        with pytest.raises(Refused):
            RemoteSigner(stranger).public_key()
        stranger.close()
        assert name


def test_a_token_for_the_ledger_api_opens_nothing_at_the_api_server(control_plane, chart):
    token = control_plane.token_for(helm.NAMESPACE, "primum-operator", AUDIENCE)
    config = control_plane.kubeconfig_of("of-the-ledger", token)
    done = control_plane.kubectl("get", "studies", "-A", kubeconfig=config, check=False)
    assert done is not None
    assert "items" not in str(done)
