"""The keeper: the process that starts a local Ray, keeps warm workers in it, and passes calls on.

Runs as ``python -m primum.adapters.ray.keeper <home> <settings>``; the only module that imports
ray. It lives as long as a process that asked for it (``primum up``) lives, or until nobody has
called for a while. When a caller hangs up before its answer, the worker that was busy for it is
ended and replaced: stopping a run stops its work. It must not read what it passes on.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from primum.adapters import processes
from primum.adapters.ray import group, wire
from primum.adapters.ray.wire import MESSAGE_BYTES_MAX, Address, is_gone
from primum.adapters.ray.worker import Worker

NAMESPACE = "primum"
_POLL_SECONDS = 0.2  # How late a caller's death is noticed while its work runs.
_WATCH_SECONDS = 0.5
_OWNERLESS_SECONDS = (
    20.0  # Longer than the gap between two steps of a run that outlives its command.
)
_QUALITY = "quality"
_VALIDATE_MODULE = "validate"


@dataclass(slots=True)
class _Lane:
    """One worker and the turn to use it."""

    name: str
    kind: str
    handle: Any = None
    turn: threading.Lock = field(default_factory=threading.Lock)


class Keeper:
    """Owns Ray, its workers and the socket.

    Args:
        home: Folder with the address file and the owners.
        settings: As ``RaySettings.to_json``.
    """

    def __init__(self, home: Path, settings: Mapping[str, Any]) -> None:
        self._home = home
        self._settings = settings
        self._scratch = Path(
            tempfile.mkdtemp(prefix="primum-")
        )  # Short: socket paths have 107 bytes.
        self._key = secrets.token_bytes(32)
        self._lanes = [
            *(_Lane(f"primum-worker-{n}", "worker") for n in range(int(settings["workers"]))),
            _Lane("primum-quality", _QUALITY),
        ]
        self._group = _Lane("primum-group", "group")  # One group at a time has all CPUs and GPUs.
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._words: dict[str, str] = {}  # By call: what counts if its worker is lost.
        self._busy = 0
        self._count = threading.Lock()
        self._last_call = time.monotonic()
        self._idle_seconds = float(settings["idle_seconds"])

    def serve(self) -> None:
        """Listen, start Ray, and stay until nobody needs it."""
        socket = self._scratch / "keeper.sock"
        with Listener(str(socket), family="AF_UNIX", backlog=64, authkey=self._key) as listener:
            self._publish("")
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            try:
                self._publish(self._start_ray())
                self._up.set()
                while not self._stopping.wait(_WATCH_SECONDS) and self._is_needed():
                    pass
            finally:
                self._end()

    def _publish(self, ray_address: str) -> None:
        address = Address(
            socket=str(self._scratch / "keeper.sock"),
            key=self._key.hex(),
            pid=os.getpid(),
            ray_address=ray_address,
            token_path=os.environ.get("RAY_AUTH_TOKEN_PATH", ""),
        )
        address.write(self._home / wire.ADDRESS_FILE)

    def _start_ray(self) -> str:
        import ray

        context = ray.init(
            address="local",  # Never join what a stale file of another Ray points to.
            namespace=NAMESPACE,
            num_cpus=int(self._settings["cpus"]) or os.cpu_count(),
            num_gpus=float(self._settings["gpus"] or 0),
            object_store_memory=int(self._settings["object_store_bytes"]),
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(self._scratch / "ray"),
        )
        for lane in reversed(self._lanes):  # Validation comes first, so its worker does too.
            gpus = float(self._settings["gpus_per_worker"]) if lane.kind != _QUALITY else 0.0
            lane.handle = (
                ray.remote(Worker)
                .options(
                    name=lane.name,
                    num_cpus=0,  # Bodies share the machine; Ray's count is for tasks they start.
                    num_gpus=gpus,
                    max_restarts=-1,  # A worker that died is replaced, and warm by the next call.
                    max_task_retries=0,  # A body that touched data never runs twice.
                )
                .remote(lane.kind)
            )
        return str(context.address_info["address"])

    def _end(self) -> None:
        import ray

        self._stopping.set()
        (self._home / wire.ADDRESS_FILE).unlink(missing_ok=True)
        ray.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _is_needed(self) -> bool:
        with self._count:
            idle = 0.0 if self._busy else time.monotonic() - self._last_call
        owners = wire.owners(self._home)
        if any(owners.values()):
            return True
        for path in owners:
            path.unlink(missing_ok=True)
            self._idle_seconds = _OWNERLESS_SECONDS
        return idle < self._idle_seconds

    def _accept(self, listener: Listener) -> None:
        while not self._stopping.is_set():
            try:
                line = listener.accept()
            except Exception:  # noqa: BLE001, S112 - a caller without the key, or one that hung up
                continue
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: Connection[Any, Any]) -> None:
        with self._count:
            self._busy += 1
        try:
            with line:
                question = json.loads(line.recv_bytes(MESSAGE_BYTES_MAX))
                line.send_bytes(json.dumps(self._reply(question, line)).encode())
        except (OSError, EOFError, ValueError):
            return  # The caller is gone; what it wanted has been ended.
        finally:
            with self._count:
                self._busy -= 1
                self._last_call = time.monotonic()

    def _reply(self, question: Mapping[str, Any], line: Connection[Any, Any]) -> dict[str, Any]:
        if question["ask"] == "stop":
            self._stopping.set()
            return {}
        if question["ask"] == "leave":
            return self._left(str(question["call"]), str(question["word"]))
        deadline = time.monotonic() + float(self._settings["start_seconds"])
        while not self._up.wait(_POLL_SECONDS):
            if is_gone(line) or self._stopping.is_set() or time.monotonic() > deadline:
                return {"unavailable": "Ray did not start in time"}
        if "size" in question and question["ask"] == "ready":
            return self._room(question["size"])
        own = self._lane(str(question["entry"]), str(question["key"]))
        lane = self._group if "size" in question else own
        while not lane.turn.acquire(timeout=_POLL_SECONDS):
            if is_gone(line):
                return {}
        try:
            return self._done(lane, question, line)
        finally:
            lane.turn.release()

    def _done(
        self, lane: _Lane, question: Mapping[str, Any], line: Connection[Any, Any]
    ) -> dict[str, Any]:
        if lane is self._group:
            return self._led(question, line)
        if question["ask"] == "ready":
            return self._warm(lane, line)
        entry, payload = str(question["entry"]), str(question["payload"])
        call = secrets.token_hex(16)
        self._words[call] = group.left_before(payload)
        try:
            found = self._warm(lane, line)
            if "result" in found:
                leave = wire.KeeperLine(str(self._home), call)
                found = self._on(lane, line, "run", entry, payload, leave)
        finally:
            # From here on who was lost, but lives on somewhere, may run no further step.
            word = self._words.pop(call)
        return {"result": word} if word and "unavailable" in found else found

    def _left(self, call: str, word: str) -> dict[str, Any]:
        """Keep a worker's word, as long as somebody waits for its call."""
        if call not in self._words:
            return {"unavailable": "the call was given up"}
        self._words[call] = word
        return {}

    def _lane(self, entry: str, key: str) -> _Lane:
        """The quality worker for validation, else one worker for all steps of a run."""
        if entry.partition(":")[0].rpartition(".")[2] == _VALIDATE_MODULE:
            return self._lanes[-1]
        return self._lanes[zlib.crc32(key.encode()) % (len(self._lanes) - 1)]

    def _room(self, size: Mapping[str, int]) -> dict[str, Any]:
        """Whether this Ray could ever hold a group, while nothing has been opened for it."""
        import ray

        lacking = group.missing(ray.cluster_resources(), group.GroupSize(**size))
        return {"unavailable": lacking} if lacking else {}

    def _led(self, question: Mapping[str, Any], line: Connection[Any, Any]) -> dict[str, Any]:
        """Run a body at the workers of a group, under a lead of its own that can be ended."""
        import ray

        lead = ray.remote(group.Lead).options(num_cpus=0, max_restarts=0, max_task_retries=0)
        self._group.handle = lead.remote()
        entry, payload = str(question["entry"]), str(question["payload"])
        seconds = float(self._settings["start_seconds"])
        try:
            return self._on(self._group, line, "run", entry, payload, question["size"], seconds)
        finally:
            ray.kill(self._group.handle)

    def _on(
        self, lane: _Lane, line: Connection[Any, Any], method: str, *args: Any
    ) -> dict[str, Any]:
        """Call a worker; end its work when the caller hangs up."""
        import ray

        try:
            pending = getattr(lane.handle, method).remote(*args)
            while not ray.wait([pending], timeout=_POLL_SECONDS)[0]:
                if is_gone(line) or self._stopping.is_set():
                    if method == "run":
                        ray.kill(lane.handle, no_restart=False)
                    return {"unavailable": "the call was given up"}
            return {"result": ray.get(pending)}
        except ray.exceptions.RayError as error:
            return {"unavailable": f"{lane.name} died while it worked ({type(error).__name__})"}

    def _warm(self, lane: _Lane, line: Connection[Any, Any]) -> dict[str, Any]:
        """Wait until a worker answers; one that died before this call is being replaced."""
        deadline = time.monotonic() + float(self._settings["start_seconds"])
        while True:
            found = self._on(lane, line, "pid")
            if "result" in found or is_gone(line) or time.monotonic() > deadline:
                return found
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    processes.keep_lock_private()
    os.umask(0o077)
    Keeper(Path(sys.argv[1]), json.loads(sys.argv[2])).serve()
