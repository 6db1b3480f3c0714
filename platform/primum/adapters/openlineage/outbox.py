"""The lineage outbox: events wait on disk until every destination has them.

``emit`` is one insert and never raises; ``flush`` delivers in order, each destination at its own
pace, with a delay that doubles after each failure. Delivery is at least once: a crash between
sending and noting it sends again, which OpenLineage allows (events of a run are additive). One
event per run and type is kept, so a repeated step repeats nothing. It must not import
openlineage-python until something is to be sent.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, PrimumError, Unavailable

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id TEXT NOT NULL, type TEXT NOT NULL, body TEXT NOT NULL,
  UNIQUE (run_id, type));
CREATE TABLE IF NOT EXISTS destination (
  name TEXT PRIMARY KEY, done INTEGER NOT NULL, attempts INTEGER NOT NULL, retry_at REAL NOT NULL,
  refused INTEGER NOT NULL);
"""
_BUSY_SECONDS = (
    10.0  # Steps of several Studies insert at once; each holds the lock for about a millisecond.
)
_EVENT_BYTES_MAX = 1_000_000  # The strictest receiver we know takes 5 MB; ours stay far below.
_RETRY_SECONDS = 2.0
_RETRY_SECONDS_MAX = 300.0
_BATCH = 500  # Events per flush and destination: a flush must not hold up the control loop.


class Emitter(Protocol):
    """Sends one event."""

    def emit(self, event: Mapping[str, JSON]) -> None:
        """Send it.

        Raises:
            InvalidValue: If the event is not one that we publish; sending it again would not help.
            Unavailable: If the receiver did not take it.
        """

    def close(self) -> None:
        """Let go of connections."""


@dataclass(frozen=True, slots=True)
class FileDestination:
    """Appends one JSON line per event to a file."""

    path: Path
    producer: str
    name: str = "file"

    def open(self) -> Emitter:
        """An emitter over openlineage-python's file transport."""
        from primum.adapters.openlineage.emitter import file_emitter

        return file_emitter(self.path, producer=self.producer)


@dataclass(frozen=True, slots=True)
class HttpDestination:
    """Posts each event to a receiver such as Marquez.

    Args:
        url: Base address of the receiver.
        producer: URI that events name as their producer.
        endpoint: Path below it; differs between receivers.
        api_key: Bearer token, or empty.
        ca_file: CA bundle for TLS, or empty for the system's.
        name: Key of its delivery state in the outbox.
    """

    url: str
    producer: str
    endpoint: str = "api/v1/lineage"
    api_key: str = ""
    ca_file: str = ""
    name: str = "http"

    def open(self) -> Emitter:
        """An emitter over openlineage-python's HTTP transport."""
        from primum.adapters.openlineage.emitter import http_emitter

        return http_emitter(self)


class Destination(Protocol):
    """Where events go, by a name that its delivery state is kept under."""

    @property
    def name(self) -> str:
        """Unique among the destinations of an outbox."""

    def open(self) -> Emitter:
        """Open it for one flush."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one destination has not got yet.

    Args:
        waiting: Events still to be sent.
        refused: Events that were not publishable or that the receiver refused for good; skipped.
        attempts: Failed attempts since the last success.
    """

    waiting: int
    refused: int
    attempts: int


class Outbox:
    """The durable outbox: implements the ``Lineage`` port.

    Args:
        path: The outbox's own SQLite file; created when first used.
        destinations: Where events go.
        now: Seconds since some fixed point; only used for retry delays.
    """

    def __init__(
        self,
        path: Path,
        destinations: Sequence[Destination] = (),
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._destinations = tuple(destinations)
        self._now = now
        self._lock = threading.Lock()  # To open and close one each time takes longer than to write.
        self._kept: tuple[sqlite3.Connection, tuple[int, int] | None] | None = None

    def emit(self, event: Mapping[str, JSON]) -> None:
        """Queue one event; never raises, since lineage must not fail a job."""
        try:
            self.put(event)
        except (PrimumError, sqlite3.Error, OSError, KeyError, TypeError) as error:
            _log.warning("a lineage event could not be queued (%s)", type(error).__name__)

    def put(self, event: Mapping[str, JSON]) -> None:
        """Queue one event durably. The first event of a run and type stands; another is ignored.

        Raises:
            InvalidValue: If it has no run, or is too large.
        """
        run = event.get("run")
        if not isinstance(run, Mapping) or not run.get("runId"):
            raise InvalidValue("event.run.runId", "must be present", "an event without a run")
        body = canonical_json(event)
        if len(body) > _EVENT_BYTES_MAX:
            raise InvalidValue("event", f"must be at most {_EVENT_BYTES_MAX} bytes", len(body))
        with self._connected() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO event (run_id, type, body) VALUES (?, ?, ?)",
                (str(run["runId"]), str(event["eventType"]), body.decode()),
            )

    def flush(self) -> int:
        """Deliver what waits to every destination that is due.

        Returns:
            How many events were delivered. A receiver that is down is noted and tried again later.
        """
        return sum(self._deliver(destination) for destination in self._destinations)

    def backlog(self) -> dict[str, Backlog]:
        """What each destination has not got yet, by its name."""
        with self._connected() as connection:
            return {item.name: self._backlog(connection, item.name) for item in self._destinations}

    def events(self) -> list[dict[str, JSON]]:
        """Every queued or delivered event in order: the platform's own store of lineage."""
        with self._connected() as connection:
            rows = connection.execute("SELECT body FROM event ORDER BY seq").fetchall()
        return [json.loads(body) for (body,) in rows]

    def _deliver(self, destination: Destination) -> int:
        with self._connected() as connection:
            done, attempts, retry_at, refused = self._state(connection, destination.name)
            rows = connection.execute(
                "SELECT seq, body FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (done, _BATCH)
            ).fetchall()
        if not rows or self._now() < retry_at:
            return 0
        delivered = 0
        emitter = destination.open()
        try:
            for seq, body in rows:
                try:
                    emitter.emit(json.loads(body))
                    delivered += 1
                except InvalidValue as error:
                    refused += 1
                    _log.warning(
                        "lineage event %d was refused by %s: %s", seq, destination.name, error
                    )
                done, attempts = seq, 0
        except Unavailable as error:
            delay = min(_RETRY_SECONDS * 2**attempts, _RETRY_SECONDS_MAX)
            attempts, retry_at = attempts + 1, self._now() + delay
            _log.warning("lineage to %s waits %.0f s: %s", destination.name, delay, error)
        finally:
            emitter.close()
            self._note(destination.name, (done, attempts, retry_at, refused))
        return delivered

    def _backlog(self, connection: sqlite3.Connection, name: str) -> Backlog:
        done, attempts, _, refused = self._state(connection, name)
        (waiting,) = connection.execute(
            "SELECT count(*) FROM event WHERE seq > ?", (done,)
        ).fetchone()
        return Backlog(waiting=waiting, refused=refused, attempts=attempts)

    @staticmethod
    def _state(connection: sqlite3.Connection, name: str) -> tuple[int, int, float, int]:
        row = connection.execute(
            "SELECT done, attempts, retry_at, refused FROM destination WHERE name = ?", (name,)
        ).fetchone()
        return row or (0, 0, 0.0, 0)

    def _note(self, name: str, state: tuple[int, int, float, int]) -> None:
        with self._connected() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO destination VALUES (?, ?, ?, ?, ?)", (name, *state)
            )

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            connection = self._open()
            try:
                with connection:
                    yield connection
            except sqlite3.Error:
                self._close()  # Whatever is wrong with it, the next one is another.
                raise

    def _open(self) -> sqlite3.Connection:
        """The connection that is kept, while it is to the file of that name."""
        kept = self._kept
        if kept is not None and kept[1] == _identity(self._path):
            return kept[0]
        self._close()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
            if connection.execute("PRAGMA user_version").fetchone() == (0,):
                connection.execute("PRAGMA journal_mode = WAL")  # The file remembers it.
                connection.executescript(_SCHEMA + "PRAGMA user_version = 1;")
        except BaseException:
            connection.close()
            raise
        self._kept = connection, _identity(self._path)
        return connection

    def _close(self) -> None:
        if self._kept is not None:
            self._kept[0].close()
        self._kept = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file bears that name now; ``None`` for none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
