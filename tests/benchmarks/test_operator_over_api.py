"""The operator as the chart deploys it, ``operator.ledger: Api``: what the way over HTTP costs.

The API is its own process over the same PostgreSQL. CPU seconds and counts are judged; wall times
are the other benchmark's.
"""

from __future__ import annotations

import gc
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings

import pytest
from operator_load import (
    READS,
    WRITES,
    Launches,
    OperatorProcess,
    apply_studies,
    cpu_seconds,
    declare_budget,
    free_port,
    wait_for_budget,
)

WARM, STUDIES = 20, 300


@pytest.fixture
def folder():
    made = pathlib.Path(tempfile.mkdtemp(prefix="primum-load-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


class LedgerApi:
    """The API's process; its home holds the key and the token."""

    def __init__(self, home, database):
        self.home, self.url = home, f"http://127.0.0.1:{free_port()}"
        bare = {k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")}
        told = {
            "PRIMUM_HOME": str(home),
            "PRIMUM_DATABASE_URL": database,
            "PRIMUM_API_PORT": self.url.rpartition(":")[2],
        }
        with (home.parent / "api.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "primum.entrypoints.api"],
                env={**bare, **told},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self):
        end = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/readyz", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                said = (self.home.parent / "api.log").read_text(errors="replace")
                assert self.process.poll() is None, said
                assert time.monotonic() < end, said
                time.sleep(0.2)

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


@pytest.mark.timeout(900)
def test_the_ledger_over_http_costs_little_more(plane, database, folder, figures):
    name = "over-api"
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    plane.api.post("/api/v1/namespaces", body)
    home = folder / "api" / "home"
    home.mkdir(parents=True)
    declare_budget(plane, name, home=home, database=database)
    with warnings.catch_warnings():  # What declared it has no way to close its connections.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    api = LedgerApi(home, database)
    operator = OperatorProcess(plane, name, home=folder / "operator" / "home", database=database)
    (folder / "operator" / "home").mkdir(parents=True)
    operator._environment.pop("PRIMUM_DATABASE_URL")
    operator._environment |= {
        "PRIMUM_LEDGER_URL": api.url,
        "PRIMUM_TOKEN_FILE": str(home / "token"),
    }
    try:
        api.wait()
        operator.start(free_port())
        wait_for_budget(plane, name)
        with Launches(plane, name) as launches:
            apply_studies(plane, name, range(WARM))
            launches.wait(WARM, seconds=300, message=operator.log)
            before = _spent(operator, api)
            apply_studies(plane, name, range(WARM, WARM + STUDIES))
            launches.wait(WARM + STUDIES, seconds=600, message=operator.log)
            after = _spent(operator, api)
        each = {key: (after[key] - before[key]) / STUDIES for key in before}
        assert not (folder / "operator" / "home" / "keys").exists()
        figures.at_most(
            "operator over the API, CPU seconds per Study", each["operator"], 0.2, unit="CPU s"
        )
        figures.at_most("ledger API, CPU seconds per Study", each["api"], 0.2, unit="CPU s")
        figures.at_most("writes per Study to launched, over the API", each["writes"], 8, unit="")
        figures.at_most("reads per Study to launched, over the API", each["reads"], 10, unit="")
        figures.show("ledger API's memory after", f"{_resident_mb(api.process.pid):.0f} MB")
    finally:
        operator.stop()
        api.stop()


def _spent(operator, api):
    return {
        "operator": operator.cpu_seconds(),
        "api": cpu_seconds(api.process.pid),
        "writes": operator.requests(WRITES),
        "reads": operator.requests(READS),
    }


def _resident_mb(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
