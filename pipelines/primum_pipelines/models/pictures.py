"""The built-in architectures for images and volumes. Light: networks are imported when built.

All of them look at each row by itself, and all their layers have gradient rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.models.registry import (
    choice_parameter,
    refuse_input,
    require_parameters,
    whole_parameter,
)

if TYPE_CHECKING:
    from torch import nn

_IMAGE_AXES, _VOLUME_AXES = 3, 4
_FIELD = "modelParameters"


class TanhCNN:
    """Two strided convolutions with tanh: 26,010 parameters for 1 channel and 10 classes.

    Bounded activations keep gradients short (Papernot et al., *Tempered Sigmoid Activations*,
    2021); strides make it cheap.
    """

    name = "TanhCNN"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """It has no parameters."""
        require_parameters(parameters, ())
        return {}

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: images with sides of at least 12."""
        _require_image(self.name, input_shape, least=12)

    def build(
        self,
        parameters: Mapping[str, JSON],  # noqa: ARG002 - the model protocol
        *,
        input_shape: Sequence[int],
        classes: int,
    ) -> nn.Module:
        """The network, for images ``(c, h, w)`` with sides of at least 12."""
        from torch import nn

        body = [
            nn.Conv2d(input_shape[0], 16, 8, stride=2, padding=3),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Conv2d(16, 32, 4, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2, stride=1),
            nn.Flatten(),
        ]
        sides = [(((side - 2) // 2 + 1 - 1) - 4) // 2 + 1 - 1 for side in input_shape[1:]]
        flat = 32 * math.prod(sides)
        return nn.Sequential(*body, nn.Linear(flat, 32), nn.Tanh(), nn.Linear(32, classes))


class ResNet9:
    """ResNet-9 with ScaleNorm (Klause et al. 2022).

    2,448,714 parameters for 3 channels and 10 classes.
    """

    name = "ResNet9"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``groups1`` to ``groups4``: powers of two up to 32, default 32."""
        names = [f"groups{stage}" for stage in range(1, 5)]
        require_parameters(parameters, names)
        return {name: _power(parameters, name, default=32, high=32) for name in names}

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: images with sides of at least 16."""
        _require_image(self.name, input_shape, least=16)

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for images with sides of at least 16."""
        from primum_pipelines.models.architectures.residual import resnet9

        groups = [_number(parameters, f"groups{stage}") for stage in range(1, 5)]
        return resnet9(channels=input_shape[0], classes=classes, groups=groups)


class ResNet18:
    """ResNet-18 with GroupNorm and ScaleNorm."""

    name = "ResNet18"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``groups``: a power of two up to 32, default 32."""
        require_parameters(parameters, ("groups",))
        return {"groups": _power(parameters, "groups", default=32, high=32)}

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: images with sides of at least 16."""
        _require_image(self.name, input_shape, least=16)

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for images with sides of at least 16."""
        from primum_pipelines.models.architectures.residual import resnet18

        groups = _number(parameters, "groups")
        return resnet18(channels=input_shape[0], classes=classes, groups=groups)


class SmoothNet:
    """SmoothNet (Remerscheid et al. 2022).

    W80D50, the default, has 3,391,853 parameters for 3 channels and 10 classes.
    """

    name = "SmoothNet"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``width`` from 1 to 16, default 8; ``depth`` from 1 to 10, default 5."""
        require_parameters(parameters, ("width", "depth"))
        return {
            "width": _power(parameters, "width", default=8, high=16),
            "depth": whole_parameter(parameters, "depth", default=5, low=1, high=10),
        }

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: images with sides of at least 8."""
        _require_image(self.name, input_shape, least=8)

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for images with sides of at least 8."""
        from primum_pipelines.models.architectures.smooth import smoothnet

        return smoothnet(
            channels=input_shape[0],
            classes=classes,
            width=_number(parameters, "width"),
            depth=_number(parameters, "depth"),
        )


class SmallViT:
    """A small vision transformer."""

    name = "SmallViT"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``patch`` 2 to 16, default 4; ``width`` 32, 64 or 128; ``blocks`` 1 to 8, default 2."""
        require_parameters(parameters, ("patch", "width", "blocks"))
        return {
            "patch": whole_parameter(parameters, "patch", default=4, low=2, high=16),
            "width": _power(parameters, "width", default=64, low=32, high=128),
            "blocks": whole_parameter(parameters, "blocks", default=2, low=1, high=8),
        }

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:
        """Refuse what it cannot take: images whose sides are multiples of the patch."""
        patch = _number(parameters, "patch")
        _require_image(self.name, input_shape, least=patch)
        _require_multiples(self.name, input_shape[1:], patch)

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for images whose sides are multiples of the patch."""
        from primum_pipelines.models.architectures.attention import VisionTransformer

        return VisionTransformer(
            (input_shape[0], input_shape[1], input_shape[2]),
            classes=classes,
            patch=_number(parameters, "patch"),
            width=_number(parameters, "width"),
            heads=4,
            blocks=_number(parameters, "blocks"),
        )


class ComplexCNN:
    """Complex-valued convolutions for k-space: channels 2k and 2k + 1 are coil k."""

    name = "ComplexCNN"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``width``: 8, 16 or 32 complex channels, default 8."""
        require_parameters(parameters, ("width",))
        return {"width": _power(parameters, "width", default=8, low=8, high=32)}

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:  # noqa: ARG002 - the model protocol
        """Refuse what it cannot take: pairs of channels, with sides of at least 16."""
        _require_image(self.name, input_shape, least=16)
        if input_shape[0] % 2:
            raise InvalidValue(
                "model", "must be given pairs of channels", f"{input_shape[0]} channels"
            )

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for an even number of channels and sides of at least 16."""
        from primum_pipelines.models.architectures.waves import ComplexNetwork

        width = _number(parameters, "width")
        return ComplexNetwork(input_shape[0] // 2, classes=classes, width=width)


class SliceAttention:
    """A two-dimensional network on every slice of a volume, pooled by attention (Ziller 2023)."""

    name = "SliceAttention"

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``body`` Small or ResNet18; ``pooling`` Attention, Mean or Max; ``axes`` 1 or 3."""
        require_parameters(parameters, ("body", "pooling", "axes"))
        axes = whole_parameter(parameters, "axes", default=3, low=1, high=3)
        if axes not in (1, 3):
            raise InvalidValue(f"{_FIELD}.axes", "must be 1 or 3", axes)
        return {
            "body": choice_parameter(parameters, "body", ("Small", "ResNet18")),
            "pooling": choice_parameter(parameters, "pooling", ("Attention", "Mean", "Max")),
            "axes": axes,
        }

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:
        """Refuse what it cannot take: volumes, and cubes where it slices along three axes."""
        axes = _number(parameters, "axes")
        cube = len(set(input_shape[1:])) == 1
        if len(input_shape) != _VOLUME_AXES or (axes > 1 and not cube):
            raise InvalidValue(
                "model",
                "must be given volumes, cubes if axes is 3",
                f"{self.name} on input of shape {tuple(input_shape)}",
                "Use axes: 1 for volumes that are no cubes."
                if len(input_shape) == _VOLUME_AXES
                else "Use it for volumes alone.",
            )

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for volumes ``(c, d, h, w)``; cubes where it slices along three axes."""
        from primum_pipelines.models.architectures.residual import (
            RESNET18_FEATURES,
            resnet18_body,
        )
        from primum_pipelines.models.architectures.slices import SliceNetwork, small_body

        axes, small = _number(parameters, "axes"), parameters["body"] == "Small"
        features = 32 if small else RESNET18_FEATURES
        body = (
            small_body(input_shape[0], features)
            if small
            else resnet18_body(channels=input_shape[0], groups=32)
        )
        return SliceNetwork(
            body,
            features=features,
            classes=classes,
            axes=axes,
            pooling=str(parameters["pooling"]),
            heads=8,
        )


class UNet:
    """U-Net with group normalization: a class for every pixel or voxel."""

    name = "UNet"
    tasks = (LabelTask.SEGMENTATION,)

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """``width`` 8, 16, 32 or 64, default 16; ``levels`` from 1 to 4, default 2."""
        require_parameters(parameters, ("width", "levels"))
        return {
            "width": _power(parameters, "width", default=16, low=8, high=64),
            "levels": whole_parameter(parameters, "levels", default=2, low=1, high=4),
        }

    def fits(self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:
        """Refuse what it cannot take: images or volumes whose sides are multiples of 2^levels."""
        if len(input_shape) not in (_IMAGE_AXES, _VOLUME_AXES):
            refuse_input(self.name, input_shape, "must be given images or volumes")
        _require_multiples(self.name, input_shape[1:], 2 ** _number(parameters, "levels"))

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """The network, for images or volumes whose sides are multiples of 2^levels."""
        from primum_pipelines.models.architectures.unet import UNet as Network

        return Network(
            len(input_shape) - 1,
            channels=input_shape[0],
            classes=classes,
            width=_number(parameters, "width"),
            levels=_number(parameters, "levels"),
        )


def _require_image(name: str, shape: Sequence[int], *, least: int) -> None:
    if len(shape) != _IMAGE_AXES or min(shape[1:]) < least:
        refuse_input(name, shape, f"must be given images with sides of at least {least}")


def _require_multiples(name: str, sides: Sequence[int], of: int) -> None:
    if any(side % of for side in sides):
        refuse_input(name, sides, f"must be given sides that are multiples of {of}")


def _power(
    parameters: Mapping[str, JSON], name: str, *, default: int, high: int, low: int = 1
) -> int:
    value = whole_parameter(parameters, name, default=default, low=low, high=high)
    if value & (value - 1):
        raise InvalidValue(f"{_FIELD}.{name}", "must be a power of two", value)
    return value


def _number(parameters: Mapping[str, JSON], name: str) -> int:
    return int(str(parameters[name]))
