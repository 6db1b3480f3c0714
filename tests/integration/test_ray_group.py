"""Two workers of a real Ray Train group make one model of real data, and what if one is lost."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from wisconsin import JOB, make_context, make_facts, make_study

from primum import signing
from primum.adapters import processes
from primum.adapters.ray import RayCompute, RaySettings, ray_down
from primum.adapters.ray.group import GroupSize
from primum.domain.accounting.events import Repeated, event_from_json
from primum.domain.canonical import canonical_json
from primum.domain.errors import Unavailable
from primum.domain.study.steps import WorkRequest
from primum_pipelines.kinds.train.kind import TrainKind

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

ENTRY = "primum_pipelines.kinds.train.step:train"
FACTS = make_facts()
STUDY = make_study(job={**JOB, "epochs": 3}, workers=2)


def plan_of(study):
    return TrainKind().declare(study, make_context(FACTS))


def payload(folder, study=STUDY):
    """The request of the job's step, with a real token."""
    private, public = signing.generate()
    plan = plan_of(study)
    (access,) = [item for item in plan.accesses if item.step == "job"]
    dataset = FACTS.dataset
    claims = {
        "id": "token-1",
        "access": access.name,
        "budget": access.budget,
        "accountId": "account-1",
        "uri": dataset.uri,
        "unit": dataset.unit.value,
        "options": {},
        "layout": {},
        "blocks": [],
        "studyUid": study.uid,
        "generation": study.generation,
        "reservationId": "reservation-1",
        "fence": 1,
        "expires": "2999-01-01T00:00:00.000000Z",
    }
    envelope = signing.sign(private, signing.DATA_TOKEN_TYPE, canonical_json(claims))
    told = {name: claims[name] for name in ("uri", "unit", "options", "layout", "blocks")}
    context = {
        "step": "job",
        "runId": "run-1",
        "study": {
            "namespace": "oncology",
            "name": "malignancy",
            "uid": study.uid,
            "generation": study.generation,
            "kind": "Train",
        },
        "plan": plan.to_json(),
        "datasets": {"wisconsin": {**told, "units": FACTS.units, "disclosures": ["Utility"]}},
        "synthetic": {},
        "expectations": [],
        "audits": [],
        "resources": {"workers": study.workers, "gpusPerWorker": 0},
    }
    return WorkRequest(
        context=context,
        tokens={access.name: base64.urlsafe_b64encode(json.dumps(envelope).encode()).decode()},
        public_key=public,
        artifacts_uri=str(folder),
        data_dirs=[str(folder)],
        inputs={},
    ).to_json()


@pytest.fixture(scope="module")
def compute(tmp_path_factory):
    home = tmp_path_factory.mktemp("ray") / "home"
    compute = RayCompute(
        home, num_cpus=2, settings=RaySettings(start_seconds=400), size=GroupSize(workers=2)
    )
    compute.home = home
    compute.warm()
    compute.ready(ENTRY)
    yield compute
    ray_down(home)
    assert not list(processes._marked(home / "ray.lock")), "Ray left processes behind"


def test_two_workers_train_one_model_under_one_charge(compute, tmp_path):
    report = compute.call(ENTRY, payload(tmp_path))

    assert report["status"] == "Succeeded", report["message"]
    (receipt,) = report["receipts"]
    planned = plan_of(STUDY).accesses[0].event
    assert event_from_json(receipt["event"]) == planned
    assert receipt["facts"]["workers"] == 2
    assert receipt["facts"]["generator"].startswith("AES-256")
    (evidence,) = report["evidence"]
    assert evidence["public"]["workers"] == 2
    assert [item["kind"] for item in report["artifacts"]] == ["Model"]
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"model.safetensors", "job.json"}, "nothing of the group stays"
    assert "token-1" not in (compute.home / "ray.log").read_text()


def test_a_killed_worker_leaves_what_was_executed_and_another_group_goes_on(compute, tmp_path):
    """Kills one of the two once a twentieth is done: whoever it was, the receipt covers it."""
    long = replace(STUDY, job={**STUDY.job, "epochs": 600})
    steps = plan_of(long).accesses[0].event.count
    found = {}
    request = payload(tmp_path, long)
    caller = threading.Thread(target=lambda: found.update(compute.call(ENTRY, request)))
    caller.start()
    progress = tmp_path / "progress" / "job.json"
    wait_for(progress.exists)
    done = json.loads(progress.read_text())["done"]
    _, last = train_workers(compute.home)
    os.kill(last, signal.SIGKILL)
    caller.join(timeout=400)

    assert found["status"] == "Failed"
    assert "worker" in found["message"]
    (receipt,) = found["receipts"]
    executed = event_from_json(receipt["event"])
    assert isinstance(executed, Repeated)
    assert done <= executed.count < steps
    assert receipt["facts"]["workers"] == 2
    assert found["artifacts"] == []

    report = compute.call(ENTRY, {**request, "left": found})
    assert report["status"] == "Succeeded", report["message"]
    (receipt,) = report["receipts"]
    assert event_from_json(receipt["event"]) == plan_of(long).accesses[0].event
    assert 0 < receipt["facts"]["lostSteps"] <= steps // 20 + 2 * 10


def test_a_caller_that_hangs_up_ends_the_group(compute, tmp_path):
    """As after SIGTERM of a step: nothing goes on with the data."""
    long = replace(STUDY, job={**STUDY.job, "epochs": 5000})
    (tmp_path / "payload.json").write_text(json.dumps(payload(tmp_path, long)))
    call = (
        "import json, sys; from pathlib import Path; "
        "from primum.adapters.ray import RayCompute; "
        "from primum.adapters.ray.group import GroupSize; "
        "compute = RayCompute(Path(sys.argv[1]), size=GroupSize(workers=2)); "
        f"compute.call({ENTRY!r}, json.loads(Path(sys.argv[2]).read_text()))"
    )
    place = str(tmp_path / "payload.json")
    caller = subprocess.Popen([sys.executable, "-c", call, str(compute.home), place])
    wait_for((tmp_path / "progress" / "job.json").exists)
    assert train_workers(compute.home)
    caller.kill()
    caller.wait()
    wait_for(lambda: not train_workers(compute.home))


def test_more_workers_than_there_is_room_for_are_refused_before_data_is_opened(compute):
    many = RayCompute(compute.home, settings=RaySettings(), size=GroupSize(workers=64))
    with pytest.raises(Unavailable, match="64 workers need 64 CPUs; Ray has 2"):
        many.ready(ENTRY)


def train_workers(home: Path) -> list[int]:
    """Processes of this Ray that are workers of a group."""
    found = []
    for pid in processes._marked(home / "ray.lock"):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue  # It has just ended.
        if title.startswith(b"ray::") and b"TrainWorker" in title:
            found.append(pid)
    return sorted(found)


def wait_for(ready, seconds: float = 400.0) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.2)
