"""In which order schedulers consider claims: by arrival, or by dominant shares.

Every order ends with arrival and id, so equal claims never depend on how they were listed.
"""

from __future__ import annotations

import numpy as np

from primum.domain.scheduling.tables import BlockTable, ClaimTable, Indices, Reals


def by_arrival(claims: ClaimTable) -> Indices:
    """First come, first served."""
    return np.asarray(np.lexsort((claims.ranks, claims.arrivals)))


def shares(claims: ClaimTable, blocks: BlockTable) -> Reals:
    """What each demand takes of its block's capacity, by key.

    Keys that can never certify are left out (trap T8); infinite where a block has no other.
    """
    usable = blocks.shape.usable(blocks.capacity)
    part = claims.amounts / np.where(usable, blocks.capacity, 1)[claims.columns]
    part[~usable[claims.columns]] = 0.0
    hopeless = np.asarray(~usable.any(axis=1))
    part[hopeless[claims.columns]] = np.inf
    return np.asarray(part)


def dominant_shares(claims: ClaimTable, blocks: BlockTable) -> Reals:
    """The largest share of each claim, over its blocks and the usable keys."""
    return np.asarray(np.maximum.reduceat(shares(claims, blocks).max(axis=1), claims.starts[:-1]))


def by_dominant_share(claims: ClaimTable, blocks: BlockTable) -> Indices:
    """Dominant private-block fairness: the smallest dominant share first.

    Equal claims are compared by their second largest share, then the third, and so on; then weight,
    arrival and id (Luo et al. 2021, section 4; ledger.md 2.5).
    """
    part = shares(claims, blocks)
    dominant = np.maximum.reduceat(part.max(axis=1), claims.starts[:-1])
    order = np.lexsort((claims.ranks, claims.arrivals, -claims.weights, dominant))
    sorted_shares = dominant[order]
    tied = np.zeros(len(order), dtype=np.bool_)
    equal = sorted_shares[1:] == sorted_shares[:-1]
    tied[1:] |= equal
    tied[:-1] |= equal
    if tied.any():
        order[tied] = _by_all_shares(claims, part, order[tied])
    return np.asarray(order)


def _by_all_shares(claims: ClaimTable, part: Reals, rows: Indices) -> Indices:
    """Rows by their shares in falling order; shorter claims before longer ones that agree."""
    entries, begins = claims.entries(rows)
    lengths = np.diff(np.append(begins, len(entries)))
    owner = np.repeat(np.arange(len(rows)), lengths)
    width = int(lengths.max()) * part.shape[1]
    slots = (np.arange(len(entries)) - np.repeat(begins, lengths))[:, None] * part.shape[1]
    padded = np.zeros((len(rows), width))
    padded[owner[:, None], slots + np.arange(part.shape[1])] = part[entries]
    padded.sort(axis=1)
    # Only as many places as it takes to tell them apart: a key of lexsort costs a sort.
    different = np.flatnonzero(padded.min(axis=0) < padded.max(axis=0))
    compared = padded[:, different] if len(different) else padded[:, :1]
    keys = [claims.ranks[rows], claims.arrivals[rows], -claims.weights[rows]]
    return np.asarray(rows[np.lexsort((*keys, *compared.T))])
