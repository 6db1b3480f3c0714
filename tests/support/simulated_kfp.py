"""A simulated Kubeflow Pipelines: its v2beta1 API over real HTTP, and what runs the tasks.

Requests are read as strictly as by the real one (its own protobuf messages), runs walk through
states by themselves or as a test says, and every ugly answer can be asked for: lost, late, refused,
from a proxy, in bursts. Tasks run by a function of the test, or as real processes. For a clinic it
stands in a kubelet's place.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable

from control_plane import Api

ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
STOPPABLE = ("", "PENDING", "RUNNING", "PAUSED")
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 429: 8, 500: 13, 503: 14, 504: 4}
_PAUSE_SECONDS = 0.05


@dataclasses.dataclass
class Fault:
    """How some requests go wrong.

    Args:
        request: A regular expression over "METHOD /path".
        how: ``lost`` (done, and the connection closed), ``hang``, ``redirect``, ``page`` (a proxy's
            200), ``gone page`` (a proxy's 404), ``garbage``, ``empty``, or a status code.
        times: How often.
        after: Only once a request matched this.
        headers: Sent along.
    """

    request: str
    how: str | int
    times: int = 1
    after: str = ""
    headers: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task as its pod would be: what runs, what is mounted, what it is labelled."""

    name: str
    run: dict
    container: dict
    pod: dict
    inputs: dict
    files: dict[str, dict[str, bytes]]

    @property
    def labels(self) -> dict:
        return self.pod.get("podMetadata", {}).get("labels", {})


class Answer(Exception):
    """An answer that is not 200."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class SimulatedKfp:
    """A server of one cluster.

    Args:
        api: The API server that Secrets are read from; None where tasks mount none.
        body: What a task comes to; None where the test moves the states itself.
        tokens: Accepted bearer tokens; empty where none is asked for.
        tls: An ``ssl.SSLContext`` of the server's.
    """

    def __init__(
        self,
        api: Api | None = None,
        body: Callable[[Task], bool] | None = None,
        *,
        tokens=(),
        tls=None,
    ) -> None:
        self.api, self.body, self.tokens = api, body, set(tokens)
        self.runs: list[dict] = []
        self.experiments: list[dict] = []
        self.troubles: list[Fault] = []
        self.requests: list[str] = []
        self.faults: list[BaseException] = []
        self.started: list[str] = []
        self.finished: list[tuple[str, str]] = []
        self.created = 0
        self.paused = threading.Event()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            listening = tls.wrap_socket(self._server.socket, server_side=True)
            self._server.socket, scheme = listening, "https"
        self.url = f"{scheme}://localhost:{self._server.server_port}"

    def __enter__(self) -> SimulatedKfp:
        self._start(self._server.serve_forever, 0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(60)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    # What a test does to it.

    def fail(
        self, request: str, how: str | int, times: int = 1, *, after: str = "", **headers: str
    ) -> None:
        """Have requests go wrong."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with self._lock:
            self.troubles.append(Fault(request, how, times, after, named))

    def move(self, run: dict, state: str) -> None:
        """Put a run into a state."""
        with self._lock:
            run["state"] = state

    def vanish(self, run: dict) -> None:
        """Somebody deleted the record of a run, and with it its workflow."""
        with self._lock:
            self.runs.remove(run)
            run["state"] = "DELETED"

    def twin(self, run: dict, *, seconds: int = 5) -> dict:
        """The same run again, created later: of a request that was answered late."""
        made = copy.deepcopy(run) | {"run_id": str(uuid.uuid4()), "state": "RUNNING"}
        then = datetime.datetime.fromisoformat(run["created_at"])
        made["created_at"] = _stamp(then + datetime.timedelta(seconds=seconds))
        with self._lock:
            self.runs.insert(0, made)
        return made

    def alive(self) -> list[dict]:
        """Runs that have not ended and are not ending."""
        with self._lock:
            return [run for run in self.runs if run["state"] in STOPPABLE]

    # What it answers.

    def answer(self, method: str, path: str, query: dict, body: dict) -> dict:
        parts = path.removeprefix("/apis/v2beta1").strip("/").split("/")
        with self._lock:
            match (method, parts):
                case ("GET", ["runs"]):
                    return _listed(self.runs, "runs", query)
                case ("POST", ["runs"]):
                    return self._create(body)
                case ("GET", ["runs", run_id]):
                    return _shown(self._run(run_id))
                case ("POST", ["runs", named]) if named.endswith(":terminate"):
                    return self._terminate(named.removesuffix(":terminate"))
                case ("GET", ["experiments"]):
                    return _listed(self.experiments, "experiments", query)
                case ("POST", ["experiments"]):
                    return self._experiment(body)
        raise Answer(404, "Not Found")

    def _run(self, run_id: str) -> dict:
        for run in self.runs:
            if run["run_id"] == run_id:
                return run
        raise Answer(404, f"Failed to get a run: ResourceNotFoundError: Run {run_id} not found")

    def _experiment(self, body: dict) -> dict:
        if not body.get("display_name") or not body.get("namespace"):
            raise Answer(400, "Invalid input error: Experiment has an empty name or namespace")
        same = (body["display_name"], body["namespace"])
        if any((e["display_name"], e["namespace"]) == same for e in self.experiments):
            raise Answer(409, "Already exist error: experiment")
        made = {**body, "experiment_id": str(uuid.uuid4()), "created_at": _stamp()}
        self.experiments.append(made)
        return made

    def _create(self, body: dict) -> dict:
        if not body.get("display_name"):
            raise Answer(400, "Invalid input error: The run name is empty")
        found = [e for e in self.experiments if e["experiment_id"] == body.get("experiment_id")]
        if not found:
            raise Answer(404, "ResourceNotFoundError: Experiment not found")
        check_documents(body["pipeline_spec"])
        known = {"display_name", "description", "experiment_id", "pipeline_spec", "runtime_config"}
        if set(body) - known - {"service_account"}:
            raise Answer(400, "Invalid input error: unknown field")
        run = {
            **body,
            "run_id": str(uuid.uuid4()),
            "created_at": _stamp(),
            "storage_state": "AVAILABLE",
            "state": "PENDING",
            "namespace": found[0]["namespace"],
        }
        self.runs.insert(0, run)
        self.created += 1
        if self.body is not None:
            self._start(self._walk, run)
        return _shown(run)

    def _terminate(self, run_id: str) -> dict:
        run = self._run(run_id)
        if run["state"] not in STOPPABLE:
            raise Answer(400, f"Invalid input error: Failed to terminate a run {run_id}.")
        run["state"] = "CANCELING"
        if self.body is None:
            self._start(self._cancel_later, run)
        return {}

    def _cancel_later(self, run: dict) -> None:
        time.sleep(_PAUSE_SECONDS)
        with self._lock:
            if run["state"] == "CANCELING" and run.get("stuck") is None:
                run["state"] = "CANCELED"

    # What runs the tasks.

    def _walk(self, run: dict) -> None:
        time.sleep(_PAUSE_SECONDS)
        while self.paused.is_set() and run["state"] in STOPPABLE:
            if self._stop.wait(_PAUSE_SECONDS):
                return
        with self._lock:
            if run["state"] == "PENDING":
                run["state"] = "RUNNING"
        spec = run["pipeline_spec"]["pipeline_spec"]
        self.started.append(run["display_name"])
        try:
            well = self._dag(run, spec, spec["root"]["dag"])
        except BaseException as crash:  # Told to the test, which must not see it pass.
            self.faults.append(crash)
            well = False
        with self._lock:
            if run["state"] == "CANCELING":
                run["state"] = "CANCELED"
            elif run["state"] in STOPPABLE:
                run["state"] = "SUCCEEDED" if well else "FAILED"

    def _dag(self, run: dict, spec: dict, dag: dict) -> bool:
        """Tasks in the order of their dependencies; an exit task whatever came before."""
        ended: dict[str, bool] = {}
        waiting = dict(dag["tasks"])
        while waiting:
            name = next(
                each
                for each, task in waiting.items()
                if set(task.get("dependentTasks", ())) <= set(ended)
            )
            task = waiting.pop(name)
            always = task.get("triggerPolicy", {}).get("strategy") == "ALL_UPSTREAM_TASKS_COMPLETED"
            before = all(ended[each] for each in task.get("dependentTasks", ()))
            stopped = run["state"] not in STOPPABLE  # An exit task may never run.
            ended[name] = (
                (always or before) and not stopped and self._task(run, spec, name, task, ended)
            )
        return all(ended.values())

    def _task(self, run: dict, spec: dict, name: str, task: dict, ended: dict) -> bool:
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            return self._dag(run, spec, component["dag"])
        label = component["executorLabel"]
        container = spec["deploymentSpec"]["executors"][label]["container"]
        platforms = run["pipeline_spec"].get("platform_spec", {}).get("platforms", {})
        executors = platforms.get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
        pod = executors.get(label, {})
        files = self._mounted(run, pod)
        if files is None:
            return False
        given = task.get("inputs", {}).get("parameters", {})
        inputs = {key: _value(item, ended) for key, item in given.items()}
        well = self.body(Task(name, run, container, pod, inputs, files))
        self.finished.append((run["run_id"], name))
        return well

    def _mounted(self, run: dict, pod: dict) -> dict[str, dict[str, bytes]] | None:
        """Files by mount path; a pod whose Secret is missing waits until its run is stopped."""
        mounted = {}
        for item in pod.get("secretAsVolume", ()):
            path = f"/api/v1/namespaces/{run['namespace']}/secrets/{item['secretName']}"
            while (found := self._asked(path)) is None:
                if run["state"] not in STOPPABLE or self._stop.wait(_PAUSE_SECONDS):
                    return None
            data = {key: base64.b64decode(text) for key, text in found["data"].items()}
            mounted[item["mountPath"]] = data
        return mounted

    def _asked(self, path: str):
        try:
            return self.api.get(path)
        except (OSError, AssertionError):
            return None


class Processes:
    """A body that runs each task's own command, as a container would.

    Args:
        folder: Where Secrets are laid out; a path in an input is changed to lie there.
        environment: What the processes have besides the container's own variables.
    """

    def __init__(self, folder: pathlib.Path, environment: dict[str, str]) -> None:
        self._folder, self._environment = folder, environment
        self.outputs: list[str] = []

    def __call__(self, task: Task) -> bool:
        inputs = dict(task.inputs)
        for path, files in task.files.items():
            mounted = pathlib.Path(tempfile.mkdtemp(prefix="mount-", dir=self._folder))
            for name, content in files.items():
                (mounted / name).write_bytes(content)
            inputs = {
                key: value.replace(path, str(mounted)) if isinstance(value, str) else value
                for key, value in inputs.items()
            }
        told = {
            "inputs": {"parameterValues": inputs},
            "outputs": {"outputFile": str(self._folder / f"{uuid.uuid4()}.json")},
        }
        words = [*task.container["command"], *task.container.get("args", ())]
        command = [word.replace("{{$}}", json.dumps(told)) for word in words]
        # The platform's address and homes are the test's; those of the container are a cluster's.
        named = {item["name"]: item["value"] for item in task.container.get("env", ())}
        own = {name: value for name, value in named.items() if not name.startswith("PRIMUM_")}
        path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        done = subprocess.run(
            command,
            env={**own, **self._environment, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        self.outputs.append(f"{task.name}: {done.stdout}{done.stderr}")
        return done.returncode == 0


def check_documents(wrapped: dict) -> None:
    """Read both documents by Kubeflow's own messages; what they do not know is refused."""
    from google.protobuf import json_format
    from kfp.kubernetes import kubernetes_executor_config_pb2 as platform
    from kfp.pipeline_spec import pipeline_spec_pb2

    if "pipeline_spec" not in wrapped or set(wrapped) - {"pipeline_spec", "platform_spec"}:
        raise Answer(400, "Invalid input error: both documents must be wrapped")
    platforms = wrapped.get("platform_spec", {"platforms": {}})
    try:
        json_format.ParseDict(wrapped["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platforms, pipeline_spec_pb2.PlatformSpec())
        for one in platforms["platforms"].values():
            for pod in one["deploymentSpec"]["executors"].values():
                json_format.ParseDict(pod, platform.KubernetesExecutorConfig())
    except json_format.ParseError as error:
        raise Answer(400, f"Invalid input error: {error}") from None


def _value(item: dict, ended: dict[str, bool]):
    if "runtimeValue" in item:
        return item["runtimeValue"]["constant"]
    if "taskFinalStatus" in item:
        before = item["taskFinalStatus"]["producerTask"]
        state = "SUCCEEDED" if ended.get(before) else "FAILED"
        return {
            "state": state,
            "pipelineJobResourceName": "simulated",
            "pipelineTaskName": before,
            "error": {},
        }
    raise AssertionError(f"an input that is not simulated: {item}")


def _shown(run: dict) -> dict:
    return {key: value for key, value in run.items() if key != "stuck"}


def _stamp(when: datetime.datetime | None = None) -> str:
    at = when or datetime.datetime.now(datetime.UTC)
    return at.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _listed(items: list[dict], of: str, query: dict) -> dict:
    """A page of what a filter matches, newest first, as the real one's default."""
    if "namespace" not in query:
        raise Answer(400, "Invalid input error: Namespace is empty")
    found = [item for item in items if item["namespace"] == query["namespace"]]
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else ()
    for predicate in predicates:
        key, text = predicate["key"], predicate["stringValue"]
        match predicate["operation"]:
            case "EQUALS":
                found = [item for item in found if item[key] == text]
            case "NOT_EQUALS":
                found = [item for item in found if item[key] != text]
            case "IS_SUBSTRING":
                found = [item for item in found if text in item[key]]
            case other:
                raise Answer(400, f"Invalid input error: operation {other}")
    begin, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
    page = {of: [_shown(item) for item in found[begin : begin + size]], "total_size": len(found)}
    if begin + size < len(found):
        page["next_page_token"] = str(begin + size)
    return page if found else {}


def _handler(kfp: SimulatedKfp) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            parts = urllib.parse.urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kfp.requests.append(f"{method} {parts.path}")
            fault = self._fault(f"{method} {parts.path}")
            if fault is not None and self._goes_wrong(fault):
                return
            try:
                self._authorized()
                query = dict(urllib.parse.parse_qsl(parts.query))
                body = json.loads(content) if content else {}
                found = kfp.answer(method, parts.path, query, body)
            except Answer as refusal:
                self._send_error(refusal.code, str(refusal))
                return
            if fault is not None:  # Done, and nobody is told.
                self.close_connection = True
                return
            self._send(200, json.dumps(found).encode(), "application/json")

        def _fault(self, request: str) -> Fault | None:
            with kfp._lock:
                armed = [fault for fault in kfp.troubles if not fault.after]
                for fault in kfp.troubles:
                    if fault.after and re.search(fault.after, request):
                        fault.after = ""
                for fault in armed:
                    if fault.times > 0 and re.search(fault.request, request):
                        fault.times -= 1
                        return fault
            return None

        def _goes_wrong(self, fault: Fault) -> bool:
            """Whether nothing is done."""
            match fault.how:
                case "lost":
                    return False
                case "hang":
                    kfp._stop.wait(5)
                    self.close_connection = True
                case "redirect":
                    self._send(302, b"", "text/html", Location="http://localhost:1/login")
                case "page":
                    self._send(200, b"<html>Sign in</html>", "text/html")
                case "gone page":
                    self._send(404, b"<html>404</html>", "text/html")
                case "garbage":
                    self._send(200, b'["not", "an", "object"]', "application/json")
                case "empty":
                    self._send(200, b"{}", "application/json")
                case int(code):
                    self._send_error(code, "simulated", **fault.headers)
            return True

        def _authorized(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if kfp.tokens and given not in kfp.tokens:
                raise Answer(401, "Unauthenticated")

        def _send_error(self, code: int, message: str, **headers: str) -> None:
            body = {"error": message, "code": _GRPC.get(code, 2), "message": message, "details": []}
            self._send(code, json.dumps(body).encode(), "application/json", **headers)

        def _send(self, code: int, content: bytes, kind: str, **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Type": kind, **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
