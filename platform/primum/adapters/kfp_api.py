"""Kubeflow Pipelines' v2beta1 REST API: runs and experiments, over plain HTTPS.

Not kfp's client: importing it takes seconds, and it waits for ever on a canceled run. Only what the
API itself says in its own words counts: a proxy's page, a redirect, a gateway's 404 or no answer at
all never mean that a run is gone. It follows no redirect, which would carry the token elsewhere.
"""

from __future__ import annotations

import enum
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from primum.domain.errors import (
    Conflict,
    InvalidValue,
    NotFound,
    PrimumError,
    Refused,
    Unavailable,
)

Json = dict[str, Any]

_API = "/apis/v2beta1"
_SECONDS = 30.0
_RETRY_SECONDS = 5.0
_PAGE = 100
_PAGES_MAX = 1000
_ANSWER_BYTES_MAX = 64 * 1024 * 1024
_SAID_LENGTH_MAX = 300  # Its messages may quote a whole request.
_OK, _MULTIPLE_CHOICES = 200, 300
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 400, 401, 403, 404, 409
_UNPROCESSABLE = 422
_GRPC_NOT_FOUND = 5


class RunStateWord(enum.StrEnum):
    """The states of a run, in the API's words."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    SKIPPED = "SKIPPED"
    FAILED = "FAILED"
    CANCELING = "CANCELING"
    CANCELED = "CANCELED"
    PAUSED = "PAUSED"


class Compare(enum.StrEnum):
    """How a list is filtered."""

    EQUALS = "EQUALS"
    NOT_EQUALS = "NOT_EQUALS"
    IS_SUBSTRING = "IS_SUBSTRING"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where the API is, and how it is met.

    Args:
        url: Its base, such as ``https://ml-pipeline.kubeflow.svc.cluster.local:8888``; a path in it
            is kept.
        token_path: File with the bearer token, read for every request because it is replaced while
            we run; empty for an API that asks for none.
        ca_path: PEM file of the authorities that its certificate is checked with; empty for those
            of the system.
    """

    url: str
    token_path: str = ""
    ca_path: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise InvalidValue(
                "Kubeflow Pipelines URL", "must be http(s)://host[:port][/path]", self.url
            )
        if parts.username or parts.password:
            raise InvalidValue(
                "Kubeflow Pipelines URL", "must hold no password", "one", "Use a token file."
            )


@dataclass(frozen=True, slots=True)
class KfpRun:
    """A run as the API shows it.

    Args:
        run_id: The API's own id.
        display_name: What it was created as.
        description: What it was described as.
        state: Its state, or another word where the API has one that is not known here; empty where
            it could not tell.
        created_at: RFC 3339; sorts as text.
        experiment_id: Its experiment.
    """

    run_id: str
    display_name: str
    description: str
    state: str
    created_at: str
    experiment_id: str


class KfpApi:
    """One API server; safe to use from many threads.

    Args:
        settings: Where it is.

    Raises:
        InvalidValue: If the authorities cannot be read.
    """

    def __init__(self, settings: ApiSettings, *, timeout_seconds: float = _SECONDS) -> None:
        self._settings = settings
        self._timeout = timeout_seconds
        self._parts = urlsplit(settings.url)
        self._tls = _tls(settings) if self._parts.scheme == "https" else None

    def runs(self, namespace: str, *conditions: tuple[str, Compare, str]) -> Iterator[KfpRun]:
        """Runs of a namespace that fulfill every condition, in no order.

        Args:
            namespace: The namespace.
            conditions: What is compared, such as ``display_name``; how; with what.
        """
        query = _filtered(*conditions) | {"namespace": namespace}
        for item in self._pages(f"{_API}/runs", query, "runs"):
            yield _run(item)

    def run(self, run_id: str) -> KfpRun | None:
        """A run by the API's own id; ``None`` where the API itself says that there is none."""
        try:
            return _run(self._send("GET", f"{_API}/runs/{quote(run_id, safe='')}"))
        except NotFound:
            return None

    def create_run(self, body: Mapping[str, Any]) -> KfpRun:
        """Create a run.

        Raises:
            Conflict: If the API says that it exists.
            Unavailable: If nobody knows whether it does; look before creating it again.
        """
        return _run(self._send("POST", f"{_API}/runs", body))

    def terminate(self, run_id: str) -> None:
        """Ask a run to end.

        Raises:
            NotFound: If there is no such run.
            InvalidValue: If it cannot end any more, because it has.
        """
        self._send("POST", f"{_API}/runs/{quote(run_id, safe='')}:terminate", {})

    def experiment(self, namespace: str, name: str) -> str:
        """The id of an experiment, made where there is none: a run's namespace is its experiment's.

        Args:
            namespace: The namespace.
            name: What it is called.
        """
        found = self._experiment(namespace, name)
        if found:
            return found
        body = {"display_name": name, "namespace": namespace}
        try:
            made = self._send("POST", f"{_API}/experiments", body)
        except Conflict:
            found = self._experiment(namespace, name)
            if not found:
                raise
            return found
        return _text(made, "experiment_id")

    def _experiment(self, namespace: str, name: str) -> str:
        query = _filtered(("display_name", Compare.EQUALS, name)) | {"namespace": namespace}
        listed = self._pages(f"{_API}/experiments", query, "experiments")
        ids = [_text(item, "experiment_id") for item in listed if item.get("display_name") == name]
        return min(ids, default="")

    def _pages(self, path: str, query: Mapping[str, str], of: str) -> Iterator[Json]:
        token = ""
        for _ in range(_PAGES_MAX):
            asked = {**query, "page_size": str(_PAGE)} | ({"page_token": token} if token else {})
            page = self._send("GET", f"{path}?{urlencode(asked)}")
            listed = page.get(of, [])
            if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
                raise Unavailable(f"GET {path}: an answer that is not the API's")
            yield from listed
            token = str(page.get("next_page_token") or "")
            if not token:
                return
        raise Unavailable(f"GET {path}: more pages than there can be")

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        shown = f"{method} {path.partition('?')[0]}"
        code, content, wait = self._request(method, path, body, shown)
        if code == _UNAUTHORIZED:  # The token may have been replaced just now: read it again, once.
            code, content, wait = self._request(method, path, body, shown)
        answer = _read(content)
        if _OK <= code < _MULTIPLE_CHOICES and answer is not None:
            return answer
        raise _error(shown, code, answer, wait)

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None, shown: str
    ) -> tuple[int, bytes, float]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        token = self._token()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        content = None if body is None else json.dumps(body).encode()
        connection = self._connection()
        try:
            connection.request(
                method, self._parts.path.rstrip("/") + path, body=content, headers=headers
            )
            answer = connection.getresponse()
            found = answer.read(_ANSWER_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(
                f"Kubeflow Pipelines, {shown}: {type(error).__name__}", retry_seconds=_RETRY_SECONDS
            ) from None
        finally:
            connection.close()
        if len(found) > _ANSWER_BYTES_MAX:
            raise Unavailable(f"Kubeflow Pipelines, {shown}: an answer without end")
        wait = answer.headers.get("Retry-After", "")
        return answer.status, found, float(wait) if wait.isdecimal() else _RETRY_SECONDS

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._parts.hostname), self._parts.port
        if self._tls is not None:
            return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(host, port, timeout=self._timeout)

    def _token(self) -> str:
        if not self._settings.token_path:
            return ""
        try:
            return Path(self._settings.token_path).read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise Unavailable(
                f"the token for Kubeflow Pipelines could not be read: {type(error).__name__}"
            ) from None


def _tls(settings: ApiSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_path or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidValue(
            "Kubeflow Pipelines CA",
            f"must be a readable PEM file ({type(error).__name__})",
            settings.ca_path,
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _filtered(*conditions: tuple[str, Compare, str]) -> dict[str, str]:
    predicates = [
        {"operation": how.value, "key": key, "stringValue": text} for key, how, text in conditions
    ]
    return {"filter": json.dumps({"predicates": predicates}, separators=(",", ":"))}


def _run(item: Mapping[str, Any]) -> KfpRun:
    return KfpRun(
        run_id=_text(item, "run_id"),
        display_name=str(item.get("display_name") or ""),
        description=str(item.get("description") or ""),
        state=str(item.get("state") or ""),
        created_at=str(item.get("created_at") or ""),
        experiment_id=str(item.get("experiment_id") or ""),
    )


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise Unavailable(f"Kubeflow Pipelines: an answer without {name}")
    return value


def _read(content: bytes) -> Json | None:
    """A JSON object, or ``None`` for anything else, such as a login page."""
    try:
        value = json.loads(content) if content.strip() else {}
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _error(shown: str, code: int, answer: Json | None, wait: float) -> PrimumError:
    told = answer or {}
    said = str(told.get("message") or told.get("error") or http.client.responses.get(code, code))
    message = f"Kubeflow Pipelines, {shown}: {code} {said[:_SAID_LENGTH_MAX]}"
    if code == _NOT_FOUND and told.get("code") == _GRPC_NOT_FOUND:
        return NotFound(message)
    if code == _CONFLICT:
        return Conflict(message)
    if code in (_UNAUTHORIZED, _FORBIDDEN):
        return Refused(f"{message}. Give the operator's service account its rights over runs.")
    if code in (_BAD_REQUEST, _UNPROCESSABLE):
        return InvalidValue("a request to Kubeflow Pipelines", "must be accepted", message)
    if answer is None and code < _MULTIPLE_CHOICES:
        return Unavailable(f"Kubeflow Pipelines, {shown}: an answer that is not the API's")
    return Unavailable(message, retry_seconds=wait)
