"""The right to run the control loop of a home folder: one process at a time.

Freed by the kernel when it dies.

The ledger is safe without it; the lock only saves two loops from doing the same work.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

LOCK = "loop.lock"


class LoopLock:
    """An advisory lock on a file in the home folder."""

    def __init__(self, home: Path) -> None:
        self._path = home / LOCK
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free."""
        file = self._path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
