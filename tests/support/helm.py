"""The chart as Helm renders it, and where Helm is."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "primum"
FULL = ROOT / "tests" / "contract" / "chart_full_values.yaml"
TRIAL = CHART / "values-trial.yaml"
NAMESPACE = "primum-system"
APIS = (
    "ray.io/v1",
    "kueue.x-k8s.io/v1beta2",
    "argoproj.io/v1alpha1",
    "serving.kserve.io/v1beta1",
    "cert-manager.io/v1",
    "monitoring.coreos.com/v1",
)
_SECONDS = 60


def helm_program() -> str:
    """Helm's path, or a skip that says how to get it; a failure where it is required."""
    beside = Path(sys.prefix) / "kube" / "helm"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("helm")
    if found is None:
        reason = "helm is not here: run `make kube-tools`, or put Helm 3.18 or 4 on the PATH"
        if os.environ.get("PRIMUM_TEST_HELM") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm."""
    return subprocess.run(
        [helm_program(), *arguments], capture_output=True, text=True, check=False, timeout=_SECONDS
    )


def template(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``helm template`` of the chart."""
    return run("template", "primum", str(CHART), "--namespace", NAMESPACE, *arguments)


@functools.cache
def rendered(*arguments: str) -> tuple[dict[str, Any], ...]:
    """Every manifest that the chart renders with some arguments."""
    done = template(*arguments)
    assert done.returncode == 0, done.stderr
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(item for item in yaml.load_all(done.stdout, Loader=loader) if item)


def default() -> tuple[dict[str, Any], ...]:
    """With the values of the chart."""
    return rendered()


def full() -> tuple[dict[str, Any], ...]:
    """With everything on, in a cluster that has everything."""
    return rendered("--values", str(FULL), "--api-versions", ",".join(APIS))


def trial() -> tuple[dict[str, Any], ...]:
    """With the values of a first look."""
    return rendered("--values", str(TRIAL), "--set", f"images.worker.digest=sha256:{'5' * 64}")


def shared() -> tuple[dict[str, Any], ...]:
    """With one inference server for every Release, over a share of a file server."""
    return rendered(
        *("--set", "serving.mode=Shared,serving.artifactsClaim=artifacts-of-all"),
        *("--set", "governed.namespaces={oncology}"),
        *("--set", f"images.worker.digest=sha256:{'5' * 64}"),
    )
