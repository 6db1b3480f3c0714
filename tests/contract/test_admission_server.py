"""The webhook's HTTPS server: what it answers to whatever is sent, and what it never says."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import structlog
from admission_requests import GOVERNED_LABELS, SETTINGS, Answers, claim_volume, pod, request
from control_plane import Authority

from primum.resources.metadata import requester_label
from primum_operators.admission import server as module
from primum_operators.admission.__main__ import judge_with, patch_with
from primum_operators.admission.server import AdmissionServer


class Door:
    """A server at work, and a client that trusts its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "ca")
        self.ready = True
        self.certificate("first")
        judge = judge_with(SETTINGS, Answers(labels=GOVERNED_LABELS))
        self.server = AdmissionServer(
            ("127.0.0.1", 0),
            folder,
            judge=judge,
            patch=patch_with(SETTINGS),
            ready=lambda: self.ready,
        )
        self.server.start()
        self.url = f"https://127.0.0.1:{self.server.server_port}"

    def certificate(self, name: str) -> None:
        certificate, key = self.authority.issue(name)
        os.replace(certificate, self.folder / "tls.crt")
        os.replace(key, self.folder / "tls.key")

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.file)

    def send(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, Any]]:
        asked = urllib.request.Request(f"{self.url}{path}", body)
        try:
            with urllib.request.urlopen(asked, context=self.trusting(), timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def review(self, asked: dict[str, Any], path: str = "/governed") -> dict[str, Any]:
        body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": asked}
        code, answer = self.send(path, json.dumps(body).encode())
        assert code == 200
        assert answer["apiVersion"] == "admission.k8s.io/v1"
        assert answer["kind"] == "AdmissionReview"
        assert answer["response"]["uid"] == asked["uid"]
        response: dict[str, Any] = answer["response"]
        return response


@pytest.fixture
def door(tmp_path: Path):
    made = Door(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_verdict_names_policy_and_rule(door: Door) -> None:
    assert door.review(request("pods", pod())) == {"uid": request("pods")["uid"], "allowed": True}
    refused = door.review(request("pods", pod(volumes=[claim_volume()])))
    assert refused["allowed"] is False
    assert refused["status"]["code"] == 403
    assert refused["status"]["message"].startswith("dataset-mounts: a pod that opens a protected")


def test_path_says_which_policies_are_asked(door: Door) -> None:
    mounting = request("pods", pod(volumes=[claim_volume()]))
    assert door.review(mounting, "/everywhere")["allowed"] is True
    assert door.review(mounting, "/governed?timeout=5s")["allowed"] is False
    assert door.send("/elsewhere", b"{}")[0] == 404
    assert door.send("/governed")[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "u"}}',
        b'{"apiVersion": "admission.k8s.io/v1"}',
        b'{"apiVersion": "admission.k8s.io/v1", "request": {}}',
    ],
)
def test_what_is_no_review_gets_no_verdict(door: Door, body: bytes) -> None:
    """No verdict is a refusal: the configuration fails closed."""
    code, answer = door.send("/governed", body)
    assert code == 400
    assert "allowed" not in str(answer)


def test_body_beyond_the_limit_is_not_read(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_BYTES_MAX", 1000)
    assert door.send("/governed", b" " * 1001)[0] == 400


def test_probes_tell_alive_from_ready(door: Door) -> None:
    assert door.send("/healthz") == (200, {"status": "alive"})
    assert door.send("/readyz") == (200, {"status": "ready"})
    door.ready = False
    assert door.send("/readyz")[0] == 503
    assert door.send("/healthz")[0] == 200


def test_replaced_certificate_is_served_without_a_restart(door: Door) -> None:
    def served() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", door.server.server_port), timeout=5) as plain,
            door.trusting().wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    before = served()
    door.certificate("second")
    deadline = time.monotonic() + 10
    while served() == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_half_replaced_certificate_keeps_the_old_one(door: Door) -> None:
    """A Secret's files change one after the other."""
    certificate, _ = door.authority.issue("third")
    os.replace(certificate, door.folder / "tls.crt")
    door.server.service_actions()
    assert door.send("/healthz")[0] == 200


def test_silent_client_does_not_stop_others(door: Door) -> None:
    with socket.create_connection(("127.0.0.1", door.server.server_port), timeout=5):
        assert door.send("/healthz")[0] == 200


def test_many_at_once(door: Door) -> None:
    answers: list[bool] = []

    def ask() -> None:
        answers.append(door.review(request("pods", pod()))["allowed"])

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 32


def test_log_says_what_was_refused_and_nothing_of_it(door: Door) -> None:
    secret = "patient-17-of-bed-4"
    asked = request(
        "pods", pod(volumes=[claim_volume()], container={"args": [secret]}), namespace="oncology"
    )
    with structlog.testing.capture_logs() as said:
        door.review(asked)
    (entry,) = [item for item in said if item["event"] == "request refused"]
    assert entry["policy"] == "dataset-mounts"
    assert entry["namespace"] == "oncology"
    assert secret not in str(said)


def test_server_without_a_certificate_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AdmissionServer(
            ("127.0.0.1", 0),
            tmp_path,
            judge=lambda _request, _place: None,
            patch=lambda _request: (),
            ready=lambda: True,
        )


STUDY = {"metadata": {"name": "malignancy"}, "spec": {"data": []}}
KEY = "primum.dev/requester"


def completed(door: Door, obj: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What the API server would make of an answer."""
    asked = request("studies", obj, group="primum.dev", **more)
    response = door.review(asked, "/requester")
    assert response["allowed"] is True
    made = json.loads(json.dumps(obj))
    if "patch" not in response:
        return made
    assert response["patchType"] == "JSONPatch"
    for step in json.loads(base64.b64decode(response["patch"])):
        assert step["op"] == "add"
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        ]
        place = made
        for part in parents:
            place = place[part]
        place[last] = step["value"]
    return made


@pytest.mark.parametrize(
    "user", ["lena", "lena@hospital.example", "system:serviceaccount:a:b", "é"]
)
@pytest.mark.parametrize(
    "metadata", [{}, {"labels": {KEY: "mallory", "a": "b"}, "annotations": {KEY: "mallory"}}]
)
def test_a_new_study_is_asked_for_by_whom_the_api_server_names(door, user, metadata) -> None:
    obj = {**STUDY, "metadata": {**STUDY["metadata"], **metadata}}
    found = completed(door, obj, user=user)["metadata"]
    assert found["annotations"][KEY] == user
    assert found["labels"][KEY] == requester_label(user)
    assert found["labels"].get("a") == metadata.get("labels", {}).get("a")
    answered = door.review(
        request("studies", {**obj, "metadata": found}, group="primum.dev", user=user), "/everywhere"
    )
    assert answered["allowed"] is True


def test_what_is_no_new_study_is_left_as_it_is(door: Door) -> None:
    assert completed(door, STUDY, old=STUDY) == STUDY
    assert completed(door, STUDY, user=SETTINGS.operators[0]) == STUDY
    other = door.review(request("pods", pod()), "/requester")
    assert other == {"uid": other["uid"], "allowed": True}


def test_a_study_of_nobody_is_refused(door: Door) -> None:
    response = door.review(request("studies", STUDY, group="primum.dev", user=""), "/requester")
    assert response["allowed"] is False


def test_two_users_have_two_labels() -> None:
    digest = requester_label("lena@hospital.example")
    names = ["lena", "Lena", "lena@hospital.example", digest, "é", "x" * 64, "x" * 65, "-a"]
    labels = [requester_label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][-A-Za-z0-9_.]{0,61}[A-Za-z0-9]", x) for x in labels)
    assert labels[0] == "lena"
