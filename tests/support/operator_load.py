"""The operator's real process under load: Studies applied at a rate, launches watched, costs read.

Everything that measures is here; what is measured runs in processes of its own, so that the
operator shares nothing with the load but the machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

from control_plane import ControlPlane
from manifests import manifest, path

from primum.adapters.kube.objects import stored_resource
from primum.adapters.kube_manifests import names
from primum.application import budgets
from primum.entrypoints import bootstrap
from primum.entrypoints.settings import from_environment
from primum.resources import conversion

IMAGE = "registry.example.org/primum/worker@sha256:" + "0" * 64
BUDGET = "wisconsin"
WRITES = ("create", "patch", "delete")  # Without the Lease, which is renewed by PUT.
READS = ("get", "list")
_TICKS = os.sysconf("SC_CLK_TCK")
_METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


class OperatorProcess:
    """One replica in a process of its own.

    Args:
        plane: The control plane.
        namespace: Where it looks, and its Lease is.
        home: The platform's home folder.
        database: The ledger's database.
        settings: More of its settings, by name.
    """

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        *,
        home: pathlib.Path,
        database: str,
        **settings: object,
    ) -> None:
        own = {
            "KUBECONFIG": plane.kubeconfig,
            "NAMESPACES": namespace,
            "HOME_NAMESPACE": namespace,
            "JOB_IMAGE": IMAGE,
            "JOB_LEDGER_URL": "http://primum-api:8399",
            "RESYNC_SECONDS": "600",
            "RUN_SECONDS": "600",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        self.told = own
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")},
            "PRIMUM_HOME": str(home),
            "PRIMUM_DATABASE_URL": database,
        }
        self._log = home.parent / "operator.log"
        self.process: subprocess.Popen | None = None
        self.port = 0

    def start(self, port: int, identity: str = "load") -> None:
        """Start it; ``ready`` says when it works."""
        self.port = port
        own = self.told | {"PROBE_PORT": str(port), "IDENTITY": identity}
        told = {f"PRIMUM_OPERATOR_{name}": value for name, value in own.items()}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "primum_operators"],
                env={**self._environment, **told},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(60)
            self.process = None

    def metrics(self) -> dict[str, float]:
        """Every sample by its name with labels; empty while it does not answer."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}/metrics", timeout=30
            ) as answer:
                text = answer.read().decode()
        except OSError:
            return {}
        found = (_METRIC.match(line) for line in text.splitlines() if line[0] != "#")
        return {f"{m[1]}{{{m[2] or ''}}}": float(m[3]) for m in found if m}

    def requests(self, verbs: tuple[str, ...]) -> float:
        """Requests to the API server of these verbs, so far."""
        wanted = "primum_operator_api_requests_total{"
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith(wanted) and any(f'verb="{verb}"' in name for verb in verbs)
        )

    def looks(self, kind: str = "") -> float:
        """Looks at resources so far, whatever came of them."""
        wanted = "primum_operator_reconciles_total{"
        return sum(
            value
            for name, value in self.metrics().items()
            if name.startswith(wanted) and f'kind="{kind}' in name
        )

    def leads(self) -> bool:
        """Whether this replica works."""
        return self.metrics().get("primum_operator_leading{}") == 1.0

    def cpu_seconds(self) -> float:
        """CPU seconds of the process so far."""
        return cpu_seconds(self.process.pid)

    def resident_mb(self) -> float:
        """Its memory."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="replace")[-8000:]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Line:
    """One kept connection to an API server: a new one for every object would be the load."""

    def __init__(self, plane: ControlPlane) -> None:
        where = urllib.parse.urlsplit(plane.url)
        self._connection = http.client.HTTPSConnection(
            where.hostname, where.port, context=plane.api._context, timeout=120
        )

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def create(self, where: str, body: dict) -> dict:
        """Create an object."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self._connection.request("POST", where, json.dumps(body), headers)
        answer = self._connection.getresponse()
        found = json.loads(answer.read())
        assert answer.status < 300, found.get("message")
        return found

    def stream(self, where: str):
        """Lines of a watch, until the server or ``close`` ends it."""
        self._connection.request("GET", where, headers={"Accept": "application/json"})
        self._socket = self._connection.sock  # A stream without end takes it over.
        with self._connection.getresponse() as answer:
            while line := answer.readline():
                yield json.loads(line)

    def close(self) -> None:
        """Cut the connection, whoever reads from it."""
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)


class Launches:
    """When the Job of each Study came to be, by a watch that is open before the first of them."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._line = Line(plane)
        self._path = f"/apis/batch/v1/namespaces/{namespace}/jobs?watch=1"
        self.seen: dict[str, float] = {}
        self.uids: set[str] = set()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Launches:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.close()
        self._thread.join(30)
        self._line.__exit__()

    def _watch(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            for event in self._line.stream(self._path):
                if event["type"] == "ADDED":
                    metadata = event["object"]["metadata"]
                    self.uids.add(metadata["uid"])
                    self.seen.setdefault(metadata["labels"][names.STUDY], time.perf_counter())

    def wait(self, count: int, *, seconds: float, message) -> None:
        """Wait until so many Studies are launched."""
        end = time.monotonic() + seconds
        while len(self.seen) < count:
            assert time.monotonic() < end, f"{len(self.seen)} of {count} launched\n{message()}"
            time.sleep(0.05)


def declare_budget(plane: ControlPlane, namespace: str, *, home: pathlib.Path, database: str):
    """A budget with room for every Study of a benchmark, whose dataset is registered.

    No run can do that here, because no pod runs.
    """
    told = from_environment({"PRIMUM_HOME": str(home), "PRIMUM_DATABASE_URL": database})
    bootstrap.prepare_home(told)
    spec = {
        "dataset": {"uri": "sklearn://breast_cancer", "unit": "Patient"},
        "guarantee": {"epsilon": "10000", "delta": "1e-4"},
        "accounting": {"policy": "RDP"},
    }
    body = manifest("PrivacyBudget", BUDGET, spec)
    made = plane.api.post(path("PrivacyBudget", namespace), body)
    declared = conversion.budget_spec(stored_resource(made))
    with contextlib.closing(bootstrap.stores(told)) as opened:
        platform = dataclasses.replace(bootstrap.platform(told), evidence=opened.evidence)
        budgets.registered_dataset(platform, declared)


def wait_for_budget(plane: ControlPlane, namespace: str) -> None:
    """Wait until it is ready."""
    end = time.monotonic() + 120
    while True:
        found = plane.api.get(path("PrivacyBudget", namespace, BUDGET))
        listed = found.get("status", {}).get("conditions", ())
        if any(c["type"] == "Ready" and c["status"] == "True" for c in listed):
            return
        assert time.monotonic() < end, listed
        time.sleep(0.1)


def study(number: int, *, endpoint: str = "") -> dict:
    """A Study; the recipes of ten take turns, as those of a group of people do."""
    spec = {
        "purpose": "Tell malignant from benign in fine-needle aspirates",
        "data": [{"role": "Private", "budget": BUDGET}],
        "privacy": {"epsilon": "1.0", "delta": "1e-5"},
        "job": {
            "kind": "Train",
            "train": {
                "model": "Logistic",
                "epochs": 10 + number % 10,
                "batchSize": 128,
                "maxGradNorm": "1.0",
            },
        },
        "audits": [{"kind": "Membership", "attack": "OneRunCanary", "canaries": 100}],
    }
    if endpoint:
        spec["release"] = {"endpoint": endpoint}
    return spec


def apply_studies(
    plane: ControlPlane, namespace: str, numbers: range, *, per_second: float = 0.0
) -> dict[str, float]:
    """Apply Studies, evenly spaced or as fast as the API server takes them; when, by name."""
    applied: dict[str, float] = {}
    began = time.perf_counter()
    with Line(plane) as line:
        for place, number in enumerate(numbers):
            if per_second:
                time.sleep(max(0.0, began + place / per_second - time.perf_counter()))
            name = f"s{number:05d}"
            applied[name] = time.perf_counter()
            body = manifest("Study", name, study(number, endpoint=name))
            line.create(path("Study", namespace), body)
    return applied


def percentile(values, share: float) -> float:
    """The least value that so large a share of the values does not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, round(share * len(ranked) + 0.5) - 1))]
