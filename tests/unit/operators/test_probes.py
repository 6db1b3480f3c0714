"""Probes answer with the truth, and whatever breaks behind them."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from primum_operators.probes import ProbeServer


@pytest.fixture
def served():
    made = []

    def serve(**pages):
        told = {"alive": lambda: True, "ready": lambda: True, "metrics": lambda: b"up 1\n"}
        made.append(ProbeServer(0, **{**told, **pages}))
        return made[-1].port

    yield serve
    for server in made:
        server.close()


def ask(port, page):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_healthy_process_says_so(served):
    port = served()
    assert [ask(port, page) for page in ("/healthz", "/readyz?verbose", "/metrics")] == [
        (200, "ok"),
        (200, "ok"),
        (200, "up 1\n"),
    ]
    assert ask(port, "/secrets")[0] == 404


def test_what_does_not_hold_is_unavailable(served):
    port = served(alive=lambda: False, ready=lambda: 1 / 0)
    assert ask(port, "/healthz") == (503, "not yet")
    assert ask(port, "/readyz") == (503, "failed")
