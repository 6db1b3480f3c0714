"""Members of one training as one file: iterates that the same charge covers, asked together.

Every iterate of a charged run is post-processing of the same noisy sums, so an ensemble of them
costs nothing more (Knolle et al. 2021). Members of several runs would each be charged; this file
cannot hold them. Must never unpickle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.errors import InvalidValue
from primum_pipelines.models.artifact import (
    LoadedModel,
    ModelSpec,
    describe,
    read_spec,
    with_weights,
)

if TYPE_CHECKING:
    import numpy as np
    import torch

FILE_NAME = "ensemble.safetensors"
ARTIFACT_KIND = "Ensemble"


def to_bytes(members: Sequence[Mapping[str, torch.Tensor]], spec: ModelSpec) -> bytes:
    """The bytes of an ensemble's file.

    Args:
        members: State of each member, as its module's ``state_dict`` has it.
        spec: What each of them is.

    Raises:
        InvalidValue: If there are fewer than two.
    """
    from safetensors.torch import save

    if len(members) < 2:  # noqa: PLR2004 - one is a model
        raise InvalidValue("ensemble", "must have two members at least", str(len(members)))
    weights = {
        f"{number}/{name}": value.detach().cpu().contiguous()
        for number, state in enumerate(members)
        for name, value in state.items()
    }
    data: bytes = save(weights, metadata=describe(spec))
    return data


def from_bytes(data: bytes) -> tuple[LoadedModel, ...]:
    """Every member, ready to answer, in the order in which they were kept.

    Raises:
        InvalidValue: If it is not a file of ours.
    """
    import safetensors
    from safetensors.torch import load

    spec = read_spec(data)
    try:
        weights = load(data)
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in weights.items():
            number, _, own = name.partition("/")
            states.setdefault(int(number), {})[own] = value
        return tuple(_member(states[number], spec) for number in range(len(states)))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            "ensemble file", "must be a safetensors file written by Primum", type(error).__name__
        ) from error


def predict_members(members: Sequence[LoadedModel], features: np.ndarray) -> np.ndarray:
    """What each member says, ``(members, n, classes)``, from raw features."""
    import numpy as np

    return np.stack([member.predict_proba(features) for member in members])


def _member(state: Mapping[str, torch.Tensor], spec: ModelSpec) -> LoadedModel:
    return LoadedModel(module=with_weights(spec, state), spec=spec)
