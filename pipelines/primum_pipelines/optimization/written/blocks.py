"""Convolution, group normalization, ReLU and halving pool as one step.

Less is written out between them: a pool takes the largest before or after a rising line alike, so
the normalization's line is drawn where a quarter of the numbers is left. In a network's first block
the statistics of the normalization follow from those of the input's windows, which are the same for
all models. Results are those of the layers one by one but for rounding. Must not mix rows or
models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import nn

from primum_pipelines.optimization.gradients.contributions import Formed
from primum_pipelines.optimization.written import layers, pictures
from primum_pipelines.optimization.written.layers import Groups, Own, Rows

LENGTH = 4
_WINDOW_MAX = 32  # Numbers of a window whose second moments are kept for every record.


@dataclass(frozen=True, slots=True, repr=False)
class Windows:
    """Images as a network's first block takes them.

    Args:
        values: ``(..., k + 1, 4, q)``: windows of k numbers at each corner of q squares, and 1.
        means: Of an image's windows, ``(..., k)``.
        moments: Their covariances, ``(..., k, k)``.
        pooled: Height and width after the pool; q is their product.
    """

    values: torch.Tensor
    means: torch.Tensor
    moments: torch.Tensor
    pooled: tuple[int, int]

    def only(self, rows: torch.Tensor) -> Self:
        """Some of them, by number: ``(M, B)`` gives ``(M, B, ...)``."""
        return self._of(
            part.index_select(0, rows.flatten()).unflatten(0, rows.shape) for part in self._parts
        )

    def copies(self, models: int) -> Self:
        """The same for each of M models, ``(M, n, ...)``."""
        return self._of(part.expand(models, *part.shape) for part in self._parts)

    @property
    def _parts(self) -> tuple[torch.Tensor, ...]:
        return self.values, self.means, self.moments

    def _of(self, parts: Iterable[torch.Tensor]) -> Self:
        values, means, moments = parts
        return type(self)(values, means, moments, self.pooled)


def is_block(some: Sequence[nn.Module]) -> bool:
    """Whether layers are a convolution, its normalization, and ReLU and a pool in any order."""
    if len(some) != LENGTH:
        return False
    ends = {type(layer) for layer in some[2:]}
    firsts = type(some[0]) is nn.Conv2d and type(some[1]) is nn.GroupNorm
    return firsts and ends == {nn.ReLU, nn.MaxPool2d}


def windows_of(some: Sequence[nn.Module], images: torch.Tensor) -> Windows | None:
    """What a block takes of a network's input ``(n, h, w, c)``.

    Args:
        some: The layers of a block.
        images: Channels last.

    Returns:
        ``None`` where the block is not one that starts a network: its windows are large, or its
        pool leaves a rest.
    """
    kernel = some[0].kernel_size[0] * some[0].kernel_size[1] * images.shape[3]
    if kernel > _WINDOW_MAX:
        return None
    high, wide = pictures.size_after(some[0], images.shape[1], images.shape[2])
    if not _halves(some, torch.Size((1, len(images), high, wide, kernel))):
        return None
    images = pictures.padded(some[0], images)
    stride, apart = pictures.pairs(some[0].stride), pictures.pairs(some[0].dilation)
    # Axes: kernel, channels, which corner of a square, which square.
    down, across = (images.stride(axis) for axis in (1, 2))
    found = images.as_strided(
        (len(images), *some[0].kernel_size, images.shape[3], 2, 2, high // 2, wide // 2),
        (
            images.stride(0), down * apart[0], across * apart[1], 1,
            down * stride[0], across * stride[1], 2 * down * stride[0], 2 * across * stride[1],
        ),
    )  # fmt: skip
    values = images.new_empty((len(images), kernel + 1, 4, high * wide // 4))
    values[:, kernel] = 1.0
    values[:, :kernel].view(found.shape).copy_(found)
    flat = values[:, :kernel].flatten(2)
    means = flat.mean(dim=2)
    centered = flat - means[..., None]
    moments = torch.bmm(centered, centered.transpose(1, 2)).div_(high * wide)
    return Windows(values, means, moments, (high // 2, wide // 2))


class FirstBlock:
    """A block whose input is a network's, so that nobody asks for a gradient there.

    Args:
        some: The four layers.
        names: Of the convolution and its normalization.
        own: Stacked parameters by full name.
        windows: Of the models' rows, ``(M, B, ...)``.
    """

    def __init__(
        self, some: Sequence[nn.Module], names: Sequence[str], own: Own, windows: Windows
    ) -> None:
        self._layer, self._names, self._windows = some[0], names, windows
        self._shape = windows.values.shape[:2]
        weight = own[f"{names[0]}.weight"]
        self._weight = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)  # (M, k, c)
        rows, channels = self._shape[1], weight.shape[1]
        self._places = windows.values.shape[3] * windows.values.shape[4]
        groups = Groups(some[1].num_groups, channels, 1)
        self._groups = Groups(some[1].num_groups, channels, self._places)
        means = torch.bmm(windows.means, self._weight)  # (M, B, c)
        bias = own.get(f"{names[0]}.bias")
        if bias is not None:
            means = means + bias[:, None]
        # What a channel's windows vary with its weights: their covariance times the weights.
        self._varied = torch.bmm(windows.moments.flatten(1, 2), self._weight).unflatten(
            1, windows.means.shape[1:]
        )
        spread = (self._weight[:, None] * self._varied).sum(dim=2).flatten(0, 1)
        means = means.flatten(0, 1)
        center = groups.mean(means)
        self._apart = means - center  # (M B, c)
        variance = groups.mean(spread + self._apart.square())
        self._scale = (variance + some[1].eps).rsqrt()
        self._rate = own[f"{names[1]}.weight"].repeat_interleave(rows, dim=0)
        self._gain = self._rate * self._scale
        lines = own[f"{names[1]}.bias"].repeat_interleave(rows, dim=0)
        self._zero = -center if bias is None else bias.repeat_interleave(rows, dim=0) - center
        self._each = self._weight.repeat_interleave(rows, dim=0)
        kernel = self._each * self._gain[:, None]
        lines = torch.addcmul(lines, self._gain, self._zero)
        kernel = torch.cat([kernel, lines[:, None]], dim=1)  # (M B, k + 1, c)
        self._seen = windows.values.flatten(0, 1).flatten(2)
        normal = torch.bmm(self._seen.transpose(1, 2), kernel)
        self._normal = normal.unflatten(1, windows.values.shape[3:])
        self._most = pictures.largest(self._normal.unbind(dim=1))
        self.output = self._most.relu().view(*self._shape, *windows.pooled, channels)

    @property
    def numbers(self) -> int:
        """Windows, what they give, and a quarter of that twice."""
        return int(self._seen.numel() + self._normal.numel() + 3 * self._most.numel())

    def back(self, gradient: torch.Tensor) -> torch.Tensor:  # noqa: ARG002 - the pass protocol
        """Not there: images are nobody's output.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a network's first block has no gradient at its input")

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        """Gradients at the four parameters, row by row; to be asked for once."""
        kept = pictures.where_above_zero(gradient, self.output).view(self._most.shape)
        places = self._normal.unbind(dim=1)
        pictures.hand_back(kept, self._most, places, places)  # In place: nobody needs both.
        found = torch.bmm(self._seen, self._normal.flatten(1, 2))
        weights, plain = found[:, :-1], found[:, -1]
        along = torch.addcmul((self._each * weights).sum(dim=1), self._zero, plain) * self._scale
        constant = -self._scale * self._groups.mean(self._rate * plain) * self._places
        pull = -self._scale.square() * self._groups.mean(self._rate * along) * self._places
        beside = torch.addcmul(constant, pull, self._apart)
        means, varied = self._windows.means.flatten(0, 1), self._varied.flatten(0, 1)
        weights = weights * self._gain[:, None]
        weights.addcmul_(means[:, :, None], beside[:, None]).addcmul_(varied, pull[:, None])
        conv, norm = self._names
        return {
            f"{conv}.weight": layers.convolution_rows(self._layer, weights),
            f"{conv}.bias": Formed(torch.addcmul(beside, self._gain, plain)),
            f"{norm}.weight": Formed(along),
            f"{norm}.bias": Formed(plain),
        }


class Block:
    """A block anywhere; its normalization's weights must not be negative.

    Args:
        some: The four layers.
        names: Of the convolution and its normalization.
        own: Stacked parameters by full name.
        state: Images ``(M, B, h, w, c)``.
    """

    def __init__(
        self, some: Sequence[nn.Module], names: Sequence[str], own: Own, state: torch.Tensor
    ) -> None:
        self._names = names
        parameters = {
            key: own[f"{names[0]}.{key}"] for key, _ in some[0].named_parameters(recurse=False)
        }
        self._convolved = layers.Convolved(some[0], parameters, state)
        found = self._convolved.output
        self._state, self._shape, rows = found, found.shape, state.shape[1]
        flat = self._flat(found)
        self._groups = Groups(some[1].num_groups, flat.shape[2], flat.shape[1])
        flat.sub_(self._groups.mean(pictures.over_places(flat))[:, None])
        squares = pictures.over_places(flat.square())
        self._scale = (self._groups.mean(squares) + some[1].eps).rsqrt()  # (M B, c)
        self._rate = own[f"{names[1]}.weight"].repeat_interleave(rows, dim=0)
        self._gain = self._rate * self._scale
        lines = own[f"{names[1]}.bias"].repeat_interleave(rows, dim=0)
        self._most = pictures.largest(pictures.corners(found))
        most = self._flat(self._most)
        self.output = torch.addcmul(lines[:, None], most, self._gain[:, None]).relu_()
        self.output = self.output.view(self._most.shape)
        self._given: torch.Tensor | None = None

    @property
    def numbers(self) -> int:
        """Those of the convolution, and a quarter of its output three times."""
        return int(self._convolved.numbers + 3 * self._most.numel())

    def back(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the block's input; ``rows`` has to be asked for before."""
        if self._given is None:
            self.rows(gradient)
        return self._convolved.back(self._given)

    def rows(self, gradient: torch.Tensor) -> Mapping[str, Rows]:
        """Gradients at the four parameters, row by row."""
        kept = pictures.where_above_zero(gradient, self.output)
        flat = self._flat(kept)
        plain = pictures.over_places(flat)
        along = pictures.over_places(flat * self._flat(self._most)) * self._scale
        constant = -self._scale * self._groups.mean(self._rate * plain)
        pull = -self._scale.square() * self._groups.mean(self._rate * along)
        flat.mul_(self._gain[:, None])
        given = torch.empty_like(self._state)
        pictures.hand_back(kept, self._most, pictures.corners(self._state), pictures.corners(given))
        self._flat(given).addcmul_(self._flat(self._state), pull[:, None]).add_(constant[:, None])
        self._given = given
        conv, norm = self._names
        found = self._convolved.rows(given)
        return {f"{conv}.{key}": rows for key, rows in found.items()} | {
            f"{norm}.weight": Formed(along),
            f"{norm}.bias": Formed(plain),
        }

    def _flat(self, images: torch.Tensor) -> torch.Tensor:
        """``(M, B, h, w, c)`` as ``(M B, places, c)``, the same numbers."""
        return images.view(-1, images.shape[2] * images.shape[3], images.shape[4])


def applies(some: Sequence[nn.Module], names: Sequence[str], own: Own, shape: torch.Size) -> bool:
    """Whether ``Block`` may stand for the four layers here.

    Args:
        some: The layers.
        names: Of the convolution and its normalization.
        own: Stacked parameters by full name.
        shape: Of the state that comes in.
    """
    size = pictures.size_after(some[0], shape[2], shape[3])
    fits = _halves(some, torch.Size((*shape[:2], *size, some[0].out_channels)))
    # A falling line would make the smallest the largest.
    return fits and bool((own[f"{names[1]}.weight"] >= 0).all())


def _halves(some: Sequence[nn.Module], shape: torch.Size) -> bool:
    pool = next(layer for layer in some if isinstance(layer, nn.MaxPool2d))
    return pictures.halves(pool, shape)
