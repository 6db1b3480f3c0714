"""Properties P5 to P13, P15 and P20 of ledger.md 2.9, for every scheduler they are claimed of."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scheduling_instances import (
    SHAPES,
    block,
    charge,
    fits,
    instances,
    left_over,
    most_weight,
    packed,
    plain_greedy,
    unlocked,
)

from primum.domain.accounting.charges import NEVER, Charge
from primum.domain.errors import InvalidValue
from primum.domain.scheduling.accounts import accounting_named
from primum.domain.scheduling.blocks import (
    FilterShape,
    Hardening,
    Immediate,
    PerClaim,
    PerTime,
    Rounds,
)
from primum.domain.scheduling.claims import Claim
from primum.domain.scheduling.orders import dominant_shares
from primum.domain.scheduling.replays import Setting, replay
from primum.domain.scheduling.schedulers import (
    DPF,
    DPack,
    DualPrices,
    FirstComeFirstServed,
    schedule,
    sharp_bound,
)
from primum.domain.scheduling.tables import ClaimTable
from primum.domain.scheduling.workloads import private_kube

SCHEDULERS = (
    FirstComeFirstServed(),
    DPF(),
    DPack(),
    DPack(every=1),
    DualPrices(),
    DualPrices(efficiency=0.5),
    DualPrices(efficiency=0.0),
)
RULES = (PerClaim(3), PerClaim(3, Hardening.PUBLISHED), PerTime(7), Rounds(6), Immediate())
any_scheduler = st.sampled_from(SCHEDULERS)
MANY = settings(max_examples=60, deadline=None)
FEW = settings(max_examples=20, deadline=None)


@given(instances(), any_scheduler)
@MANY
def test_P5_all_or_nothing_across_blocks(instance, scheduler):
    """P5: a claim is granted on all of its blocks, each of which still certifies, or on none."""
    blocks, claims = instance
    granted = set(schedule(scheduler, *packed(blocks, claims)).grants)
    left = left_over(blocks, claims, granted)
    for claim in claims:
        if claim.claim_id in granted:
            before = left_over(blocks, claims, granted - {claim.claim_id})
            assert fits(blocks, before, claim), left


@given(
    st.lists(st.integers(-1, 10**18), min_size=1, max_size=3),
    st.sampled_from(RULES),
    st.lists(st.tuples(st.integers(0, 10**18), st.integers(-2, 12)), max_size=12),
)
@MANY
def test_P6_unlocking_is_monotone(capacity, rule, happenings):
    """P6: every unlock is a value of at least 0, and their sum never passes the capacity."""
    shape = FilterShape(tuple("abc"[: len(capacity)]), tuple(range(len(capacity))))
    now = block("b", shape, capacity, unlocked=[0 if c > 0 else NEVER for c in capacity])
    for demand, elapsed in happenings:
        asked = charge(shape, [demand] * len(capacity))
        for by_claim in (True, False):
            before = now.unlocked.as_dict
            # A block refuses to pass its capacity.
            now = unlocked(now, rule, demand=asked, elapsed=None if by_claim else elapsed)
            assert all(amount >= before[key] for key, amount in now.unlocked.amounts)
    whole = unlocked(now, rule, elapsed=12)
    if not isinstance(rule, PerClaim):
        assert whole.unlocked == whole.capacity


def _arrive(blocks, claim, rule):
    named = {b.block_id: b for b in blocks}
    for name, demand in claim.demands:
        named[name] = unlocked(named[name], rule, demand=demand)
    return list(named.values())


def _charged(blocks, claims, granted):
    """The blocks after a round."""
    named = {b.block_id: b for b in blocks}
    for claim in claims:
        if claim.claim_id in granted:
            for name, demand in claim.demands:
                named[name] = replace(named[name], used=named[name].used + demand)
    return list(named.values())


def _play(blocks, claims, rule, scheduler):
    """One round per arrival; gives (claim, granted in its round, waiting and granted) by round."""
    waiting, rounds = [], []
    for claim in claims:
        blocks = _arrive(blocks, claim, rule)
        waiting.append(claim)
        before = blocks
        granted = set(schedule(scheduler, *packed(blocks, waiting)).grants)
        rounds.append((claim, before, list(waiting), granted))
        blocks = _charged(blocks, waiting, granted)
        waiting = [c for c in waiting if c.claim_id not in granted]
    return rounds


@st.composite
def arrivals(draw, *, count, shapes=SHAPES):
    """Locked blocks of positive capacity, and claims one after the other, fair ones among them."""
    shape = draw(st.sampled_from(shapes))
    width = len(shape.keys)
    room = st.lists(st.integers(count, 60), min_size=width, max_size=width)
    blocks = [
        block(f"block-{n}", shape, draw(room), unlocked=[0] * width)
        for n in range(draw(st.integers(1, 3)))
    ]
    named = {b.block_id: [a for _, a in b.capacity.amounts] for b in blocks}
    claims = []
    for number in range(draw(st.integers(1, 10))):
        wanted = sorted(draw(st.sets(st.sampled_from(sorted(named)), min_size=1)))
        fair = draw(st.booleans())
        demands = []
        for name in wanted:
            most = [c // count if fair else c for c in named[name]]
            demands.append((name, charge(shape, [draw(st.integers(0, m)) for m in most])))
        claims.append(Claim(f"claim-{number:02d}", number, tuple(demands)))
    return blocks, claims


@given(arrivals(count=4), st.sampled_from(Hardening))
@MANY
def test_P7_sharing_incentive(instance, hardening):
    """P7: DPF-N grants a fair claim within the first N of its blocks in the round it arrives."""
    blocks, claims = instance
    rule, seen = PerClaim(4, hardening), {}
    capacity = {b.block_id: b.capacity.as_dict for b in blocks}
    for claim, _, _, granted in _play(blocks, claims, rule, DPF()):
        for name, _ in claim.demands:
            seen[name] = seen.get(name, 0) + 1
        early = all(seen[name] <= 4 for name, _ in claim.demands)
        fair = all(
            amount <= capacity[name][key] // 4
            for name, demand in claim.demands
            for key, amount in demand.amounts
        )
        if early and fair:
            assert claim.claim_id in granted


@given(arrivals(count=4), st.integers(0, 9), st.integers(0, 30), st.booleans())
@MANY
def test_P8_strategy_proofness(instance, which, more, lower):
    """P8: with DPF and published unlocking, another demand never turns a refusal useful.

    Asking for more is not granted where the truth is not; asking for less may be, but is useless.
    """
    blocks, claims = instance
    liar = claims[which % len(claims)]
    rule = PerClaim(4, Hardening.PUBLISHED)
    honest = {name for *_, granted in _play(blocks, claims, rule, DPF()) for name in granted}
    assume(liar.claim_id not in honest)
    demands = tuple(
        (name, Charge(tuple((k, max(0, a + (-more if lower else more))) for k, a in d.amounts)))
        for name, d in liar.demands
    )
    told = [replace(c, demands=demands) if c is liar else c for c in claims]
    granted = {name for *_, names in _play(blocks, told, rule, DPF()) for name in names}
    covers = all(
        a >= b
        for (_, d), (_, true) in zip(demands, liar.demands, strict=True)
        for (_, a), (_, b) in zip(d.amounts, true.amounts, strict=True)
    )
    assert not (liar.claim_id in granted and covers)


@given(arrivals(count=3), st.sampled_from(Hardening))
@MANY
def test_P9_dynamic_envy_freeness(instance, hardening):
    """P9: who waits never prefers the grant of one present at the time, unless shares tie."""
    blocks, claims = instance
    for _, before, present, granted in _play(blocks, claims, PerClaim(3, hardening), DPF()):
        table, packed_claims = packed(before, present)
        shares = dict(
            zip(packed_claims.ids, dominant_shares(packed_claims, table).tolist(), strict=True)
        )
        for waiting in (c for c in present if c.claim_id not in granted):
            for lucky in (c for c in present if c.claim_id in granted):
                theirs = dict(lucky.demands)
                preferred = all(
                    name in theirs
                    and all(
                        a >= b
                        for (_, a), (_, b) in zip(theirs[name].amounts, d.amounts, strict=True)
                    )
                    for name, d in waiting.demands
                )
                if preferred:
                    assert shares[lucky.claim_id] == shares[waiting.claim_id]


@given(instances(weights=(1.0, 2.5)), any_scheduler)
@MANY
def test_P10_pareto(instance, scheduler):
    """P10: after a round no waiting claim would still fit."""
    blocks, claims = instance
    granted = set(schedule(scheduler, *packed(blocks, claims)).grants)
    left = left_over(blocks, claims, granted)
    assert not [c for c in claims if c.claim_id not in granted and fits(blocks, left, c)]


@given(
    instances(same_time=True, weights=(1.0, 3.0)), any_scheduler, st.randoms(use_true_random=False)
)
@MANY
def test_P11_order_invariance(instance, scheduler, shuffler):
    """P11: the order in which blocks, keys and claims are listed does not change the grants."""
    blocks, claims = instance
    expected = set(schedule(scheduler, *packed(blocks, claims)).grants)
    shuffled_blocks, shuffled = blocks[:], copy.copy(claims)
    shuffler.shuffle(shuffled_blocks)
    shuffler.shuffle(shuffled)
    again = []
    for claim in shuffled:
        demands = [
            (n, Charge.of(dict(random.Random(1).sample(d.amounts, len(d.amounts)))))
            for n, d in claim.demands
        ]
        shuffler.shuffle(demands)
        again.append(replace(claim, demands=tuple(demands)))
    assert set(schedule(scheduler, *packed(shuffled_blocks, again)).grants) == expected


@given(instances(weights=(1.0, 2.0)), any_scheduler, st.sampled_from([2, 1024, 10**12]))
@MANY
def test_P12_scale_invariance(instance, scheduler, factor):
    """P12: demands and capacities multiplied by one factor give the same grants."""
    if isinstance(scheduler, DualPrices) and 0 < scheduler.efficiency < 1:
        scheduler = DualPrices()  # Half of an odd number of units is rounded down to whole ones.
    blocks, claims = instance

    def times(value):
        return Charge(tuple((k, a * factor if a > 0 else a) for k, a in value.amounts))

    large = [
        replace(b, capacity=times(b.capacity), unlocked=times(b.unlocked), used=times(b.used))
        for b in blocks
    ]
    wide = [replace(c, demands=tuple((n, times(d)) for n, d in c.demands)) for c in claims]
    expected = schedule(scheduler, *packed(blocks, claims)).grants
    assert set(schedule(scheduler, *packed(large, wide)).grants) == set(expected)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 12))
@MANY
def test_P13_dust_unlocks_no_more_than_it_asks_for(dust, count):
    """P13: k claims of total demand D unlock at most D in hardened mode; published unlocks more."""
    shape = SHAPES[0]
    published = hardened = block("b", shape, [1000], unlocked=[0])
    for number, amount in enumerate(dust):
        claim = Claim(f"dust-{number}", number, (("b", charge(shape, [amount])),))
        (hardened,) = _arrive([hardened], claim, PerClaim(count))
        (published,) = _arrive([published], claim, PerClaim(count, Hardening.PUBLISHED))
    assert hardened.unlocked.as_dict["a"] <= sum(dust)
    assert published.unlocked.as_dict["a"] == min(1000, len(dust) * (1000 // count))


@given(instances(), any_scheduler)
@MANY
def test_P15_zero_capacity_never_certifies(instance, scheduler):
    """P15: a block none of whose keys has capacity grants nothing, not even a demand of 0."""
    blocks, claims = instance
    width = len(blocks[0].shape.keys)
    dead = block(blocks[0].block_id, blocks[0].shape, [0] * width)
    granted = set(schedule(scheduler, *packed([dead, *blocks[1:]], claims)).grants)
    assert not [c for c in claims if dead.block_id in dict(c.demands) and c.claim_id in granted]


@given(instances())
@FEW
def test_P15_unknown_order_is_refused_and_shrinks_nothing(instance):
    """P15: a claim with another key, or without one, is refused; the blocks stay as they are."""
    blocks, claims = instance
    before = copy.deepcopy(blocks)
    for amounts in ({**claims[0].demands[0][1].as_dict, "zz": 1}, {"a": 1, "zz": 1}):
        odd = Claim("odd", 0, ((blocks[0].block_id, Charge.of(amounts)),))
        with pytest.raises(InvalidValue, match="must have keys"):
            packed(blocks, [*claims, odd])
    assert blocks == before


@given(instances(claims=7, weights=(1.0, 2.0, 0.7)), any_scheduler)
@MANY
def test_P20_reported_bound_is_at_least_the_optimum(instance, scheduler):
    """P20: no choice of claims is worth more than the bound; the gap is at least the true one."""
    blocks, claims = instance
    table, packed_claims = packed(blocks, claims)
    optimum = most_weight(blocks, claims)
    decided = schedule(scheduler, table, packed_claims)
    assert decided.weight <= optimum + 1e-9
    assert decided.upper_bound >= optimum - 1e-9
    assert sharp_bound(table, packed_claims) >= optimum - 1e-9
    if optimum:
        assert decided.gap >= 1 - decided.weight / optimum - 1e-9


@given(instances(weights=(1.0, 2.0)))
@MANY
def test_P20_dual_prices_give_no_less_than_dpf_and_dpack(instance):
    """P20: in any one round, dual prices at full efficiency are worth at least DPF and DPack."""
    table, claims = packed(*instance)
    most = schedule(DualPrices(), table, claims).weight
    for other in (DPF(), DPack()):
        assert most >= schedule(other, table, claims).weight - 1e-9


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "scheduler", [DPF(), DPack(), DualPrices()], ids=["DPF", "DPack", "prices"]
)
def test_P20_efficiency_over_first_come_first_served(scheduler, seed):
    """P20: at least the grants of first come, first served on the same mice and elephants."""
    trace = private_kube(np.random.default_rng(seed), seconds=60)
    basic = accounting_named("Basic")
    first = replay(trace, Setting(FirstComeFirstServed(), basic, Immediate(), tick=10**6))
    other = replay(trace, Setting(scheduler, basic, PerClaim(175), tick=10**6))
    assert other.grants >= first.grants > 0


@given(instances(claims=30, blocks=3, most=12))
@MANY
def test_granting_in_order_is_the_plain_loop(instance):
    """The vectorised passes decide exactly what the plain loop decides."""
    blocks, claims = instance
    ordered = sorted(claims, key=lambda c: (c.arrival, c.claim_id))
    granted = schedule(FirstComeFirstServed(), *packed(blocks, claims)).grants
    assert set(granted) == plain_greedy(blocks, ordered)


@given(st.integers(0, 10**6), st.sampled_from(SHAPES), st.sampled_from([20, 10**13, 2 * 10**18]))
@FEW
def test_granting_many_in_order_is_the_plain_loop(seed, shape, most):
    """The same on instances that need several passes, and near the end of 64 bits."""
    generator = np.random.default_rng(seed)
    width = len(shape.keys)
    blocks = [
        block(f"block-{n}", shape, generator.integers(most // 2, most, width).tolist())
        for n in range(12)
    ]
    claims = []
    for number in range(400):
        first, count = int(generator.integers(0, 12)), int(generator.integers(1, 5))
        size = int(generator.choice([most // 20, most // 3, 2 * most]))
        demand = charge(shape, generator.integers(0, size, width).tolist())
        named = sorted({f"block-{(first + n) % 12}" for n in range(count)})
        claims.append(Claim(f"claim-{number:03d}", number, tuple((n, demand) for n in named)))
    granted = schedule(FirstComeFirstServed(), *packed(blocks, claims)).grants
    left = left_over(blocks, claims, set())
    expected = []
    for claim in claims:
        if fits(blocks, left, claim):
            expected.append(claim.claim_id)
            for name, demand in claim.demands:
                left[name] = [r - a for r, (_, a) in zip(left[name], demand.amounts, strict=True)]
    assert list(granted) == expected


def test_take_keeps_demands_with_their_claims():
    blocks, claims = (
        [block("a", SHAPES[0], [9]), block("b", SHAPES[0], [9])],
        [
            Claim("x", 0, (("a", charge(SHAPES[0], [1])),)),
            Claim("y", 0, (("a", charge(SHAPES[0], [2])), ("b", charge(SHAPES[0], [3])))),
        ],
    )
    table, packed_claims = packed(blocks, claims)
    taken = packed_claims.take(np.array([1, 0]))
    assert taken.ids == ("y", "x")
    assert taken.amounts[:, 0].tolist() == [2, 3, 1]
    assert isinstance(taken, ClaimTable)
    assert schedule(DPF(), table, taken).grants == ("x", "y")
