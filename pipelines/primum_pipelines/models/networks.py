"""The built-in architectures: Logistic, MLP and a small CNN with group normalization.

None has batch statistics or shared weights, so per-example gradients are well defined everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum_pipelines.models.registry import (
    refuse_input,
    require_parameters,
    share_parameter,
    whole_parameter,
)

if TYPE_CHECKING:
    from torch import nn

_IMAGE_AXES = 3
_SIDE_MIN = 8  # Two pools halve the side twice; below this nothing is left to look at.
_GROUPS = 8
_POOLED_SIDE = 2


class Logistic:
    """Multinomial logistic regression on the flattened input."""

    name = "Logistic"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """It has no parameters."""
        require_parameters(parameters, ())
        return {}

    def build(
        self,
        parameters: Mapping[str, JSON],  # noqa: ARG002 - the model protocol
        *,
        input_shape: Sequence[int],
        classes: int,
    ) -> nn.Module:
        """One linear layer, starting at zero: the objective is convex, so chance gains nothing."""
        from torch import nn

        linear = nn.Linear(math.prod(input_shape), classes)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.Flatten(), linear)


class MLP:
    """A perceptron: ``layers`` hidden layers of ``hidden`` units with tanh.

    Bounded activations keep gradients below the clipping bound more often (Papernot et al. 2021).
    """

    name = "MLP"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``hidden`` 1 to 4096, default 32; ``layers`` 1 to 8, default 1; ``dropout``, none."""
        require_parameters(parameters, ("hidden", "layers", "dropout"))
        return {
            "hidden": whole_parameter(parameters, "hidden", default=32, low=1, high=4096),
            "layers": whole_parameter(parameters, "layers", default=1, low=1, high=8),
            **_dropout_asked(parameters),
        }

    def build(
        self,
        parameters: Mapping[str, JSON],
        *,
        input_shape: Sequence[int],
        classes: int,
    ) -> nn.Module:
        """The perceptron."""
        from torch import nn

        hidden, layers = int(str(parameters["hidden"])), int(str(parameters["layers"]))
        parts: list[nn.Module] = [nn.Flatten()]
        width = math.prod(input_shape)
        for _ in range(layers):
            parts += [nn.Linear(width, hidden), nn.Tanh(), *_dropout(parameters)]
            width = hidden
        return nn.Sequential(*parts, nn.Linear(width, classes))


class SmallCNN:
    """Two convolutions with GroupNorm and ReLU, one hidden layer; about 30,000 parameters.

    The size that is strongest at small epsilon on 28 x 28 images (Papernot et al. 2021; De et al.
    2022).
    """

    name = "SmallCNN"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``channels``: 8, 16 or 32, default 16; ``dropout`` before the last layer, none."""
        require_parameters(parameters, ("channels", "dropout"))
        channels = whole_parameter(parameters, "channels", default=16, low=8, high=32)
        if channels % _GROUPS:
            raise InvalidValue(
                "modelParameters.channels", f"must be a multiple of {_GROUPS}", channels
            )
        return {"channels": channels, **_dropout_asked(parameters)}

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: images with sides of at least 8."""
        if len(input_shape) != _IMAGE_AXES or min(input_shape[1:]) < _SIDE_MIN:
            rule = f"must be given images with sides of at least {_SIDE_MIN}"
            refuse_input(self.name, input_shape, rule)

    def build(
        self,
        parameters: Mapping[str, JSON],
        *,
        input_shape: Sequence[int],
        classes: int,
    ) -> nn.Module:
        """The network, for images ``(c, h, w)`` with sides of at least 8."""
        from torch import nn

        width = int(str(parameters["channels"]))
        side = [length // 2 // 2 // _POOLED_SIDE for length in input_shape[1:]]
        flat = 2 * width * math.prod(side)
        return nn.Sequential(
            nn.Conv2d(input_shape[0], width, kernel_size=3, padding=1),
            nn.GroupNorm(_GROUPS, width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1),
            nn.GroupNorm(_GROUPS, 2 * width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.AvgPool2d(_POOLED_SIDE),
            nn.Flatten(),
            nn.Linear(flat, 2 * width * 2),
            nn.ReLU(),
            *_dropout(parameters),
            nn.Linear(2 * width * 2, classes),
        )


def _dropout_asked(parameters: Mapping[str, JSON]) -> dict[str, JSON]:
    """The dropout share, only where there is one: files of models without it stay as they were."""
    share = share_parameter(parameters, "dropout")
    return {"dropout": share} if share != "0" else {}


def _dropout(parameters: Mapping[str, JSON]) -> list[nn.Module]:
    from torch import nn

    share = parameters.get("dropout")
    return [] if share is None else [nn.Dropout(float(str(share)))]
