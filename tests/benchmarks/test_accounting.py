"""How much fits into a budget, and how long calibration takes."""

from __future__ import annotations

import math
import time
from decimal import Decimal

from primum.domain.accounting.accountant import Guarantee
from primum.domain.accounting.calibration import least_noise_multiplier
from primum.domain.accounting.events import Gaussian, Repeated, SubsampledGaussian
from primum.domain.accounting.policies import GdpPolicy, RdpPolicy, zero
from primum.domain.accounting.rdp import RdpAccountant
from primum.domain.quantities import Neighbors

ADD_OR_REMOVE = Neighbors.ADD_OR_REMOVE_ONE
BUDGET = Guarantee(Decimal(8), Decimal("1e-5"))
RATE, STEPS = Decimal("0.2813186"), 73  # The breast-cancer Study: 128 of 455 patients, 20 epochs.


def _study(noise):
    return Repeated(SubsampledGaussian(noise, RATE), STEPS)


def test_calibration_and_studies_that_fit(figures):
    target = Guarantee(Decimal(3), BUDGET.delta)
    accountant = RdpAccountant()
    accountant.epsilon(_study(Decimal(2)), target.delta, ADD_OR_REMOVE)  # Imports.
    start = time.process_time()
    noise = least_noise_multiplier(
        accountant=accountant, event_at=_study, target=target, neighbors=ADD_OR_REMOVE
    )
    seconds = time.process_time() - start
    figures.at_most("RDP calibration of a Study", seconds, 1.0, note=f" (noise {noise})")
    policy = RdpPolicy()
    fitted = _how_many(policy, BUDGET, _study(noise))
    figures.at_least("Studies of epsilon 3 in a budget of 8, RDP", fitted, 5, unit="")
    basic = int(BUDGET.epsilon // target.epsilon)
    figures.show("the same by basic composition", str(basic))


def test_gaussian_claims_that_fit(figures):
    """The table of ledger.md: each claim the classical Gaussian mechanism at (0.01, 1e-9)."""
    budget = Guarantee(Decimal(1), Decimal("1e-6"))
    sigma = math.sqrt(2 * math.log(1.25 / 1e-9)) / 0.01
    claim = Gaussian(Decimal(repr(sigma)))
    figures.at_least(
        "Gaussian claims in (1, 1e-6), GDP", _how_many(GdpPolicy(), budget, claim), 23_472, unit=""
    )
    renyi = _how_many(RdpPolicy(), budget, claim)
    figures.show("the same, RDP with its default orders", f"{renyi:,}")


def _how_many(policy, budget, event):
    """Copies admitted one after another; by bisection, since every filter is monotone."""
    one, capacity = policy.charge(event, ADD_OR_REMOVE), policy.capacity(budget)

    def admits(count):
        used = zero(policy)
        for bit in reversed(range(count.bit_length())):
            used = used + used
            if count >> bit & 1:
                used = used + one
        return policy.admits(capacity=capacity, used=used, request=one)

    low, high = -1, 1
    while admits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if admits(middle) else (low, middle)
    return low + 1
