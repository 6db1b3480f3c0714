"""The images without a builder: each one's wheels alone are installed as its recipe does it, and
what it starts is started. What a builder adds to that is copying files.

Needs ``make wheels``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "dist" / "wheels"
IMAGES = ("operator", "api", "worker", "serving")
DIGEST = "sha256:" + "0" * 64
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that gives the interpreter of an image: only what its recipe installs."""
    made = {}

    def python(image):
        if image not in made:
            made[image] = _install(image, tmp_path_factory.mktemp(image))
        return made[image]

    return python


def _install(image, folder):
    if not any((WHEELS / image).glob("primum-*.whl")):
        pytest.skip("no wheels here: run `make wheels`")
    recipe = (ROOT / "operators" / "images" / f"{image}.Dockerfile").read_text(encoding="utf-8")
    (wanted,) = re.findall(r'--prefix /install --compile "(primum\[[a-z,]+\])"', recipe)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    command = [python, "-m", "pip", "--isolated", "install", "--quiet", "--no-cache-dir"]
    command += ["--no-index", "--find-links", WHEELS / image]
    command += ["--constraint", ROOT / "constraints.txt", "--no-compile", wanted]
    done = subprocess.run(
        command, env=_environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return python


def _environment(folder, **more):
    """Nothing of this machine's own package sources, and nothing of this checkout."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "PIP_CONFIG_FILE": os.devnull}
    return {**clean, "PYTHONDONTWRITEBYTECODE": "1", **more}


def said(python, folder, *arguments, **environment):
    """Exit status and everything that a command printed."""
    done = subprocess.run(
        [python, "-m", *arguments],
        env=_environment(folder, **environment),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_installed_fits_together(image, installed, tmp_path):
    code, words = said(installed(image), tmp_path, "pip", "check")
    assert code == 0, words


def test_operator_says_which_setting_it_lacks(installed, tmp_path):
    home = str(tmp_path / "home")
    code, words = said(installed("operator"), tmp_path, "primum_operators", PRIMUM_HOME=home)
    assert (code, "JOB_IMAGE" in words or "image" in words) == (2, True), words
    assert "Traceback" not in words


def test_operator_image_starts_the_webhook(installed, tmp_path):
    code, words = said(installed("operator"), tmp_path, "primum_operators.admission", "--help")
    assert (code, "--certificates" in words) == (0, True)


def test_api_answers(installed, tmp_path):
    port = "18399"
    environment = _environment(tmp_path, PRIMUM_HOME=str(tmp_path), PRIMUM_API_PORT=port)
    python = installed("api")
    prepare = "from primum.entrypoints import bootstrap, settings as s; "
    prepare += "bootstrap.prepare_home(s.from_environment())"
    subprocess.run([python, "-c", prepare], env=environment, check=True, cwd=tmp_path)
    process = subprocess.Popen(
        [python, "-m", "primum.entrypoints.api"], env=environment, cwd=tmp_path
    )
    try:
        end = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/readyz"):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(60)


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def test_worker_walks_steps_and_has_what_they_need(installed, tmp_path):
    heavy = "torch, safetensors, ray, kfp, flwr, great_expectations, psycopg, kubernetes"
    steps = "from primum_pipelines.kinds import train, synthesize, federate"
    subprocess.run(
        [installed("worker"), "-c", f"import {heavy}; {steps}"],
        env=_environment(tmp_path),
        check=True,
        cwd=tmp_path,
        timeout=300,
    )
    home = str(tmp_path / "home")
    walk = ("primum.entrypoints.walk", str(tmp_path / "none"))
    code, words = said(installed("worker"), tmp_path, *walk, PRIMUM_HOME=home)
    assert code != 0
    assert "Error" in words or "must be" in words, words


def test_serving_says_how_it_is_started_and_holds_no_control_plane(installed, tmp_path):
    code, words = said(installed("serving"), tmp_path, "primum_serving", "--help")
    assert (code, "--registry" in words) == (0, True)
    for absent in ("ray", "kfp", "kopf", "kubernetes"):
        code, _ = said(installed("serving"), tmp_path, absent)
        assert code != 0, f"{absent} is in the image that answers everybody"


def test_wheels_are_of_this_interpreter():
    """Wheels are collected by the interpreter that runs; the image's must be the same minor."""
    recipe = (ROOT / "operators" / "images" / "api.Dockerfile").read_text(encoding="utf-8")
    (minor,) = re.findall(r"PYTHON_TAG=(3\.\d+)", recipe)
    assert minor == f"{sys.version_info[0]}.{sys.version_info[1]}"
