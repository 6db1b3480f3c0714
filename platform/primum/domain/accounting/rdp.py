"""Renyi differential privacy.

The curve of an event, and the epsilon of a plan that was fixed in advance.

The curves feed the ledger's filter (``policies``); the accountant here reads an epsilon off a dense
order grid with the tight conversion, which is valid only for one pre-registered plan. It must not
be used across plans that were chosen one after the other: taking the best of many orders afterwards
is exactly what a filter pays for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from primum.domain.accounting import accountant as accountants
from primum.domain.accounting import library_costs
from primum.domain.accounting.events import (
    Event,
    Gaussian,
    IndividuallyFiltered,
    Laplace,
    Leaf,
    LibraryEvent,
    NonPrivate,
    RandomizedResponse,
    SubsampledGaussian,
    describe,
    flatten,
)
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Fine where the best order of medical-imaging runs lies (2 to 30), and long enough for tiny
# epsilons.
DENSE_ORDERS: tuple[float, ...] = (
    *(1 + tenth / 10 for tenth in range(1, 100)),
    *(float(order) for order in range(11, 65)),
    *(72.0, 80.0, 96.0, 112.0, 128.0, 160.0, 192.0, 256.0, 320.0, 384.0, 512.0, 768.0, 1024.0),
)
ORDER_MAX = 4096.0  # The integer-order sum has as many terms as the order.

_QUADRATURE_NOISE_MIN = 0.1  # Below it the quadrature grid grows too fine; interpolation is used.
_QUADRATURE_TAIL = 12.0  # Standard deviations; what lies beyond weighs exp(-72).
_CLOSED_FORM_MIN = 1e-4  # Order times epsilon below which a closed form cancels.
_LOSS_DIRECT_MAX = 50.0  # Where exp() of a loss is still harmless; beyond, logarithms are used.
_TWO_BUCKETS = 2
_SERIES_BELOW = 1e-2  # Where six terms of the series are exact to 1e-13.
_CACHE_SIZE = 4096  # Curves kept: one per distinct mechanism and grid.


def unsupported_by_rdp(event: Event, neighbors: Neighbors) -> str | None:
    """Why there is no Renyi curve for an event, naming the part; ``None`` if there is one.

    Args:
        event: Any event.
        neighbors: The neighboring relation.

    Returns:
        The reason or ``None``.
    """
    for leaf, _ in flatten(event):
        match leaf:
            case NonPrivate():
                return f"{describe(leaf)} has no finite privacy cost."
            case SubsampledGaussian() if (
                neighbors is Neighbors.REPLACE_ONE and leaf.sample_rate < 1
            ):
                return (
                    f"{describe(leaf)} has no Renyi curve under ReplaceOne here; "
                    "use AddOrRemoveOne, or the PLD accountant."
                )
            case IndividuallyFiltered() if neighbors is not Neighbors.ADD_OR_REMOVE_ONE:
                return (
                    f"{describe(leaf)} counts what a unit's presence costs; it promises nothing "
                    "under ReplaceOne. Use AddOrRemoveOne."
                )
            case RandomizedResponse() if neighbors is Neighbors.ADD_OR_REMOVE_ONE:
                return (
                    f"{describe(leaf)} reveals who answered; it is private under ReplaceOne only."
                )
            case LibraryEvent():
                if (reason := library_costs.without_renyi_curve(leaf, neighbors)) is not None:
                    return reason
            case _:
                continue
    return None


def rdp_curve(event: Event, orders: Sequence[float], neighbors: Neighbors) -> list[float]:
    """The Renyi divergence of an event at each order; compositions add up order by order.

    Guarantees:
        Each value is at least the Renyi divergence between the outputs on any two neighboring data
        sets, up to a relative floating-point error below 1e-10; charges add that slack before they
        round up.

    Args:
        event: Any event that ``unsupported_by_rdp`` gives no reason against.
        orders: Each above 1 and at most 4096.
        neighbors: Under ReplaceOne the sensitivity is twice that under AddOrRemoveOne; this
            function doubles it.

    Returns:
        One value per order, in nats.

    Raises:
        UnsupportedEvent: If a part has no curve.
        InvalidValue: If an order is out of range.
    """
    accountants.require_supported(unsupported_by_rdp(event, neighbors))
    grid = tuple(float(order) for order in orders)
    for order in grid:
        if not 1 < order <= ORDER_MAX:
            raise InvalidValue("order", f"must be above 1 and at most {ORDER_MAX:g}", order)
    total = [0.0] * len(grid)
    for leaf, count in flatten(event):
        part = leaf_curve(leaf, grid, neighbors)
        total = [so_far + count * one for so_far, one in zip(total, part, strict=True)]
    return total


def leaf_curve(  # noqa: PLR0911 - one per event
    leaf: Leaf, orders: tuple[float, ...], neighbors: Neighbors
) -> tuple[float, ...]:
    """The curve of one supported mechanism; see ``rdp_curve``."""
    doubled = 2.0 if neighbors is Neighbors.REPLACE_ONE else 1.0
    match leaf:
        case SubsampledGaussian() if leaf.sample_rate < 1:
            return poisson_curve(float(leaf.sample_rate), float(leaf.noise_multiplier), orders)
        case Gaussian() | SubsampledGaussian():
            psi = doubled / float(leaf.noise_multiplier)
            return tuple(order * psi * psi / 2 for order in orders)  # Mironov 2017, Prop. 7
        case Laplace():
            pure = doubled / float(leaf.noise_multiplier)
            return tuple(laplace_rdp(order=order, pure_epsilon=pure) for order in orders)
        case RandomizedResponse():
            flip = float(leaf.flip_probability)
            return tuple(_response_rdp(flip, leaf.buckets, order) for order in orders)
        case IndividuallyFiltered():
            return _filtered_curve(leaf, orders)
        case LibraryEvent():
            return library_costs.renyi_curve(leaf, orders, neighbors)
        case _:
            return (0.0,) * len(orders)


def _filtered_curve(leaf: IndividuallyFiltered, orders: tuple[float, ...]) -> tuple[float, ...]:
    """A bound on the curve of a mechanism with individual Renyi filters.

    At each order at which the filters count, every unit's own sum is at most the bound's cost on
    every path, so the whole mechanism has that Renyi divergence (Feldman & Zrnic 2021: composition
    with adaptively chosen costs whose sum is bounded), at all those orders at once, because
    stopping a unit early for another order's sake only takes terms out of the sum. A minimum over
    these orders is therefore a guarantee of one plan, as for any curve fixed in advance. Between
    two orders (order - 1) x divergence = log E_Q[(P/Q)^order] is convex in the order and 0 at
    order 1, hence below the chord. Beyond the last order nothing is promised.
    """
    moments = {1: 0.0}
    grid = tuple(float(order) for order in leaf.orders)
    costs = rdp_curve(leaf.bound, grid, Neighbors.ADD_OR_REMOVE_ONE)
    moments.update({o: (o - 1) * cost for o, cost in zip(leaf.orders, costs, strict=True)})
    known = sorted(moments)
    found = []
    for order in orders:
        above = next((o for o in known if o >= order), None)
        if above is None:
            found.append(math.inf)
            continue
        below = max(o for o in known if o <= order)
        part = 0.0 if above == below else (order - below) / (above - below)
        moment = moments[below] + part * (moments[above] - moments[below])
        found.append(moment / (order - 1))
    return tuple(found)


def laplace_rdp(*, order: float, pure_epsilon: float) -> float:
    """Renyi divergence of the Laplace mechanism (Mironov 2017, Proposition 6).

    Args:
        order: Above 1.
        pure_epsilon: L1 sensitivity over scale.

    Returns:
        Nats.
    """
    if (
        pure_epsilon * order < _CLOSED_FORM_MIN
    ):  # The formula cancels; this bound holds for any pure DP mechanism
        return order * pure_epsilon * pure_epsilon / 2  # (Bun & Steinke 2016, Prop. 3.3).
    first = math.log(order / (2 * order - 1)) + (order - 1) * pure_epsilon
    second = math.log((order - 1) / (2 * order - 1)) - order * pure_epsilon
    high, low = max(first, second), min(first, second)
    return max(0.0, (high + math.log1p(math.exp(low - high))) / (order - 1))


def _response_rdp(flip: float, buckets: int, order: float) -> float:
    """Renyi divergence between (a, b, b, ...) and (b, a, b, ...); a the truth's probability."""
    wrong = flip / buckets
    right = 1 - flip + wrong
    loss = math.log(right / wrong)
    if loss * order < _CLOSED_FORM_MIN:
        return order * loss * loss / 2  # Bun & Steinke 2016, Prop. 3.3; the sum below would cancel.
    terms = [math.log(right) + (order - 1) * loss, math.log(wrong) - (order - 1) * loss]
    if buckets > _TWO_BUCKETS:
        terms.append(math.log(buckets - 2) + math.log(wrong))
    high = max(terms)
    return max(0.0, (high + math.log(sum(math.exp(t - high) for t in terms))) / (order - 1))


@functools.lru_cache(maxsize=_CACHE_SIZE)
def poisson_curve(
    sample_rate: float, noise_multiplier: float, orders: tuple[float, ...]
) -> tuple[float, ...]:
    """Renyi divergence of one Poisson-subsampled Gaussian step under AddOrRemoveOne.

    Args:
        sample_rate: Above 0 and below 1.
        noise_multiplier: Above 0.
        orders: Each above 1.

    Returns:
        One value per order: exact at whole orders and, for noise multipliers of at least 0.1, at
        fractional ones; below that a convex interpolation that is never too small.
    """
    whole = sorted({int(order) for order in orders if order == int(order)})
    fractional = sorted({order for order in orders if order != int(order)})
    logs: dict[float, float] = {}
    if fractional and noise_multiplier < _QUADRATURE_NOISE_MIN:
        ends = {end for order in fractional for end in (math.floor(order), math.ceil(order))}
        logs.update(_log_moments_whole(sample_rate, noise_multiplier, tuple(sorted(ends))))
        for order in fractional:
            low, high = math.floor(order), math.ceil(order)
            part = order - low  # log A is convex in the order, and 0 at order 1.
            logs[order] = (1 - part) * logs[low] + part * logs[high]
    elif fractional:
        logs.update(_log_moments_fractional(sample_rate, noise_multiplier, fractional))
    logs.update(_log_moments_whole(sample_rate, noise_multiplier, tuple(whole)))
    return tuple(logs[order] / (order - 1) for order in orders)


@functools.lru_cache(maxsize=64)
def _binomials(orders: tuple[int, ...]) -> tuple[Any, Any, Any, Any]:
    """k, order - k, log C(order, k) for k = 2..order of all orders in a row, and each start."""
    import numpy as np

    ks, rests, logs, starts = [], [], [], []
    position = 0
    for order in orders:
        starts.append(position)
        position += order - 1
        for k in range(2, order + 1):
            ks.append(k)
            rests.append(order - k)
            logs.append(math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1))
    return tuple(np.array(part) for part in (ks, rests, logs, starts))  # type: ignore[return-value]


def _log_moments_whole(q: float, sigma: float, orders: tuple[int, ...]) -> dict[float, float]:
    """Log A(order) by the binomial sum of Mironov, Talwar & Zhang 2019, section 3.3.

    With the 1 split off.

    A - 1 = sum over k >= 2 of C(order, k) (1-q)^(order-k) q^k (exp((k^2-k)/(2 sigma^2)) - 1): every
    term is positive, so tiny divergences keep all their digits.
    """
    import numpy as np

    logs: dict[float, float] = {1.0: 0.0}
    orders = tuple(order for order in orders if order > 1)
    if not orders:
        return logs
    ks, rests, log_binomials, starts = _binomials(orders)
    x = (ks * ks - ks) / (2 * sigma * sigma)
    terms = log_binomials + ks * math.log(q) + rests * math.log1p(-q) + x + np.log(-np.expm1(-x))
    top = np.maximum.reduceat(terms, starts)
    lengths = np.diff(np.append(starts, len(terms)))
    sums = np.add.reduceat(np.exp(terms - np.repeat(top, lengths)), starts)
    moments = np.logaddexp(0.0, top + np.log(sums))
    logs.update({float(order): float(log) for order, log in zip(orders, moments, strict=True)})
    return logs


def _log_moments_fractional(q: float, sigma: float, orders: list[float]) -> dict[float, float]:
    """Log A(order) = log E[(P/Q)^order] by the trapezoidal rule.

    The rule converges exponentially here. With l = log P/Q and E_Q[e^l] = 1,
    A - 1 = E_Q[e^(order l) - 1 - order (e^l - 1)], whose integrand is never negative (Bernoulli),
    so small rates do not cancel. The step keeps the error of the rule, exp(-2 pi w / step) for a
    strip of half-width w = pi sigma^2 free of branch points, below 1e-15.
    """
    import numpy as np

    step = min(sigma / 8, sigma * sigma / 2)
    z = np.arange(-_QUADRATURE_TAIL * sigma, max(orders) + _QUADRATURE_TAIL * sigma, step)
    x = (2 * z - 1) / (2 * sigma * sigma)
    loss = np.where(
        x < _LOSS_DIRECT_MAX,
        np.log1p(q * np.expm1(np.minimum(x, _LOSS_DIRECT_MAX))),
        np.logaddexp(math.log1p(-q), math.log(q) + x),
    )
    weight = -z * z / (2 * sigma * sigma) + math.log(step / (sigma * math.sqrt(2 * math.pi)))
    result: dict[float, float] = {}
    for order in orders:
        integrand = _log_bernoulli_gap(loss, order) + weight
        top = float(integrand.max())
        log_sum = top + math.log(float(np.exp(integrand - top).sum()))
        result[order] = float(np.logaddexp(0.0, log_sum))
    return result


def _log_bernoulli_gap(loss: NDArray[Any], order: float) -> NDArray[Any]:
    """Log of e^(order l) - 1 - order (e^l - 1), without overflow for large l."""
    import numpy as np

    small = order * loss <= 1
    near = np.where(small, loss, 0.0)
    direct = np.expm1(order * near) - order * np.expm1(near)
    # Next to 0 the difference cancels; its Taylor series, sum (order^k - order) l^k / k!, does not.
    series = sum((order**k - order) / math.factorial(k) * near**k for k in range(2, 7))
    direct = np.where(order * np.abs(near) < _SERIES_BELOW, series, direct)
    far = np.where(small, 1.0 / order, loss)
    rest = (1 - order) * np.exp(-order * far) + order * np.exp((1 - order) * far)
    with np.errstate(divide="ignore"):
        return np.where(small, np.log(np.maximum(direct, 0.0)), order * far + np.log1p(-rest))


def epsilon_from_rdp(
    curve: Sequence[float], orders: Sequence[float], delta: float
) -> tuple[float, float]:
    """The least epsilon over the orders at delta (Canonne, Kamath & Steinke 2020, Prop. 12).

    Args:
        curve: Renyi divergence per order.
        orders: Each above 1.
        delta: Above 0, below 1.

    Returns:
        Epsilon, at least 0, and the order that gave it; an end of the grid means a loose figure.
    """
    best, best_order = math.inf, float(orders[0])
    for rdp, order in zip(curve, orders, strict=True):
        epsilon = epsilon_at_order(order=order, rdp=rdp, delta=delta)
        if delta * delta + math.expm1(-rdp) > 0:  # Bretagnolle-Huber: delta above total variation
            epsilon = 0.0
        if epsilon < best:
            best, best_order = epsilon, float(order)
    return max(0.0, best), best_order


def epsilon_at_order(*, order: float, rdp: float, delta: float) -> float:
    """The tight conversion at one order; may be negative.

    Args:
        order: Above 1.
        rdp: Renyi divergence at that order.
        delta: Above 0, below 1.

    Returns:
        R + log((a-1)/a) - (log delta + log a)/(a-1).
    """
    return rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@dataclass(frozen=True, slots=True)
class RdpAccountant:
    """The Renyi accountant on a dense order grid; valid for a pre-registered plan.

    Args:
        orders: The grid.
    """

    orders: tuple[float, ...] = DENSE_ORDERS

    @property
    def name(self) -> str:
        """``RDP``."""
        return "RDP"

    def unsupported(self, event: Event, neighbors: Neighbors) -> str | None:
        """Why this accountant cannot vouch for the event, naming the part; ``None`` if it can."""
        return unsupported_by_rdp(event, neighbors)

    def epsilon(self, event: Event, delta: Decimal, neighbors: Neighbors) -> Decimal:
        """The epsilon of a plan fixed in advance.

        Guarantees:
            The event is (epsilon, delta)-DP for units that differ as ``neighbors`` says.

        Args:
            event: The whole plan.
            delta: Above 0, below 1.
            neighbors: The neighboring relation.

        Returns:
            Epsilon, rounded up to 1e-6.

        Raises:
            UnsupportedEvent: If a part has no Renyi curve; names it.
            InvalidValue: If delta is out of range.
        """
        accountants.require_delta(delta)
        return _epsilon(event, self.orders, delta, neighbors)


@functools.lru_cache(maxsize=_CACHE_SIZE)  # People of one group ask for the same again and again.
def _epsilon(
    event: Event, orders: tuple[float, ...], delta: Decimal, neighbors: Neighbors
) -> Decimal:
    if not flatten(event):
        return Decimal(0)
    epsilon, _ = epsilon_from_rdp(rdp_curve(event, orders, neighbors), orders, float(delta))
    return accountants.epsilon_up(epsilon)
