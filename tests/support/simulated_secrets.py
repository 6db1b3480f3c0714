"""An API server that keeps Secrets and nothing else, for tests that need no control plane."""

from __future__ import annotations

import http.server
import json
import pathlib
import threading

import yaml


class SimulatedSecrets:
    """Secrets of all namespaces, by path; also a reader as ``control_plane.Api`` is one.

    Args:
        folder: Where its kubeconfig is written.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.kept: dict[str, dict] = {}
        self.requests: list[str] = []
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        url = f"http://127.0.0.1:{self._server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = folder / "secrets.kubeconfig"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        self.kubeconfig = str(path)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> SimulatedSecrets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(30)

    def get(self, path: str) -> dict | None:
        """A Secret, or None."""
        return self.kept.get(path)

    def answer(self, method: str, path: str, body: dict | None) -> tuple[int, dict]:
        self.requests.append(f"{method} {path}")
        if method == "POST":
            named = f"{path}/{body['metadata']['name']}"
            if named in self.kept:
                return 409, _status(409, "AlreadyExists", named)
            self.kept[named] = body
            return 201, body
        if path not in self.kept:
            return 404, _status(404, "NotFound", path)
        return (200, self.kept.pop(path)) if method == "DELETE" else (200, self.kept[path])


def _status(code: int, reason: str, path: str) -> dict:
    details = {"name": path.rpartition("/")[2], "kind": "secrets"}
    return {"kind": "Status", "code": code, "reason": reason, "details": details}


def _handler(secrets: SimulatedSecrets) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(size)
            body = json.loads(content) if content else None
            code, found = secrets.answer(self.command, self.path.partition("?")[0], body)
            text = json.dumps(found).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_DELETE = serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Handler
