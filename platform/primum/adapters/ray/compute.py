"""The Compute port over the keeper: starts it where there is none, and passes calls on.

Imports no ray. Whatever goes wrong on the way is ``Unavailable``; what a body reports, failures
included, is its result.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from primum.adapters import processes
from primum.adapters.ray import wire
from primum.adapters.ray.group import GroupSize, runs_together
from primum.adapters.ray.wire import Address, ask, read_address
from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable

_DOWN_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class RaySettings:
    """How the local Ray is made.

    Args:
        workers: Warm workers for training and audits; bodies queue beyond that. One uses both cores
            of a small machine already when a body has many threads. cpus: CPUs that Ray counts; 0
            takes all of the machine. gpus: GPUs that there are for runs; ``None`` counts those of
            this machine. gpus_per_worker: Share of a GPU
            for each worker; decimal text, so that settings stay exact. threads_per_worker: Threads
            of numeric libraries in a worker; results do not depend on it, their last digits may.
            object_store_bytes: Ray's shared memory. Calls pass small JSON; Ray's least is 75 MB.
            start_seconds: How long a step waits for a cold Ray on a busy machine. idle_seconds:
            When a Ray that no process owns ends.
    """

    workers: int = 1
    cpus: int = 0
    gpus: int | None = None
    gpus_per_worker: str = "0"
    threads_per_worker: int = 1
    object_store_bytes: int = 100_000_000
    start_seconds: float = 180.0
    idle_seconds: float = 600.0


class RayCompute:
    """Warm workers on a local Ray.

    Args:
        home: Folder of the address file, the token and the log; private to the owner.
        num_cpus: CPUs that Ray counts; 0 takes all of the machine.
        num_gpus: GPUs that there are for runs; ``None`` counts those of this machine.
        environment: Environment of Ray and its workers besides what this process has.
        settings: How Ray is made otherwise, when this starts it.
        size: The workers of bodies that several run at once.
    """

    def __init__(
        self,
        home: Path,
        *,
        num_cpus: int = 0,
        num_gpus: int | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
        settings: RaySettings | None = None,
        size: GroupSize | None = None,
    ) -> None:
        self._home = home
        self._environment = environment
        self._size = size or GroupSize()
        self._settings = replace(settings or RaySettings(), cpus=num_cpus, gpus=num_gpus)

    def warm(self) -> None:
        """Start Ray in the background for as long as this process lives; returns at once."""
        wire.own(self._home)
        self._start()

    def ready(self, entry: str) -> None:
        """Wait until a worker is warm; starts Ray where none runs.

        Raises:
            Unavailable: If none is within ``start_seconds``, or a group would never find room.
        """
        self._ask({"ask": "ready", "entry": entry, "key": "", **self._together(entry)})

    def devices(self) -> int:
        """GPUs that the settings name, else those whose device files this machine has."""
        if self._settings.gpus is not None:
            return self._settings.gpus
        return len(list(Path("/dev").glob("nvidia[0-9]*")))

    def call(self, entry: str, payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Run a body on a worker and wait for its report.

        Raises:
            Unavailable: If no worker could be reached, or it died. Its next call finds a new one.
        """
        context = payload.get("context")
        known = context if isinstance(context, Mapping) else {}
        question = {
            "ask": "run",
            "entry": entry,
            "key": str(known.get("runId", "")),
            "payload": json.dumps(dict(payload)),
            **self._together(entry),
        }
        result: dict[str, JSON] = json.loads(self._ask(question)["result"])
        return result

    def _together(self, entry: str) -> dict[str, Any]:
        """The size of the group, for a body that wants more than a warm worker of one CPU."""
        more = self._size.workers > 1 or self._size.gpus_per_worker > 0
        return {"size": asdict(self._size)} if more and runs_together(entry) else {}

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        return ask(self._address(), question)

    def _address(self) -> Address:
        """Where the keeper listens; starts one and waits where none does."""
        deadline = time.monotonic() + self._settings.start_seconds
        self._start()
        while time.monotonic() < deadline:
            address = read_address(self._home / wire.ADDRESS_FILE)
            if address is not None:
                return address
            if not processes.is_running(self._home / "ray.lock"):
                break
            time.sleep(_LOOK_SECONDS)
        raise Unavailable(f"Ray did not start; see {self._home / 'ray.log'}")

    def _start(self) -> None:
        if processes.is_running(self._home / "ray.lock"):
            return
        settings = replace(self._settings, gpus=self.devices())
        ray_up(self._home, settings, environment=self._environment)


def ray_up(home: Path, settings: RaySettings, *, environment: Mapping[str, str]) -> None:
    """Start the keeper in the background; a no-op where one runs."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)

    def prepare() -> None:
        (home / wire.ADDRESS_FILE).unlink(missing_ok=True)  # Left by a keeper that was killed.
        (home / "ray.log").unlink(missing_ok=True)

    complete = processes.child_environment(
        {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(_token(home)),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's own 15 starves training beside anything else.
            "RAY_raylet_start_wait_time_s": "300",  # Ray's own 60 are short beside other work.
            "RAY_enable_worker_prestart": "0",  # Only named workers are used.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # Or `uv run` rebuilds each worker.
            "OMP_NUM_THREADS": str(settings.threads_per_worker),
            "MKL_NUM_THREADS": str(settings.threads_per_worker),
            "GX_ANALYTICS_ENABLED": "false",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
    )
    for name in ("TMPDIR", "_KFP_RUNTIME"):  # A step's own; Ray outlives the step that started it.
        complete.pop(name, None)
    processes.start_locked(
        [
            sys.executable,
            "-m",
            "primum.adapters.ray.keeper",
            str(home),
            json.dumps(asdict(settings)),
        ],
        lock=home / "ray.lock",
        log=home / "ray.log",
        environment=complete,
        prepare=prepare,
    )


def ray_down(home: Path) -> None:
    """Stop the keeper, Ray and its workers; a no-op where none runs."""
    lock = home / "ray.lock"
    if not processes.is_running(lock):
        return
    address = read_address(home / wire.ADDRESS_FILE)
    if address is not None:
        with contextlib.suppress(Unavailable):
            ask(address, {"ask": "stop"})
    deadline = time.monotonic() + _DOWN_SECONDS
    while processes.is_running(lock) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    processes.end_marked(lock, grace_seconds=1.0)
    (home / wire.ADDRESS_FILE).unlink(missing_ok=True)


def _token(home: Path) -> Path:
    """The file with Ray's token; Ray's own default file is readable by everybody."""
    path = home / "ray.token"
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    return path
