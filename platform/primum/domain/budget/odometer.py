"""Odometers: bounds on the privacy loss that hold at every moment at once, under adaptive choices.

What a filter has spent is measured against its budget and speaks for the moment at which the budget
is used up; a figure that people may look at whenever they like needs a bound that is valid whenever
they look (privacy-theory.md 1.13). Nothing here may admit or refuse anything: the accounting
policies do that. Nothing here may be computed with parameters that were chosen after the first
charge: guarantee and weights are those with which the account was opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.accounting.accountant import EPSILON_PLACES, Guarantee
from primum.domain.accounting.charges import AMOUNT_MAX, COST_SLACK, UNITS_PER_ONE, Charge
from primum.domain.accounting.events import decimal_text
from primum.domain.accounting.policies import AccountingPolicy
from primum.domain.accounting.policy_mixture import Mixture
from primum.domain.accounting.policy_rdp import RdpPolicy
from primum.domain.accounting.policy_scalar import BasicPolicy, GdpPolicy
from primum.domain.quantities import round_up
from primum.domain.risk.composition import odometer_mixture

HOLDS = (
    "holds at every moment at once, however Studies were chosen by earlier results, except with "
    "probability delta {delta}"
)
HOLDS_ALWAYS = "holds at every moment, however Studies were chosen by earlier results"
UNDEFINED = "{policy} charges (epsilon, delta) points, for which no running bound is defined"


@dataclass(frozen=True, slots=True)
class RunningBound:
    """A bound on the privacy loss so far.

    Args:
        epsilon: The bound, rounded up to 1e-6; ``None`` where none is defined.
        assumption: Under which assumption it holds, or why there is none; for people.
    """

    epsilon: Decimal | None
    assumption: str


def running_bound(policy: AccountingPolicy, *, used: Charge, guarantee: Guarantee) -> RunningBound:
    """The odometer of an account.

    Guarantees:
        With probability at least 1 - delta over everything released, the privacy loss of any unit
        is at most the bound at every moment at once, also when each Study was chosen after looking
        at all earlier results. By Ville's inequality for the supermartingale
        exp((a-1) L_t - (a-1) sum R_s(a)) of each order a; orders share delta by the weights that
        were recorded when the account was opened.

        ======== ===================================================================================
        policy   bound
        ======== ===================================================================================
        RDP      min over orders of sum R_s(a) + ln(1 / (w_a delta)) / (a - 1); at one order this is
                 ``odometer.linear`` of privacy-theory.md 1.13
        GDP      ``odometer.mixture`` at V = sum mu^2 (a mu-GDP Gaussian is (mu^2 / 2)-zCDP)
        Basic    the sum of epsilons while every charge was pure; none afterwards
        Mixture  the least of its filters', each at its share of delta
        ======== ===================================================================================

    Args:
        policy: The policy that the account was opened with.
        used: What was charged, and what is held where it counts too.
        guarantee: With which the account was opened; not a later, lowered one.

    Returns:
        The bound; 0 where nothing was used.
    """
    if used.is_zero:
        return RunningBound(Decimal(0), HOLDS_ALWAYS)
    if isinstance(policy, BasicPolicy):
        return _sum_of_pure(policy, used)
    found = _bound(policy, used, float(guarantee.delta), guarantee)
    if found is None:
        return RunningBound(None, UNDEFINED.format(policy=policy.name))
    return RunningBound(_up(found), HOLDS.format(delta=guarantee.delta))


def _bound(policy: AccountingPolicy, used: Charge, delta: float, opened: Guarantee) -> float | None:
    if isinstance(policy, RdpPolicy):
        weights = {decimal_text(order): weight for order, weight in policy.weights(opened).items()}
        return min(
            amount / UNITS_PER_ONE - math.log(weights[key] * delta) / (float(key) - 1)
            for key, amount in used.amounts
            if key in weights
        )
    if isinstance(policy, GdpPolicy):
        spent = used.as_dict["mu2"] / UNITS_PER_ONE
        return odometer_mixture(v=spent, delta=delta, gamma=_gamma(policy, opened, delta))
    if isinstance(policy, Mixture):
        return _least(policy, used, delta, opened)
    return None


def _gamma(policy: GdpPolicy, opened: Guarantee, delta: float) -> float:
    """Where the mixture is to be tightest: near a used-up budget; fixed by the guarantee alone."""
    room = max(policy.capacity(opened).as_dict["mu2"], 1) / UNITS_PER_ONE
    return room / (2 * math.log(1 / delta))


def _least(policy: Mixture, used: Charge, delta: float, opened: Guarantee) -> float | None:
    found = []
    for part, share in policy.components:
        prefix = f"{part.name}."
        own = {k.removeprefix(prefix): n for k, n in used.amounts if k.startswith(prefix)}
        if max(own.values()) >= AMOUNT_MAX:
            continue  # A filter that was closed says nothing any more.
        shared = Guarantee(opened.epsilon, opened.delta * share)
        if isinstance(part, BasicPolicy):
            bound = own["epsilon"] / UNITS_PER_ONE if not own["delta"] else None
        else:
            bound = _bound(part, Charge.of(own), delta * float(share), shared)
        if bound is not None:
            found.append(bound)
    return min(found, default=None)


def _sum_of_pure(policy: BasicPolicy, used: Charge) -> RunningBound:
    amounts = used.as_dict
    if amounts["delta"]:
        return RunningBound(None, UNDEFINED.format(policy=policy.name))
    return RunningBound(_up(amounts["epsilon"] / UNITS_PER_ONE), HOLDS_ALWAYS)


def _up(value: float) -> Decimal:
    return round_up(Decimal(value) * (1 + Decimal(COST_SLACK)), EPSILON_PLACES)
