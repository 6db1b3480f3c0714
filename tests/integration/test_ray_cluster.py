"""Compute on a cluster that is there already: a head that runs nothing, and a worker node.

What the driver of a RayJob does, in a process of its own, on a real Ray.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

BODIES = """
import os, signal
from primum.domain.study.steps import WorkResult


def _said(text):
    return WorkResult("Succeeded", "StepSucceeded", text, (), (), (), "0")


def where(request):
    import ray
    found = ray.get_runtime_context()
    resources = found.get_assigned_resources()
    return _said(f"{found.get_node_id()} {resources.get('CPU')} {resources.get('GPU', 0)}")


def leaking(request):
    print("patient 42 is 63 years old", flush=True)
    raise ValueError("patient 42 is 63 years old")


def dying(request):
    os.kill(os.getpid(), signal.SIGKILL)


def dying_after_word(request):
    from dataclasses import replace
    from primum_pipelines import runtime

    if request.left:
        return _said(f"went on at {request.left['resume']['steps']}")
    runtime.leave(replace(_said("ten"), resume={"steps": 10}))
    os.kill(os.getpid(), signal.SIGKILL)
"""

DRIVER = """
import json, os, sys
from ray.cluster_utils import Cluster

own = {"object_store_memory": 80_000_000}
head = {**own, "num_cpus": 0, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(**own, num_cpus=2, num_gpus=2)

from primum.adapters.ray.attached import AttachedRay
from primum.adapters.ray.group import GroupSize
from primum.domain.errors import Unavailable

folder = sys.argv[1]
size = GroupSize(gpus_per_worker=2)
compute = AttachedRay(size=size, address=cluster.address, start_seconds=240.0)
context = {"step": "job", "runId": "r"}
payload = {"context": context, "tokens": {}, "public_key": "", "artifacts_uri": folder}
payload |= {"data_dirs": [], "inputs": {}}
said = {}
try:
    compute.warm()
    compute.ready("trial:where")
    said["gpus"] = compute.devices()
    said["where"] = compute.call("trial:where", payload)["message"]
    said["again"] = compute.call("trial:where", payload)["message"]
    said["leaking"] = compute.call("trial:leaking", payload)["message"]
    left = compute.call("trial:dying_after_word", payload)
    payload["left"] = left
    said["left"] = [left, compute.call("trial:dying_after_word", payload)["message"]]
    del payload["left"]
    compute.call("trial:dying", payload)
except Unavailable as error:
    said["unavailable"] = str(error)
import ray
heads = [item for item in ray.nodes() if "node:__internal_head__" in item["Resources"]]
said["heads"] = [item["NodeID"] for item in heads]
print("SAID " + json.dumps(said), flush=True)
"""


def test_a_body_runs_on_a_worker_with_the_gpus_of_its_step(tmp_path):
    """The head has no CPU to give; the driver prints nothing of what a body printed."""
    (tmp_path / "trial.py").write_text(BODIES)
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=380,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SAID ")]
    said = json.loads(line.removeprefix("SAID "))
    node, cpus, gpus = said["where"].split()
    assert len(said["heads"]) == 1
    assert node not in said["heads"]
    assert (float(cpus), float(gpus)) == (1.0, 2.0)
    assert said["again"] == said["where"], "the same worker, whose libraries are there"
    assert said["gpus"] == 2
    assert said["leaking"] == "job failed: ValueError"
    assert "patient" not in done.stdout + done.stderr
    assert "died while it worked" in said["unavailable"]
    left, then = said["left"]
    assert (left["message"], left["resume"], then) == ("ten", {"steps": 10}, "went on at 10")
