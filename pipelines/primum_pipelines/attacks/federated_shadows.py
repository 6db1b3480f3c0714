"""Shadows of a federation: the Study's own sites and server, on halves of every site's records.

Runs in this process, as the embedded federation does, and never over a network. A shadow is one
federation: the planned rounds, local steps, clipping, noise and declared weights of every site.
Must not train in any other way than ``primum_pipelines.federation`` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from primum.domain.errors import InvalidValue, Refused
from primum_pipelines.kinds.training import whole
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.attacks.shadow_program import Program
    from primum_pipelines.kinds.federate.planned import SiteRows
    from primum_pipelines.optimization.written.chain import Stack

FEDERATED = "siteOrder"
"""Names the sites' budgets in the order of ``Pool.sites``; shadows without it are of one site."""

_SEED_BITS = 60  # A site counts its seed on from round to round.


def train_federated(
    program: Program, pool: Pool, members: torch.Tensor, *, generator: torch.Generator
) -> Stack:
    """Train one federation per row of ``members``.

    Args:
        program: The Study's recipe, with every site's mechanism.
        pool: The records of all sites.
        members: Which records each shadow may see, booleans ``(M, n)``.
        generator: Draws the seeds of sampling and noise.

    Returns:
        Weights by name, each ``(M, ...)``; the same ones for the same generator.

    Raises:
        InvalidValue: If records do not say whose they are, or a site's training went wrong.
    """
    if pool.sites is None or pool.contributions is not None:
        raise InvalidValue("audit data", "must be of sites with one row per unit", "other data")
    found = [_federation(program, pool, had, generator) for had in members]
    return {name: torch.stack([state[name] for state in found]) for name in found[0]}


def _federation(
    program: Program, pool: Pool, had: torch.Tensor, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    from primum_pipelines.federation.server import federate
    from primum_pipelines.kinds.federate.planned import planned_site, planned_terms

    sites, terms, first = [], [], program.fresh()
    for budget, rows in _rows(program, pool, had).items():
        seed = int(torch.randint(1 << _SEED_BITS, (), generator=generator))
        module = program.fresh()
        terms.append(planned_terms(program.parameters, budget, units=rows.units, module=module))
        sites.append(planned_site(program.parameters, budget, rows, module=module, seed=seed))
    rounds = whole(program.parameters, "rounds")
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(1 << _SEED_BITS, (), generator=generator)))
            final = federate(sites, initial=_arrays(first), terms=terms, rounds=rounds)
    except Refused as problem:  # Of a shadow's site, not of anybody's data.
        rule = "must not stop"
        raise InvalidValue("training of shadow models", rule, "a site that did") from problem
    return {name: torch.from_numpy(value.copy()) for name, value in final.items()}


def _rows(program: Program, pool: Pool, had: torch.Tensor) -> dict[str, SiteRows]:
    """Each site's records of one shadow; the divisor counts those, as the Study's counts its own.

    Raises:
        InvalidValue: If a site has none.
    """
    from primum_pipelines.kinds.federate.planned import SiteRows

    found = {}
    for number, budget in enumerate(records.texts(program.parameters[FEDERATED])):
        own = had & (pool.sites == number)
        if not bool(own.any()):
            raise InvalidValue("audit data", "must have two records at every site", "fewer")
        found[budget] = SiteRows(pool.inputs[own], pool.labels[own], units=int(own.sum()))
    return found


def _arrays(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in module.state_dict().items()}
