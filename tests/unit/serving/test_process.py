"""Does the process start, serve, stay small, and stop?"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

START_SECONDS = 60  # It takes about one on a quiet machine.
RESIDENT_MAX_KIB = 150 * 1024  # Measured with a logistic model: 75 MB; with torch it would be 265.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def server(house, tmp_path):
    key = tmp_path / "key.pem"
    key.write_text(house.public)
    port = free_port()
    command = [sys.executable, "-m", "primum_serving", "--registry", str(house.registry)]
    command += ["--public-key", str(key), "--port", str(port)]
    roots = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": roots}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield process, f"http://127.0.0.1:{port}/v2", tmp_path / "log"
    finally:
        process.kill()
        process.wait()


def answer(url, body=None):
    request = urllib.request.Request(url, data=json.dumps(body).encode() if body else None)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def until_up(url):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            return answer(f"{url}/health/ready")
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(url)


def test_it_serves_until_told_to_stop(house, server):
    process, url, log = server
    assert until_up(url) == (200, {"ready": True})
    house.publisher.publish(house.release, spec=house.spec, certificate=house.certificate())
    tensor = {"name": "features", "shape": [1, 2], "datatype": "FP32", "data": [9.875, 5]}
    status, found = answer(f"{url}/models/malignancy/infer", {"inputs": [tensor]})
    assert (status, found["outputs"][0]["data"]) == (200, ["malignant"])
    status_file = Path(f"/proc/{process.pid}/status")
    if status_file.exists():
        line = next(x for x in status_file.read_text().splitlines() if x.startswith("VmRSS"))
        assert int(line.split()[1]) < RESIDENT_MAX_KIB
    house.publisher.withdraw(house.release)
    assert answer(f"{url}/models/malignancy")[0] == 404
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)
    assert "9.875" not in log.read_text()
