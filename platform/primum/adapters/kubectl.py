"""kubectl: the user's own way to a cluster, with whatever their kubeconfig says.

The only door to the program. It reads kubeconfigs, runs login plugins for its own requests, and
carries ours over a socket that only this user can open, so that nothing of that is done twice.
What it does not do is say who its user is: their token is read here, for the ledger API.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from primum.domain.errors import (
    Conflict,
    InvalidValue,
    NotFound,
    PrimumError,
    Refused,
    Unavailable,
)

_READY_SECONDS = 20.0
_LOOK_SECONDS = 0.01
_ANSWER_SECONDS = 60.0
_LOGIN_SECONDS = 600.0  # Somebody may have to look for their phone.
_SAID_MAX = 1000
_SOCKET, _SAID = "s", "said.txt"
_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Json = dict[str, Any]
_ERRORS: Mapping[int, type[PrimumError]] = {
    http.HTTPStatus.UNAUTHORIZED: Refused,
    http.HTTPStatus.FORBIDDEN: Refused,
    http.HTTPStatus.NOT_FOUND: NotFound,
    http.HTTPStatus.CONFLICT: Conflict,
}


class Kubectl:
    """One user at one cluster, as kubectl's own options say.

    Args:
        options: kubectl's options for who and where, such as ``--context=hospital``.
        impersonation: Its options for whom to act for; only requests have them.

    Raises:
        NotFound: If there is no kubectl.
    """

    def __init__(self, options: Sequence[str], impersonation: Sequence[str] = ()) -> None:
        self._options, self._impersonation = tuple(options), tuple(impersonation)
        self._program = shutil.which("kubectl") or ""
        if not self._program:
            raise NotFound("kubectl must be on the PATH; found none.")

    def config(self) -> Json:
        """What the kubeconfig says about the context in use: cluster, user and namespace.

        Raises:
            InvalidValue: If the kubeconfig cannot be read, or has no such context.
        """
        command = [self._program, *self._options]
        command += ["config", "view", "--raw", "--minify", "--flatten", "--output=json"]
        done = subprocess.run(  # noqa: S603 - kubectl, with the user's own options
            command, capture_output=True, text=True, check=False
        )
        if done.returncode:
            if not self._options and (_POD / "token").exists():
                return _pod_config()
            remedy = "See `kubectl config get-contexts`."
            raise InvalidValue("kubeconfig", "must name a context", _said(done.stderr), remedy)
        return _only(json.loads(done.stdout))

    @contextlib.contextmanager
    def connected(self) -> Iterator[ClusterLine]:
        """Requests to the API server, until the block ends.

        Raises:
            Unavailable: If kubectl does not get ready.
        """
        with tempfile.TemporaryDirectory(prefix="primum-kubectl-") as folder:
            command = [self._program, *self._options, *self._impersonation, "proxy"]
            with (Path(folder) / _SAID).open("wb") as said:
                process = subprocess.Popen(  # noqa: S603 - kubectl, with the user's own options
                    [*command, f"--unix-socket={Path(folder) / _SOCKET}"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                )
            try:
                yield ClusterLine(Path(folder), process)
            finally:
                process.terminate()
                process.wait()


class ClusterLine:
    """Requests to an API server through a running kubectl.

    Args:
        folder: Where its socket is, and what it says.
        process: kubectl.
    """

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self._folder, self._process = folder, process

    def connection(self) -> http.client.HTTPConnection:
        """A new connection, once kubectl serves.

        Raises:
            InvalidValue: If kubectl cannot use what it was given.
            Unavailable: If it does not get ready.
        """
        made = _SocketConnection(str(self._folder / _SOCKET))
        end = time.monotonic() + _READY_SECONDS
        while True:
            try:
                made.connect()
            except OSError:  # There is no socket yet, or nobody listens yet.
                if self._process.poll() is not None:
                    said = (self._folder / _SAID).read_text(encoding="utf-8", errors="replace")
                    raise InvalidValue(
                        "kubeconfig", "must be one that kubectl can use", _said(said)
                    ) from None
                if time.monotonic() > end:
                    raise Unavailable("kubectl does not get ready") from None
                time.sleep(_LOOK_SECONDS)
            else:
                return made

    def get(self, path: str) -> Json:
        """An object.

        Raises:
            NotFound: If there is none.
            PrimumError: Whatever else the API server says.
        """
        return self._ask("GET", path)

    def create(self, path: str, body: Mapping[str, Any]) -> Json:
        """Create an object.

        Raises:
            PrimumError: Whatever the API server says.
        """
        return self._ask("POST", path, body)

    def merge(self, path: str, body: Mapping[str, Any]) -> Json:
        """Change fields of an object.

        Raises:
            PrimumError: Whatever the API server says.
        """
        return self._ask("PATCH", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Json:
        data = None if body is None else json.dumps(body).encode()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json", "Content-Type": kind}
        connection = self.connection()
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unavailable(f"kubectl does not answer ({type(error).__name__})") from None
        finally:
            connection.close()
        try:
            value = json.loads(text) if text else {}
        except ValueError:
            value = {"message": text.decode(errors="replace")}
        if answer.status < http.HTTPStatus.MULTIPLE_CHOICES and isinstance(value, dict):
            return value
        raise _error(answer.status, value if isinstance(value, dict) else {})


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over the socket of a running kubectl."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(self._path)


def token_of(config: Mapping[str, Any]) -> str:
    """The bearer token of a kubeconfig's user; empty where they log in by certificate.

    Raises:
        Refused: If a login plugin gives none.
    """
    user = config["user"]
    if user.get("token"):
        return str(user["token"])
    if user.get("tokenFile"):
        return Path(str(user["tokenFile"])).read_text(encoding="utf-8").strip()
    if user.get("exec"):
        return _login(user["exec"], config["cluster"])
    provider = user.get("auth-provider") or {}
    return str((provider.get("config") or {}).get("id-token") or "")


def _login(plugin: Mapping[str, Any], cluster: Mapping[str, Any]) -> str:
    """The token that a login plugin gives; see the client.authentication.k8s.io API."""
    interactive = plugin.get("interactiveMode") != "Never" and sys.stdin.isatty()
    spec: Json = {"interactive": interactive}
    if plugin.get("provideClusterInfo"):
        spec["cluster"] = dict(cluster)
    asked = {"apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "spec": spec}
    told = {str(item["name"]): str(item["value"]) for item in plugin.get("env") or ()}
    command = [str(plugin["command"]), *map(str, plugin.get("args") or ())]
    try:
        done = subprocess.run(  # noqa: S603 - what the user's kubeconfig names, as kubectl does
            command,
            env={**os.environ, **told, "KUBERNETES_EXEC_INFO": json.dumps(asked)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=_LOGIN_SECONDS,
            check=True,
        )
        status = json.loads(done.stdout).get("status") or {}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Refused(f"login by {command[0]} gave no token ({type(error).__name__})") from None
    return str(status.get("token") or "")


def _only(config: Mapping[str, Any]) -> Json:
    """The one context, cluster and user that are left of a kubeconfig."""

    def first(plural: str, singular: str) -> Json:
        listed = config.get(plural) or [{}]
        return dict(listed[0].get(singular) or {})

    return {
        "cluster": first("clusters", "cluster"),
        "user": first("users", "user"),
        "namespace": first("contexts", "context").get("namespace") or "default",
    }


def _pod_config() -> Json:
    """What kubectl itself goes by in a pod without a kubeconfig."""
    namespace = (_POD / "namespace").read_text(encoding="utf-8").strip()
    user = {"tokenFile": str(_POD / "token")}
    return {"cluster": {}, "user": user, "namespace": namespace}


def _error(status: int, answer: Mapping[str, Any]) -> PrimumError:
    said = _said(str(answer.get("message") or status))
    kind = _ERRORS.get(status)
    if kind is not None:
        return kind(said)
    if (
        status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        or status == http.HTTPStatus.TOO_MANY_REQUESTS
    ):
        return Unavailable(f"the API server cannot be asked: {said}")
    return InvalidValue("request", "must be accepted by the API server", said)


def _said(text: str) -> str:
    return " ".join(text.split()).removeprefix("error: ")[:_SAID_MAX]
