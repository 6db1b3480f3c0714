"""Two-stage adaptive games against a privacy filter, and the worst that can be found.

A mechanism answers 1 with probability p on one data set and q on its neighbor; it is kept as the
logits of both, so that tiny probabilities keep their digits. Every grid is of plain numbers: the
same filter gives the same game each time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.special import log_expit, ndtri_exp

from primum.domain.accounting.charges import AMOUNT_MAX, COST_SLACK, UNITS_PER_ONE, Charge

_FIRST = np.linspace(-24, 24, 49)
_QS = np.linspace(-28, 20, 97)
_OFFSETS = np.linspace(0, 28, 401)
_TRIED = 12  # First mechanisms of the grid that are looked at closely.
_ZOOMS = 6
_ZOOM_WIDTH = np.linspace(-1, 1, 17)


@dataclass(frozen=True)
class Filter:
    """What a game is played against.

    Args:
        policy: Whose ``admits`` decides.
        capacity: What it has room for.
        charged: The costs of mechanisms, by key: logits of p and q -> units.
        groups: Keys that must have room together; some group must.
    """

    policy: object
    capacity: Charge
    charged: dict
    groups: tuple

    def costs(self, p, q):
        """Mechanisms x keys, in units."""
        columns = []
        for key, _ in self.capacity.amounts:
            units = self.charged[key](p, q) * UNITS_PER_ONE
            # A delta is a whole number of units; everything else is computed, and rounded up.
            exact = key.endswith("delta")
            columns.append(np.rint(units) if exact else np.ceil(units * (1 + COST_SLACK)))
        return np.minimum(np.stack(columns, axis=-1), float(AMOUNT_MAX)).astype(np.int64)

    def room(self, used):
        """What is left at each key."""
        return np.array([most for _, most in self.capacity.amounts]) - used

    def fits(self, costs, room):
        """Which mechanisms a group of keys has room for."""
        ok = costs <= room
        return np.logical_or.reduce([ok[:, list(group)].all(axis=-1) for group in self.groups])

    def admits(self, used, request):
        """The policy's own word."""
        pair = [self._charge(amounts) for amounts in (used, request)]
        return self.policy.admits(capacity=self.capacity, used=pair[0], request=pair[1])

    def steps(self, game):
        """What was used and what was asked for, at every step of a game."""
        if not game.second:
            return
        first, *later = [self.costs(*np.array([m]).T)[0] for m in (game.first, *game.second)]
        yield 0 * first, first
        for second in later:
            yield first, second

    def _charge(self, amounts):
        keys = [key for key, _ in self.capacity.amounts]
        return Charge(tuple(zip(keys, (int(a) for a in amounts), strict=True)))


def _renyi(order):
    """The larger of the two Renyi divergences of an order."""

    def value(p, q):
        pairs = [(log_expit(p), log_expit(q)), (log_expit(-p), log_expit(-q))]

        def one(left, right):
            terms = [order * pair[left] + (1 - order) * pair[right] for pair in pairs]
            return np.logaddexp(*terms) / (order - 1)

        return np.maximum(np.maximum(one(0, 1), one(1, 0)), 0)

    return value


def _squared_mu(p, q):
    """Squared, the least mu whose Gaussian trade-off curve lies below that of the mechanism.

    Both are convex and that of the mechanism has one corner, (q, 1 - p); so it lies above the
    Gaussian curve where its corner does.
    """
    return (ndtri_exp(log_expit(p)) - ndtri_exp(log_expit(q))) ** 2


def _approximate(delta):
    """The least epsilon at a delta; each answer is tried, for either data set."""

    def value(p, q):
        found = np.zeros(np.broadcast(p, q).shape)
        for sign in (1, -1):
            for left, right in ((p, q), (q, p)):
                above = np.maximum(np.exp(log_expit(sign * left)) - delta, 1e-300)
                found = np.maximum(found, np.log(above) - log_expit(sign * right))
        return found

    return value


def charged_by(policy):
    """The exact costs of mechanisms with two answers, by the policy's keys."""
    match policy.name:
        case "RDP":
            return {f"{o:g}": _renyi(o) for o in policy.orders}
        case "GDP":
            return {"mu2": _squared_mu}
        case "Basic":
            delta = float(policy.delta_per_charge)
            return {
                "epsilon": _approximate(delta),
                "delta": lambda p, q: np.full_like(p + q, delta),
            }
    found = {}
    for part, _ in policy.components:
        found |= {f"{part.name}.{key}": cost for key, cost in charged_by(part).items()}
    return found


def played_against(policy, guarantee):
    """The game's view of a real policy under a guarantee."""
    capacity = policy.capacity(guarantee)
    groups = groups_of(policy.name, [key for key, _ in capacity.amounts])
    return Filter(policy, capacity, charged_by(policy), groups)


def groups_of(name, keys):
    """Positions of the keys that must have room together, for a policy of that name."""
    names = [_group(name, key) for key in keys]
    return tuple(
        tuple(at for at, found in enumerate(names) if found == wanted)
        for wanted in dict.fromkeys(names)
    )


def _group(name, key):
    if name == "Mixture":
        part, _, rest = key.partition(".")
        return f"{part}.{rest}" if part == "RDP" else part
    return key if name == "RDP" else name


@dataclass
class Game:
    """The worst game found.

    Args:
        delta: Its true delta at the promised epsilon.
        first: Logits of the first mechanism.
        second: Logits of the second one, after the answers 1 and 0.
    """

    delta: float = 0.0
    first: tuple = (0.0, 0.0)
    second: tuple = field(default_factory=tuple)


class _Second:
    """A list of second mechanisms with what every first one asks of them."""

    def __init__(self, p, q):
        self.p, self.q = p, q
        self._chances = [np.exp(log_expit(x)) for x in (p, q, -p, -q)]

    def sticks(self, log_factor):
        """Their hockey-stick divergences, each a sum over both answers."""
        factor = np.exp(log_factor)
        p, q, not_p, not_q = self._chances
        return np.maximum(p - factor * q, 0) + np.maximum(not_p - factor * not_q, 0)


def worst_game(filter_, epsilon):
    """Search all first mechanisms of a grid, then more and more finely around the worst.

    Args:
        filter_: What is played against.
        epsilon: What was promised.

    Returns:
        The game; each of its mechanisms is admitted, by the vectorised copy of the rule.
    """
    nothing = filter_.room(0)
    edge = _Edge(filter_)
    p, q = _pairs(_FIRST)
    costs = filter_.costs(p, q)
    rough = [
        edge.game(epsilon, (float(p[at]), float(q[at])), nothing - costs[at])
        for at in np.flatnonzero(filter_.fits(costs, nothing))
    ]
    rough.sort(key=_delta, reverse=True)
    near = rough[:_TRIED]
    polished = (_polished(filter_, epsilon, g.first, g, nothing) for g in near)
    best = max(polished, key=_delta, default=Game())
    if not best.second:
        return best  # Nothing at all is admitted.
    step = float(_FIRST[1] - _FIRST[0]) / 2
    for _ in range(_ZOOMS):
        around = [
            _polished(filter_, epsilon, (best.first[0] + a, best.first[1] + b), best, nothing)
            for a in (-step, 0.0, step)
            for b in (-step, 0.0, step)
        ]
        best = max([best, *around], key=_delta)
        step /= 2
    return best


class _Edge:
    """For every q of a grid the largest p that still fits: costs rise with p."""

    def __init__(self, filter_):
        self._filter = filter_
        p = _QS[None, :] + _OFFSETS[:, None]
        costs = filter_.costs(p, np.broadcast_to(_QS, p.shape))
        self._costs = np.moveaxis(costs, -1, 0).copy()

    def game(self, epsilon, first, room):
        """The game after a first mechanism, up to the grid."""
        steps = [(costs <= left).sum(axis=0) for costs, left in zip(self._costs, room, strict=True)]
        reach = np.zeros(len(_QS), dtype=int)
        for group in self._filter.groups:
            reach = np.maximum(reach, np.minimum.reduce([steps[key] for key in group]))
        q = np.append(_QS, 0.0)
        p = np.append(_QS + _OFFSETS[np.maximum(reach, 1) - 1], 0.0)
        second = _Second(p, q)
        delta, chosen = 0.0, []
        for sign in (1, -1):
            log_p, log_q = (log_expit(sign * x) for x in first)
            value = second.sticks(epsilon - (log_p - log_q))
            at = int(value.argmax())
            delta += math.exp(log_p) * float(value[at])
            chosen.append((float(p[at]), float(q[at])))
        return Game(delta, first, tuple(chosen))


def _delta(game):
    return game.delta


def _pairs(values):
    """Every mechanism with p >= q; the others are the same with their answers renamed."""
    left, right = np.meshgrid(values, values, indexing="ij")
    keep = left >= right
    return left[keep], right[keep]


def _answered(filter_, epsilon, first, second, room):
    """The game after a first mechanism, with the worst of some second ones after each answer."""
    ok = filter_.fits(filter_.costs(second.p, second.q), room)
    if not ok.any():
        return Game()
    delta, chosen = 0.0, []
    for sign in (1, -1):
        log_p, log_q = (log_expit(sign * x) for x in first)
        value = np.where(ok, second.sticks(epsilon - (log_p - log_q)), -1.0)
        at = int(value.argmax())
        delta += math.exp(log_p) * float(value[at])
        chosen.append((float(second.p[at]), float(second.q[at])))
    return Game(delta, (float(first[0]), float(first[1])), tuple(chosen))


def _polished(filter_, epsilon, first, near, nothing):
    """The game after a first mechanism, the second ones sought more and more finely."""
    one = filter_.costs(*(np.array([x]) for x in first))
    if not near.second or not filter_.fits(one, nothing)[0]:
        return Game()
    found, centres, width = Game(), near.second, float(_QS[1] - _QS[0])
    for _ in range(_ZOOMS):
        x, y = (w.ravel() for w in np.meshgrid(_ZOOM_WIDTH, _ZOOM_WIDTH))
        p = np.concatenate([[0.0], *(c[0] + width * x for c in centres)])
        q = np.concatenate([[0.0], *(c[1] + width * y for c in centres)])
        game = _answered(filter_, epsilon, first, _Second(p, q), nothing - one[0])
        found = max(found, game, key=_delta)
        centres, width = found.second or centres, width / 4
    return found


def true_delta(game, epsilon):
    """The game's delta over its four outcomes, in both directions, without numpy."""

    def outcomes(way):
        for sign, second in zip((1, -1), game.second, strict=bool(game.second)):
            for answer in (1, -1):
                yield tuple(
                    _log_sigmoid(sign * game.first[i]) + _log_sigmoid(answer * second[i])
                    for i in way
                )

    return max(
        math.fsum(max(0.0, math.exp(a) - math.exp(epsilon + b)) for a, b in outcomes(way))
        for way in ((0, 1), (1, 0))
    )


def _log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))
