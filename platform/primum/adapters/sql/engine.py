"""Connections and transactions, and where the libraries' errors stop.

Every transaction is durable when it returns. No error carries a bound value, not even as its cause
(PostgreSQL quotes whole rows): values may be restricted evidence.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event, exc

from primum.domain.errors import Conflict, InvalidValue, PrimumError, Tampered, Unavailable

BUSY_SECONDS = 30.0  # How long a writer waits for the others; a transaction takes milliseconds.
_TRY_AGAIN_SECONDS = 0.01
_PRIMARY_CODE = 0xFF  # Of SQLite's extended error codes.
CONNECT_SECONDS = 10
IDLE_SECONDS = 5.0  # A server that went away within them is met by the next one who asks again.
_SETTING = "PRIMUM_DATABASE_URL"
ATTEMPTS_MAX = 8  # Conflicting transactions are run again; each time somebody else got through.
_MESSAGE_LENGTH_MAX = 200
_USED = "primum_used"
_CONFLICTS = {"40001", "40P01", "23505"}  # Serialization failure, deadlock, unique violation.
_DAMAGE = ("malformed", "not a database")  # What SQLite says of a damaged file.

Answer = TypeVar("Answer")


class Database:
    """One database: an engine and its two kinds of transactions.

    Args:
        url: ``sqlite:///path`` or ``postgresql://...``.
    """

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.dialect = self.engine.dialect.name
        self._reader = self.engine.execution_options(**_READING[self.dialect])
        self._asker = _asker(self.engine)
        self._writer = self.engine.execution_options(primum_writes=True)

    def read(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        """Run read-only work on one snapshot.

        Raises:
            Unavailable: If the database does not answer.
            Tampered: If its file is damaged.
        """
        return self._run(self._reader, work)

    def ask(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        """Run read-only work of one statement, which is a snapshot of its own.

        Of a second statement it would be another one: then it is ``read``. What a server is told
        besides, to begin and to end, takes longer than most statements.

        Raises:
            Unavailable: If the database does not answer.
            Tampered: If its file is damaged.
        """
        return self._run(self._asker, work)

    def write(self, work: Callable[[sa.Connection], Answer]) -> Answer:
        """Run work as one durable transaction, again if it met a concurrent one.

        Raises:
            Unavailable: If the database does not answer; the work may be repeated, ids make that
                safe.
            Conflict: If it keeps meeting others.
            InvalidValue: If a value is none that the database can keep.
            Tampered: If the database's file is damaged.
        """
        return self._run(self._writer, work)

    def close(self) -> None:
        """Let go of every connection."""
        self.engine.dispose()
        self._asker.dispose()

    def _run(self, engine: sa.Engine, work: Callable[[sa.Connection], Answer]) -> Answer:
        for _ in range(ATTEMPTS_MAX - 1):
            try:
                return _once(engine, work)
            except exc.DBAPIError as error:
                reads = engine is self._reader or engine is self._asker
                cut = error.connection_invalidated and reads
                if not cut and not _may_repeat(error):
                    raise translated(error) from None
            except exc.SQLAlchemyError as error:
                raise translated(error) from None
            except OverflowError as error:  # SQLite's driver, of a number above 64 bits.
                raise _unkept(error) from None
        try:
            return _once(engine, work)
        except exc.SQLAlchemyError as error:
            raise translated(error) from None


_READING: dict[str, dict[str, Any]] = {
    "sqlite": {},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}


def _once(engine: sa.Engine, work: Callable[[sa.Connection], Answer]) -> Answer:
    with engine.begin() as connection:
        return work(connection)


def translated(error: exc.SQLAlchemyError) -> PrimumError:
    """Our error for one of SQLAlchemy's; never says which values were sent."""
    original = error.orig if isinstance(error, exc.DBAPIError) else error
    said = (str(original).strip().splitlines() or ["nothing"])[0][:_MESSAGE_LENGTH_MAX]
    if isinstance(error, exc.DataError):
        return _unkept(original)  # The server quotes the value, which nobody may.
    if isinstance(error, exc.IntegrityError):
        return Conflict("The database must accept every row once; found one that is there already.")
    if any(word in said for word in _DAMAGE):
        return Tampered(f"The database must be readable; {said}.")
    if "no such table" in said or "UndefinedTable" in type(original).__name__:
        return Unavailable("The database must be prepared first; found no tables. Run `primum up`.")
    return Unavailable(f"The database did not answer ({said}). The same command may be repeated.")


def _unkept(error: BaseException | None) -> InvalidValue:
    rule = "must be one that the database can keep"
    return InvalidValue("value", rule, type(error).__name__)


def _may_repeat(error: exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in _CONFLICTS or isinstance(error, exc.IntegrityError)


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError:
        raise InvalidValue(_SETTING, "must be a database URL", "something else") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite(parsed)
        case "postgresql":
            return _postgresql(parsed)
        case other:
            raise InvalidValue(_SETTING, "must begin with sqlite:/// or postgresql://", other)


def _asker(engine: sa.Engine) -> sa.Engine:
    """For single statements: connections of their own, since to turn one over takes longer."""
    if engine.dialect.name == "sqlite":
        return engine  # To begin costs nothing where nobody has to be told.
    asker = _postgresql(engine.url, isolation_level="AUTOCOMMIT")
    event.listen(asker, "connect", _refuse_writes)
    return asker


def _postgresql(url: sa.URL, **options: Any) -> sa.Engine:
    engine = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS, "application_name": "primum"},
        **options,
    )
    event.listen(engine, "connect", _prepare_postgresql)
    event.listen(engine, "checkin", _used)
    event.listen(engine, "checkout", _still_there)
    return engine


def _used(_connection: Any, record: Any) -> None:
    record.info[_USED] = time.monotonic()


def _still_there(connection: Any, record: Any, _proxy: object) -> None:
    """Ask a connection that was idle whether its server is still there; else another is made.

    Raises:
        DisconnectionError: If it does not answer.
    """
    if time.monotonic() - record.info.get(_USED, math.inf) < IDLE_SECONDS:
        return  # Asking before every transaction costs more than most of them.
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception:  # noqa: BLE001 - whatever is wrong with it, it is of no use
        raise exc.DisconnectionError from None


def _prepare_postgresql(connection: Any, _record: object) -> None:
    # Whatever we look up has an index. Without this, a plan that was made while a table was empty
    # reads all of it for as long as the table has not been analyzed. Compiling plans would take
    # longer than running them.
    connection.execute("SET enable_seqscan TO off")
    connection.execute("SET jit TO off")
    connection.commit()


def _refuse_writes(connection: Any, _record: object) -> None:
    connection.execute("SET default_transaction_read_only TO on")


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database == ":memory:":
        raise InvalidValue(_SETTING, "must name a file", str(url), "Use sqlite:///path.")
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # We say BEGIN ourselves; the driver would begin too late.
    cursor = connection.cursor()
    _use_write_ahead_log(cursor)
    cursor.execute(
        "PRAGMA synchronous=FULL"
    )  # WAL's default loses the last commits with the power.
    cursor.execute("PRAGMA fullfsync=ON")  # macOS: reach the disk, not only its cache.
    cursor.close()


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Switch a new database over, once; SQLite does not wait by itself where two do it at once."""
    until = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & _PRIMARY_CODE == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > until:
                raise
            time.sleep(_TRY_AGAIN_SECONDS)
        else:
            return


def _begin_sqlite(connection: sa.Connection) -> None:
    # IMMEDIATE takes the write lock at once: a reader that wants to write later would be refused.
    writes = connection.get_execution_options().get("primum_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
