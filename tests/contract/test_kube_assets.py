"""``make kube-assets`` says what to export, and fails where nothing was fetched.

The program that fetches is Kubernetes' own and needs the network: here a stand-in on the PATH
notes how it is called.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def make(tmp_path):
    """A function that runs the target with a stand-in that ends in a certain way."""
    if shutil.which("make") is None:
        pytest.skip("make is not here")

    def run(script, *arguments):
        program = tmp_path / "setup-envtest"
        program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\n{script}\n')
        program.chmod(0o755)
        return subprocess.run(
            ["make", "-s", "kube-assets", "BIN=.none", *arguments],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    run.asked = tmp_path / "asked"
    return run


def test_it_prints_one_line_to_export(make):
    done = make("printf /assets/k8s/1.34.1-linux-amd64", "KUBE_VERSION=1.34.x")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "export KUBEBUILDER_ASSETS=/assets/k8s/1.34.1-linux-amd64\n"
    words = make.asked.read_text().split()
    assert words == ["use", "1.34.x", "--bin-dir", str(ROOT / ".kube-assets"), "-p", "path"]


def test_it_fails_where_nothing_was_fetched(make):
    done = make("echo 'no such version' >&2; exit 2")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "no such version" in done.stderr
