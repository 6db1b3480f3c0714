"""A home folder on this machine with everything real: processes, Ray, pipeline runs, ports."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from command_line import EXAMPLES, primum, process_environment

BUDGET = EXAMPLES / "breast-cancer" / "budget.yaml"
STUDY = """
apiVersion: primum.dev/v1alpha1
kind: Study
metadata: {name: tiny, namespace: oncology}
spec:
  purpose: Be killed
  data: [{role: Private, budget: wisconsin}]
  privacy: {epsilon: "2.0", delta: "1e-5"}
  job:
    kind: Train
    train: {model: Logistic, epochs: 2, batchSize: 64, maxGradNorm: "1.0"}
  audits: [{kind: Membership, attack: OneRunCanary, canaries: 100}]
  policy: clinical-default
  release: {endpoint: tiny}
"""


@dataclass(frozen=True)
class Place:
    """A home folder and the files that are applied in it."""

    home: Path
    study: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self):
        return process_environment(self.home, **self.settings)

    def run(self, *words):
        return primum(*words, env=self.environment, timeout=600)

    def command(self):
        return [sys.executable, "-m", "primum", "apply", "-f", str(BUDGET), "-f", str(self.study)]

    def apply(self):
        return primum("apply", "-f", BUDGET, "-f", self.study, env=self.environment, timeout=600)

    def stores(self):
        from primum.adapters.sql import open_stores
        from primum.adapters.system import SystemClock

        return open_stores(f"sqlite:///{self.home / 'primum.db'}", SystemClock())

    def processes(self, *words: str):
        """Every living process of this home whose command line holds all words."""
        mark = f"PRIMUM_HOME={self.home}".encode()
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if mark not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if all(word in line for word in words):
                    yield int(entry.name)

    def kill(self, *words: str) -> int:
        """Kill -9; says how many."""
        killed = 0
        for number in list(self.processes(*words)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
                killed += 1
        return killed


@contextlib.contextmanager
def cleared(place: Place) -> Iterator[Place]:
    """A place of which nothing lives on."""
    try:
        yield place
    finally:
        while place.kill():  # Nothing else carries this home's mark.
            time.sleep(0.05)


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
