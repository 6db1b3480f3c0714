"""KubeResourceStore keeps the contract of resource stores, and what Kubernetes adds to it."""

from __future__ import annotations

import datetime
import pathlib
import threading
from types import SimpleNamespace

import pytest
from manifests import BUDGET, STUDY, manifest, path
from resource_store_contract import *  # noqa: F403
from resource_store_contract import KEY, NAMESPACES, OWNER, OWNER_SPEC, STATUS, apply

from primum.adapters.kube.api import Verb
from primum.adapters.kube.events import EventRecorder
from primum.adapters.kube.objects import FINALIZER, path_of
from primum.adapters.kube.resources import KubeResourceStore
from primum.adapters.system import SystemClock
from primum.domain.conditions import Condition, ConditionType, Reason, Status
from primum.domain.errors import InvalidValue, NotFound, Refused, Unavailable
from primum.domain.names import ResourceKey
from primum.resources.kinds import KINDS
from primum.resources.status import with_conditions

WRITES = (Verb.CREATE, Verb.UPDATE, Verb.PATCH, Verb.DELETE)


@pytest.fixture
def requests():
    """Every request as (verb, code)."""
    return []


@pytest.fixture
def client(connect, control_plane, requests):
    return connect(control_plane.kubeconfig, observe=lambda *seen: requests.append(seen))


@pytest.fixture
def events(client):
    return EventRecorder(client, instance="replica-a", now=SystemClock().now)


@pytest.fixture
def stores(api, client, events):
    """The store over three namespaces, which are empty again afterwards."""
    for name in NAMESPACES:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        api.create("/api/v1/namespaces", body)
    store = KubeResourceStore(client, announce=events.transitions, namespaces=NAMESPACES)
    yield SimpleNamespace(resources=store, is_now=is_now, pass_time=lambda: None)
    for kind in KINDS:
        for key in store.keys(kind):
            api.merge(path_of(key), {"metadata": {"finalizers": None}})
            api.delete(path_of(key))


def is_now(text):
    passed = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(text)
    return abs(passed.total_seconds()) < 30


def read(file):
    return pathlib.Path(file).read_text(encoding="utf-8")


def conditioned(stored, *, status=Status.TRUE, reason=Reason.REGISTERED, message="", now):
    found = Condition(ConditionType.READY, status, reason, message, stored.generation)
    return with_conditions(stored, (found,), now=now)


def test_every_write_is_under_one_field_manager(resources, api):
    made, _ = apply(resources)
    resources.set_status(KEY, made.uid, STATUS)
    managed = api.get(path_of(KEY))["metadata"]["managedFields"]
    assert {item["manager"] for item in managed} == {"primum"}
    assert {item["operation"] for item in managed} == {"Apply"}


def test_a_child_names_its_owner_as_its_controller(resources, api):
    owner, _ = apply(resources, OWNER, OWNER_SPEC)
    apply(resources, owner=owner.uid)
    (reference,) = api.get(path_of(KEY))["metadata"]["ownerReferences"]
    assert reference == {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "Study",
        "name": "malignancy",
        "uid": owner.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def test_what_a_person_declared_is_claimed_once(resources, api, requests):
    api.post(path("Study", "a"), manifest("Study", "theirs", STUDY))
    key = ResourceKey("Study", "a", "theirs")
    claimed = resources.claim(key)
    assert api.get(path_of(key))["metadata"]["finalizers"] == [FINALIZER]
    requests.clear()
    assert resources.claim(key).resource_version == claimed.resource_version
    assert [verb for verb, _ in requests if verb in WRITES] == []


def test_the_finalizers_of_others_stay(resources, api):
    body = manifest("Study", "theirs", STUDY)
    body["metadata"]["finalizers"] = ["example.org/other"]
    api.post(path("Study", "a"), body)
    key = ResourceKey("Study", "a", "theirs")
    claimed = resources.claim(key)
    assert api.get(path_of(key))["metadata"]["finalizers"] == ["example.org/other", FINALIZER]
    resources.request_deletion(key)
    resources.remove(key, claimed.uid)
    assert api.get(path_of(key))["metadata"]["finalizers"] == ["example.org/other"]
    assert resources.claim(key) is None


def test_conditions_have_the_form_of_kubernetes(resources, api):
    made, _ = apply(resources)
    now = "2026-11-22T06:00:00.123456Z"
    resources.set_status(KEY, made.uid, conditioned(made, now=now))
    (shown,) = api.get(path_of(KEY))["status"]["conditions"]
    assert shown == {
        "type": "Ready",
        "status": "True",
        "reason": "Registered",
        "message": "",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-11-22T06:00:00Z",
    }


def test_a_status_that_stands_is_not_written_again(resources, requests):
    made, _ = apply(resources)
    resources.set_status(KEY, made.uid, conditioned(made, now="2026-11-22T06:00:00.5Z"))
    requests.clear()
    again = conditioned(resources.get(KEY), now="2026-11-22T07:00:00.5Z")
    resources.set_status(KEY, made.uid, again)
    assert [verb for verb, _ in requests if verb in WRITES] == []


def test_one_look_writes_each_status_once_and_reads_its_own_words(resources, requests):
    made, _ = apply(resources)
    requests.clear()
    with resources.one_write_per_status():
        resources.get(KEY)
        resources.set_status(KEY, made.uid, STATUS)
        assert resources.get(KEY).status == STATUS
        resources.set_status(KEY, made.uid, {**STATUS, "accountId": "a"})
        assert resources.list("PrivacyBudget")[0].status["accountId"] == "a"
    assert [verb for verb, _ in requests if verb in WRITES] == [Verb.PATCH]
    assert resources.get(KEY).status == {**STATUS, "accountId": "a"}


def test_one_look_reads_what_it_read_no_more(resources, api, requests):
    apply(resources, OWNER, OWNER_SPEC)
    none = ResourceKey("GatePolicy", "a", "none")
    with resources.one_write_per_status():
        requests.clear()
        assert resources.get(OWNER) == resources.get(OWNER)
        assert resources.get(none) is resources.get(none) is None
        assert [verb for verb, _ in requests] == [Verb.GET] * 2
        apply(resources, OWNER, OWNER_SPEC, labels={"team": "b"})
        assert resources.get(OWNER).labels == {"team": "b"}
    api.merge(path_of(OWNER), {"metadata": {"labels": {"team": "c"}}})
    assert resources.get(OWNER).labels == {"team": "c"}


def test_each_transition_is_told_once(resources, api, events):
    made, _ = apply(resources)
    good = conditioned(made, now="2026-11-22T06:00:00Z", message="units counted")
    resources.set_status(KEY, made.uid, good)
    events.transitions(KEY, made.uid, before={}, after=good)  # As another replica would.
    bad = conditioned(
        resources.get(KEY),
        status=Status.FALSE,
        reason=Reason.BUDGET_FROZEN,
        now="2026-11-22T07:00:00Z",
    )
    resources.set_status(KEY, made.uid, bad)
    listed = api.get("/apis/events.k8s.io/v1/namespaces/oncology/events")["items"]
    told = [e for e in listed if e["regarding"]["uid"] == made.uid]
    assert sorted((e["type"], e["reason"], e.get("note", "")) for e in told) == [
        ("Normal", "Registered", "units counted"),
        ("Warning", "BudgetFrozen", ""),
    ]


def test_a_bad_object_does_not_hide_the_good_ones(resources, api, control_plane):
    """An older CRD may have let pass what the models refuse."""
    api.post(path("PrivacyBudget", "a"), manifest("PrivacyBudget", "good", BUDGET))
    bad = manifest("PrivacyBudget", "bad", BUDGET | {"disclosures": ["Utility"]})
    bad["metadata"]["labels"] = {"team": "x" * 63}
    bad["metadata"]["annotations"] = {f"a{n}": "v" for n in range(65)}
    api.post(path("PrivacyBudget", "a"), bad)
    key = ResourceKey("PrivacyBudget", "a", "bad")
    assert [item.key.name for item in resources.list("PrivacyBudget")] == ["good"]
    assert key in resources.keys("PrivacyBudget")
    with pytest.raises(InvalidValue, match="bad"):
        resources.get(key)
    assert resources.unchecked(key).uid


def test_a_long_list_is_read_page_by_page(resources, monkeypatch, requests):
    monkeypatch.setattr("primum.adapters.kube.api._PAGE", 2)
    for name in "abcde":
        apply(resources, ResourceKey("PrivacyBudget", "a", name))
    requests.clear()
    assert [item.key.name for item in resources.list("PrivacyBudget", "a")] == list("abcde")
    assert requests == [(Verb.LIST, 200)] * 3


def test_two_writers_of_one_status_leave_one_of_the_two(resources):
    made, _ = apply(resources)
    statuses = [{**STATUS, "accountId": name} for name in "ab"]
    threads = [
        threading.Thread(target=resources.set_status, args=(KEY, made.uid, status))
        for status in statuses
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert resources.get(KEY).status in statuses


def test_refusals_say_who_may_not_do_what(connect, control_plane, api, stores):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    api.create("/api/v1/namespaces/a/serviceaccounts", account)
    config = control_plane.kubeconfig_of("nobody", control_plane.token("a", "nobody"))
    with pytest.raises(Refused, match=r"system:serviceaccount:a:nobody.*cannot get"):
        KubeResourceStore(connect(config)).get(KEY)


def test_a_replaced_token_is_read_again(connect, control_plane, api, stores, tmp_path):
    config = tmp_path / "kubeconfig"
    config.write_text(read(control_plane.kubeconfig_of("stale", "stale")))
    client = connect(str(config))
    with pytest.raises(Refused):
        client.get(path_of(KEY))
    config.write_text(read(control_plane.kubeconfig))
    assert client.get(path_of(KEY)) is None


def test_a_server_that_does_not_answer_is_unavailable(connect, control_plane, tmp_path):
    config = tmp_path / "kubeconfig"
    text = read(control_plane.kubeconfig)
    config.write_text(text.replace(control_plane.url, "https://127.0.0.1:1"))
    with pytest.raises(Unavailable):
        connect(str(config)).get(path_of(KEY))


def test_deleting_what_is_gone_is_no_error(client):
    assert client.delete("/apis/primum.dev/v1alpha1/namespaces/none/studies/none") is None
    with pytest.raises(NotFound):
        client.merge("/apis/primum.dev/v1alpha1/namespaces/none/studies/none", {})
