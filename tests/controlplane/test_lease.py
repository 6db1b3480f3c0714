"""One leader at a time, by a Lease on a real API server."""

from __future__ import annotations

import threading

import pytest

from primum.adapters.kube.lease import DURATION_SECONDS, RENEW_SECONDS, LeaderLease
from primum.adapters.system import SystemClock
from primum.domain.errors import PrimumError


class Seconds:
    """A clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def candidate(connect, control_plane, namespace, seconds):
    def make(identity, kubeconfig=""):
        return LeaderLease(
            connect(kubeconfig or control_plane.kubeconfig),
            namespace=namespace,
            name="primum-operator",
            identity=identity,
            clock=SystemClock(),
            monotonic=seconds,
        )

    return make


def record(api, namespace):
    return api.get(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/primum-operator")[
        "spec"
    ]


def test_the_first_takes_it_and_the_second_waits(candidate, api, namespace):
    first, second = candidate("a"), candidate("b")
    assert not first.held
    first.attempt()
    second.attempt()
    assert (first.held, second.held) == (True, False)
    assert record(api, namespace)["holderIdentity"] == "a"


def test_a_leader_that_cannot_renew_stops_before_another_starts(candidate, seconds):
    first, second = candidate("a"), candidate("b")
    first.attempt()
    second.attempt()
    seconds.now += RENEW_SECONDS
    assert not first.held
    second.attempt()
    assert not second.held
    seconds.now += DURATION_SECONDS - RENEW_SECONDS
    second.attempt()
    assert second.held
    first.attempt()
    assert not first.held


def test_renewing_keeps_it(candidate, seconds, api, namespace):
    first, second = candidate("a"), candidate("b")
    for _ in range(5):
        first.attempt()
        second.attempt()
        seconds.now += RENEW_SECONDS - 1
    assert first.held
    assert not second.held
    assert record(api, namespace)["leaseTransitions"] == 0


def test_releasing_lets_the_next_one_in_at_once(candidate, api, namespace):
    first, second = candidate("a"), candidate("b")
    first.attempt()
    first.release()
    assert not first.held
    second.attempt()
    assert second.held
    assert record(api, namespace)["leaseTransitions"] == 1


def test_of_two_that_try_at_once_one_leads(candidate):
    racers = [candidate(name) for name in "abcd"]
    threads = [threading.Thread(target=racer.attempt) for racer in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [racer.held for racer in racers].count(True) == 1


def test_without_the_right_nobody_leads(candidate, control_plane, api, namespace):
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}
    api.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", account)
    token = control_plane.token(namespace, "nobody")
    config = control_plane.kubeconfig_of(f"nobody-{namespace}", token)
    with pytest.raises(PrimumError):
        candidate("a", config).attempt()
