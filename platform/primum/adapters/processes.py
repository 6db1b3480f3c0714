"""Background processes that outlive the command which started them, found by a file lock.

A started process inherits an exclusive lock on a file and holds it until it ends, however it ends.
Whether it lives is whether the lock is held: no process number to be reused, nothing stale after a
kill -9 or a restart. Everything a process starts inherits a mark in its environment, by which what
it left behind is found and ended. It must not know what the processes do.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

_COLLECT_AFTER = 50_000  # New objects; Python's own 700 has it look while libraries are imported.
_LOCK_TRIES = 5  # Another process's probe holds the lock for microseconds.
_LOCK_TRY_SECONDS = 0.01
_LEFTOVER_SECONDS = 3.0
_LOCK_VARIABLE = "PRIMUM_LOCK_FD"
_MARK_VARIABLE = "PRIMUM_PROCESS_MARK"
# The last one says to kfp that it is in a task; a run that a task declares is a run of its own.
_NOT_INHERITED = ("PYTHONDONTWRITEBYTECODE", _LOCK_VARIABLE, _MARK_VARIABLE, "_KFP_RUNTIME")
_PROC = Path("/proc")


@contextlib.contextmanager
def short_lived() -> Iterator[None]:
    """Spare a process of a few seconds the garbage collector's work.

    What it imports never becomes garbage, yet looking through it while it grows and once more at
    the end takes a quarter of such a process' time.
    """
    gc.set_threshold(_COLLECT_AFTER)
    try:
        yield
    finally:
        gc.freeze()


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """A child's environment: with bytecode (halves import time), without our own marks."""
    complete = {**os.environ, **extra}
    return {name: value for name, value in complete.items() if name not in _NOT_INHERITED}


def start_locked(
    command: Sequence[str],
    *,
    lock: Path,
    log: Path,
    environment: Mapping[str, str],
    prepare: Callable[[], None] = lambda: None,
) -> int | None:
    """Start a process in its own session that holds a lock for as long as it lives.

    What an earlier process of this lock left running is ended first: one that was killed cannot
    have done so.

    Args:
        command: Program and arguments.
        lock: The lock file; also the mark that everything it starts inherits.
        log: Where its output goes; created readable by the owner alone.
        environment: Its whole environment.
        prepare: What to do under the lock before it starts.

    Returns:
        Its process number, or ``None`` where the lock is held: somebody else runs it.
    """
    handle = _locked(lock, tries=_LOCK_TRIES)
    if handle is None:
        return None
    try:
        end_marked(lock, grace_seconds=_LEFTOVER_SECONDS)
        prepare()
        log_handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_handle,
                stderr=log_handle,
                env={**environment, _LOCK_VARIABLE: str(handle), _MARK_VARIABLE: str(lock)},
                pass_fds=(handle,),
                start_new_session=True,
            )
        finally:
            os.close(log_handle)
    finally:
        os.close(handle)
    # Left alone on purpose: it outlives this object. `reap` collects it once it has ended.
    _STARTED.append(process)
    return process.pid


_STARTED: list[
    subprocess.Popen[bytes]
] = []  # So that ended children do not stay zombies of a long-lived parent.


def reap() -> None:
    """Collect children of this process that have ended."""
    _STARTED[:] = [process for process in _STARTED if process.poll() is None]


def keep_lock_private() -> None:
    """In a started process: let children inherit the mark, but not the lock."""
    handle = os.environ.pop(_LOCK_VARIABLE, "")
    if handle:
        os.set_inheritable(int(handle), False)  # noqa: FBT003 - its signature


def is_running(lock: Path) -> bool:
    """Whether a process that was started with this lock still lives."""
    reap()
    if not lock.exists():
        return False
    handle = _locked(lock, tries=1)
    if handle is None:
        return True
    os.close(handle)
    return False


def end_marked(lock: Path, *, grace_seconds: float) -> int:
    """End every process that inherited a lock file's mark, politely first.

    Args:
        lock: The lock file that the process was started with.
        grace_seconds: Time between asking and ending.

    Returns:
        How many processes were found. On systems without ``/proc`` nothing is found.
    """
    found = list(_marked(lock))
    for number in found:
        _signal(number, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(True for _ in _marked(lock)):
        reap()
        time.sleep(0.02)
    for number in _marked(lock):
        _signal(number, signal.SIGKILL)
    return len(found)


def _locked(path: Path, *, tries: int) -> int | None:
    """An exclusive lock on a file, or ``None`` where it is held."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for attempt in range(tries):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < tries:
                time.sleep(_LOCK_TRY_SECONDS)
        else:
            return handle
    os.close(handle)
    return None


def _marked(lock: Path) -> Iterator[int]:
    if not _PROC.is_dir():
        return
    mark = f"{_MARK_VARIABLE}={lock}".encode()
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)


def _signal(number: int, kind: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(number, kind)


def birth(number: int) -> str:
    """When a process started, in the system's own units; empty where no such process lives.

    Together with its number it names a process for ever, since numbers are used again.
    """
    try:
        fields = (_PROC / str(number) / "stat").read_text(encoding="ascii", errors="replace")
        state, *rest = fields.rpartition(")")[2].split()
        return "" if state == "Z" else rest[18]  # field 22 of proc(5): starttime
    except (OSError, IndexError, ValueError):
        pass
    if _PROC.is_dir():
        return ""
    shown = subprocess.run(  # noqa: S603 - a fixed program and a number
        ["/bin/ps", "-o", "lstart=", "-p", str(number)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
