"""How the workers of one Study share its data and its work, and what each needs for that.

Every worker opens the data by the token itself, keeps its own units, and lets go of the rest. The
first worker alone stores, reports and tells progress. Must not decide how gradients are summed.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.study.steps import WorkRequest, WorkResult
from primum_pipelines.datasets.units import unit_rows
from primum_pipelines.kinds.train.search import FIELD as SEARCH
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.distributed import Group, joined, require_same, share
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

WORKERS = "workers"
"""Where a plan's parameters say how many workers train."""


def planned_group(parameters: Mapping[str, JSON]) -> Group:
    """The group that this worker is in.

    Raises:
        InvalidValue: If it has another size than planned, or each worker would run a search.
    """
    group = joined(workers=int(str(parameters.get(WORKERS, 1))))
    if group.count > 1 and SEARCH in parameters:
        raise InvalidValue(WORKERS, "must be 1 for a search", group.count)
    return group


def own_device(request: WorkRequest) -> torch.device:
    """Where this worker computes: the GPU that it was given, or the CPU if none was asked for.

    Raises:
        InvalidValue: If a GPU was asked for and this process sees none.
    """
    resources = records.mapping(request.context.get("resources", {}))
    if not float(str(resources.get("gpusPerWorker", 0))):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InvalidValue(
            "spec.job.resources.gpusPerWorker", "must be 0 where workers see no GPU", "more"
        )
    return torch.device("cuda", torch.cuda.current_device())


@contextlib.contextmanager
def own_threads(request: WorkRequest) -> Iterator[None]:
    """As many threads as this worker was given CPUs, for as long as the block takes."""
    resources = records.mapping(request.context.get("resources", {}))
    cpus, before = int(str(resources.get("cpusPerWorker", 0))), torch.get_num_threads()
    torch.set_num_threads(cpus or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def own_rows(table: UnitTable, group: Group) -> UnitTable:
    """The training rows of this worker's units; the whole table for one worker alone.

    Guarantees:
        Every unit of the training split is at exactly one worker, with all of its rows.

    Args:
        table: What the token opens, all of it.
        group: The workers.

    Raises:
        InvalidValue: If workers see different tables, or there are fewer units than workers.
    """
    if group.count == 1:
        return table
    train = np.flatnonzero(table.train)
    units = unit_rows(table.units[train])
    require_same(group, _mark(table, train), what="dataset of the training")
    own = share(units.count, rank=group.rank, count=group.count)
    rows = train[units.offsets[own.start] : units.offsets[own.stop]]
    return table.only(rows)


def shared_coins(group: Group, *, count: int) -> canaries.SealedCoins | None:
    """Fresh coins of canaries, drawn by the first worker; ``None`` without canaries.

    Args:
        group: The workers.
        count: Number of canaries.
    """
    if not count:
        return None
    return canaries.unsealed(group.told(lambda: canaries.sealed_bytes(canaries.seal(count))))


def own_coins(sealed: canaries.SealedCoins, group: Group) -> canaries.SealedCoins:
    """The coins with those canaries in alone that are at this worker: each is at one."""
    mine = (number % group.count == group.rank for number in range(len(sealed.coins)))
    own = tuple(coin and here for coin, here in zip(sealed.coins, mine, strict=True))
    return replace(sealed, coins=own)


def whole_mean(group: Group, *, total: float, count: int) -> float:
    """The mean over all workers' rows; right at the first worker.

    Args:
        group: The workers.
        total: Sum over the rows that are here.
        count: How many rows are here.
    """
    figures = torch.tensor([total, float(count)], dtype=torch.float64)
    group.sum_at_first([figures])
    return float(figures[0] / figures[1])


def helped(*, seconds: float) -> WorkResult:
    """What a worker reports that is not the first: nothing is stored, charged or shown by it."""
    return records.report(message="trained as one of several workers", seconds=seconds)


def _mark(table: UnitTable, train: np.ndarray) -> tuple[int, ...]:
    """A digest over whose rows there are, in which order, and their labels, as whole numbers."""
    digest = hashlib.sha256(repr(table.features.shape).encode())
    for name in table.units[train]:
        digest.update(str(name).encode() + b"\x1f")
    digest.update(np.ascontiguousarray(table.labels[train]).tobytes())
    return struct.unpack(">4q", digest.digest())
