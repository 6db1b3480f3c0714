"""The Compute port on the Ray cluster that this process is in: the head of a step's own RayJob.

The cluster is there for one step and goes with it: one worker is an actor on a worker node, which
has the step's GPUs and sees its data; several are a Ray Train group. Text in and out; nothing is
retried here, because only a body can say how to go on without doing anything twice. Imports ray in
the driver's own process, lazily.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from primum.adapters.ray.group import (
    GroupSize,
    MailboxLine,
    missing,
    open_mailbox,
    run_together,
    runs_together,
)
from primum.adapters.ray.worker import Worker
from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable

_LOOK_SECONDS = 2.0
_START_SECONDS = 1800.0  # An image of several GB on a new node; the RayJob's own limit is the same.


class AttachedRay:
    """``Compute`` on the workers of an existing cluster.

    Args:
        size: The workers, and what each takes.
        address: The cluster; ``auto`` is the one that this process is in.
        start_seconds: How long a worker may take to be there.
    """

    def __init__(
        self,
        *,
        size: GroupSize,
        address: str = "auto",
        start_seconds: float = _START_SECONDS,
    ) -> None:
        self._size = size
        self._address, self._start_seconds = address, start_seconds
        self._worker: Any = None

    def warm(self) -> None:
        """The cluster is there already, and for this step alone."""

    def devices(self) -> int:
        """GPUs of the whole cluster.

        Raises:
            Unavailable: If the cluster cannot be reached.
        """
        return int(self._joined().cluster_resources().get("GPU", 0))

    def ready(self, entry: str) -> None:
        """Wait until a worker is there that has imported the heavy libraries.

        Raises:
            Unavailable: If none is in time.
        """
        ray = self._joined()
        if self._together(entry):
            self._wait_for_room(ray)
            return
        if self._worker is None:
            self._worker = (
                ray.remote(Worker)
                .options(
                    # The head has no CPU, and so runs no body and sees no data.
                    num_cpus=self._size.cpus_per_worker,
                    num_gpus=self._size.gpus,
                    max_restarts=0,
                    max_task_retries=0,
                )
                .remote("worker")
            )
        try:
            ray.get(self._worker.pid.remote(), timeout=self._start_seconds)
        except ray.exceptions.RayError as error:
            self._worker = None
            raise Unavailable(f"no Ray worker for {entry} ({type(error).__name__})") from None

    def call(self, entry: str, payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Run a body on the worker and wait for its report.

        Raises:
            Unavailable: If no worker could be reached, or it died and had left nothing.
        """
        ray, text = self._joined(), json.dumps(dict(payload))
        if self._together(entry):
            return run_together(entry, text, self._size, start_seconds=self._start_seconds)
        if self._worker is None:
            self.ready(entry)
        mailbox = open_mailbox(entry, text)
        try:
            report = ray.get(self._worker.run.remote(entry, text, MailboxLine(mailbox)))
        except ray.exceptions.RayError as error:
            ray.kill(self._worker)  # Whatever is left of it.
            self._worker = None
            report, _ = ray.get(mailbox.said.remote())
            if not report:
                found = f"the worker died while it worked ({type(error).__name__})"
                raise Unavailable(found) from None
        finally:
            ray.kill(mailbox)
        result: dict[str, JSON] = json.loads(report)
        return result

    def _together(self, entry: str) -> bool:
        return self._size.workers > 1 and runs_together(entry)

    def _wait_for_room(self, ray: Any) -> None:
        """Wait until the workers' pods have joined, while no data has been opened."""
        deadline = time.monotonic() + self._start_seconds
        while lacking := missing(ray.cluster_resources(), self._size):
            if time.monotonic() > deadline:
                raise Unavailable(lacking)
            time.sleep(_LOOK_SECONDS)

    def _joined(self) -> Any:
        import ray

        if not ray.is_initialized():
            try:
                # What workers print stays on their nodes: it may hold what the data holds.
                ray.init(
                    address=self._address,
                    namespace="primum",
                    log_to_driver=False,
                    configure_logging=False,
                )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise Unavailable(f"no Ray cluster here ({type(error).__name__})") from None
        return ray
