"""The warm worker: a named Ray actor that has imported the heavy libraries before its first call.

A plain class: the keeper makes an actor of it. It runs one body at a time and knows neither ledger
nor store.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
from collections.abc import Callable, Mapping

from primum import extensions
from primum.adapters.ray.fan_out import RayFanOut
from primum.domain.canonical import JSON


class Worker:
    """Runs step bodies.

    Args:
        kind: Which preload list of the step runtime it imports: ``worker`` or ``quality``.
    """

    def __init__(self, kind: str) -> None:
        # What is imported is never garbage: looking for some took a third of the time, and would
        # at every later collection.
        gc.disable()
        for module in extensions.load("primum.step_runtime", "preload").get(kind, ()):
            # A library that is not installed here fails in the step that needs it, with its name.
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
        gc.freeze()
        gc.enable()

    def pid(self) -> int:
        """Its process number; answers once it is warm."""
        return os.getpid()

    def run(self, entry: str, payload: str, leave: Callable[[str], None]) -> str:
        """Run a body. JSON text in and out, so that nothing is pickled that a body made.

        Args:
            entry: The body.
            payload: Its request.
            leave: Takes the report that counts if this worker is lost.
        """

        def keep(word: Mapping[str, JSON]) -> None:
            leave(json.dumps(dict(word)))

        work = extensions.load("primum.step_runtime", "work")
        return json.dumps(work(entry, json.loads(payload), leave=keep, fan_out=RayFanOut()))
