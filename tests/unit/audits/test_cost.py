"""What an audit would cost is said before it starts, or that nobody knows."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from primum.domain.canonical import canonical_json  # noqa: E402
from primum_pipelines.audits import cost  # noqa: E402

from .conftest import make_plan  # noqa: E402


def estimated(plan, *audits, uri="sklearn://breast_cancer", **resources):
    payload = {
        **resources,
        "plan": plan.to_json(),
        "datasets": {"wisconsin": {"uri": uri, "options": {}, "units": 569}},
        "audits": [{"kind": "Membership", "attack": name, "parameters": p} for name, p in audits],
    }
    return cost.estimate(json.loads(canonical_json(payload)))


def test_shadows_are_tried_out_and_more_of_them_cost_more():
    few, many = estimated(make_plan(), ("LiRA", {"shadows": 8}), ("LiRA", {"shadows": 512}))
    assert float(many["cpuSeconds"]) > float(few["cpuSeconds"])
    assert int(many["memoryBytes"]) > int(few["memoryBytes"]) > 0
    assert (few["shadows"], few["gpuSeconds"]) == (8, "0")


def test_cpus_share_shadows_as_far_as_groups_go():
    """64 shadows of a table are two groups, whoever is there to help."""
    (alone,) = estimated(make_plan(), ("LiRA", {"shadows": 64}))
    (many,) = estimated(make_plan(), ("LiRA", {"shadows": 64}), workers=4, cpusPerWorker=2)
    assert (alone["cpus"], many["cpus"]) == (1, 2)
    assert alone["elapsedSeconds"] == alone["cpuSeconds"]
    assert abs(float(many["elapsedSeconds"]) * 2 - float(many["cpuSeconds"])) <= 0.1


def test_a_gpu_that_this_machine_lacks_leaves_nobody_knowing():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU to try it on")
    (found,) = estimated(make_plan(), ("LiRA", {"shadows": 8}), gpusPerWorker=1)
    assert found["method"].startswith("unknown: a GPU is asked for")


def test_what_cannot_be_tried_out_is_unknown():
    (found,) = estimated(make_plan(), ("MechanismSelfTest", {}))
    assert set(found) == {"attack", "method"}
    assert found["method"].startswith("unknown: ")


def test_a_dataset_whose_shape_is_not_known_before_is_unknown():
    (found,) = estimated(make_plan(), ("LiRA", {}), uri="npz://nowhere.npz")
    assert found["method"].startswith("unknown: shape and classes")
