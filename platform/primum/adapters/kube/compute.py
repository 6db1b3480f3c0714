"""The control plane computes nothing itself: what is heavy runs in the pods of runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from primum.domain.canonical import JSON
from primum.domain.errors import Unavailable

_MESSAGE = "workers of a cluster must be asked by the steps of a run; the operator has none."


def no_gpus() -> int:
    """Pods of runs have no GPU, but where they make RayJobs that do."""
    return 0


class PodCompute:
    """``Compute`` of a process that has no workers: there is nothing to warm and nothing to call.

    Args:
        gpus: How many GPUs runs may have, asked whenever it matters.
    """

    def __init__(self, *, gpus: Callable[[], int] = no_gpus) -> None:
        self._gpus = gpus

    def warm(self) -> None:
        """Pods bring their own workers."""

    def devices(self) -> int:
        """How many GPUs there are for runs.

        Raises:
            Unavailable: If it is not known now.
        """
        return self._gpus()

    def ready(self, entry: str) -> None:
        """Never.

        Raises:
            Unavailable: Always.
        """
        raise Unavailable(f"{entry}: {_MESSAGE}")

    def call(self, entry: str, _payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Never.

        Raises:
            Unavailable: Always.
        """
        raise Unavailable(f"{entry}: {_MESSAGE}")
