"""The Compute port on the Ray cluster that this process is in: the head of a step's own RayJob.

The cluster is there for one step and goes with it, so one worker is enough: an actor on a worker
node, which has the step's GPUs and sees its data. Text in and out; nothing is retried, because a
body that touched data never runs twice. Imports ray in the driver's own process, lazily.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from primum.adapters.ray.worker import Worker
from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable

_START_SECONDS = 1800.0  # An image of several GB on a new node; the RayJob's own limit is the same.


class AttachedRay:
    """``Compute`` on the workers of an existing cluster.

    Args:
        gpus_per_worker: GPUs that the worker takes.
        address: The cluster; ``auto`` is the one that this process is in.
        start_seconds: How long a worker may take to be there.
    """

    def __init__(
        self,
        *,
        gpus_per_worker: int,
        address: str = "auto",
        start_seconds: float = _START_SECONDS,
    ) -> None:
        self._gpus_per_worker = gpus_per_worker
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
        if self._worker is None:
            self._worker = (
                ray.remote(Worker)
                .options(
                    num_cpus=1,  # The head has none, and so runs no body and sees no data.
                    num_gpus=self._gpus_per_worker,
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
            Unavailable: If no worker could be reached, or it died.
        """
        ray = self._joined()
        if self._worker is None:
            self.ready(entry)
        try:
            result: dict[str, JSON] = json.loads(
                ray.get(self._worker.run.remote(entry, json.dumps(dict(payload))))
            )
        except ray.exceptions.RayError as error:
            self._worker = None
            raise Unavailable(f"the worker died while it worked ({type(error).__name__})") from None
        return result

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
