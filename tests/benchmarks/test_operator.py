"""The operator on a real API server: a burst of Studies, a restart among them, and quiet.

The ledger is in memory here, so that the figures are the operator's own. Two thirds of a busy
machine's time are the API servers'; wall times are judged on a quiet one only.
"""

from __future__ import annotations

import gc
import pathlib
import time

import pytest
from clinic import Clinic
from control_plane import ControlPlane, MissingAssets, find_assets
from manifests import manifest, path

from primum.adapters.kube.api import Verb
from primum.resources.kinds import KINDS
from primum_operators.schema import crd

BURST = 300  # A thousand takes as long again three times; the figures are per Study.
WRITES = (Verb.CREATE, Verb.PATCH, Verb.DELETE)  # Without the Lease, which is renewed by PUT.
RECONCILES = 10_000


@pytest.fixture(scope="module")
def plane(tmp_path_factory, pytestconfig):
    try:
        assets = find_assets(pytestconfig.cache.mkdir("kube-assets"))
    except MissingAssets as missing:
        pytest.skip(str(missing))
    assets.pop("kube-controller-manager", None)  # Pods of Jobs are not what is measured.
    made = ControlPlane(assets)
    try:
        made.start()
        made.install([crd(kind) for kind in KINDS.values()])
        yield made
    finally:
        made.stop()


@pytest.fixture
def clinic(plane, request):
    name = request.node.name.replace("_", "-")[:60].strip("-")
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.api.post("/api/v1/namespaces", body)
    made = Clinic(plane, name)
    made.kubelet.paused.set()
    return made


def declare_budget(clinic):
    spec = {
        "dataset": {"uri": "sim://scans", "unit": "Patient"},
        "guarantee": {"epsilon": "1000", "delta": "1e-5"},
        "accounting": {"policy": "RDP"},
    }
    where = path("PrivacyBudget", clinic.namespace)
    clinic.api.post(where, manifest("PrivacyBudget", "scans", spec))
    clinic.wait(lambda: clinic.shown("PrivacyBudget", "scans", "Ready").startswith("True"))


def launched(clinic):
    return len(clinic.api.get(f"/apis/batch/v1/namespaces/{clinic.namespace}/jobs")["items"])


def resident():
    """Megabytes of this process that are in memory."""
    gc.collect()
    fields = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(f for f in fields if f.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.timeout(900)
def test_a_burst_is_drained_and_a_restart_finds_it(clinic, figures):
    with clinic.working("a", run_seconds=60, resync_seconds=600, workers=4):
        declare_budget(clinic)
        clinic.requests.clear()
        began, spent = time.perf_counter(), time.process_time()
        for number in range(BURST):
            clinic.study(f"s{number}", endpoint="")
        applied = time.perf_counter() - began
        clinic.wait(lambda: launched(clinic) == BURST, seconds=600)
        drained = time.perf_counter() - began
        spent = time.process_time() - spent
        writes = sum(verb in WRITES for verb, _ in clinic.requests) / BURST
        reads = sum(verb is Verb.GET for verb, _ in clinic.requests) / BURST
    figures.show(f"apply {BURST} Studies", f"{applied:.1f} s")
    figures.at_most("operator, CPU seconds per Study to launched", spent / BURST, 0.1, unit="CPU s")
    figures.at_most("writes per Study to launched", writes, 9, unit="writes")
    figures.at_most("reads per Study to launched", reads, 10, unit="reads")
    figures.wall_at_most("burst of 1,000 to launched, from a third", drained * 1000 / BURST, 120)
    clinic.requests.clear()
    began = time.perf_counter()
    with clinic.working("b", run_seconds=60, resync_seconds=600, workers=4) as (operator,):
        done = operator._metrics._reconciles.labels("Study", "ok")._value
        clinic.wait(lambda: done.get() >= BURST, seconds=300)
        took = time.perf_counter() - began
    # The budget's own figures, which are shown again at every resync; nothing else.
    assert sum(verb in WRITES for verb, _ in clinic.requests) <= 1
    assert launched(clinic) == BURST
    figures.wall_at_most("restart with 1,000 Studies, from a third", took * 1000 / BURST, 20)


@pytest.mark.timeout(900)
def test_quiet_costs_nothing_and_memory_stays_flat(clinic, figures):
    with clinic.working("a", run_seconds=60, resync_seconds=600, workers=2) as (operator,):
        declare_budget(clinic)
        for number in range(20):
            clinic.study(f"s{number}", endpoint="")
        clinic.wait(lambda: launched(clinic) == 20, seconds=120)
        keys = [
            *operator._parts.resources.keys("Study"),
            *operator._parts.resources.keys("PrivacyBudget"),
        ]
        for _ in range(50):  # What is imported and cached once.
            for key in keys:
                operator._reconciler.look(key)
        clinic.requests.clear()
        before = resident()
        looks = 0
        while looks < RECONCILES:
            for key in keys:
                operator._reconciler.look(key)
                looks += 1
            clinic.requests.clear()
        grown = resident() - before
        clinic.requests.clear()
        for key in keys:
            operator._reconciler.look(key)
        assert sum(verb in WRITES for verb, _ in clinic.requests) == 0
    figures.at_most("memory of operator and test process", before, 300, unit="MB")
    figures.at_most(f"growth over {RECONCILES:,} looks", grown, 10, unit="MB")
