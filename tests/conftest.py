"""A real PostgreSQL server for every test that wants one, and databases of either kind."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import tempfile

import postgresql
import pytest

# Support modules assert too, and say what they found.
pytest.register_assert_rewrite("clinic", "kubelet", "control_plane", "resource_store_contract")

# Killed processes lose nothing that was written, synced or not, so tests may keep their files in
# memory.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@pytest.fixture(scope="session")
def postgresql_server():
    """URL of the database of a running server."""
    # Nothing here tests the server's own durability, so it may keep its pages in memory.
    with postgresql.running(MEMORY, "fsync=off", "max_connections=100") as server:
        yield server.url


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
