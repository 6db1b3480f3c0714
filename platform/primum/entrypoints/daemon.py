"""``primum up``.

One process with control loop and API, the inference server as its child, Ray kept warm beside them.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import structlog

from primum.adapters import processes
from primum.adapters.looplock import LoopLock
from primum.domain.errors import Conflict, InvalidValue, Unavailable
from primum.entrypoints import bootstrap, logs
from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.loop import ControlLoop
from primum.entrypoints.settings import Settings

START_SECONDS_MAX = 60.0  # A loaded laptop imports slowly; beyond a minute something is wrong.
STOP_SECONDS_MAX = 30.0
SERVING_SECONDS_MAX = 5.0  # To answer what it was asked before it is ended.
REVIVE_SECONDS = 1.0  # Between two starts of an inference server that does not stay.
NOTE = "up.json"

log = structlog.get_logger(__name__)


class Platform:
    """What runs under `primum up`, and how it stops."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._serving_lock = settings.home / "serving.lock"
        self._revive_at = 0.0

    def run(self) -> None:
        """Run until told to stop.

        Raises:
            Conflict: If the platform of this home folder runs already, or a port is taken.
        """
        lock = LoopLock(self._settings.home)
        if not lock.acquire():
            raise Conflict(_held(self._settings))
        try:
            # A platform that was killed could not end its inference server, which holds the port.
            processes.end_marked(self._serving_lock, grace_seconds=SERVING_SECONDS_MAX)
            host, name = self._settings.host, "PRIMUM_SERVING_PORT"
            _listener(host, self._settings.serving_port, name).close()
            with _listener(host, self._settings.api_port, "PRIMUM_API_PORT") as listener:
                self._serve(listener)
        finally:
            lock.release()

    def _serve(self, listener: socket.socket) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        bootstrap.compute(self._settings).warm()  # Takes longest, so it starts first.
        platform = bootstrap.platform(self._settings)
        loop = ControlLoop(platform, flush_lineage=bootstrap.lineage_flusher(self._settings))
        self._start_serving()
        api = ApiThread(self._settings, loop, listener)
        api.start()
        _write_note(self._settings)
        log.info("up", home=str(self._settings.home), api=self._settings.api_port)
        try:
            while not self._stopping.is_set():
                loop.look()
                self._revive_serving()
                self._stopping.wait(self._settings.poll_seconds)
        finally:
            api.stop()
            self._end()
            (self._settings.home / NOTE).unlink(missing_ok=True)

    def _end(self) -> None:
        """End every process of this home; runs first, or their steps would report a lost worker."""
        bootstrap.runner(self._settings).interrupt()
        processes.end_marked(self._serving_lock, grace_seconds=SERVING_SECONDS_MAX)
        bootstrap.stop_compute(self._settings)

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
        processes.start_locked(
            command,
            lock=self._serving_lock,
            log=self._settings.home / "serving.log",
            environment=bootstrap.child_environment(self._settings),
        )
        self._revive_at = time.monotonic() + REVIVE_SECONDS

    def _revive_serving(self) -> None:
        if time.monotonic() < self._revive_at or processes.is_running(self._serving_lock):
            return
        log.warning("inference server ended and is started again")
        self._start_serving()


class ApiThread(threading.Thread):
    """The HTTP API in a thread of the control process: one process less to pay for."""

    def __init__(self, settings: Settings, loop: ControlLoop, listener: socket.socket) -> None:
        super().__init__(name="api", daemon=True)
        self._settings = settings
        self._loop = loop
        self._listener = listener
        self._server: object | None = None

    def run(self) -> None:
        """Serve until stopped."""
        from primum.entrypoints.api.server import make_server

        waiting = bootstrap.lineage_backlog(self._settings)
        server = make_server(
            self._settings, {"loop_failures": self._loop.failures, "lineage_waiting": waiting}
        )
        self._server = server
        server.run(sockets=[self._listener])

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


def _held(settings: Settings) -> str:
    """Why this home's control loop cannot be run here, and what to do about it."""
    if running_process(settings):
        return f"the platform of {_shown(settings.home)} runs already; `primum down` stops it"
    return (
        f"another command drives the Studies of {_shown(settings.home)} at the moment; "
        "start the platform when it has ended"
    )


def _listener(host: str, port: int, name: str) -> socket.socket:
    """A socket that listens on a port.

    Raises:
        Conflict: If something else listens there.
        InvalidValue: If there is no such address here.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno != errno.EADDRINUSE:
            found = f"{host}:{port}, {error.strerror or 'no such address'}"
            raise InvalidValue("PRIMUM_HOST", "must be an address of this machine", found) from None
        raise Conflict(
            f"{name} must be a free port; found {port} taken by another program. "
            f"Set {name} to another one."
        ) from None
    return listener


def _write_note(settings: Settings) -> None:
    note = {"pid": os.getpid(), "born": processes.birth(os.getpid())}
    temporary = settings.home / f"{NOTE}.new"
    temporary.write_text(json.dumps(note))
    temporary.replace(settings.home / NOTE)


def run(settings: Settings) -> None:
    """Run the platform in this process."""
    logs.configure(logs.Audience.MACHINES)
    if sys.stdout.isatty():
        print(f"{_addresses(settings)}. Ctrl-C stops it.")  # noqa: T201 - for whoever started it
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
    said = log_path.stat().st_size if log_path.exists() else 0
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
        if running_process(settings) and _answers(settings):
            return _addresses(settings)
        if child.poll() is not None:
            break
        time.sleep(0.05)
    why = _last_error(log_path, said)
    if child.returncode == Exit.CONFLICT:
        raise Conflict(why)
    raise Unavailable(
        f"the platform did not start: {why or 'it took too long'}; see {_shown(log_path)}"
    )


def _answers(settings: Settings) -> bool:
    """Whether API and inference server accept connections."""
    for port in (settings.api_port, settings.serving_port):
        try:
            socket.create_connection((settings.host, port), timeout=1.0).close()
        except OSError:
            return False
    return True


def _addresses(settings: Settings) -> str:
    return (
        f"up in {_shown(settings.home)}: page and API http://{settings.host}:{settings.api_port}, "
        f"endpoints http://{settings.host}:{settings.serving_port}"
    )


def _last_error(log_path: Path, start: int) -> str:
    """The sentence with which a platform that did not start ended."""
    with contextlib.suppress(OSError):
        lines = log_path.read_bytes()[start:].decode(errors="replace").splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return said[-1] if said else ""
    return ""


class Interrupt(enum.Enum):
    """What to do with runs that are under way."""

    REFUSE = "refuse"
    FORCE = "force"


def stop(settings: Settings, interrupt: Interrupt) -> str:
    """Stop the platform of a home folder, and every process it started.

    Returns:
        A sentence for people.

    Raises:
        Conflict: If a run is under way that must not be interrupted.
        Unavailable: If it does not end.
    """
    under_way = bootstrap.runner(settings).under_way()
    if under_way and interrupt is Interrupt.REFUSE:
        raise Conflict(
            f"primum down must not interrupt a run; found {', '.join(under_way)}. "
            "Wait until it ends, or add --force: what it has opened is then charged in full."
        )
    pid = running_process(settings)
    if not pid:
        bootstrap.runner(settings).interrupt()
        bootstrap.stop_compute(settings)  # An `apply` may have left its workers warm.
        return f"nothing runs in {_shown(settings.home)}"
    born = processes.birth(pid)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS_MAX
    while time.monotonic() < deadline:
        if processes.birth(pid) != born:  # Its note goes a moment before it does.
            return f"stopped the platform of {_shown(settings.home)}"
        time.sleep(0.05)
    raise Unavailable(f"the platform (process {pid}) did not end in {STOP_SECONDS_MAX:.0f} s")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
