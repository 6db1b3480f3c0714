"""Small scheduling instances, and the plain loops that the vectorised core is held to."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from primum.domain.accounting.charges import Charge
from primum.domain.scheduling.blocks import Block, FilterShape
from primum.domain.scheduling.claims import Claim
from primum.domain.scheduling.tables import BlockTable, ClaimTable

SHAPES = (
    FilterShape(("a",), (0,)),
    FilterShape(("a", "b"), (0, 0)),
    FilterShape(("a", "b", "c"), (0, 1, 2)),
    FilterShape(("a", "b", "c"), (0, 0, 1)),
)


def charge(shape, amounts):
    return Charge.of(dict(zip(shape.keys, amounts, strict=True)))


def block(name, shape, capacity, *, unlocked=None, used=None):
    new = Block.new(block_id=name, shape=shape, capacity=charge(shape, capacity))
    open_to = new.capacity if unlocked is None else charge(shape, unlocked)
    return Block(
        name,
        shape,
        new.capacity,
        open_to,
        new.used if used is None else charge(shape, used),
    )


def unlocked(block, rule, *, demand=None, elapsed=None):
    """The block after a rule looked at a claim's demand, or at its age."""
    capacity, open_to, asked = (
        np.array([[amount for _, amount in part.amounts]], dtype=np.int64)
        for part in (block.capacity, block.unlocked, demand or block.used)
    )
    if elapsed is None:
        more = rule.on_claim(capacity, open_to, asked)
    else:
        more = rule.on_time(capacity, open_to, elapsed)
    return replace(block, unlocked=block.unlocked + charge(block.shape, more[0].tolist()))


@st.composite
def instances(draw, *, claims=8, most=20, blocks=4, shapes=SHAPES, weights=(1.0,), same_time=False):
    """(blocks, claims), everything unlocked, some of it used."""
    shape = draw(st.sampled_from(shapes))
    width = len(shape.keys)
    row = st.lists(st.integers(0, most), min_size=width, max_size=width)
    made = []
    for number in range(draw(st.integers(1, blocks))):
        used = [amount // 3 for amount in draw(row)]
        made.append(block(f"block-{number}", shape, draw(row), used=used))
    asked = []
    for number in range(draw(st.integers(1, claims))):
        wanted = draw(st.sets(st.sampled_from([b.block_id for b in made]), min_size=1))
        demands = tuple((name, charge(shape, draw(row))) for name in sorted(wanted))
        weight = draw(st.sampled_from(weights))
        arrival = 0 if same_time else draw(st.integers(0, 3))
        asked.append(Claim(f"claim-{number}", arrival, demands, weight))
    return made, asked


def packed(blocks, claims):
    table = BlockTable.of(blocks)
    return table, ClaimTable.of(claims, table)


def has_room(shape, available, demand):
    """The filter's rule, spelled out."""
    groups = {}
    for group, left, amount in zip(shape.groups, available, demand, strict=True):
        groups[group] = groups.get(group, True) and amount <= left
    return any(groups.values())


def left_over(blocks, claims, granted):
    """What is available after some grants, at every key."""
    left = {
        b.block_id: [
            u - s for (_, u), (_, s) in zip(b.unlocked.amounts, b.used.amounts, strict=True)
        ]
        for b in blocks
    }
    for claim in claims:
        if claim.claim_id in granted:
            for name, demand in claim.demands:
                left[name] = [r - a for r, (_, a) in zip(left[name], demand.amounts, strict=True)]
    return left


def fits(blocks, left, claim):
    shape = blocks[0].shape
    return all(
        has_room(shape, left[name], [a for _, a in demand.amounts])
        for name, demand in claim.demands
    )


def plain_greedy(blocks, claims):
    """Grant what fits, in the order given."""
    granted = set()
    for claim in claims:
        if fits(blocks, left_over(blocks, claims, granted), claim):
            granted.add(claim.claim_id)
    return granted


def most_weight(blocks, claims):
    """The true optimum of a round, by trying every choice."""
    best = 0.0
    shape = blocks[0].shape
    for count in range(len(claims) + 1):
        for choice in itertools.combinations(claims, count):
            names = {claim.claim_id for claim in choice}
            left = left_over(blocks, claims, names)
            touched = {name for claim in choice for name, _ in claim.demands}
            if all(has_room(shape, left[name], [0] * len(shape.keys)) for name in touched):
                best = max(best, sum(claim.weight for claim in choice))
    return best
