"""What an API server may answer besides yes, and what becomes of it. The answers are scripted."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from scripted_api import status

from primum.adapters.kube.api import Expired, KubeApi, Parts, Verb
from primum.adapters.kube.jobs import KubeJobRunner
from primum.adapters.kube.pods import JobSettings
from primum.adapters.kube.resources import KubeResourceStore
from primum.adapters.kube_manifests.names import RUN
from primum.adapters.memory import ManualClock
from primum.application.ports import RunStatus
from primum.domain.errors import Conflict, InvalidValue, NotFound, Refused, Unavailable
from primum.domain.names import ResourceKey

KEY = ResourceKey("Study", "oncology", "malignancy")


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


def test_names_are_listed_without_the_objects(api, server):
    found = {"metadata": {"namespace": "a", "name": "x", "uid": "u-1", "managedFields": []}}
    server.answers += [(200, {}, {"items": [found]})] * 2
    store = KubeResourceStore(api)
    assert store.keys("Study") == (ResourceKey("Study", "a", "x"),)
    assert store.uids("Study") == {"u-1"}
    asked = {headers["Accept"] for _, _, headers, _ in server.asked}
    assert asked == {Parts.METADATA.value}


def test_runs_are_listed_once_however_many_ask(api, server):
    runs = ["r-1", "r-2", "r-3", "r-4"]
    found = [{"metadata": {"namespace": "a", "labels": {RUN: run}}} for run in runs]
    server.answers.append((200, {}, {"items": found}))
    server.answers += [(200, {}, {"metadata": {}, "status": {"active": 1}})] * len(runs)
    image = "registry.example.org/worker@sha256:" + "0" * 64
    settings = JobSettings(image=image, ledger_url="http://primum-api:8399")
    runner = KubeJobRunner(api, settings, clock=ManualClock())
    with ThreadPoolExecutor(len(runs)) as pool:
        assert set(pool.map(runner.status, runs)) == {RunStatus.RUNNING}
    listed = [headers for _, path, headers, _ in server.asked if "?" in path]
    assert [headers["Accept"] for headers in listed] == [Parts.METADATA.value]


def test_a_server_below_a_path_is_met_there(server):
    config = yaml.safe_load(server.config.read_text())
    config["clusters"][0]["cluster"]["server"] += "/k8s/clusters/c-1/"
    server.config.write_text(yaml.safe_dump(config))
    server.answers.append((200, {}, {"items": []}))
    api = KubeApi(str(server.config))
    assert list(api.list("/api/v1/nodes")) == []
    api.close()
    assert server.asked[0][1] == "/k8s/clusters/c-1/api/v1/nodes?limit=500"


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


SEEN = "/apis/ray.io/v1/namespaces/a/rayjobs"


def event(kind, **status):
    obj = {"metadata": {"uid": "u", "resourceVersion": "7"}, "status": status}
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def watched(api):
    return list(api.watch(SEEN, name="r", resource_version="5", seconds=30))


def test_a_watch_tells_what_happens_until_the_server_ends_it(api, server):
    server.answers.append((200, {}, event("MODIFIED", jobStatus="RUNNING") + event("DELETED")))
    first, last = watched(api)
    assert (first[0], first[1]["status"]) == ("MODIFIED", {"jobStatus": "RUNNING"})
    assert last[0] == "DELETED"
    ((_, path, headers, _),) = server.asked
    assert headers["Authorization"] == "Bearer first"
    query = path.partition("?")[2]
    assert query == ("watch=1&fieldSelector=metadata.name%3Dr&resourceVersion=5&timeoutSeconds=30")


def test_what_a_cut_leaves_of_an_event_is_no_event(api, server):
    server.answers.append((200, {}, event("ADDED") + event("MODIFIED")[:-20]))
    assert [kind for kind, _ in watched(api)] == ["ADDED"]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_watch_that_begins_too_long_ago_says_so(api, server, when):
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
    later = (200, {}, json.dumps(gone).encode() + b"\n")
    server.answers.append(status(410, "Expired") if when == "at once" else later)
    with pytest.raises(Expired):
        watched(api)


def test_a_watch_that_makes_no_sense_is_cut(api, server):
    server.answers += [(200, {}, b"{}\n"), status(403, "Forbidden")]
    with pytest.raises(Unavailable, match="middle of an event"):
        watched(api)
    with pytest.raises(Refused):
        watched(api)
