"""Model inversion: the input that a classifier is surest about, for each class.

Fredrikson, Jha & Ristenpart, *Model Inversion Attacks that Exploit Confidence Information* (2015).
It shows what a class looks like; that is a leak only where a class is one person, so it is measured
beside the class mean of records that the model never saw.
"""

from __future__ import annotations

import torch
from torch import nn


def invert_classes(
    module: nn.Module,
    *,
    classes: int,
    input_shape: tuple[int, ...],
    iterations: int,
    step: float = 0.05,
    total_variation: float = 0.1,
) -> torch.Tensor:
    """Ascend each class's log-probability from a gray start.

    Args:
        module: The model under attack; left as it was.
        classes: Number of classes.
        input_shape: Shape of one input, scaled to [-1, 1].
        iterations: Steps of Adam.
        step: Step size, in units of the data range of [-1, 1].
        total_variation: Weight of the image prior; unused for tables.

    Returns:
        ``(classes, *input_shape)`` in [-1, 1].
    """
    guess = torch.zeros((classes, *input_shape), requires_grad=True)
    wanted = torch.arange(classes)
    optimizer = torch.optim.Adam([guess], lr=step)
    with torch.enable_grad():
        for _ in range(iterations):
            optimizer.zero_grad()
            objective = nn.functional.cross_entropy(module(guess), wanted, reduction="sum")
            for axis in range(2, guess.dim()):
                objective = objective + total_variation * guess.diff(dim=axis).abs().mean()
            (derivative,) = torch.autograd.grad(objective, guess)
            guess.grad = derivative
            optimizer.step()
            with torch.no_grad():
                guess.clamp_(-1.0, 1.0)
    return guess.detach()
