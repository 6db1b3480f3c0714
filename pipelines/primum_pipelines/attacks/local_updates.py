"""What a record alone would have caused: its clipped gradient, or an update of several local steps.

A federated update is the sum of the gradients along a site's local steps. Simulating those steps is
what an attacker does who knows the model and the recipe (Geiping et al. 2020, section 6; methods,
section 7.4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

_TINY = 1e-12
Caused: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Records ``(n, ...)`` and labels ``(n,)`` to what each would have caused, ``(n, parameters)``."""


@dataclass(frozen=True, slots=True)
class LocalSteps:
    """How an update came about.

    Args:
        max_grad_norm: Clipping bound of each step; infinite does not clip.
        steps: Local steps that the record takes part in, all of them.
        step_size: What a step moves the parameters by, per unit of the sum of clipped gradients.
    """

    max_grad_norm: float
    steps: int = 1
    step_size: float = 0.0


def caused_by(module: nn.Module, local: LocalSteps) -> Caused:
    """What records would cause, without noise; differentiable by the records.

    Args:
        module: The model at the beginning of the update; left as it is.
        local: How the update came about.

    Returns:
        The sum of clipped gradients along the steps: the update over the step size.
    """
    names = [name for name, _ in module.named_parameters()]
    begun = {name: value.detach() for name, value in module.named_parameters()}

    def loss(
        current: dict[str, torch.Tensor], record: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = torch.func.functional_call(module, current, (record[None],))
        return nn.functional.cross_entropy(logits, label[None])

    gradient = torch.func.grad(loss)

    def alone(record: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        current, total = begun, torch.zeros(())
        for step in range(local.steps):
            found = gradient(current, record, label)
            flat = torch.cat([found[name].flatten() for name in names])
            # Not the norm itself: its derivative at zero does not exist.
            norm = (flat.square().sum() + _TINY**2).sqrt()
            factor = (local.max_grad_norm / norm).clamp_max(1.0)
            total = total + flat * factor
            if step + 1 < local.steps:
                size = local.step_size * factor
                current = {name: current[name] - size * found[name] for name in names}
        return total

    each: Caused = torch.func.vmap(alone)
    return each
