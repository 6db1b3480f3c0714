"""Parts of a body's work as tasks on the step's own Ray: bytes and text in, bytes out.

What parts share is put into the object store once and read by every worker from there; it goes with
the body. A part that was lost with its node is done again: it has no effect besides its answer.
Imports ray in the worker's own process, lazily, and must not say what a part said when it failed.
"""

from __future__ import annotations

from collections.abc import Sequence

from primum import extensions
from primum.domain.errors import Unavailable

_TRIES_MORE = 2  # Nodes are taken away now and then; three in a row are no accident.


class RayFanOut:
    """The CPUs of the step's Ray that no body holds."""

    def workers(self) -> int:
        """How many parts are worked on at once; 1 where nobody helps."""
        import ray

        if not ray.is_initialized():
            return 1
        return max(1, int(ray.available_resources().get("CPU", 0)))

    def map(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """Have a function called for every item, each on a CPU of its own.

        Args:
            entry: ``package.module:function``, from (shared, item) to bytes.
            shared: Put into the object store once.
            items: One text per part.

        Raises:
            Unavailable: If a part failed, or was lost too often.
        """
        import ray

        task = ray.remote(_part).options(
            num_cpus=1,
            num_gpus=0,
            max_retries=_TRIES_MORE,
            scheduling_strategy="SPREAD",  # Other nodes' CPUs are what is free.
        )
        held = ray.put(shared)
        pending = [task.remote(entry, held, item) for item in items]
        try:
            found: list[bytes] = ray.get(pending)
        except ray.exceptions.RayError as error:
            for part in pending:
                ray.cancel(part, force=True)
            raise Unavailable(
                f"a part of the work was lost or failed ({type(error).__name__})"
            ) from None
        return found

    def map_once(self, entry: str, shared: bytes, items: Sequence[str]) -> list[bytes]:
        """As ``map``, by Ray Tune: no item is ever begun twice.

        Raises:
            Unavailable: If a part failed or was lost; the others are ended.
        """
        from primum.adapters.ray.tuning import tuned

        return tuned(entry, shared, items, workers=self.workers())


def _part(entry: str, shared: bytes, item: str) -> bytes:
    """One part, in a task's process."""
    work_part = extensions.load("primum.step_runtime", "work_part")
    answer: bytes = work_part(entry, shared, item)
    return answer
