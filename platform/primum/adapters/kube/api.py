"""KubeApi: requests to one API server, their answers as JSON, its refusals as our errors.

The official client gives connection, certificates and credentials; requests are plain paths and
JSON, because our objects have no generated classes and a path means the same in every version.
Nothing is retried here, but for a token that was replaced: callers are level-based and come back.
"""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primum.domain.errors import Conflict, InvalidValue, NotFound, PrimumError, Refused, Unavailable

FIELD_MANAGER = "primum"  # The one name under which the platform applies anything.
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0  # The API server itself gives up a request after 60 seconds.
_PAGE = 500  # What kubectl and the informers of Kubernetes ask for at once.
_RETRY_SECONDS = 5.0
_CHUNK = 65_536  # A RayJob is some kilobytes.

MULTIPLE_CHOICES, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 300, 401, 403, 404
CONFLICT, EXPIRED, TOO_MANY, SERVER_ERROR = 409, 410, 429, 500

Json = dict[str, Any]


class Parts(enum.StrEnum):
    """How much of every object a list brings; the value is the media type asked for."""

    ALL = "application/json"
    METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class Propagation(enum.StrEnum):
    """What becomes of the dependents of an object that is deleted."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"


class Verb(enum.StrEnum):
    """Kinds of requests, as RBAC and audit logs call them."""

    GET = "get"
    LIST = "list"
    WATCH = "watch"
    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"


_METHODS = {
    Verb.GET: "GET",
    Verb.LIST: "GET",
    Verb.WATCH: "GET",
    Verb.CREATE: "POST",
    Verb.UPDATE: "PUT",
    Verb.PATCH: "PATCH",
    Verb.DELETE: "DELETE",
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """How an API server is reached, for another client in the same process."""

    server: str
    ca_path: str | None
    scheme: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None


def credentials(kubeconfig: str = "") -> Credentials:
    """The credentials that a kubeconfig, or else the pod's service account, gives now.

    Raises:
        InvalidValue: If there are none.
    """
    configuration = _configuration(kubeconfig)
    settings = configuration.auth_settings().values()
    found = next((item["value"] for item in settings if item["in"] == "header"), "")
    scheme, _, token = str(found).partition(" ")
    return Credentials(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
    )


def _configuration(kubeconfig: str) -> Any:
    from kubernetes import client, config
    from kubernetes.config import ConfigException

    configuration = client.Configuration()
    try:
        if kubeconfig:
            config.load_kube_config(kubeconfig, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except ConfigException as error:
        found = kubeconfig or "no service account in this pod"
        raise InvalidValue("kubeconfig", f"must be readable ({error})", found) from None
    return configuration


@dataclass(frozen=True, slots=True)
class _Line:
    """Connections to one API server.

    Args:
        connections: What ``urlopen`` is called on.
        prefix: What it is called with before a path.
    """

    connections: Any
    prefix: str


def _line(server: str, pool: Any) -> _Line:
    """The server's own connections; to choose them by its URL takes a third of a request."""
    from urllib.parse import urlsplit

    return _Line(pool.connection_from_url(server), urlsplit(server).path.rstrip("/"))


class Expired(Unavailable):
    """A list that was read in pages is too old to be read on; it starts again."""


class KubeApi:
    """One API server under one identity; safe to use from many threads.

    Args:
        kubeconfig: Path of a kubeconfig file. Empty: the service account of the pod.
        observe: Called with verb and status code of every request, for counting.
    """

    def __init__(
        self, kubeconfig: str = "", *, observe: Callable[[Verb, int], None] | None = None
    ) -> None:
        self._kubeconfig = kubeconfig
        self._observe = observe or (lambda _verb, _code: None)
        self._lock = threading.Lock()
        self._configuration, self._pool, self._line = self._connected()

    def close(self) -> None:
        """Let go of every connection."""
        self._pool.clear()

    def get(self, path: str) -> Json | None:
        """One object, or ``None`` where there is none."""
        try:
            return self._send(Verb.GET, path)
        except NotFound:
            return None

    def list(
        self,
        path: str,
        *,
        labels: str = "",
        fields: str = "",
        limit: int = 0,
        parts: Parts = Parts.ALL,
    ) -> Iterator[Json]:
        """Every object of a collection, page by page.

        Args:
            path: The collection.
            labels: A label selector.
            fields: A field selector.
            limit: Objects per page; 0 for the usual number.
            parts: How much of them.

        Raises:
            Expired: If the list got too old between two pages; ask again.
        """
        token = ""
        while True:
            query = {"limit": str(limit or _PAGE)}
            query |= {"labelSelector": labels} if labels else {}
            query |= {"fieldSelector": fields} if fields else {}
            query |= {"continue": token} if token else {}
            page = self._send(Verb.LIST, path, query=query, accept=parts)
            yield from page.get("items") or ()
            token = str((page.get("metadata") or {}).get("continue") or "")
            if not token:
                return

    def watch(
        self, path: str, *, name: str, resource_version: str, seconds: int
    ) -> Iterator[tuple[str, Json]]:
        """What becomes of one object, as it happens: kind of event, and the object.

        Ends quietly after some seconds; whoever looks on asks again from what was seen last.

        Args:
            path: The object's collection.
            name: The object.
            resource_version: What was seen last.
            seconds: After which the server ends the watch.

        Raises:
            Expired: If that was too long ago; read the object, and watch from there.
            Unavailable: If the watch was cut.
        """
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(seconds),
        }
        for line in self._lines(path, query, seconds + _READ_SECONDS):
            found = _read(line)
            seen = found.get("object")
            if not isinstance(seen, dict):
                raise Unavailable(f"{Verb.WATCH} {path}: cut in the middle of an event")
            if found.get("type") == "ERROR":
                raise _error(Verb.WATCH, path, int(seen.get("code") or SERVER_ERROR), seen, 0.0)
            yield str(found.get("type")), seen

    def create(self, path: str, body: Mapping[str, Any]) -> Json:
        """Create an object.

        Raises:
            Conflict: If one of that name exists.
        """
        return self._send(Verb.CREATE, path, body, query={"fieldManager": FIELD_MANAGER})

    def replace(self, path: str, body: Mapping[str, Any]) -> Json:
        """Replace an object; its ``resourceVersion`` must be the one that stands.

        Raises:
            Conflict: If it is not.
        """
        return self._send(Verb.UPDATE, path, body, query={"fieldManager": FIELD_MANAGER})

    def apply(self, path: str, body: Mapping[str, Any]) -> Json:
        """Server-side apply of everything that we say about an object, over whoever said else.

        Raises:
            Conflict: If the body names a uid and the object is another one.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._send(Verb.PATCH, path, body, query=query, kind="application/apply-patch+yaml")

    def patch(self, path: str, operations: Sequence[Mapping[str, Any]]) -> Json:
        """JSON Patch; its ``test`` operations make it safe against whoever writes meanwhile.

        Raises:
            Conflict: If a test does not hold.
        """
        query = {"fieldManager": FIELD_MANAGER}
        try:
            return self._send(
                Verb.PATCH, path, operations, query=query, kind="application/json-patch+json"
            )
        except InvalidValue as error:  # A test that does not hold is answered as 422.
            raise Conflict(f"{path} was not patched: it is not as it was read. {error}") from None

    def merge(self, path: str, body: Mapping[str, Any]) -> Json:
        """JSON Merge Patch of single fields."""
        query = {"fieldManager": FIELD_MANAGER}
        kind = "application/merge-patch+json"
        return self._send(Verb.PATCH, path, body, query=query, kind=kind)

    def delete(
        self, path: str, *, uid: str = "", propagation: Propagation = Propagation.BACKGROUND
    ) -> Json | None:
        """Delete an object; ``None`` where there is none.

        Args:
            path: The object.
            uid: Only the object with this uid.
            propagation: What becomes of its dependents.

        Raises:
            Conflict: If the object has another uid.
        """
        body: Json = {"propagationPolicy": propagation.value}
        if uid:
            body["preconditions"] = {"uid": uid}
        try:
            return self._send(Verb.DELETE, path, body)
        except NotFound:
            return None

    def _connected(self) -> tuple[Any, Any, _Line]:
        from kubernetes.client import rest

        configuration = _configuration(self._kubeconfig)
        pool = rest.RESTClientObject(configuration).pool_manager
        return configuration, pool, _line(str(configuration.host), pool)

    def _send(
        self,
        verb: Verb,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        kind: str = "application/json",
        accept: Parts = Parts.ALL,
    ) -> Json:
        data = None if body is None else json.dumps(body).encode()
        types = {"Content-Type": kind, "Accept": accept.value}
        code, answer, wait = self._request(verb, path, data, query=query, types=types)
        if code == UNAUTHORIZED:  # The token was replaced: read it again, once.
            with self._lock:
                self._pool.clear()
                self._configuration, self._pool, self._line = self._connected()
            code, answer, wait = self._request(verb, path, data, query=query, types=types)
        if code >= MULTIPLE_CHOICES:
            raise _error(verb, path, code, answer, wait)
        return answer

    def _lines(self, path: str, query: Mapping[str, str], seconds: float) -> Iterator[bytes]:
        """Lines of an answer that comes as it happens."""
        from kubernetes.client.rest import urllib3

        line, url, headers = self._asked(path, query)
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=seconds)
        try:
            answer = line.urlopen(
                "GET", url, headers=headers, timeout=timeout, retries=False, preload_content=False
            )
            self._observe(Verb.WATCH, answer.status)
            try:
                if answer.status >= MULTIPLE_CHOICES:
                    raise _error(
                        Verb.WATCH, path, answer.status, _read(answer.data), _RETRY_SECONDS
                    )
                yield from _whole_lines(answer.stream(_CHUNK, decode_content=True))
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"{Verb.WATCH} {path}: {type(error).__name__}") from None

    def _asked(self, path: str, query: Mapping[str, str]) -> tuple[Any, str, dict[str, str]]:
        """Connections, what to ask them for, and headers under the credentials of now."""
        from urllib.parse import urlencode

        with self._lock:  # Credentials may be refreshed while they are read.
            line = self._line
            settings = self._configuration.auth_settings().values()
        headers = {"Accept": "application/json"}
        headers |= {item["key"]: item["value"] for item in settings if item["in"] == "header"}
        url = line.prefix + path + (f"?{urlencode(query)}" if query else "")
        return line.connections, url, headers

    def _request(
        self,
        verb: Verb,
        path: str,
        data: bytes | None,
        *,
        query: Mapping[str, str] | None,
        types: Mapping[str, str],
    ) -> tuple[int, Json, float]:
        from kubernetes.client.rest import urllib3

        line, url, headers = self._asked(path, query or {})
        headers |= types
        timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=_READ_SECONDS)
        try:
            answer = line.urlopen(
                _METHODS[verb], url, body=data, headers=headers, timeout=timeout, retries=False
            )
        except urllib3.exceptions.HTTPError as error:
            self._observe(verb, 0)
            raise Unavailable(f"{verb} {path}: {type(error).__name__}") from None
        self._observe(verb, answer.status)
        wait = answer.headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdecimal() else _RETRY_SECONDS
        return answer.status, _read(answer.data), seconds


def _whole_lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a stream; what a cut left unfinished is none."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line)


def _read(data: bytes) -> Json:
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _error(verb: Verb, path: str, code: int, answer: Json, wait: float) -> PrimumError:
    said = str(answer.get("message") or answer.get("reason") or code)
    message = f"{verb} {path}: {said}"
    if code == EXPIRED:
        return Expired(message, retry_seconds=0.0)
    if code == TOO_MANY or code >= SERVER_ERROR:
        return Unavailable(message, retry_seconds=wait)
    if code == NOT_FOUND and not (answer.get("details") or {}).get("name"):
        # Not the object is missing but its whole API, as for a moment after a server's start: it
        # must never be taken for the absence of an object.
        return Unavailable(f"{verb} {path}: the API server does not serve this", retry_seconds=wait)
    known = {NOT_FOUND: NotFound, CONFLICT: Conflict, UNAUTHORIZED: Refused, FORBIDDEN: Refused}
    if code in known:
        return known[code](message)
    return InvalidValue(path, "must be accepted by the API server", said)
