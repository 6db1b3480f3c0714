"""The webhook's HTTPS server: an AdmissionReview in, a verdict out.

Standard library alone: what stands between everybody and the API server should be little. It keeps
nothing of what it is sent and logs names, never contents. It refuses what it cannot read; where it
is down, the API server refuses (``failurePolicy: Fail``).
"""

from __future__ import annotations

import base64
import http
import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import structlog

from primum.domain.errors import PrimumError
from primum_operators.admission.review import Refusal
from primum_operators.admission.rules import Doubling

CERTIFICATE = "tls.crt"
PRIVATE_KEY = "tls.key"
BODY_BYTES_MAX = 8 * 2**20  # Object and old object, each within etcd's limit, and the rest.
REQUEST_SECONDS_MAX = 10.0  # The API server waits no longer than the configuration's timeout.
PLACES = {"/everywhere": Doubling.EVERYWHERE, "/governed": Doubling.GOVERNED}
REQUESTER_PATH = "/requester"  # Of the webhook that says who asks for a Study.

_API_VERSION = "admission.k8s.io/v1"
_DENIED = 403

log = structlog.get_logger(__name__)

Judge = Callable[[Mapping[str, Any], Doubling], Refusal | None]
Patch = Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]]


class AdmissionServer(ThreadingHTTPServer):
    """Listens at once, serves when told to.

    Args:
        address: Host and port; port 0 takes any free one.
        folder: Where ``tls.crt`` and ``tls.key`` lie; they are read again when they change.
        judge: Says why a request is refused, or nothing.
        patch: Says what of a new object is to be changed.
        ready: Whether the ledger and the API server can be asked.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        folder: Path,
        *,
        judge: Judge,
        patch: Patch,
        ready: Callable[[], bool],
    ) -> None:
        self.judge, self.patch = judge, patch
        self.ready = ready
        self._folder = folder
        self._loaded: tuple[int, int] = (0, 0)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.service_actions()
        super().__init__(address, _Handler)
        # The handshake happens in the request's own thread: a silent client must not stop others.
        self.socket = self._context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )

    def service_actions(self) -> None:
        """Read the certificate again where it was replaced; called twice a second."""
        try:
            self._load()
        except (OSError, ssl.SSLError):
            if self._loaded == (0, 0):
                raise
            # One of the two files was replaced; the other one comes in a moment.

    def _load(self) -> None:
        pair = (self._folder / CERTIFICATE, self._folder / PRIVATE_KEY)
        stamp = (pair[0].stat().st_mtime_ns, pair[1].stat().st_mtime_ns)
        if stamp == self._loaded:
            return
        # A pair that does not match would spoil the context that serves: try it on another one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
        self._context.load_cert_chain(*pair)
        self._loaded = stamp

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - theirs
        """Note that a connection failed; its bytes are nobody's business."""
        log.debug("connection failed", exc_info=True)

    def start(self) -> threading.Thread:
        """Serve in a thread of its own until ``shutdown``."""
        thread = threading.Thread(target=self.serve_forever, name="admission", daemon=True)
        thread.start()
        return thread


class _Handler(BaseHTTPRequestHandler):
    server: AdmissionServer
    protocol_version = "HTTP/1.1"
    timeout = REQUEST_SECONDS_MAX
    server_version = "primum"
    sys_version = ""

    def do_GET(self) -> None:
        """Liveness and readiness."""
        if self.path == "/healthz":
            self._answer(http.HTTPStatus.OK, {"status": "alive"})
        elif self.path == "/readyz":
            self._ready()
        else:
            self._answer(http.HTTPStatus.NOT_FOUND, {"status": "not found"})

    def do_POST(self) -> None:
        """Judge one AdmissionReview."""
        path = self.path.partition("?")[0]
        place = PLACES.get(path)
        if place is None and path != REQUESTER_PATH:
            self._answer(http.HTTPStatus.NOT_FOUND, {"status": "not found"})
            return
        request = self._request()
        if request is None:
            self._answer(http.HTTPStatus.BAD_REQUEST, {"status": "not an AdmissionReview"})
            return
        if place is None:
            self._answer(http.HTTPStatus.OK, self._patched(request))
            return
        refusal = self.server.judge(request, place)
        if refusal is not None:
            _note(request, refusal)
        self._answer(http.HTTPStatus.OK, _review(str(request["uid"]), refusal))

    def _patched(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The review of a request that is not judged but completed."""
        try:
            operations = self.server.patch(request)
        except PrimumError as error:
            refusal = Refusal("requesters", str(error))
            _note(request, refusal)
            return _review(str(request["uid"]), refusal)
        review = _review(str(request["uid"]), None)
        if operations:
            text = base64.b64encode(json.dumps(list(operations)).encode()).decode()
            review["response"] |= {"patchType": "JSONPatch", "patch": text}
        return review

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is theirs
        """Say nothing: a path names who asked for what."""

    def _ready(self) -> None:
        if self.server.ready():
            self._answer(http.HTTPStatus.OK, {"status": "ready"})
        else:
            self._answer(http.HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready"})

    def _request(self) -> Mapping[str, Any] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            return None
        try:
            review = json.loads(self.rfile.read(int(length)))
        except ValueError:
            return None
        if not isinstance(review, dict) or review.get("apiVersion") != _API_VERSION:
            return None
        request = review.get("request")
        if not isinstance(request, dict) or not request.get("uid"):
            return None
        return request

    def _answer(self, status: http.HTTPStatus, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _review(uid: str, refusal: Refusal | None) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": uid, "allowed": refusal is None}
    if refusal is not None:
        message = f"{refusal.policy}: {refusal.message}"
        response["status"] = {"code": _DENIED, "reason": "Forbidden", "message": message}
    return {"apiVersion": _API_VERSION, "kind": "AdmissionReview", "response": response}


def _note(request: Mapping[str, Any], refusal: Refusal) -> None:
    resource = request.get("resource")
    kind = resource.get("resource", "") if isinstance(resource, Mapping) else ""
    log.info(
        "request refused",
        policy=refusal.policy,
        resource=str(kind),
        namespace=str(request.get("namespace", "")),
        name=str(request.get("name", "")),
        operation=str(request.get("operation", "")),
    )
