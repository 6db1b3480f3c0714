"""Who uses more of the worst case, and through which inputs: gradient norms and their sensitivity.

Mueller et al., *How Do Input Attributes Impact the Privacy Loss?* (2022), PLIS: the derivative of a
record's gradient norm by its input says which numbers drive its privacy loss. A function of raw
records: Restricted, always.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from primum_pipelines.attacks.figures import Array

_ROWS_AT_ONCE = 64  # A double backward keeps every record's gradient at once.


@dataclass(frozen=True, slots=True, repr=False)
class Susceptibility:
    """Per record, at the model as it is.

    Args:
        norms: Gradient norms before clipping, ``(n,)``.
        inputs: Derivatives of the norms by the inputs, ``(n, ...)`` of the input's shape.
    """

    norms: Array
    inputs: Array


def susceptibility(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Susceptibility:
    """Gradient norms and PLIS of every record.

    Args:
        module: The model; left as it was.
        inputs: ``(n, ...)``, scaled as in training.
        labels: ``(n,)``.
    """
    parameters = {name: value.detach() for name, value in module.named_parameters()}

    def loss(
        current: dict[str, torch.Tensor], record: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = torch.func.functional_call(module, current, (record[None],))
        return nn.functional.cross_entropy(logits, label[None])

    def norm(record: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = torch.func.grad(loss)(parameters, record, label)
        squares = sum(part.square().sum() for part in found.values())
        # A record that the model fits exactly has no gradient and no direction.
        value = torch.as_tensor(squares).clamp_min(torch.finfo(record.dtype).tiny).sqrt()
        return value, value

    each = torch.func.vmap(torch.func.grad(norm, has_aux=True))
    norms, derivatives = [], []
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        derivative, value = each(inputs[part], labels[part])
        norms.append(value.detach())
        derivatives.append(derivative.detach())
    return Susceptibility(
        norms=torch.cat(norms).double().numpy(), inputs=torch.cat(derivatives).double().numpy()
    )
