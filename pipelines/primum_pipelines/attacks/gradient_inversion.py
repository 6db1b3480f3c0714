"""Inverting gradients by optimization: find the input whose gradient points the same way.

Geiping, Bauermeister, Droege & Moeller, *Inverting Gradients* (2020): minimize one minus the cosine
between the gradients plus total variation, by Adam on the sign of the derivative, the step decaying
at 3/8, 5/8 and 7/8 of the way, clamped to the public data range, best of several restarts by the
objective alone. Targets and restarts run as one batched program. The label is assumed known, which
favors the adversary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from primum_pipelines.attacks.local_updates import Caused

_DECAYS = (3 / 8, 5 / 8, 7 / 8)
_DECAY = 0.1
_IMAGE_AXES = 3


@dataclass(frozen=True, slots=True)
class InversionEffort:
    """How hard the attack tries; bounded, so that an audit ends.

    Args:
        iterations: Steps of Adam.
        restarts: Random starts per target.
        step: First step size, in units of the data range of [-1, 1].
        total_variation: Weight of the image prior; 0 for tables.
    """

    iterations: int
    restarts: int
    step: float = 0.1
    total_variation: float = 0.0


def invert(
    caused: Caused,
    observed: torch.Tensor,
    labels: torch.Tensor,
    *,
    input_shape: tuple[int, ...],
    effort: InversionEffort,
    generator: torch.Generator,
) -> torch.Tensor:
    """Reconstruct the inputs behind observed gradients, or updates of several local steps.

    Args:
        caused: What a record would have caused (``local_updates.caused_by``); differentiable.
        observed: One (noisy) update per target, ``(n, parameters)``; its scale does not matter.
        labels: ``(n,)``, known to the adversary.
        input_shape: Shape of one input, scaled to [-1, 1].
        effort: How hard to try.
        generator: Draws the starts.

    Returns:
        The best of the restarts by the objective, ``(n, *input_shape)``.
    """
    n, r = len(observed), effort.restarts
    targets = nn.functional.normalize(observed, dim=1).repeat_interleave(r, dim=0)
    known = labels.repeat_interleave(r)
    guess = (torch.rand((n * r, *input_shape), generator=generator) * 2 - 1).requires_grad_()
    optimizer = torch.optim.Adam([guess], lr=effort.step)
    milestones = [int(effort.iterations * share) for share in _DECAYS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=_DECAY)
    with torch.enable_grad():
        for _ in range(effort.iterations):
            optimizer.zero_grad()
            objective = _objective(caused, guess, known, targets, effort.total_variation)
            (derivative,) = torch.autograd.grad(objective.sum(), guess)
            guess.grad = derivative.sign()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                guess.clamp_(-1.0, 1.0)
    final = _objective(caused, guess, known, targets, effort.total_variation).detach()
    best = final.view(n, r).argmin(dim=1) + torch.arange(n) * r
    return guess.detach()[best]


def _objective(
    caused: Caused,
    guess: torch.Tensor,
    labels: torch.Tensor,
    targets: torch.Tensor,
    total_variation: float,
) -> torch.Tensor:
    found = nn.functional.normalize(caused(guess, labels), dim=1)
    objective: torch.Tensor = 1 - (found * targets).sum(dim=1)
    if total_variation and guess.dim() == _IMAGE_AXES + 1:
        across = (guess[..., 1:] - guess[..., :-1]).abs().mean(dim=(1, 2, 3))
        down = (guess[..., 1:, :] - guess[..., :-1, :]).abs().mean(dim=(1, 2, 3))
        objective = objective + total_variation * (across + down)
    return objective
