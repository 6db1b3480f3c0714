"""Manifests of budgets and Studies, and where an API server keeps them."""

from __future__ import annotations

import copy

from primum.resources.kinds import KINDS

BASE = "/apis/primum.dev/v1alpha1/namespaces"
BUDGET = {
    "dataset": {"uri": "sklearn://breast_cancer", "unit": "Patient"},
    "guarantee": {"epsilon": "8.0", "delta": "1e-5"},
    "disclosures": ["Utility"],
}
STUDY = {
    "purpose": "Tell malignant from benign",
    "data": [{"role": "Private", "budget": "wisconsin"}],
    "privacy": {"epsilon": "3.0", "delta": "1e-5"},
    "job": {
        "kind": "Train",
        "train": {"model": "Logistic", "epochs": 2, "batchSize": 64, "maxGradNorm": "1.0"},
    },
    "policy": "research",
}


def manifest(kind, name, spec):
    return {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": copy.deepcopy(spec),
    }


def path(kind, namespace, name=""):
    return f"{BASE}/{namespace}/{KINDS[kind].plural}" + (f"/{name}" if name else "")
