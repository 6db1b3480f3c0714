"""``primum up``.

One process with control loop and API, the inference server as its child, Ray kept warm beside them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import structlog

from primum.adapters import processes
from primum.adapters.looplock import LoopLock
from primum.domain.errors import Conflict, Unavailable
from primum.entrypoints import bootstrap, logs
from primum.entrypoints.loop import ControlLoop
from primum.entrypoints.settings import Settings

START_SECONDS_MAX = 60.0  # A loaded laptop imports slowly; beyond a minute something is wrong.
STOP_SECONDS_MAX = 20.0
NOTE = "up.json"

log = structlog.get_logger(__name__)


class Platform:
    """What runs under `primum up`, and how it stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._children: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Run until told to stop.

        Raises:
            Conflict: If the platform of this home folder runs already.
        """
        lock = LoopLock(self._settings.home)
        if not lock.acquire():
            raise Conflict(
                f"the platform of {self._settings.home} runs already; `primum down` stops it"
            )
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        platform = bootstrap.platform(self._settings)
        platform.compute.warm()
        self._start_serving()
        api = self._start_api()
        _write_note(self._settings)
        log.info("up", home=str(self._settings.home), api=self._settings.api_port)
        try:
            loop = ControlLoop(platform, flush_lineage=bootstrap.lineage_flusher(self._settings))
            while not self._stopping.is_set():
                loop.look()
                self._revive_serving()
                self._stopping.wait(self._settings.poll_seconds)
        finally:
            (self._settings.home / NOTE).unlink(missing_ok=True)
            api.stop()
            for child in self._children:
                child.terminate()
            bootstrap.stop_compute(self._settings)
            lock.release()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping.set()

    def _start_serving(self) -> None:
        registry = bootstrap.serving_registry(self._settings)
        command = [
            sys.executable,
            "-m",
            "primum_serving",
            "--registry",
            str(registry),
            "--public-key",
            str(bootstrap.keys_folder(self._settings) / "signing.pub.pem"),
            "--host",
            self._settings.host,
            "--port",
            str(self._settings.serving_port),
        ]
        log_file = (self._settings.home / "serving.log").open("ab")
        child = subprocess.Popen(  # noqa: S603 - our own interpreter, no shell
            command,
            env=bootstrap.child_environment(self._settings),
            stdout=log_file,
            stderr=log_file,
            stdin=subprocess.DEVNULL,
        )
        self._children = [child]

    def _revive_serving(self) -> None:
        if self._children and self._children[0].poll() is not None:
            log.warning(
                "inference server ended and is started again", code=self._children[0].returncode
            )
            self._stopping.wait(1.0)
            self._start_serving()

    def _start_api(self) -> ApiThread:
        thread = ApiThread(self._settings)
        thread.start()
        return thread


class ApiThread(threading.Thread):
    """The HTTP API in a thread of the control process: one process less to pay for."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="api", daemon=True)
        self._settings = settings
        self._server: object | None = None

    def run(self) -> None:
        """Serve until stopped."""
        from primum.entrypoints.api.server import make_server

        server = make_server(self._settings)
        self._server = server
        server.run()

    def stop(self) -> None:
        """Ask the server to end."""
        if self._server is not None:
            self._server.should_exit = True  # type: ignore[attr-defined]
        self.join(timeout=5.0)


def running_process(settings: Settings) -> int:
    """The process of this home folder's platform; 0 where none runs."""
    try:
        note = json.loads((settings.home / NOTE).read_text())
        pid, born = int(note["pid"]), str(note["born"])
    except (OSError, ValueError, KeyError):
        return 0
    return pid if processes.birth(pid) == born else 0


def _write_note(settings: Settings) -> None:
    note = {"pid": os.getpid(), "born": processes.birth(os.getpid())}
    temporary = settings.home / f"{NOTE}.new"
    temporary.write_text(json.dumps(note))
    temporary.replace(settings.home / NOTE)


def run(settings: Settings) -> None:
    """Run the platform in this process."""
    logs.configure(logs.Audience.MACHINES)
    Platform(settings).run()


def start_detached(settings: Settings) -> str:
    """Start the platform in a process of its own, and wait until it answers.

    Returns:
        A sentence for people.

    Raises:
        Unavailable: If it did not start; names its log.
    """
    if running_process(settings):
        return f"the platform of {_shown(settings.home)} runs already"
    log_path = settings.home / "up.log"
    with log_path.open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "primum", "up"],
            env=bootstrap.child_environment(settings),
            stdout=log_file,
            stderr=log_file,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline:
        if running_process(settings):
            return (
                f"up in {_shown(settings.home)}: API http://{settings.host}:{settings.api_port}, "
                f"endpoints http://{settings.host}:{settings.serving_port}"
            )
        if child.poll() is not None:
            break
        time.sleep(0.05)
    raise Unavailable(f"the platform did not start; see {_shown(log_path)}")


def stop(settings: Settings) -> str:
    """Stop the platform of a home folder.

    Returns:
        A sentence for people.

    Raises:
        Unavailable: If it does not end.
    """
    pid = running_process(settings)
    if not pid:
        return f"nothing runs in {_shown(settings.home)}"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        if not running_process(settings):
            return f"stopped the platform of {_shown(settings.home)}"
        time.sleep(0.05)
    raise Unavailable(f"the platform (process {pid}) did not end in {STOP_SECONDS_MAX:.0f} s")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
