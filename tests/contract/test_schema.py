"""One schema, whichever way a database came to it, and one version that everybody agrees on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from primum.adapters.memory import ManualClock
from primum.adapters.sql import migrate, open_stores, tables
from primum.adapters.sql.engine import Database
from primum.adapters.sql.migrate import alembic_config
from primum.domain.errors import InvalidValue, PrimumError, Tampered, Unavailable


def shape(connection):
    """Everything the database says about our tables."""
    inspector = sa.inspect(connection)
    found = {}
    for table in sorted(inspector.get_table_names()):
        found[table] = (
            [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(table)],
            inspector.get_pk_constraint(table)["constrained_columns"],
            sorted((i["name"], tuple(i["column_names"])) for i in inspector.get_indexes(table)),
            sorted(
                (u["name"] or "", tuple(u["column_names"]))
                for u in inspector.get_unique_constraints(table)
            ),
        )
    return found


def rows(connection):
    head = connection.execute(sa.select(tables.head)).all()
    return head, connection.execute(sa.select(tables.counters)).all()


@pytest.fixture(params=["directly", "by migrations"])
def made(request, empty_database):
    """A database that was made one way or the other."""
    if request.param == "directly":
        migrate(empty_database)
    else:
        database = Database(empty_database)
        database.write(lambda c: command.upgrade(alembic_config(c), "head"))
        database.close()
    return empty_database


def test_the_tables_are_what_the_code_says(made):
    database = Database(made)

    def compare(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, tables.metadata)

    assert database.read(compare) == []
    database.close()


def test_an_entry_cannot_be_changed(made):
    stores = open_stores(made, ManualClock())
    stores.database.write(
        lambda c: c.exec_driver_sql(
            "INSERT INTO ledger_entries (seq, prev_hash, account_id, kind, reservation_id, "
            "idempotency_key, actor, time, payload, hash) "
            "VALUES (1, '', '', 'Checkpoint', '', 'k', 'a', '', '{}', '')"
        )
    )
    for statement in ("UPDATE ledger_entries SET actor = 'b'", "DELETE FROM ledger_entries"):
        with pytest.raises(PrimumError):
            stores.database.write(lambda c, s=statement: c.exec_driver_sql(s))
    assert stores.database.read(lambda c: c.execute(sa.select(tables.entries)).one().actor) == "a"
    stores.close()


def test_both_ways_end_at_the_same_place(empty_database, request):
    """Goal: what a new database gets at once is what an old one gets step by step."""
    database = Database(empty_database)

    def by_migrations(connection):
        command.upgrade(alembic_config(connection), "head")
        return shape(connection), rows(connection)

    class Undo(Exception):
        pass

    seen = []

    def and_undo(connection):
        seen.append(by_migrations(connection))
        raise Undo

    with pytest.raises(Undo):
        database.write(and_undo)
    migrate(empty_database)
    assert database.read(lambda c: (shape(c), rows(c))) == seen[0]
    database.close()


def test_the_newest_version_is_the_migrations_head(database):
    opened = Database(database)
    script = opened.read(lambda c: ScriptDirectory.from_config(alembic_config(c)))
    assert script.get_heads() == [tables.VERSION]
    opened.close()


def test_migrating_again_changes_nothing_and_needs_no_alembic(database):
    code = (
        "import sys; from primum.adapters.sql import migrate; migrate(sys.argv[1]); "
        "raise SystemExit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, database], check=True)


def test_a_database_of_a_newer_program_is_left_alone(database):
    opened = Database(database)
    opened.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InvalidValue, match="newer Primum"):
        migrate(database)
    opened.close()


def test_a_database_that_was_never_prepared_says_so(empty_database):
    stores = open_stores(empty_database, ManualClock())
    with pytest.raises(Unavailable, match="primum up"):
        stores.ledger.head()
    stores.close()


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:"])
def test_only_databases_that_keep_what_they_are_told_are_taken(url):
    with pytest.raises(InvalidValue, match="PRIMUM_DATABASE_URL"):
        open_stores(url, ManualClock())


def test_a_damaged_file_is_tampered_and_not_overwritten(tmp_path):
    path = tmp_path / "primum.db"
    path.write_bytes(b"this is not a database " * 100)
    before = path.read_bytes()
    with pytest.raises(Tampered):
        migrate(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_server_that_is_not_there_is_unavailable():
    with pytest.raises(Unavailable) as raised:
        migrate("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")
    assert raised.value.retry_seconds > 0


def test_sqlite_keeps_every_commit(fast_folder):
    url = f"sqlite:///{fast_folder}/primum.db"
    migrate(url)
    opened = Database(url)

    def settings(connection):
        names = ("journal_mode", "synchronous")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    assert opened.read(settings) == ["wal", 2]
    assert opened.write(settings) == ["wal", 2]
    opened.close()


def test_a_lost_connection_leaves_balances_as_they_were(database):
    """The server drops the connection inside a transaction: typed error, nothing kept, next try
    works.
    """
    if database.startswith("sqlite"):
        pytest.skip("a file has no connection to lose")
    opened = Database(database)

    def dies(connection):
        connection.execute(sa.update(tables.counters).values(value=99))
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(Unavailable):
        opened.write(dies)
    assert opened.read(lambda c: c.execute(sa.select(tables.counters.c.value)).scalar()) == 0
    opened.close()


def test_a_question_is_asked_again_where_the_connection_was_lost(database):
    if database.startswith("sqlite"):
        pytest.skip("a file has no connection to lose")
    opened = Database(database)
    backend = opened.ask(lambda c: c.exec_driver_sql("SELECT pg_backend_pid()").scalar())
    opened.write(lambda c: c.exec_driver_sql(f"SELECT pg_terminate_backend({backend})"))
    assert opened.ask(lambda c: c.execute(sa.select(tables.counters.c.value)).scalar()) == 0
    opened.close()


def test_a_question_cannot_write(database):
    if database.startswith("sqlite"):
        pytest.skip("SQLite's transactions do not say what they are for")
    opened = Database(database)
    with pytest.raises(Unavailable, match="read-only"):
        opened.ask(lambda c: c.execute(sa.update(tables.counters).values(value=99)))
    assert opened.read(lambda c: c.execute(sa.select(tables.counters.c.value)).scalar()) == 0
    opened.close()


def test_a_full_disk_is_unavailable_and_changes_nothing(fast_folder):
    url = f"sqlite:///{fast_folder}/primum.db"
    migrate(url)
    opened = Database(url)

    def fills(connection):
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        row = {"kind": "k", "key": "x", "recorded": "", "digest": "", "body": "x" * 10_000_000}
        connection.execute(sa.insert(tables.facts), row)

    with pytest.raises(Unavailable, match="full"):
        opened.write(fills)
    assert opened.read(lambda c: c.execute(sa.select(tables.facts)).all()) == []
    opened.close()


def test_an_error_never_shows_what_was_being_stored(database):
    opened = Database(database)

    def fails(connection):
        row = {"kind": "secret-value", "key": "x", "recorded": "", "digest": "", "body": None}
        connection.execute(sa.insert(tables.facts), row)

    with pytest.raises(PrimumError) as raised:
        opened.write(fails)
    assert "secret-value" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    opened.close()
