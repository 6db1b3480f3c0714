"""Compute without workers: runs bodies in this process. For tests and for machines without Ray."""

from __future__ import annotations

from collections.abc import Mapping

from primum import extensions
from primum.domain.canonical import JSON


class InProcessCompute:
    """Imports and calls the body here."""

    def warm(self) -> None:
        """Nothing to start."""

    def ready(self, entry: str) -> None:
        """Always."""

    def call(self, entry: str, payload: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Run the body as a worker would, failures included."""
        result: Mapping[str, JSON] = extensions.load("primum.step_runtime", "work")(entry, payload)
        return result
