"""Probes and metrics over HTTP: ``/healthz``, ``/readyz``, ``/metrics``.

Alive is a process whose threads run; ready is one that watches and reaches its ledger. A replica
that waits for the lease is ready too: it can take over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from primum_operators.metrics import MEDIA_TYPE

log = structlog.get_logger(__name__)
_REQUEST_SECONDS = 10


class ProbeServer:
    """Serves probes until it is closed.

    Args:
        port: Where to listen, on every address: the kubelet asks from the node. 0 for any.
        alive: Whether the process does its work.
        ready: Whether it could.
        metrics: Prometheus' text.
    """

    def __init__(
        self,
        port: int,
        *,
        alive: Callable[[], bool],
        ready: Callable[[], bool],
        metrics: Callable[[], bytes],
    ) -> None:
        pages: Mapping[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/healthz": lambda: _said(alive),
            "/readyz": lambda: _said(ready),
            "/metrics": lambda: (HTTPStatus.OK, MEDIA_TYPE, metrics()),
        }

        class Handler(BaseHTTPRequestHandler):
            timeout = _REQUEST_SECONDS

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                if page is None:
                    self.send_error(HTTPStatus.NOT_FOUND)
                    return
                try:
                    code, media_type, body = page()
                except Exception as error:  # noqa: BLE001 - a probe must answer, whatever broke
                    log.warning("probe failed", page=self.path, error=type(error).__name__)
                    code, media_type, body = HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"failed"
                self.send_response(code)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name above
                """Probes come every few seconds; nobody reads that."""

        self._server = ThreadingHTTPServer(("", port), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="probes", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _said(holds: Callable[[], bool]) -> tuple[HTTPStatus, str, bytes]:
    if holds():
        return HTTPStatus.OK, "text/plain", b"ok"
    return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"not yet"
