"""The loss of one row for each task. A row's loss looks at this row alone.

Clipping per unit means nothing where a loss mixes rows. So Dice is taken over the pixels of one
mask and never over a batch; there is no batch Dice to choose, and an algorithm refuses one that it
is handed. Light until it is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.optimization.settings import LossName

if TYPE_CHECKING:
    import torch
    from torch import nn

_SMOOTHING = 1.0  # Pixels added to both sides of the ratio: a class that is nowhere has loss 0.


@dataclass(frozen=True, slots=True)
class TaskLoss:
    """The losses of rows for a task.

    Args:
        task: What labels say.
        name: Which loss; ``DICE`` and ``DICE_CROSS_ENTROPY`` are for masks.
    """

    task: LabelTask = LabelTask.MULTI_CLASS
    name: LossName = LossName.CROSS_ENTROPY

    def __call__(
        self, module: nn.Module, features: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """Losses ``(B,)`` of rows under a module."""
        return self.of(module(features), labels)

    def of(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses of rows by what a model gave for them.

        Args:
            outputs: Logits ``(B, classes)``, of masks ``(B, classes, ...)``.
            labels: As ``UnitTable`` has them.

        Returns:
            ``(B,)``: cross-entropy; of several labels the mean of the binary cross-entropies; of
            masks the mean over pixels, Dice, or the sum of the two.
        """
        from torch import nn

        if self.task is LabelTask.MULTI_LABEL:
            target = labels.to(outputs.dtype)
            binary = nn.functional.binary_cross_entropy_with_logits(
                outputs, target, reduction="none"
            )
            return binary.mean(dim=1)
        if self.task is LabelTask.MULTI_CLASS:
            return nn.functional.cross_entropy(outputs, labels, reduction="none")
        dice = self.name is not LossName.CROSS_ENTROPY
        found = _dice(outputs, labels) if dice else outputs.new_zeros(len(outputs))
        if self.name is LossName.DICE:
            return found
        entropy = nn.functional.cross_entropy(outputs, labels.long(), reduction="none")
        return found + entropy.flatten(1).mean(dim=1)


def _dice(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """One minus the soft Dice of each mask, mean over foreground classes (Milletari et al. 2016).

    Sums run over the pixels of one mask; class 0 is background.
    """
    import torch

    classes = outputs.shape[1]
    said = outputs.softmax(dim=1)[:, 1:].flatten(2)
    numbers = torch.arange(1, classes, device=labels.device)
    true = (labels.flatten(1).long()[:, None] == numbers[None, :, None]).to(said.dtype)
    both, either = (said * true).sum(dim=2), said.sum(dim=2) + true.sum(dim=2)
    return 1 - ((2 * both + _SMOOTHING) / (either + _SMOOTHING)).mean(dim=1)
