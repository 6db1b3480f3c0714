"""What an API server may answer besides yes, and what becomes of it. The answers are scripted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from primum.adapters.kube.api import Expired, KubeApi, Verb
from primum.adapters.kube.resources import KubeResourceStore
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.names import ResourceKey

KEY = ResourceKey("Study", "oncology", "malignancy")


def status(code, reason, message="no", **details):
    body = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return code, {}, body | ({"details": details} if details else {})


@pytest.fixture
def server(tmp_path):
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
    made.answers, made.asked, made.config = answers, asked, tmp_path / "kubeconfig"
    made.config.write_text(yaml.safe_dump(config))
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture
def api(server):
    made = KubeApi(str(server.config))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (status(409, "AlreadyExists"), Conflict),
        (status(403, "Forbidden"), Refused),
        (status(422, "Invalid"), InvalidValue),
        (status(400, "BadRequest"), InvalidValue),
        (status(410, "Expired"), Expired),
        (status(429, "TooManyRequests"), Unavailable),
        (status(500, "InternalError"), Unavailable),
        ((503, {}, b"upstream went away"), Unavailable),
    ],
)
def test_each_refusal_is_an_error_that_somebody_acts_on(api, server, answer, error):
    server.answers.append(answer)
    with pytest.raises(error):
        api.create("/api/v1/namespaces/a/secrets", {})


def test_an_object_that_is_not_there_is_none(api, server):
    server.answers += [status(404, "NotFound", name="malignancy", kind="studies")] * 2
    assert api.get("/apis/primum.dev/v1alpha1/namespaces/a/studies/malignancy") is None
    with pytest.raises(NotFound):
        api.merge("/apis/primum.dev/v1alpha1/namespaces/a/studies/malignancy", {})


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b"404 page not found\n"),
        status(404, "NotFound", "the server could not find the requested resource"),
    ],
)
def test_an_api_that_is_not_served_is_not_the_absence_of_an_object(api, server, answer):
    """A server that starts answers so for what an aggregated one has; the object is still there."""
    server.answers += [answer] * 2
    with pytest.raises(Unavailable):
        api.get("/apis/primum.dev/v1alpha1/namespaces/a/studies/malignancy")
    with pytest.raises(Unavailable):
        KubeResourceStore(api).claim(KEY)


def test_the_server_says_when_to_come_back(api, server):
    server.answers.append((429, {"Retry-After": "17"}, {"message": "later"}))
    with pytest.raises(Unavailable) as caught:
        api.get("/api/v1/namespaces/a")
    assert caught.value.retry_seconds == 17


def test_a_list_that_expired_between_pages_is_read_again(api, server):
    first = {"metadata": {"continue": "next"}, "items": []}
    server.answers += [(200, {}, first), status(410, "Expired"), (200, {}, {"items": []})]
    assert KubeResourceStore(api).list("Study") == ()
    assert [path.partition("?")[2] for _, path, _, _ in server.asked] == [
        "limit=500",
        "limit=500&continue=next",
        "limit=500",
    ]


def test_a_list_that_always_expires_is_given_up_for_now(api, server):
    server.answers += [status(410, "Expired")] * 3
    with pytest.raises(Unavailable, match="changed faster"):
        KubeResourceStore(api).list("Study")


def test_a_token_is_read_again_once(api, server):
    server.config.write_text(server.config.read_text().replace("first", "second"))
    server.answers += [status(401, "Unauthorized"), (200, {}, {"kind": "Namespace"})]
    assert api.get("/api/v1/namespaces/a") == {"kind": "Namespace"}
    tokens = [headers["Authorization"] for _, _, headers, _ in server.asked]
    assert tokens == ["Bearer first", "Bearer second"]
    server.answers += [status(401, "Unauthorized")] * 2
    with pytest.raises(Refused):
        api.get("/api/v1/namespaces/a")


def test_a_patch_whose_test_does_not_hold_is_a_conflict(api, server):
    server.answers.append(status(422, "Invalid", "the server rejected our request: testing"))
    with pytest.raises(Conflict, match="not as it was read"):
        api.patch("/api/v1/namespaces/a", [{"op": "test", "path": "/metadata/uid", "value": "u"}])


def test_every_request_is_counted(server):
    seen = []
    api = KubeApi(str(server.config), observe=lambda *one: seen.append(one))
    server.answers += [(200, {}, {}), status(409, "Conflict")]
    api.get("/api/v1/namespaces/a")
    with pytest.raises(Conflict):
        api.replace("/api/v1/namespaces/a", {})
    api.close()
    assert seen == [(Verb.GET, 200), (Verb.UPDATE, 409)]


def test_applying_is_forced_under_our_name(api, server):
    server.answers.append((200, {}, {}))
    api.apply("/api/v1/namespaces/a", {"kind": "Namespace"})
    method, path, headers, body = server.asked[0]
    assert (method, path) == ("PATCH", "/api/v1/namespaces/a?fieldManager=primum&force=true")
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(body) == {"kind": "Namespace"}


def test_without_a_cluster_there_is_a_remedy(tmp_path):
    with pytest.raises(InvalidValue, match="kubeconfig must be readable"):
        KubeApi(str(tmp_path / "none"))
    with pytest.raises(InvalidValue, match="no service account"):
        KubeApi()
