"""The server of a federation: a Flower ServerApp that checks every update before it averages.

Sees arrays and names; never data, counts or metrics of a site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primum.domain.errors import InvalidValue, Refused
from primum_pipelines.federation.aggregation import Arrays, check_update, weighted_average
from primum_pipelines.federation.flower import (
    Array,
    ArrayRecord,
    ConfigRecord,
    FedAvg,
    Grid,
    Message,
    MetricRecord,
    ServerApp,
)
from primum_pipelines.federation.grid import LocalGrid, flower_process, server_context
from primum_pipelines.federation.site import ARRAYS, Site

_FIRST_NODE = 2  # Node 1 is the server.


@dataclass(frozen=True, slots=True)
class SiteTerms:
    """What the server knows of a site: name, declared weight, how far it can move the model."""

    name: str
    weight: int
    norm_max: float


class CheckedAverage(FedAvg):  # type: ignore[misc] # flwr is not followed by mypy
    """Federated averaging by declared weights over every site, each update checked first.

    Args:
        terms: Terms of each site by node id.
        on_round: Called after each round with (rounds done, rounds planned).
        rounds: Planned rounds.
    """

    def __init__(
        self,
        terms: Mapping[int, SiteTerms],
        *,
        rounds: int,
        on_round: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_train_nodes=len(terms), min_available_nodes=len(terms)
        )
        self._terms = dict(terms)
        self._rounds = rounds
        self._on_round = on_round
        self._sent: Arrays = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send the model to every site, and remember what was sent."""
        self._sent = {name: array.numpy() for name, array in arrays.items()}
        messages: Iterable[Message] = super().configure_train(server_round, arrays, config, grid)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every update and average.

        Raises:
            Refused: If a site failed or did not answer: a round is never averaged without it.
            InvalidValue: If an update does not fit.
        """
        updates: dict[str, Arrays] = {}
        for reply in replies:
            terms = self._terms[reply.metadata.src_node_id]
            if reply.has_error():
                found = reply.error.reason
                raise Refused(f"site {terms.name} must answer with an update; found {found}.")
            if list(reply.content) != [ARRAYS]:
                raise InvalidValue(f"update of site {terms.name}", "must hold arrays only", "more")
            update = {name: array.numpy() for name, array in reply.content[ARRAYS].items()}
            check_update(update, sent=self._sent, site=terms.name, norm_max=terms.norm_max)
            updates[terms.name] = update
        weights = {terms.name: terms.weight for terms in self._terms.values()}
        averaged = weighted_average(updates, weights=weights)
        if self._on_round is not None:
            self._on_round(server_round, self._rounds)
        record = ArrayRecord({name: Array(np.ascontiguousarray(v)) for name, v in averaged.items()})
        return record, None


def federate(
    sites: Sequence[Site],
    *,
    initial: Mapping[str, np.ndarray],
    terms: Sequence[SiteTerms],
    rounds: int,
    on_round: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Run a federation in this process.

    Args:
        sites: The sites.
        initial: Arrays of the initial model.
        terms: Terms of each site, in the same order.
        rounds: Number of rounds.
        on_round: Called after each round.

    Returns:
        Arrays of the final model.

    Raises:
        Refused: If a site failed.
        InvalidValue: If an update was not acceptable.
    """
    if [site.task.name for site in sites] != [item.name for item in terms]:
        raise InvalidValue("terms", "must name every site in order", len(terms))
    found: dict[str, np.ndarray] = {}
    with flower_process():
        nodes = range(_FIRST_NODE, _FIRST_NODE + len(sites))
        strategy = CheckedAverage(
            dict(zip(nodes, terms, strict=True)), rounds=rounds, on_round=on_round
        )
        app = ServerApp()

        @app.main()  # type: ignore[untyped-decorator] # flwr is not followed by mypy
        def main(grid: Grid, context: object) -> None:  # noqa: ARG001 - Flower's signature
            first = {name: Array(np.ascontiguousarray(value)) for name, value in initial.items()}
            result = strategy.start(grid=grid, initial_arrays=ArrayRecord(first), num_rounds=rounds)
            found.update({name: array.numpy() for name, array in result.arrays.items()})

        apps = {node: site.client_app() for node, site in zip(nodes, sites, strict=True)}
        app(LocalGrid(apps), server_context())
    return found
