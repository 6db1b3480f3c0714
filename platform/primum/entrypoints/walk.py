"""The process of a run's pod: walk the steps of a folder, each in a process of its own.

The folder is a mounted Secret with one context per step, named in their order. A step that fails
ends the walk; what each came to is recorded by the step itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from primum.domain.errors import InvalidValue
from primum.entrypoints import bootstrap, settings

_STEP = "from primum.entrypoints.step import run_step; import sys; run_step(sys.stdin.read())"

_GRACE_SECONDS = 20.0  # Of the half minute that Kubernetes gives a pod.
_TERMINATED = 143  # What a shell says of a process that SIGTERM ended.


def walk(folder: Path) -> int:
    """Run every step of a folder.

    Args:
        folder: Holds ``000-<step>.json``, ``001-<step>.json`` and so on.

    Returns:
        The exit status: 0 where every step succeeded.

    Raises:
        InvalidValue: If there is no step.
    """
    contexts = sorted(path for path in folder.glob("*.json") if path.is_file())
    if not contexts:
        raise InvalidValue(str(folder), "must hold the contexts of a run's steps", "none")
    for path in contexts:
        status = _run(path)
        if status:
            return status
    return 0


def _run(path: Path) -> int:
    """Run one step; one that is under way when the pod ends is asked to end, and waited for."""
    environment = {**os.environ, "PRIMUM_STEPS": str(path.parent)}
    command = [sys.executable, "-c", _STEP]
    with path.open("rb") as context:  # Not an argument: everybody on a node sees those.
        step = subprocess.Popen(command, stdin=context, env=environment)  # noqa: S603 - our own
    try:
        return step.wait()
    except BaseException:
        step.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            step.wait(_GRACE_SECONDS)
        step.kill()
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk the folder that is named."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    # The first process of a container ignores what it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    found = settings.from_environment()
    if not found.ledger_url:
        bootstrap.check_key(found)
    return walk(Path(folder))


if __name__ == "__main__":
    sys.exit(main())
