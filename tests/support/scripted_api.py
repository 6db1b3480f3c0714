"""An API server that answers from a list, for what a real one cannot be made to say."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import yaml


def status(code, reason, message="no", **details):
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return code, {}, body | ({"details": details} if details else {})


@contextlib.contextmanager
def scripted(folder):
    """An API server that answers from a list, and notes what it was asked."""
    answers, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            size = int(self.headers.get("Content-Length") or 0)
            asked.append((self.command, self.path, self.headers, self.rfile.read(size)))
            code, headers, body = answers.pop(0)
            text = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer  # noqa: N815

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{made.server_address[1]}"}}
        ],
        "users": [{"name": "u", "user": {"token": "first"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    made.answers, made.asked, made.config = answers, asked, folder / "kubeconfig"
    made.config.write_text(yaml.safe_dump(config))
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()
        thread.join()
