"""Choices of a private training that a Study may state. Light: a plan is made without torch.

None of them changes the accounting: they decide how unit gradients are computed and clipped to the
planned bound, and what happens to the noisy sums afterwards.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

STOPPING_PURPOSE = "stop"  # Of a charged access that trains nothing: looks at held-out units.
AUTOMATIC_STABILITY = 0.01  # gamma of automatic clipping (Bu et al. 2023, section 4.3).


class GradientMode(enum.StrEnum):
    """How unit gradients are computed. All give the same; they differ in cost.

    ``AUTO`` takes for every layer the cheaper of the next two. ``GHOST`` forms no gradient where a
    layer's norm can do without: least memory. ``FORMED`` forms each layer's gradients. A layer
    without a rule is differentiated by itself, row by row. ``FUNCTIONAL`` differentiates the whole
    model row by row with ``torch.func``: slow, for models whose parameters are used outside of
    their layers.
    """

    AUTO = "Auto"
    GHOST = "Ghost"
    FORMED = "Formed"
    FUNCTIONAL = "Functional"


class ClippingRule(enum.StrEnum):
    """How a unit's gradient is clipped.

    ``FLAT``: scaled to norm C where it is longer (Abadi et al. 2016). ``PER_LAYER``: each of L
    layers to C / sqrt(L) by itself (McMahan et al. 2018). ``AUTOMATIC``: C g / (|g| + 0.01), always
    below C (Bu, Wang, Zha & Karypis, *Automatic Clipping*, 2023).
    """

    FLAT = "Flat"
    PER_LAYER = "PerLayer"
    AUTOMATIC = "Automatic"


class Precision(enum.StrEnum):
    """In which numbers the model's forward and backward passes run.

    ``BFLOAT16`` covers the layers that PyTorch's autocast takes; weights, unit gradients, norms,
    clipping, sums and the optimizer stay in float32, noise in float64. It has float32's range, so
    no loss is scaled and no step is left out because of an overflow.
    """

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class LossName(enum.StrEnum):
    """What is made small. Every one is a mean or a ratio within a row, so that no row sees another.

    ``CROSS_ENTROPY``: over classes, labels or pixels. For masks also ``DICE``: one minus the soft
    Dice of each mask (Milletari et al., *V-Net*, 2016), and ``DICE_CROSS_ENTROPY``: their sum.
    """

    CROSS_ENTROPY = "CrossEntropy"
    DICE = "Dice"
    DICE_CROSS_ENTROPY = "DiceCrossEntropy"


class ScheduleShape(enum.StrEnum):
    """How the learning rate changes over the planned steps.

    ``CONSTANT``; ``COSINE`` to zero; ``STEP``: a tenth from half-way and a hundredth from three
    quarters on; ``LINEAR`` to zero.
    """

    CONSTANT = "Constant"
    COSINE = "Cosine"
    STEP = "Step"
    LINEAR = "Linear"


@dataclass(frozen=True, slots=True)
class Defenses:
    """What makes attacks harder without promising anything; only ever without a mechanism.

    Args:
        mixup: Alpha of the Beta distribution by which pairs of rows are mixed; 0 for none.
        mmd: Weight of the distance between outputs on training rows and on rows kept apart.
        mem_guard: Bound on the expected L1 distortion of the answers by MemGuard; 0 for none.
    """

    mixup: float = 0.0
    mmd: float = 0.0
    mem_guard: float = 0.0

    @property
    def compares(self) -> bool:
        """Whether some units are kept apart from the loss, to compare with."""
        return bool(self.mmd or self.mem_guard)


@dataclass(frozen=True, slots=True)
class Descent:
    """What is done with the noisy sums: post-processing, whatever it is.

    Args:
        schedule: Shape of the learning rate.
        warm_up: Share of the steps in which it first rises from zero, from 0 to below 1.
        averaging: Decay of the moving average of the weights that is released, from 0 to below 1;
            0 releases the last weights.
        weight_decay: Pull towards zero, times the learning rate, each step.
        noise_correction: For Adam: take the known variance of the noise off the second moments
            (Tang et al., *DP-AdamBC*, 2024).
        samples: Iterates to keep, spread over the last half of the steps; 0 for none.
        temperature: Of Langevin dynamics: each step's noise is raised to what they ask for where
            the mechanism's own is less. 0 for none: the mechanism's noise alone.
    """

    schedule: ScheduleShape = ScheduleShape.CONSTANT
    warm_up: float = 0.0
    averaging: float = 0.0
    weight_decay: float = 0.0
    noise_correction: bool = False
    samples: int = 0
    temperature: float = 0.0

    def rate_at(self, step: int, *, steps: int) -> float:
        """What the learning rate is multiplied with.

        Args:
            step: From 0 to ``steps - 1``.
            steps: Planned steps.
        """
        rising = math.ceil(self.warm_up * steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        done = (step - rising) / max(1, steps - rising)
        match self.schedule:
            case ScheduleShape.CONSTANT:
                return 1.0
            case ScheduleShape.COSINE:
                return (1 + math.cos(math.pi * done)) / 2
            case ScheduleShape.LINEAR:
                return 1 - done
            case ScheduleShape.STEP:
                return 1.0 if done < 1 / 2 else 0.1 if done < 3 / 4 else 0.01


def looks_planned(steps: int, *, every: int) -> int:
    """Looks that a training of so many steps takes at most: one after every so many, not the last.

    Args:
        steps: Planned steps, at least 1.
        every: Steps between two looks, at least 1.
    """
    return (steps - 1) // every
