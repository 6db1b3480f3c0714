"""Choices of a private training that a Study may state. Light: a plan is made without torch.

None of them changes the accounting: they decide how unit gradients are computed and clipped to the
planned bound, and what happens to the noisy sums afterwards.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

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
    """

    schedule: ScheduleShape = ScheduleShape.CONSTANT
    warm_up: float = 0.0
    averaging: float = 0.0
    weight_decay: float = 0.0
    noise_correction: bool = False
    samples: int = 0

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
