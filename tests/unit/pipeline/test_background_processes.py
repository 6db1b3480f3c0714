"""Processes that outlive their starter: alive while the lock is held, found by their mark."""

from __future__ import annotations

import os
import sys
import time

import pytest

from primum.adapters import processes

LINGER = "import time; time.sleep(60)"
LINGER_WITH_CHILD = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    "print('started', flush=True); time.sleep(60)"
)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in 10 s"
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path):
    lock = tmp_path / "lock"

    def begin(code: str, **options) -> int | None:
        return processes.start_locked(
            [sys.executable, "-c", code],
            lock=lock,
            log=tmp_path / "log",
            environment=processes.child_environment({}),
            **options,
        )

    begin.lock, begin.log = lock, tmp_path / "log"
    yield begin
    processes.end_marked(lock, grace_seconds=1.0)
    wait_for(lambda: not processes.is_running(lock) and not processes._STARTED)


def test_a_process_is_running_until_it_ends(start):
    assert not processes.is_running(start.lock)
    number = start(LINGER)
    assert processes.is_running(start.lock)

    os.kill(number, 9)

    wait_for(lambda: not processes.is_running(start.lock))


def test_a_second_start_is_refused_and_prepares_nothing(start):
    start(LINGER)
    prepared = []

    assert start(LINGER, prepare=lambda: prepared.append(1)) is None
    assert prepared == []


def test_what_a_killed_process_left_running_is_ended_before_the_next_start(start):
    """Two of one step must never run at once."""
    number = start(LINGER_WITH_CHILD)
    wait_for(lambda: "started" in start.log.read_text())
    os.kill(number, 9)
    wait_for(lambda: not processes.is_running(start.lock))
    left = [item for item in processes._marked(start.lock) if item != number]
    assert left

    start(LINGER)

    assert not any(processes.birth(item) for item in left)


def test_a_stop_reaches_the_children_too(start):
    start(LINGER_WITH_CHILD)
    wait_for(lambda: "started" in start.log.read_text())

    processes.end_marked(start.lock, grace_seconds=2.0)

    wait_for(lambda: not list(processes._marked(start.lock)))


def test_children_keep_bytecode_and_do_not_inherit_our_marks(monkeypatch):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PRIMUM_PROCESS_MARK", "somebody else's")

    environment = processes.child_environment({"PRIMUM_HOME": "/h"})

    assert environment["PRIMUM_HOME"] == "/h"
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert "PRIMUM_PROCESS_MARK" not in environment


def test_a_process_number_used_again_is_another_process():
    assert processes.birth(os.getpid()) == processes.birth(os.getpid()) != ""
    assert processes.birth(2**22 - 1) == ""
