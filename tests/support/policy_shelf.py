"""ValidatingAdmissionPolicies for a CRD server whose kube-apiserver is too old to keep any.

Admission is the business of the server that keeps an object: the CRD server evaluates policies with
Kubernetes' own code, if only it can read them. It reads them, like everything else, from the
kube-apiserver. This stands between the two: it answers for the policies, and hands on the rest.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

GROUP = "/apis/admissionregistration.k8s.io/v1/"
KINDS = {
    "validatingadmissionpolicies": "ValidatingAdmissionPolicy",
    "validatingadmissionpolicybindings": "ValidatingAdmissionPolicyBinding",
}
_HOP = {"connection", "transfer-encoding", "content-length", "host", "accept-encoding"}


def _kept(item, number: int):
    """A policy or binding as an API server keeps it: with the defaults of its kind."""
    metadata = {**item["metadata"], "uid": f"policy-{number}", "resourceVersion": "1"}
    spec = dict(item["spec"])
    selects = {"namespaceSelector": {}, "objectSelector": {}, "matchPolicy": "Equivalent"}
    for name in ("matchConstraints", "matchResources"):
        if name in spec:
            rules = [{"scope": "*", **rule} for rule in spec[name].get("resourceRules", ())]
            spec[name] = selects | spec[name] | ({"resourceRules": rules} if rules else {})
    return {**item, "metadata": metadata, "spec": spec}


class PolicyShelf:
    """Serves policies until it is closed.

    Args:
        url: The kube-apiserver.
        context: How to reach it, as its administrator.
        policies: Policies and bindings.
    """

    def __init__(self, url: str, context: ssl.SSLContext, policies) -> None:
        self._where, self._context = urlsplit(url), context
        self._listed = {
            plural: [
                _kept(item, number) for number, item in enumerate(policies) if item["kind"] == kind
            ]
            for plural, kind in KINDS.items()
        }
        self.asked: set[str] = set()
        self._closed = threading.Event()
        shelf = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def __getattr__(self, name: str):
                if name.startswith("do_"):  # Whatever the method is.
                    return self._any
                raise AttributeError(name)

            def _any(self) -> None:
                plural = urlsplit(self.path).path.removeprefix(GROUP)
                if plural in KINDS:
                    shelf._answer(self, plural)
                else:
                    shelf._hand_on(self)

            def log_message(self, *_: object) -> None:
                """Nobody reads that."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: BaseHTTPRequestHandler, plural: str) -> None:
        query = parse_qs(urlsplit(asked.path).query)
        self.asked.add(plural)
        if "sendInitialEvents" in query:  # Who is told so lists instead.
            self._send(
                asked,
                422,
                {
                    "kind": "Status",
                    "apiVersion": "v1",
                    "status": "Failure",
                    "reason": "Invalid",
                    "code": 422,
                },
            )
        elif query.get("watch", ["0"])[0] in ("1", "true"):
            asked.send_response(200)
            asked.send_header("Content-Type", "application/json")
            asked.send_header("Connection", "close")
            asked.end_headers()
            asked.wfile.flush()
            self._closed.wait(300)  # Nothing ever changes.
            asked.close_connection = True
        else:
            self._send(
                asked,
                200,
                {
                    "apiVersion": "admissionregistration.k8s.io/v1",
                    "kind": f"{KINDS[plural]}List",
                    "metadata": {"resourceVersion": "1"},
                    "items": self._listed[plural],
                },
            )

    @staticmethod
    def _send(asked: BaseHTTPRequestHandler, code: int, body: object) -> None:
        data = json.dumps(body).encode()
        asked.send_response(code)
        asked.send_header("Content-Type", "application/json")
        asked.send_header("Content-Length", str(len(data)))
        asked.end_headers()
        asked.wfile.write(data)

    def _hand_on(self, asked: BaseHTTPRequestHandler) -> None:
        length = int(asked.headers.get("Content-Length") or 0)
        body = asked.rfile.read(length) if length else None
        headers = {k: v for k, v in asked.headers.items() if k.lower() not in _HOP}
        line = http.client.HTTPSConnection(
            self._where.hostname, self._where.port, context=self._context, timeout=600
        )
        with contextlib.closing(line), contextlib.suppress(OSError, http.client.HTTPException):
            line.request(asked.command, asked.path, body=body, headers=headers)
            with line.getresponse() as answer:
                asked.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in _HOP:
                        asked.send_header(name, value)
                asked.send_header("Connection", "close")
                asked.end_headers()
                while part := answer.read1(65_536):
                    asked.wfile.write(part)
                    asked.wfile.flush()
        asked.close_connection = True
