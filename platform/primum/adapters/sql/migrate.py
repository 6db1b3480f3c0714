"""Brings a database to the newest schema version; costs one small query where it already is there.

A new database is made from the tables directly, because importing Alembic costs more than making
them; a test holds both ways to the same schema. Running it from several processes at once is safe.
"""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING

import sqlalchemy as sa

from primum.adapters.sql import tables
from primum.adapters.sql.engine import Database
from primum.adapters.sql.resources import VERSION_COUNTER
from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from alembic.config import Config

_LOCK = 7_301_845_920_117  # PostgreSQL's advisory lock of our migrations; any fixed number.


def migrate(url: str) -> None:
    """Bring the database of a URL to the newest schema version.

    Args:
        url: ``sqlite:///path`` (made if absent) or ``postgresql://...``.

    Raises:
        InvalidValue: If the database was made by a newer version of this program.
        Unavailable: If it does not answer.
    """
    database = Database(url)
    try:
        if database.read(_version) != tables.VERSION:
            database.write(_prepare)
    finally:
        database.close()


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _prepare(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    version = _version(connection)
    if version is None:
        _create(connection)
    elif version != tables.VERSION:
        _upgrade(connection, version)


def _create(connection: sa.Connection) -> None:
    from primum.domain.budget.book import HASH_OF_NOTHING

    tables.metadata.create_all(connection)
    for statement in tables.APPEND_ONLY[connection.dialect.name]:
        connection.exec_driver_sql(statement)
    first = {"id": 1, "seq": 0, "hash": HASH_OF_NOTHING, "time": ""}
    connection.execute(sa.insert(tables.head), first)
    connection.execute(sa.insert(tables.counters), {"name": VERSION_COUNTER, "value": 0})
    connection.exec_driver_sql(
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
        "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
    )
    stamp = sa.text("INSERT INTO alembic_version (version_num) VALUES (:version)")
    connection.execute(stamp, {"version": tables.VERSION})


def _upgrade(connection: sa.Connection, version: str) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version not in known:
        raise InvalidValue(
            "database", "must be of a known schema version", version, "Use a newer Primum."
        )
    command.upgrade(config, "head")


def alembic_config(connection: sa.Connection) -> Config:
    """Alembic's settings for our migrations on an open connection."""
    from alembic.config import Config

    config = Config()
    folder = importlib.resources.files("primum.adapters.sql") / "migrations"
    config.set_main_option("script_location", str(folder))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
