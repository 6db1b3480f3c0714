"""The operator on a real API server: its own process, a real ledger on PostgreSQL, real recipes.

API servers, etcd, database, operator and whoever applies share the machine, as the targets say.
What starts after a Job is not measured: no controller manager runs, and launched is when the Job
is there. Wall times are judged on a quiet machine only; CPU seconds and counts always.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile
import time

import pytest
from clinic import Clinic
from operator_load import (
    READS,
    WRITES,
    Launches,
    OperatorProcess,
    apply_studies,
    cpu_seconds,
    declare_budget,
    free_port,
    percentile,
    wait_for_budget,
)

from primum.adapters.kube.api import Verb

PER_SECOND = 10
SUSTAINED = 300  # Half a minute of them.
BURST = 1000
RECONCILES = 10_000
WRITES_TO_THE_END = 25


def namespace(plane, name):
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.api.post("/api/v1/namespaces", body)
    return name


class Load:
    """One operator and what it and the servers cost; figures are per Study."""

    def __init__(self, plane, database):
        self.plane, self.folder = plane, pathlib.Path(tempfile.mkdtemp(prefix="primum-load-"))
        self.namespace = namespace(plane, "load")
        home = self.folder / "home"
        home.mkdir()
        declare_budget(plane, self.namespace, home=home, database=database)
        self.operator = OperatorProcess(plane, self.namespace, home=home, database=database)
        self.launched = 0

    def start(self, identity):
        """Start the operator; gives when."""
        began = time.perf_counter()
        self.operator.start(free_port(), identity)
        self.wait(self.operator.leads, 120)
        return began

    def wait(self, holds, seconds, *, pause=0.05):
        end = time.monotonic() + seconds
        while not holds():
            assert self.operator.process.poll() is None, self.operator.log()
            assert time.monotonic() < end, self.operator.log()
            time.sleep(pause)

    def wait_for_looks(self, count, seconds):
        """Wait until Studies were looked at so often; to ask every moment would be a load too."""
        self.wait(lambda: self.operator.looks("Study") >= count, seconds, pause=0.5)

    def apply(self, count, *, per_second=0.0):
        """Apply so many Studies; gives how long each waited for its Job, and all of them."""
        numbers = range(self.launched, self.launched + count)
        with Launches(self.plane, self.namespace) as launches:
            self.wait(lambda: len(launches.seen) >= self.launched, 60)
            began = time.perf_counter()
            applied = apply_studies(self.plane, self.namespace, numbers, per_second=per_second)
            launches.wait(self.launched + count, seconds=600, message=self.operator.log)
            whole = time.perf_counter() - began
        self.launched += count
        return [launches.seen[name] - when for name, when in applied.items()], whole

    def jobs(self):
        found = self.plane.api.get(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")["items"]
        return {item["metadata"]["name"]: item["metadata"]["uid"] for item in found}

    def spent(self):
        """CPU seconds and requests so far, by what they are."""
        servers = sum(cpu_seconds(p.pid) for p in self.plane._running.values())
        operator = self.operator
        return {
            "operator": operator.cpu_seconds(),
            "servers": servers,
            "writes": operator.requests(WRITES),
            "reads": operator.requests(READS),
        }

    def close(self):
        self.operator.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def load(plane, database):
    made = Load(plane, database)
    try:
        made.start("a")
        wait_for_budget(plane, made.namespace)
        made.apply(20)  # What is loaded once, and the recipes that are new.
        yield made
    finally:
        made.close()


@pytest.mark.timeout(900)
def test_studies_are_launched_as_fast_as_people_apply_them(load, figures):
    waits, whole = load.apply(SUSTAINED, per_second=PER_SECOND)
    figures.show(
        f"{PER_SECOND} Studies a second for {SUSTAINED // PER_SECOND} s, all launched after",
        f"{whole:.1f} s",
    )
    figures.show("apply to launched, median", f"{percentile(waits, 0.5):.2f} s")
    figures.wall_at_most("apply to launched, p99", percentile(waits, 0.99), 2)


@pytest.mark.timeout(900)
def test_a_burst_is_drained(load, figures):
    before = load.spent()
    waits, whole = load.apply(BURST)
    after = load.spent()
    each = {name: (after[name] - before[name]) / BURST for name in before}
    figures.wall_at_most(f"burst of {BURST:,} to launched", whole, 120)
    figures.show("the same, the median Study waited", f"{percentile(waits, 0.5):.1f} s")
    figures.at_most("operator, CPU seconds per Study", each["operator"], 0.07, unit="CPU s")
    figures.show("API servers and etcd, the same", f"{each['servers']:.3f} CPU s")
    figures.at_most("writes per Study to launched", each["writes"], 8, unit="writes")
    figures.at_most("reads per Study to launched", each["reads"], 8, unit="reads")


@pytest.mark.timeout(900)
def test_a_restart_finds_everything_and_does_nothing_twice(load, figures):
    jobs, studies = load.jobs(), load.launched
    assert len(jobs) == studies
    load.operator.stop()
    began = load.start("b")
    load.wait_for_looks(studies, 300)
    took = time.perf_counter() - began
    figures.wall_at_most(f"restart with {studies:,} Studies, from process start", took, 20)
    figures.at_most("the same, CPU seconds", load.operator.cpu_seconds(), 25, unit="CPU s")
    figures.at_most("the same, its memory", load.operator.resident_mb(), 300, unit="MB")
    # The budget's own figures, which are shown again at every resync; nothing else.
    assert load.operator.requests(WRITES) <= 1
    assert load.jobs() == jobs


@pytest.mark.timeout(900)
def test_quiet_costs_nothing_and_memory_stays_flat(load, figures):
    load.wait(lambda: load.operator.metrics()["primum_operator_queue_depth{}"] == 0, 60)
    before = load.operator.requests(WRITES)
    time.sleep(10)
    assert load.operator.requests(WRITES) == before, "writes while nothing happens"
    figures.show("writes in 10 idle seconds, without the Lease", "0")
    load.operator.stop()
    load.operator.told["RUN_SECONDS"] = "1"  # Every Study again and again: looks, not work.
    load.start("c")
    load.wait_for_looks(2 * load.launched, 300)
    first, began = load.operator.resident_mb(), load.operator.looks("Study")
    load.wait_for_looks(began + RECONCILES, 400)
    last = load.operator.resident_mb()
    figures.at_most(f"growth over {RECONCILES:,} looks", last - first, 15, unit="MB")
    figures.at_most(f"operator's memory with {load.launched:,} Studies", last, 300, unit="MB")


@pytest.mark.timeout(300)
def test_a_study_costs_few_writes_from_start_to_end(plane, figures):
    """In this process, with steps that a simulated kubelet runs; Events and Releases included."""
    clinic = Clinic(plane, namespace(plane, "whole"))
    studies = 10
    with clinic.working("a", run_seconds=5, resync_seconds=600):
        clinic.budget()
        clinic.wait(lambda: clinic.shown("PrivacyBudget", "scans", "Ready").startswith("True"))
        clinic.requests.clear()
        for number in range(studies):
            clinic.study(f"s{number}", endpoint=f"e{number}", steps="1")
        clinic.wait_ended(*(f"s{number}" for number in range(studies)), seconds=200)
        time.sleep(2)
        ended = [clinic.shown("Study", f"s{n}", "Succeeded") for n in range(studies)]
        writes = sum(verb in (Verb.CREATE, Verb.PATCH, Verb.DELETE) for verb, _ in clinic.requests)
    assert ended == ["True Done"] * studies, json.dumps(ended)
    figures.at_most(
        "writes per Study, start to end", writes / studies, WRITES_TO_THE_END, unit="writes"
    )
