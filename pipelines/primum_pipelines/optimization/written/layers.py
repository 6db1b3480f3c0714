"""The layers of stacked models: forward, backward, and each row's own gradient.

State is ``(M, B, ...)``, M models with B rows each; images lie with their channels last, which is
what makes pools, norms and matrix products of small convolutions fast on a processor. Backward
passes are written out: per-row gradients are wanted, which autograd does not give. Must not mix
rows or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
from torch import nn

from primum_pipelines.optimization.gradients.contributions import Formed, Product
from primum_pipelines.optimization.written import pictures

Own: TypeAlias = Mapping[str, torch.Tensor]
Rows: TypeAlias = Formed | Product

_ROWS_APART = 8  # Rows of a model for which a call of its own is worth its cost.
PARAMETER_FREE = (
    nn.Flatten,
    nn.ReLU,
    nn.Tanh,
    nn.SELU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Identity,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
)


class Pass(Protocol):
    """What a layer's forward pass leaves for the way back."""

    output: torch.Tensor

    @property
    def numbers(self) -> int:
        """How many are held for it at once, those of the way back included."""

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the layer's input."""

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        """Gradients at the layer's own parameters, of each of the M x B rows."""


def supported(layer: nn.Module) -> bool:
    """Whether a layer can be written out; of its exact type, since a subclass may do otherwise."""
    if type(layer) is nn.Conv2d:
        simple = layer.groups == 1 and layer.padding_mode == "zeros"
        return simple and not isinstance(layer.padding, str)
    if type(layer) is nn.GroupNorm:
        return bool(layer.affine)
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    return type(layer) in (nn.Linear, *PARAMETER_FREE)


def applied(layer: nn.Module, own: Own, state: torch.Tensor) -> Pass:
    """One layer of every model.

    Args:
        layer: One that is ``supported``; says shapes alone.
        own: Its stacked parameters.
        state: What comes in; images channels-last.
    """
    with_parameters = _WITH_PARAMETERS.get(type(layer))
    if with_parameters is not None:
        return with_parameters(layer, own, state)
    if isinstance(layer, nn.ReLU):
        return _Relu(state)
    if pictures.halves(layer, state.shape):
        return _Halved(state)
    return _Averaged(layer, state) if pictures.averages(layer, state) else _Plain(layer, state)


def weighted(rows: Rows, factor: torch.Tensor) -> torch.Tensor:
    """Rows' gradients summed by factors ``(M, B)``: ``(M, *parameter shape)``."""
    if isinstance(rows, Product):
        left = rows.left.squeeze(1) * factor.flatten()[:, None]
        left, right = (part.unflatten(0, factor.shape) for part in (left, rows.right.squeeze(1)))
        return torch.bmm(left.transpose(1, 2), right)
    flat = rows.values.reshape(*factor.shape, -1)
    total = torch.bmm(factor[:, None], flat).view(len(factor), *rows.values.shape[1:])
    if rows.order is None:
        return total
    return total.permute(0, *(axis + 1 for axis in rows.order))


class _Single:
    """A pass that holds its output and a gradient of its shape."""

    output: torch.Tensor

    @property
    def numbers(self) -> int:
        return int(2 * self.output.numel())


class _Linear(_Single):
    """Norms are products of norms: no row's gradient is formed (Goodfellow 2015)."""

    def __init__(self, layer: nn.Module, own: Own, state: torch.Tensor) -> None:  # noqa: ARG002
        self._own, self._state = own, state
        weight, bias = own["weight"], own.get("bias")
        if len(state) == 1:  # Batched products copy the bias for every row.
            one = nn.functional.linear(state[0], weight[0], None if bias is None else bias[0])
            self.output = one[None]
        elif bias is None:
            self.output = torch.bmm(state, weight.transpose(1, 2))
        else:
            self.output = torch.baddbmm(bias[:, None], state, weight.transpose(1, 2))

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        return torch.bmm(gradient, self._own["weight"])

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        left, right = gradient.flatten(0, 1), self._state.flatten(0, 1)
        shape = self._own["weight"].shape[1:]
        found: dict[str, Rows] = {"weight": Product(left[:, None], right[:, None], shape)}
        if "bias" in self._own:
            found["bias"] = Formed(left)
        return found


class Convolved:
    """A convolution as matrix products over windows; its rows' gradients are small and formed.

    Args:
        layer: The layer, for its shape.
        own: Stacked parameters.
        state: Images ``(M, B, h, w, c)``.
    """

    def __init__(self, layer: nn.Conv2d, own: Own, state: torch.Tensor) -> None:
        self._layer, self._own, self._state = layer, own, state
        self._seen: torch.Tensor | None = None
        # A GPU wants few calls; a processor's own convolution needs no windows.
        self._apart = state.device.type == "cpu" and state.shape[1] >= _ROWS_APART
        self.output = self._one_by_one(own) if self._apart else self._together(own)

    @property
    def numbers(self) -> int:
        """Output and its gradient, windows, and each row's own gradient."""
        windows = self._layer.weight[0].numel() * self.output[..., 0].numel()
        own = self._layer.weight.numel() * self.output.shape[0] * self.output.shape[1]
        return int(2 * self.output.numel() + windows + own)

    def _one_by_one(self, own: Own) -> torch.Tensor:
        """PyTorch's own convolution, model after model."""
        layer, bias = self._layer, own.get("bias")
        self._weights = [
            weight.contiguous(memory_format=torch.channels_last) for weight in own["weight"]
        ]
        found = [
            nn.functional.conv2d(
                _images(rows),
                weight,
                None if bias is None else bias[at],
                layer.stride,
                pictures.pairs(layer.padding),
                layer.dilation,
            )
            for at, (rows, weight) in enumerate(zip(self._state, self._weights, strict=True))
        ]
        return _stacked(found)

    def _together(self, own: Own) -> torch.Tensor:
        """Several models: products over windows, a model each."""
        models, bias = len(self._state), own.get("bias")
        self._weight = own["weight"].permute(0, 3, 4, 2, 1).flatten(1, 3)  # (M, kernel x c, out)
        seen = self._windows()
        flat = seen.view(models, -1, seen.shape[-1])
        found = (
            torch.bmm(flat, self._weight)
            if bias is None
            else torch.baddbmm(bias[:, None], flat, self._weight)
        )
        return found.view(*self._state.shape[:2], *seen.shape[1:3], -1)

    def _windows(self) -> torch.Tensor:
        if self._seen is None:
            self._seen = pictures.windows(self._layer, self._state.flatten(0, 1))
        return self._seen

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the input; windows overlap, and what they give back is added up."""
        layer, (high, wide, channels) = self._layer, self._state.shape[2:]
        down, across = pictures.pairs(layer.padding)
        stride, apart = pictures.pairs(layer.stride), pictures.pairs(layer.dilation)
        if self._apart:
            rule = torch.ops.aten.convolution_backward
            all_ways = [
                rule(
                    _images(one), _images(rows), weight, None, stride, (down, across), apart,
                    False, (0, 0), 1, (True, False, False),  # noqa: FBT003
                )
                for one, rows, weight in zip(gradient, self._state, self._weights, strict=True)
            ]  # fmt: skip
            return _stacked([found for found, _, _ in all_ways])
        places = gradient.shape[2:4]
        found = torch.bmm(gradient.flatten(1, 3), self._weight.transpose(1, 2).contiguous()).view(
            -1, *places, *pictures.pairs(layer.kernel_size), channels
        )
        total = gradient.new_zeros((len(found), high + 2 * down, wide + 2 * across, channels))
        for row in range(found.shape[3]):
            for column in range(found.shape[4]):
                top, left = row * apart[0], column * apart[1]
                total[
                    :,
                    top : top + (places[0] - 1) * stride[0] + 1 : stride[0],
                    left : left + (places[1] - 1) * stride[1] + 1 : stride[1],
                ] += found[:, :, :, row, column]
        inner = total[:, down : down + high, across : across + wide]
        return inner.reshape(self._state.shape)

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        """Gradients at weight and bias, row by row."""
        flat = gradient.flatten(0, 1).flatten(1, 2)
        seen = self._windows().flatten(1, 2)
        weights = torch.bmm(seen.transpose(1, 2), flat)  # (M B, kernel x c, out)
        found: dict[str, Rows] = {"weight": convolution_rows(self._layer, weights)}
        if "bias" in self._own:
            found["bias"] = Formed(pictures.over_places(flat))
        return found


def convolution_rows(layer: nn.Conv2d, weights: torch.Tensor) -> Formed:
    """Rows' gradients ``(n, kernel x c, out)`` as those of a convolution's weight."""
    held = weights.view(len(weights), *pictures.pairs(layer.kernel_size), layer.in_channels, -1)
    return Formed(held, (3, 2, 0, 1))


class _Norm(_Single):
    """Group normalization over channels-last images or flat rows."""

    def __init__(self, layer: nn.GroupNorm, own: Own, state: torch.Tensor) -> None:
        self._own, self._shape = own, state.shape
        models, rows, channels = state.shape[0], state.shape[1], state.shape[-1]
        flat = state.reshape(models * rows, -1, channels)
        self._groups = Groups(layer.num_groups, channels, flat.shape[1])
        self._found: tuple[torch.Tensor, torch.Tensor] | None = None
        self._centered = flat - self._groups.mean(pictures.over_places(flat))[:, None]
        squares = pictures.over_places(self._centered.square())
        self._scale = (self._groups.mean(squares) + layer.eps).rsqrt()  # (M B, c)
        self._gain = own["weight"].repeat_interleave(rows, dim=0) * self._scale
        shift = own["bias"].repeat_interleave(rows, dim=0)
        self.output = torch.addcmul(shift[:, None], self._centered, self._gain[:, None]).view(
            self._shape
        )

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        flat = gradient.reshape(self._centered.shape)
        plain, along = self._sums(flat)
        weight = self._own["weight"].repeat_interleave(self._shape[1], dim=0)
        constant = -self._scale * self._groups.mean(weight * plain)
        pull = -self._scale.square() * self._groups.mean(weight * along)
        found = torch.addcmul(constant[:, None], self._centered, pull[:, None])
        return found.addcmul_(flat, self._gain[:, None]).view(self._shape)

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        plain, along = self._sums(gradient.reshape(self._centered.shape))
        return {"weight": Formed(along), "bias": Formed(plain)}

    def _sums(self, flat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row and channel: the gradient summed, and summed along the normalized state."""
        if self._found is None:
            along = pictures.over_places(flat * self._centered) * self._scale
            self._found = pictures.over_places(flat), along
        return self._found


class Groups:
    """Groups of adjacent channels, in which sums over places are taken together.

    Args:
        groups: How many.
        channels: How many of them all together.
        places: Numbers of a channel.
    """

    def __init__(self, groups: int, channels: int, places: int) -> None:
        self._groups, self._each = groups, channels // groups
        self._count = places * self._each

    def mean(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over places ``(n, c)`` to their group's mean, for every channel of it."""
        grouped = sums.unflatten(1, (self._groups, self._each)).sum(dim=2).div_(self._count)
        return grouped.repeat_interleave(self._each, dim=1)


class _Relu(_Single):
    def __init__(self, state: torch.Tensor) -> None:
        self.output = state.relu()

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        return pictures.where_above_zero(gradient, self.output)

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:  # noqa: ARG002 - it has none
        return {}


class _Halved(_Single):
    """Largest of two by two, of equal ones the first, as PyTorch's own."""

    def __init__(self, state: torch.Tensor) -> None:
        self._state = state
        self.output = pictures.largest(pictures.corners(state))

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        total = torch.empty_like(self._state)
        pictures.hand_back(
            gradient, self.output, pictures.corners(self._state), pictures.corners(total)
        )
        return total

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:  # noqa: ARG002 - it has none
        return {}


class _Averaged(_Single):
    """Means of squares that do not overlap; what does not fill a square is left out."""

    def __init__(self, layer: nn.Module, state: torch.Tensor) -> None:
        self._side, self._shape = pictures.pairs(layer.kernel_size)[0], state.shape
        parts = self._squares(state)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        self.output = total.div_(self._side**2)

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.new_zeros(self._shape)
        share = gradient / self._side**2
        for part in self._squares(total):
            part.copy_(share)
        return total

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:  # noqa: ARG002 - it has none
        return {}

    def _squares(self, images: torch.Tensor) -> list[torch.Tensor]:
        side = self._side
        high, wide = (length // side * side for length in images.shape[2:4])
        steps = [(top, left) for top in range(side) for left in range(side)]
        return [images[:, :, top:high:side, left:wide:side] for top, left in steps]


class _Plain(_Single):
    """Any other layer without parameters: PyTorch's own way back, channels where it has them."""

    def __init__(self, layer: nn.Module, state: torch.Tensor) -> None:
        self._images = state.dim() == pictures.AXES
        self._state = state
        rows = state.detach().flatten(0, 1)
        if self._images:
            rows = rows.permute(0, 3, 1, 2)
        with torch.enable_grad():
            self._given = rows.requires_grad_()
            self._found = layer(self._given)
        found = self._found.detach()
        if found.dim() == pictures.AXES - 1:
            found = found.permute(0, 2, 3, 1)
        self.output = found.unflatten(0, state.shape[:2])

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        rows = gradient.flatten(0, 1)
        if self._found.dim() == pictures.AXES - 1:
            rows = rows.permute(0, 3, 1, 2)
        (found,) = torch.autograd.grad(self._found, self._given, rows)
        if self._images:
            found = found.permute(0, 2, 3, 1)
        return found.reshape(self._state.shape)

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:  # noqa: ARG002 - it has none
        return {}


def _images(rows: torch.Tensor) -> torch.Tensor:
    """One model's images as PyTorch's layers take them, in place."""
    return rows.permute(0, 3, 1, 2)


def _stacked(found: list[torch.Tensor]) -> torch.Tensor:
    """What PyTorch's layers gave for each model, channels-last."""
    lasts = [images.permute(0, 2, 3, 1) for images in found]
    return lasts[0][None] if len(lasts) == 1 else torch.stack(lasts)


_WITH_PARAMETERS: Mapping[type[nn.Module], Callable[..., Pass]] = {
    nn.Linear: _Linear,
    nn.Conv2d: Convolved,
    nn.GroupNorm: _Norm,
}
