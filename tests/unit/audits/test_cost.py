"""What an audit would cost is said before it starts, or that nobody knows."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

from primum.domain.canonical import canonical_json
from primum_pipelines.audits import cost

from .conftest import make_plan


def estimated(plan, *audits, uri="sklearn://breast_cancer"):
    payload = {
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


def test_what_cannot_be_tried_out_is_unknown():
    (found,) = estimated(make_plan(), ("MechanismSelfTest", {}))
    assert set(found) == {"attack", "method"}
    assert found["method"].startswith("unknown: ")


def test_a_dataset_whose_shape_is_not_known_before_is_unknown():
    (found,) = estimated(make_plan(), ("LiRA", {}), uri="npz://nowhere.npz")
    assert found["method"].startswith("unknown: shape and classes")
