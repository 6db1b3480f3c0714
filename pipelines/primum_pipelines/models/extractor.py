"""A frozen model as an extractor of features: what its last layer is given. Heavy.

Must not train anything, and treats every row by itself: ``rehearse`` refuses a model that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.models.artifact import ModelSpec, checked_rows, scale
from primum_pipelines.optimization.gradients.checks import require_apart
from primum_pipelines.optimization.gradients.segments import one_row_each

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BATCH_ROWS = 256
_REHEARSED_ROWS = 4
_SEED = 0  # Of the made-up rows, which are nobody's.


def last_layer(module: nn.Module) -> nn.Module:
    """The last layer of a model that has parameters: the head on top of its features."""
    return [m for m in module.modules() if list(m.parameters(recurse=False))][-1]


class FrozenExtractor:
    """What the last layer of a model is given for each row.

    Args:
        module: The model; put into evaluation mode, and never changed afterwards.
        spec: Shape and public bounds of a row.
    """

    def __init__(self, module: nn.Module, spec: ModelSpec) -> None:
        self.spec = spec
        self._module = module.eval()
        self._given: list[torch.Tensor] = []
        last_layer(module).register_forward_pre_hook(lambda _, given: self._given.append(given[0]))

    def features(self, rows: np.ndarray) -> NDArray[np.float64]:
        """Features of rows.

        Args:
            rows: ``(n, *input_shape)`` in raw published units; images in [0, 1].

        Returns:
            ``(n, d)``.

        Raises:
            InvalidValue: If rows have another shape, or the model gives its last layer something
                else than one vector per row.
        """
        scaled = torch.from_numpy(scale(checked_rows(rows, self.spec), self.spec))
        with torch.no_grad():
            parts = [self._of(part).double().numpy() for part in scaled.split(_BATCH_ROWS)]
        found: NDArray[np.float64] = np.concatenate(parts)
        return found

    def rehearse(self) -> None:
        """Refuse, on made-up rows, a model of which one unit could change another unit's features.

        Raises:
            InvalidValue: If it mixes rows, or gives its last layer no vector per row.
        """
        generator = torch.Generator().manual_seed(_SEED)
        shape = (_REHEARSED_ROWS, *self.spec.input_shape)
        rows = torch.rand(shape, generator=generator) * 2 - 1
        require_apart(
            self._module,
            lambda _, given: self._of(given).square().sum(dim=1),
            (rows,),
            segments=one_row_each(_REHEARSED_ROWS),
        )
        self._module.eval()

    def _of(self, scaled: torch.Tensor) -> torch.Tensor:
        self._given.clear()
        self._module(scaled)
        if len(self._given) != 1 or len(self._given[0]) != len(scaled):
            rule = "must give its last layer one vector per row, once"
            raise InvalidValue("model", rule, self.spec.model, "Use another one as extractor.")
        return self._given.pop().flatten(1)
