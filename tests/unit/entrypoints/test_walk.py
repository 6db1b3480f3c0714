"""The process of a run's pod walks its steps in order and stops at the first that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from primum.adapters import keys
from primum.domain.errors import InvalidValue, NotFound
from primum.entrypoints import walk


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Steps whose process writes down what it was told, and fails where it is told to."""
    heard = tmp_path / "heard"
    program = (
        "import sys; text = sys.stdin.read(); "
        f"open({str(heard)!r}, 'a').write(text + ' '); sys.exit(text == 'bad')"
    )
    monkeypatch.setattr(walk, "_STEP", program)
    folder = tmp_path / "steps"
    folder.mkdir()

    def write(*texts):
        for number, text in enumerate(texts):
            (folder / f"{number:03d}-step.json").write_text(text)
        return folder, heard

    return write


def test_every_step_runs_in_order(steps):
    folder, heard = steps(*"abcdefghijkl")
    assert walk.walk(folder) == 0
    assert heard.read_text().split() == list("abcdefghijkl")


def test_the_first_that_fails_ends_it(steps, tmp_path, monkeypatch):
    folder, heard = steps("a", "bad", "c")
    monkeypatch.setenv("PRIMUM_HOME", str(tmp_path / "home"))
    with pytest.raises(NotFound, match="key must be in"):
        walk.main([str(folder)])
    assert not heard.exists()
    keys.ensure(tmp_path / "home" / "keys")
    (tmp_path / "home" / "keys" / keys.PUBLIC_NAME).unlink()
    assert walk.main([str(folder)]) == 1
    assert heard.read_text().split() == ["a", "bad"]
    assert (tmp_path / "home" / "keys" / keys.PUBLIC_NAME).exists()


def test_a_run_without_steps_is_refused(steps):
    folder, _ = steps()
    with pytest.raises(InvalidValue, match="must hold the contexts"):
        walk.walk(folder)


def test_a_pod_that_ends_lets_its_step_let_go(tmp_path):
    """SIGTERM reaches the pod's first process alone; the step under way has things to let go of."""
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / "000-job.json").write_text("job")
    step = (
        "import os, pathlib, signal, sys, time; "
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"there = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n    (there / 'begun').write_text(os.environ['PRIMUM_STEPS']); time.sleep(120)\n"
        "finally:\n    (there / 'let go').touch()"
    )
    program = (
        f"from primum.entrypoints import walk; walk._STEP = {step!r}; "
        f"import sys; sys.exit(walk.main([{str(folder)!r}]))"
    )
    told = {"PRIMUM_LEDGER_URL": "http://127.0.0.1:1", "PRIMUM_HOME": str(tmp_path)}
    pod = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **told})
    end = time.monotonic() + 60
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        assert time.monotonic() < end, "the step never began"
        time.sleep(0.05)
    pod.send_signal(signal.SIGTERM)
    assert pod.wait(60) == 143
    assert (tmp_path / "let go").exists()
    assert (tmp_path / "begun").read_text() == str(folder)
