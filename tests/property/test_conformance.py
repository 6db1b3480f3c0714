"""A calibrated plan is what it claims; with half the noise it is not."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier
from primum.domain.accounting.events import Gaussian, Repeated, SubsampledGaussian
from primum.domain.accounting.gdp import GdpAccountant
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.conformance.fields import decoded
from primum.domain.conformance.reading import read_records
from primum.domain.conformance.verdicts import Verdict, check
from primum.domain.errors import PrimumError
from primum.domain.quantities import Neighbors

FEW = settings(max_examples=4, deadline=None)
MANY = settings(max_examples=80, deadline=None)
epsilons = st.decimals("0.5", "6", places=2)
deltas = st.sampled_from([Decimal("1e-4"), Decimal("1e-5"), Decimal("1e-6")])
relations = st.sampled_from(list(Neighbors))


def record(*, noise, rate, steps, target, neighbors):
    return {
        "mechanism": "Gaussian",
        "noiseStandardDeviation": str(noise * 3),
        "clip": "3",
        "sampling": "Full" if rate == 1 else "Poisson",
        "sampleRate": str(rate),
        "steps": steps,
        "unit": "Patient",
        "claim": {
            "epsilon": str(target.epsilon),
            "delta": str(target.delta),
            "unit": "Patient",
            "neighbors": neighbors.value,
        },
    }


def verdict(**changes):
    (found,) = read_records(json.dumps(record(**changes)), name="run")
    return check(found).verdict


@MANY
@given(epsilons, deltas, st.integers(1, 100), relations)
def test_a_calibrated_release_is_supported_and_half_its_noise_is_weaker(
    epsilon, delta, steps, neighbors
):
    target = Guarantee(epsilon, delta)
    noise = least_noise_multiplier(
        accountant=GdpAccountant(),
        event_at=lambda noise: Repeated(Gaussian(noise), steps),
        target=target,
        neighbors=neighbors,
    )
    given_ = {"rate": 1, "steps": steps, "target": target, "neighbors": neighbors}

    assert verdict(noise=noise, **given_) is Verdict.SUPPORTED
    assert verdict(noise=noise / 2, **given_) is Verdict.WEAKER


@FEW
@given(epsilons, deltas, st.integers(1, 100), st.sampled_from(["0.1", "0.3"]))
def test_a_calibrated_training_is_supported_and_half_its_noise_is_weaker(
    epsilon, delta, steps, rate
):
    target, rate = Guarantee(epsilon, delta), Decimal(rate)
    neighbors = Neighbors.ADD_OR_REMOVE_ONE
    noise = least_noise_multiplier(
        accountant=RdpAccountant(),
        event_at=lambda noise: Repeated(SubsampledGaussian(noise, rate), steps),
        target=target,
        neighbors=neighbors,
    )
    given_ = {"rate": rate, "steps": steps, "target": target, "neighbors": neighbors}

    assert verdict(noise=noise, **given_) is Verdict.SUPPORTED
    assert verdict(noise=noise / 2, **given_) is Verdict.WEAKER


@st.composite
def conducts(draw):
    """A record with anything in its conduct that costs no loss distribution."""
    target = Guarantee(draw(epsilons), Decimal("1e-5"))
    found = record(
        noise=draw(st.decimals("0.3", "30", places=2)),
        rate=1,
        steps=draw(st.integers(1, 50)),
        target=target,
        neighbors=draw(relations),
    )
    found["sampling"] = draw(st.sampled_from(["Full", "Shuffled", "FixedSize", "Unknown"]))
    found["divisor"] = draw(st.sampled_from(["Expected", "Realized"]))
    found["microbatch"] = draw(st.integers(1, 3))
    return found


@MANY
@given(conducts())
def test_supported_is_said_only_of_a_bound_at_most_the_claim(conduct):
    (found,) = read_records(json.dumps(conduct), name="run")
    report = check(found)

    if report.verdict is not Verdict.SUPPORTED:
        assert report.findings
        return
    claim = found.claim
    assert conduct["sampling"] != "Unknown"
    assert report.found.neighbors is claim.neighbors
    # At a sample rate of 1, nothing can be better than one release at the plain noise.
    once = Gaussian(found.phases[0].noise_multiplier)
    assert claim.epsilon >= GdpAccountant().epsilon(once, claim.delta, claim.neighbors)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = """
history mechanism claim receipts predicate clipping_norm rounds delta num_sampled_clients
noiseStandardDeviation epsilon sensitivity payload payloadType restarts seeds data_loader accountant
"""
names = st.sampled_from(NAMES.split())


@MANY
@given(st.dictionaries(names, json_values, max_size=6))
def test_whatever_is_read_ends_in_a_record_or_in_a_sentence(value):
    text = json.dumps(value)
    with contextlib.suppress(PrimumError):
        assert read_records(text, name="run")


def test_exact_numbers_are_kept():
    assert decoded('{"delta": 1e-5}') == {"delta": Decimal("1e-5")}
