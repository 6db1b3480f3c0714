"""Rechecked run records against golden values, dp-accounting and the frameworks' own objects.

The golden file travels with the shared assets: set PRIMUM_TEST_ASSETS to their folder.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
from decimal import Decimal

import pytest

from primum.domain.conformance.reading import read_records
from primum.domain.conformance.verdicts import Verdict, check

ASSETS = os.environ.get("PRIMUM_TEST_ASSETS", "")
GOLDEN = pathlib.Path(ASSETS) / "golden" / "theory.json" if ASSETS else None
QUANTITIES = (
    "gaussian.epsilon",
    "pld.subsampled_gaussian.epsilon",
    "pld.heterogeneous.epsilon",
    "relation.gaussian_delta_pair",
)
golden = pytest.mark.skipif(
    GOLDEN is None or not GOLDEN.is_file(),
    reason="PRIMUM_TEST_ASSETS does not name a folder with golden/theory.json",
)


def cases():
    if GOLDEN is None or not GOLDEN.is_file():
        return []
    found = json.loads(GOLDEN.read_text())["cases"]
    return [case for case in found if case["quantity"] in QUANTITIES]


def judged(record):
    (one,) = read_records(json.dumps(record), name="run")
    return check(one)


def gaussian(*, psi, delta, neighbors="AddOrRemoveOne"):
    return {
        "mechanism": "Gaussian",
        "noiseStandardDeviation": 1 / psi,
        "clip": 1,
        "sampling": "Full",
        "steps": 1,
        "unit": "Record",
        "claim": {"epsilon": 1, "delta": delta, "unit": "Record", "neighbors": neighbors},
    }


def opacus(history, *, delta, sampling="Poisson", **loader):
    return {
        "history": [list(row) for row in history],
        "mechanism": "rdp",
        "data_loader": {"sampling": sampling, **loader},
        "claim": {"epsilon": 1, "delta": delta},
    }


@golden
@pytest.mark.parametrize("case", cases(), ids=lambda case: case["id"])
def test_the_true_epsilon_is_the_golden_one(case):
    given, expected = case["inputs"], case["expected"]
    match case["quantity"]:
        case "gaussian.epsilon":
            record = gaussian(psi=given["psi"], delta=given["delta"])
        case "pld.subsampled_gaussian.epsilon":
            history = [(given["noise_multiplier"], given["q"], given["steps"])]
            record = opacus(history, delta=given["delta"])
            expected = expected["epsilon"]
        case "pld.heterogeneous.epsilon":
            runs = [(run["noise_multiplier"], run["q"], run["steps"]) for run in given["runs"]]
            record = opacus(runs, delta=given["delta"])
        case _:
            record = gaussian(
                psi=given["psi_add_remove"],
                delta=expected["replace_one"],
                neighbors="ReplaceOne",
            )
            expected = given["epsilon"]
    found = float(judged(record).found.total.epsilon)

    # Never below: what is shown as the true epsilon must be a bound.
    assert expected * (1 - case.get("max_relative_undershoot", case["rel_tol"])) <= found
    assert found <= expected * case.get("accept_up_to_factor", 1 + case["rel_tol"]) + 2e-6


def test_fixed_size_steps_agree_with_dp_accounting():
    dp_accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.rdp import rdp_privacy_accountant

    units, batch, noise, steps, delta = 1625, 64, 6.0, 300, 1e-5
    theirs = rdp_privacy_accountant.RdpAccountant(
        orders=[float(order) for order in range(2, 65)],
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE,
    )
    step = dp_accounting.SampledWithoutReplacementDpEvent(
        units, batch, dp_accounting.GaussianDpEvent(noise / 2)
    )
    theirs.compose(dp_accounting.SelfComposedDpEvent(step, steps))
    loader = {"sampling": "FixedSize", "dataset_size": units, "batch_size": batch}
    record = opacus([(noise, batch / units, steps)], delta=delta, **loader)

    # Our grid of orders is coarser, so ours may be larger by a little and never smaller.
    found = float(judged(record).found.total.epsilon)
    assert 1 - 1e-6 <= found / theirs.get_epsilon(delta) < 1.02


def test_the_state_of_a_real_opacus_accountant_is_read_and_agrees():
    accountants = pytest.importorskip("opacus.accountants")
    accountant = accountants.RDPAccountant()
    for _ in range(40):
        accountant.step(noise_multiplier=1.1, sample_rate=0.05)
    for _ in range(20):
        accountant.step(noise_multiplier=2.0, sample_rate=0.05)
    theirs = accountant.get_epsilon(1e-5)
    record = json.loads(json.dumps(accountant.state_dict())) | {
        "data_loader": {"poisson_sampling": True},
        "claim": {"epsilon": theirs, "delta": 1e-5},
    }
    report = judged(record)

    assert report.verdict is Verdict.SUPPORTED
    assert float(report.found.renyi) == pytest.approx(theirs, rel=0.01)
    assert report.found.total.epsilon < report.found.renyi


def test_the_noise_of_a_real_local_dp_mod_is_the_noise_that_is_rechecked():
    mod = pytest.importorskip("flwr.clientapp.mod")
    made = mod.LocalDpMod(clipping_norm=1.0, sensitivity=1e-4, epsilon=10, delta=1e-5)
    settings = {name: getattr(made, name) for name in ("clipping_norm", "sensitivity")}
    settings |= {"epsilon": made.epsilon, "delta": made.delta, "rounds": 1}
    report = judged(settings)
    sigma = made.sensitivity * math.sqrt(2 * math.log(1.25 / made.delta)) / made.epsilon

    assert sigma == pytest.approx(4.845e-5, rel=1e-3)
    assert float(report.record.phases[0].noise_multiplier) == pytest.approx(sigma)
    assert report.verdict is Verdict.UNSUPPORTED
    assert report.guarantee.epsilon > Decimal(10) ** 8
