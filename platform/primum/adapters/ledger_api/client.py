"""LedgerApiClient: requests to the ledger API, its problem documents as our errors.

The standard library's HTTP, so that a step's process starts fast. Connections are kept open for
whoever asks next. It repeats only what its caller says may be repeated, and never says what a body
held.
"""

from __future__ import annotations

import enum
import http
import http.client
import json
import os
import secrets
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from primum.domain.errors import (
    Conflict,
    InvalidValue,
    NotFound,
    PrimumError,
    Refused,
    Tampered,
    Unavailable,
    UnsupportedEvent,
)

_ANSWER_BYTES_MAX = 64 * 2**20  # Ten thousand entries are a tenth of it.
_READ_SECONDS = 60.0
_IDLE_SECONDS_MAX = 30.0  # Less than our server keeps an idle connection.
_FIRST_PAUSE_SECONDS, _PAUSE_SECONDS_MAX = 0.1, 5.0
_SAID_MAX = 1000
_TYPES: Mapping[str, type[PrimumError]] = {
    kind.__name__.lower(): kind
    for kind in (Conflict, NotFound, Refused, Tampered, Unavailable, UnsupportedEvent)
}


class Repeat(enum.Enum):
    """Whether a question may be asked again when its answer got lost."""

    SAFE = "Safe"
    NEVER = "Never"


@dataclass(frozen=True, slots=True)
class _Question:
    method: str
    path: str
    body: bytes | None = None
    seconds: float = _READ_SECONDS


class _Kept(NamedTuple):
    connection: http.client.HTTPConnection
    since: float


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    wait: float


@dataclass(frozen=True)
class LedgerApiClient:
    """One ledger API under one identity; safe to use from many threads.

    Args:
        url: Base address, ``https://host:port``.
        token: Gives the bearer token for each request.
        ca_file: PEM file of the authorities that its certificate is checked with; the system's
            where empty.
        patience_seconds: How long a question that may be repeated is repeated.
        sleep: Waits between two tries.
        connect: Makes connections, where the way there is another than the address' own.
        header: What carries the token; an API server on the way keeps ``Authorization`` to itself.

    Raises:
        InvalidValue: If the address cannot be one, or the file cannot be read.
    """

    url: str
    token: Callable[[], str] = field(repr=False)
    ca_file: str = ""
    patience_seconds: float = 120.0
    sleep: Callable[[float], None] = time.sleep
    connect: Callable[[], http.client.HTTPConnection] | None = None
    header: str = "Authorization"
    _idle: list[_Kept] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            rule = "must be http(s)://host:port"
            raise InvalidValue("PRIMUM_LEDGER_URL", rule, "another address")
        if self.ca_file and not os.access(self.ca_file, os.R_OK):
            raise InvalidValue("PRIMUM_LEDGER_CA", "must be a file that can be read", self.ca_file)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        repeat: Repeat = Repeat.SAFE,
        seconds: float = _READ_SECONDS,
    ) -> dict[str, Any]:
        """The JSON object that a question is answered with.

        Args:
            method: HTTP method.
            path: Path, from ``/v1`` on.
            body: JSON object to send.
            repeat: Whether it may be asked again.
            seconds: How long an answer may take.

        Raises:
            Unavailable: If there was no answer in time.
            PrimumError: Whatever the API answered, as the error of that name.
        """
        data = None if body is None else json.dumps(body).encode()
        value = self._asked(_Question(method, path, data, seconds), repeat)
        if isinstance(value, dict):
            return value
        raise Tampered("the ledger API must answer with an object; found something else.")

    def rows(self, path: str) -> list[dict[str, Any]]:
        """The JSON objects that a question is answered with.

        Raises:
            PrimumError: As ``ask`` does.
        """
        value = self._asked(_Question("GET", path), Repeat.SAFE)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        raise Tampered("the ledger API must answer with a list; found something else.")

    def _asked(self, question: _Question, repeat: Repeat) -> object:
        until = time.monotonic() + self.patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._once(question)
            except Unavailable as error:
                # Spread, so that all who wait for a server that comes back do not come at once.
                wait = pause * (0.5 + secrets.randbelow(1000) / 1000)
                if repeat is Repeat.NEVER or time.monotonic() + wait > until:
                    raise
                self.sleep(max(wait, min(error.retry_seconds, _PAUSE_SECONDS_MAX)))
                pause = min(2 * pause, _PAUSE_SECONDS_MAX)

    def close(self) -> None:
        """Let go of every connection that nobody uses now."""
        while self._idle:
            self._idle.pop().connection.close()

    def _once(self, question: _Question) -> object:
        answer = self._exchange(question)
        try:
            value = json.loads(answer.body) if answer.body else {}
        except (ValueError, RecursionError):
            value = None
        if answer.status == http.HTTPStatus.OK and isinstance(value, dict | list):
            return value
        raise _error(answer, value if isinstance(value, dict) else {})

    def _exchange(self, question: _Question) -> _Answer:
        prefix = urlsplit(self.url).path.rstrip("/")
        headers = {self.header: f"Bearer {self.token()}", "Accept": "application/json"}
        if question.body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._fresh_enough() or self._connected()
        try:
            connection.timeout = question.seconds
            if connection.sock is not None:
                connection.sock.settimeout(question.seconds)
            connection.request(question.method, prefix + question.path, question.body, headers)
            found = connection.getresponse()
            body = found.read(_ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unavailable(
                f"the ledger API did not answer ({type(error).__name__})", retry_seconds=0.0
            ) from None
        if len(body) > _ANSWER_BYTES_MAX:
            connection.close()
            raise Tampered("the ledger API must answer with less; found an answer without end.")
        self._idle.append(_Kept(connection, time.monotonic()))
        wait = found.headers.get("Retry-After", "")
        return _Answer(found.status, body, float(wait) if wait.isdecimal() else 0.0)

    def _fresh_enough(self) -> http.client.HTTPConnection | None:
        """A connection that the server has not closed by now, as it does with idle ones."""
        while True:
            try:
                kept = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - kept.since < _IDLE_SECONDS_MAX:
                return kept.connection
            kept.connection.close()

    def _connected(self) -> http.client.HTTPConnection:
        if self.connect is not None:
            return self.connect()
        parts = urlsplit(self.url)
        host, port = str(parts.hostname), parts.port
        if parts.scheme == "http":
            return http.client.HTTPConnection(host, port)
        context = ssl.create_default_context(cafile=self.ca_file or None)
        return http.client.HTTPSConnection(host, port, context=context)


def _error(answer: _Answer, problem: Mapping[str, Any]) -> PrimumError:
    """One of our errors, from a problem document; what is none is taken for a fault on the way."""
    name = str(problem.get("type", "")).rpartition("/")[2]
    # An API server on the way says it otherwise.
    said = str(problem.get("detail") or problem.get("message") or "")[:_SAID_MAX]
    if name == "invalidvalue" and all(isinstance(problem.get(key), str) for key in _PARTS):
        return InvalidValue(*(str(problem[key]) for key in _PARTS))
    kind = _TYPES.get(name)
    if kind is not None and kind is not Unavailable:
        return kind(said)
    if answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
        return Refused(said or "the ledger API refused the caller")
    passing = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
    if answer.status in passing or not _is_final(answer.status):
        message = f"the ledger API answered {answer.status}: {said or 'nothing to be understood'}"
        return Unavailable(message, retry_seconds=answer.wait)
    return InvalidValue("request", "must be one that the ledger API takes", said or answer.status)


def _is_final(status: int) -> bool:
    return (
        http.HTTPStatus.BAD_REQUEST <= status < http.HTTPStatus.INTERNAL_SERVER_ERROR
        # A path that is not served yet, as by an API of an older version, must not pass for a
        # thing that does not exist.
        and status not in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.METHOD_NOT_ALLOWED)
    )


_PARTS = ("field", "rule", "found", "remedy")
