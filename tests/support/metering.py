"""What a command and everything it started cost: wall time, CPU seconds, memory. Linux only.

Wall time depends on what else the machine does; CPU seconds of the whole process tree hardly do.
Processes are found by the home folder in their environment, so that what was detached (a run, Ray,
the platform) counts too.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import platform
import re
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field

PROC = pathlib.Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


def adopt_orphans():
    """Have what outlives its parent become a child of this process: its times stay known."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def cpu_seconds(home):
    """CPU seconds so far of what this process waited for and of every process of a home folder."""
    waited = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not home:
        return waited.ru_utime + waited.ru_stime
    listed = {number: fields for number in _numbers() if (fields := _stat(number))}
    marked = {number for number in listed if _is_of(number, home)}
    # An ended process has no environment any more, but a parent that has not collected it yet.
    ended = {n for n, f in listed.items() if f[0] == "Z" and int(f[1]) in marked | {os.getpid()}}
    ticks = sum(int(part) for number in marked | ended for part in listed[number][11:15])
    return waited.ru_utime + waited.ru_stime + ticks / _TICKS


def memory_mb(home):
    """Resident memory in MB of every process of a home folder, by what it is."""
    found = {}
    for number in _numbers():
        if not _is_of(number, home):
            continue
        with contextlib.suppress(OSError):
            command = (PROC / str(number) / "cmdline").read_text().replace("\0", " ")
            pages = int((PROC / str(number) / "statm").read_text().split()[1])
            found[_role(command)] = found.get(_role(command), 0.0) + pages * _PAGE / 1e6
    return found


def own_memory_mb():
    """Resident memory of this process in MB."""
    return int((PROC / "self" / "statm").read_text().split()[1]) * _PAGE / 1e6


def _role(command):
    for role, pattern in {
        "control": r"-m primum up|primum up",
        "serving": r"-m primum_serving",
        "ray": r"ray::|/ray/|adapters\.ray",
    }.items():
        if re.search(pattern, command):
            return role
    return "other"


def _numbers():
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]


def _stat(number):
    try:
        text = (PROC / str(number) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _is_of(number, home):
    with contextlib.suppress(OSError):
        environment = (PROC / str(number) / "environ").read_bytes()
        return f"PRIMUM_HOME={home}".encode() in environment.split(b"\0")
    return False


def load():
    """Processes that wanted a core in the last minute, per core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def machine():
    """The machine in a sentence."""
    model = re.search(r"model name\s*: (.*)", (PROC / "cpuinfo").read_text())
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory:.0f} GiB "
        f"memory, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


@dataclass(frozen=True)
class Cost:
    """What a command came to."""

    wall: float
    cpu: float
    text: str = ""


def command(arguments, *, home, environment):
    """Run a command of this Python to its end."""
    before, start = cpu_seconds(home), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    wall = time.monotonic() - start
    if done.returncode:
        raise RuntimeError(f"{arguments} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return Cost(wall, cpu_seconds(home) - before, done.stdout)


def alone(arguments, *, environment):
    """Run a command that starts nothing, whatever else works in its home folder meanwhile."""
    return command(arguments, home="", environment=environment)


@dataclass(frozen=True)
class StudyCost:
    """A Study from apply to served."""

    wall: float
    cpu: float
    bodies: dict[str, float]
    milestones: dict[str, float] = field(default_factory=dict)

    @property
    def overhead(self):
        """Wall time minus the bodies of the steps."""
        return self.wall - sum(self.bodies.values())


def study_cost(cost, *, home, study, started):
    """What the stores of a home folder say of a Study that was applied at ``started``."""
    connection = sqlite3.connect(home / "primum.db")
    with contextlib.closing(connection):
        uid, status = connection.execute(
            "SELECT uid, status FROM resources WHERE kind = 'Study' AND name = ?", (study,)
        ).fetchone()
        rows = connection.execute(
            "SELECT body FROM outcomes WHERE study_uid = ?", (uid,)
        ).fetchall()
    outcomes = [json.loads(body) for (body,) in rows]
    return StudyCost(
        wall=cost.wall,
        cpu=cost.cpu,
        bodies={item["step"]: float(item["bodySeconds"]) for item in outcomes},
        milestones={
            item["type"]: _seconds_of(item["lastTransitionTime"]) - started
            for item in json.loads(status)["conditions"]
            if item["status"] == "True"
        },
    )


def _seconds_of(text):
    import datetime

    return datetime.datetime.fromisoformat(text).timestamp()


def free_port():
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fsync_seconds(folder, *, tries=50):
    """Median time until one written page is on the disk under a folder."""
    times = []
    path = folder / "fsync-probe"
    with path.open("wb") as file:
        for _ in range(tries):
            start = time.perf_counter()
            file.write(b"\0" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    path.unlink()
    return sorted(times)[tries // 2]
