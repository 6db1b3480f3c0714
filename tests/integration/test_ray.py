"""Compute on a real local Ray: one keeper for the whole module, since starting it takes seconds."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest

from primum.adapters import processes
from primum.adapters.ray import RayCompute, RaySettings, ray_down
from primum.adapters.ray.wire import Address, KeeperLine, ask, read_address
from primum.domain.errors import Unavailable

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

BODIES = """
import os, signal, time
from pathlib import Path
from primum.domain.study.steps import WorkResult


def _said(text):
    return WorkResult("Succeeded", "StepSucceeded", text, (), (), (), "0")


def who(request):
    return _said(str(os.getpid()))


def environment(request):
    names = ("OMP_NUM_THREADS", "PYTHONDONTWRITEBYTECODE")
    return _said(" ".join(os.environ.get(name, "") for name in names))


def niceness(request):
    return _said(str(os.nice(0)))


def dying(request):
    os.kill(os.getpid(), signal.SIGKILL)


def leaking(request):
    raise ValueError("patient 42 is 63 years old")


def part(shared, item):
    if item == "leaks":
        raise ValueError(shared.decode())
    return f"{shared.decode()} {item} {os.getpid()}".encode()


def fanning(request):
    from primum_pipelines import fan_out

    helpers = fan_out.current()
    told = helpers.map("trial.bodies:part", b"patient 42", ["one", "two"])
    return _said(f"{helpers.workers()}; " + "; ".join(text.decode() for text in told))


def fanning_badly(request):
    from primum_pipelines import fan_out

    fan_out.current().map("trial.bodies:part", b"patient 42", ["one", "leaks"])


def dying_after_word(request):
    from dataclasses import replace
    from primum_pipelines import runtime

    told = int(dict(request.left).get("resume", {"steps": 0})["steps"])
    if told >= 30:
        return _said(f"went on at {told}")
    runtime.leave(replace(_said("ten more"), resume={"steps": told + 10}))
    if told < 20:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)


def dying_before_word(request):
    os.kill(os.getpid(), signal.SIGKILL)


def lingering(request):
    Path(request.artifacts_uri, "lingering").write_text(str(os.getpid()))
    time.sleep(60)
    Path(request.artifacts_uri, "survived").touch()
"""


def make_payload(folder, step: str = "job") -> dict[str, object]:
    return {
        "context": {"step": step, "runId": "r"},
        "tokens": {},
        "public_key": "",
        "artifacts_uri": str(folder),
        "data_dirs": [],
        "inputs": {},
    }


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    site = folder / "site" / "trial"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()
    for name in ("bodies.py", "validate.py"):
        (site / name).write_text(BODIES)
    paths = [str(site.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    home = folder / "home"
    compute = RayCompute(home, environment=environment, settings=RaySettings(start_seconds=300))
    compute.home = home
    compute.warm()
    compute.ready("trial.bodies:who")
    yield compute
    ray_down(home)
    assert not list(processes._marked(home / "ray.lock")), "Ray left processes behind"


def pid_of(compute, folder, entry: str = "trial.bodies:who") -> int:
    return int(str(compute.call(entry, make_payload(folder))["message"]))


def test_calls_meet_the_same_warm_worker(compute, tmp_path):
    assert pid_of(compute, tmp_path) == pid_of(compute, tmp_path) != os.getpid()


def test_validation_has_a_worker_of_its_own(compute, tmp_path):
    assert pid_of(compute, tmp_path, "trial.validate:who") != pid_of(compute, tmp_path)


def test_a_worker_has_one_thread_bytecode_and_ordinary_priority(compute, tmp_path):
    found = compute.call("trial.bodies:environment", make_payload(tmp_path))["message"]
    niceness = compute.call("trial.bodies:niceness", make_payload(tmp_path))["message"]

    assert str(found).strip() == "1"
    assert niceness == str(os.nice(0))


def test_a_body_s_exception_stays_in_the_zone(compute, tmp_path):
    report = compute.call("trial.bodies:leaking", make_payload(tmp_path))

    assert report["message"] == "job failed: ValueError"
    assert "patient 42" in (tmp_path / "restricted" / "job.log").read_text()
    ray_log = (compute.home / "ray.log").read_text()
    assert "patient 42" not in ray_log


def test_a_body_s_parts_are_done_by_other_processes_in_order(compute, tmp_path):
    told = str(compute.call("trial.bodies:fanning", make_payload(tmp_path))["message"])
    workers, *parts = told.split("; ")

    assert int(workers) >= 1
    assert [part.split()[2] for part in parts] == ["one", "two"]
    assert str(pid_of(compute, tmp_path)) not in {part.split()[3] for part in parts}


def test_what_a_part_said_when_it_failed_stays_in_the_zone(compute, tmp_path):
    report = compute.call("trial.bodies:fanning_badly", make_payload(tmp_path))

    assert "a part of the work was lost or failed" in str(report["message"])
    assert "patient 42" not in str(report)
    assert "patient 42" not in (compute.home / "ray.log").read_text()


def test_a_killed_worker_is_unavailable_once_and_replaced(compute, tmp_path):
    before = pid_of(compute, tmp_path)

    with pytest.raises(Unavailable, match="died while it worked"):
        compute.call("trial.bodies:dying", make_payload(tmp_path))

    assert pid_of(compute, tmp_path) != before


def test_what_a_killed_worker_had_left_is_its_report(compute, tmp_path):
    """Killed three times; each goes on from what the one before had left."""
    payload, steps = make_payload(tmp_path), []
    for _ in range(3):
        report = compute.call("trial.bodies:dying_after_word", payload)
        steps.append(report["resume"]["steps"])
        payload["left"] = report

    assert steps == [10, 20, 30]
    done = compute.call("trial.bodies:dying_after_word", payload)
    assert (done["message"], done["resume"]) == ("went on at 30", {})


def test_what_was_left_counts_until_another_word_is(compute, tmp_path):
    """The second worker dies before it says anything: what the first had left still stands."""
    left = compute.call("trial.bodies:dying_after_word", make_payload(tmp_path))
    again = compute.call("trial.bodies:dying_before_word", {**make_payload(tmp_path), "left": left})

    assert again == left


def test_nobody_leaves_word_for_a_call_that_nobody_waits_for(compute):
    """So a worker that was taken for lost, and lives on, runs no further step."""
    line = KeeperLine(str(compute.home), "0" * 32)
    with pytest.raises(Unavailable, match="the call was given up"):
        line("{}")


def test_a_step_that_dies_takes_its_work_with_it(compute, tmp_path):
    """Otherwise a stopped run would go on training, and its successor would wait for it."""
    code = (
        "import json, sys, pathlib; from primum.adapters.ray import RayCompute; "
        "call = RayCompute(pathlib.Path(sys.argv[1])).call; "
        "call('trial.bodies:lingering', json.loads(sys.argv[2]))"
    )
    payload = json.dumps(make_payload(tmp_path))
    step = subprocess.Popen([sys.executable, "-c", code, str(compute.home), payload])
    mark = tmp_path / "lingering"
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    step.send_signal(signal.SIGKILL)
    step.wait()

    assert pid_of(compute, tmp_path) != int(mark.read_text())
    assert not (tmp_path / "survived").exists()


def test_calls_to_one_worker_wait_for_each_other(compute, tmp_path):
    found: list[int] = []
    work = lambda: found.append(pid_of(compute, tmp_path))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 4
    assert len(set(found)) == 1


def test_address_token_and_log_are_the_owner_s_alone(compute):
    for name in ("ray.json", "ray.token", "ray.log", "ray.lock"):
        assert stat.S_IMODE((compute.home / name).stat().st_mode) == 0o600


def test_the_socket_wants_the_key(compute):
    known = read_address(compute.home / "ray.json")
    stranger = Address(known.socket, "00" * 32, known.pid, known.ray_address, known.token_path)

    with pytest.raises(Unavailable, match="AuthenticationError"):
        ask(stranger, {"ask": "stop"})

    compute.ready("trial.bodies:who")


def test_a_second_start_finds_the_first(compute):
    before = read_address(compute.home / "ray.json").pid

    RayCompute(compute.home).warm()
    compute.ready("trial.bodies:who")

    assert read_address(compute.home / "ray.json").pid == before


def test_a_step_reaches_a_warm_worker_without_importing_ray(compute, tmp_path):
    code = (
        "import json, sys, pathlib; from primum.adapters.ray import RayCompute; "
        "call = RayCompute(pathlib.Path(sys.argv[1])).call; "
        "call('trial.bodies:who', json.loads(sys.argv[2])); "
        "assert 'ray' not in sys.modules"
    )
    arguments = [str(compute.home), json.dumps(make_payload(tmp_path))]

    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


def test_an_address_left_by_a_killed_keeper_is_not_believed(tmp_path):
    (tmp_path / "ray.json").write_text(json.dumps({"socket": "/nowhere", "key": "00", "pid": 1}))
    compute = RayCompute(tmp_path, settings=RaySettings(start_seconds=0.0))

    with pytest.raises(Unavailable):
        compute.ready("trial.bodies:who")
    ray_down(tmp_path)
    processes.end_marked(tmp_path / "ray.lock", grace_seconds=2.0)
