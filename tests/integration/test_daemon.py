"""`primum up`: one process drives every Study, serves what was released, and leaves nothing behind.

Everything is real; each test has a home folder and ports of its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command_line import EXAMPLES
from places import STUDY, Place, cleared, free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by their environment"),
]

REQUEST = (EXAMPLES / "breast-cancer" / "request.json").read_bytes()


@pytest.fixture
def place(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    ports = {"PRIMUM_API_PORT": str(free_port()), "PRIMUM_SERVING_PORT": str(free_port())}
    with cleared(Place(tmp_path / "home", study, ports)) as made:
        yield made


def infer(place, model="tiny"):
    """Status and body of an inference request."""
    port = place.settings["PRIMUM_SERVING_PORT"]
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer"
    request = urllib.request.Request(url, REQUEST, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, {}


def until(what, seconds, look):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if look():
            return
        time.sleep(0.05)
    pytest.fail(f"{what} did not happen in {seconds} s")


def metrics(place):
    port = place.settings["PRIMUM_API_PORT"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def test_up_apply_infer_revoke_down(place):
    up = place.run("up", "--detach")
    assert up.returncode == 0, up
    assert place.settings["PRIMUM_API_PORT"] in up.stdout
    again = place.run("up", "--detach")
    assert again.returncode == 0
    assert "runs already" in again.stdout
    platform = json.loads((place.home / "up.json").read_text())["pid"]

    done = place.apply()
    assert done.returncode == 0, done
    assert "Endpoint" in done.stdout
    # The daemon did it: the command itself ran no loop, so Ray belongs to the daemon alone.
    owners = [path.name for path in (place.home / "ray-owners").iterdir()]
    assert owners
    assert all(name.startswith(str(platform)) for name in owners)

    status, answer = infer(place)
    assert status == 200
    outputs = {item["name"]: item["data"] for item in answer["outputs"]}
    assert outputs["label"][0] in ("malignant", "benign")
    assert abs(sum(outputs["probability"]) - 1) < 1e-5
    assert "primum_loop_failures_total 0.0" in metrics(place)

    # An inference server that dies comes back.
    assert place.kill("primum_serving") == 1
    until("a new inference server", 60, lambda: infer(place)[0] == 200)

    # A revoked Release is withdrawn at once.
    release = json.loads(place.run("get", "release/tiny", "-o", "json").stdout)
    release["spec"]["revocation"] = {"reason": "a patient withdrew"}
    release.pop("status")
    path = place.study.with_name("release.yaml")
    path.write_text(json.dumps(release))
    revoked = place.run("apply", "-f", path)
    assert revoked.returncode == 0, revoked
    assert "Revoked" in revoked.stdout
    until("the withdrawal", 2, lambda: infer(place)[0] == 404)
    certificate = next((place.home / "certificates").glob("*.json"))
    assert place.run("certificate", "verify", certificate).returncode == 3
    release["spec"].pop("revocation")
    path.write_text(json.dumps(release))
    refused = place.run("apply", "-f", path)
    assert refused.returncode == 2
    assert "a revocation is final" in refused.stderr

    down = place.run("down")
    assert down.returncode == 0, down
    until("the end of every process", 10, lambda: not list(place.processes()))
    assert "nothing runs" in place.run("down").stdout


def test_a_killed_platform_starts_again_and_goes_on(place):
    assert place.run("up", "--detach").returncode == 0
    platform = json.loads((place.home / "up.json").read_text())["pid"]
    os.kill(platform, signal.SIGKILL)
    until("its end", 10, lambda: not list(place.processes("-m primum up")))
    assert list(place.processes("primum_serving"))  # It could not end its inference server.
    assert place.run("up", "--detach").returncode == 0
    assert len(list(place.processes("primum_serving"))) == 1
    assert place.run("down").returncode == 0
    until("the end of every process", 10, lambda: not list(place.processes()))


def test_down_does_not_interrupt_a_run_unless_told_to(place):
    assert place.run("up", "--detach").returncode == 0
    assert place.run("apply", "-f", EXAMPLES / "breast-cancer" / "budget.yaml").returncode == 0
    assert place.run("apply", "-f", place.study, "--no-wait").returncode == 0
    until("a run", 120, lambda: list(place.processes("primum.adapters.kfp")))
    down = place.run("down")
    assert down.returncode == 5
    assert "must not interrupt a run; found oncology-tiny-1." in down.stderr
    forced = place.run("down", "--force")
    assert forced.returncode == 0, forced
    until("the end of every process", 10, lambda: not list(place.processes()))
    stores = place.stores()
    try:
        assert list(stores.ledger.verify()) == []
    finally:
        stores.close()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before any data", "while it trains"])
def test_deleting_a_study_stops_its_run_and_settles(place, moment):
    assert place.run("up", "--detach").returncode == 0
    assert place.run("apply", "-f", EXAMPLES / "breast-cancer" / "budget.yaml").returncode == 0
    assert place.run("apply", "-f", place.study, "--no-wait").returncode == 0
    stores = place.stores()
    try:
        seen = "" if moment == "before any data" else "train@wisconsin"

        def under_way():
            held = stores.ledger.reservations()
            return held and (not seen or seen in held[0].exposed)

        until(moment, 120, under_way)
        done = place.run("delete", "study", "tiny")
        assert done.returncode == 0, done
        assert not list(place.processes("primum.adapters.kfp"))
        (held,) = stores.ledger.reservations()
        account = stores.ledger.accounts()[0]
        if seen:  # It ends before training or after it; never is an opened mechanism given back.
            assert held.state == "Charged"
            assert account.epsilon_spent > 0
        elif "train@wisconsin" not in held.exposed:
            assert account.epsilon_spent == account.epsilon_reserved == 0
        assert list(stores.ledger.verify()) == []
    finally:
        stores.close()
    assert json.loads(place.run("get", "studies", "-o", "json").stdout) == {"items": []}
    assert place.run("down").returncode == 0
