"""The gradient engine: losses of rows in, every unit's gradient out, in a form that can be clipped.

One forward pass and one backward pass to the layers' outputs; parameter gradients of the whole
batch are never computed (book-keeping: Bu, Wang, Zha & Karypis, *Differentially private
optimization on large model at small cost*, 2023, with a choice per layer as in their mixed ghost
clipping, 2022).
Must never leave out a use of a parameter: one that no layer's rule has seen is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.optimization.gradients import rules
from primum_pipelines.optimization.gradients.contributions import (
    Contribution,
    Formed,
    Product,
    UnitGradients,
)
from primum_pipelines.optimization.gradients.functional import Functional
from primum_pipelines.optimization.gradients.recorder import Call, Recorder
from primum_pipelines.optimization.gradients.segments import Segments
from primum_pipelines.optimization.gradients.written_out import WrittenOut, can_be_written_out
from primum_pipelines.optimization.settings import GradientMode, Precision


class Engine(Protocol):
    """Turns losses into unit gradients."""

    @property
    def name(self) -> str:
        """What it is, for the receipt."""

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses.

        Args:
            losses: ``losses(module, *rows)`` gives ``(R,)``; never mixes rows.
            rows: Tensors with R rows.
            weights: What each row counts in its unit's loss, ``(R,)``.
            segments: Which rows are whose.
        """


class BookKeeping:
    """The engine for models whose parameters belong to layers.

    Args:
        module: The model.
        mode: ``AUTO``, ``GHOST`` or ``FORMED``.
        precision: Of the forward and the backward pass. What they leave is widened to the
            parameters' own type before a layer's rule sees it, so norms, factors and sums are of
            one and the same vector in float32, however coarse that vector is.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mode: GradientMode,
        precision: Precision = Precision.FLOAT32,
    ) -> None:
        self._module = module
        self._mode = mode
        self._precision = precision
        self._recorder = Recorder(module)
        self._rules = {
            id(owner.layer): rules.rule_of(owner.layer) for owner in self._recorder.owners
        }
        alone = sorted(
            {
                type(owner.layer).__name__
                for owner in self._recorder.owners
                if not rules.has_rule(owner.layer)
            }
        )
        note = f", {', '.join(alone)} row by row" if alone else ""
        passes = "" if precision is Precision.FLOAT32 else f", {precision.value} passes"
        self.name = f"book-keeping ({mode.value}{note}{passes})"

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses."""
        found, calls = self._recorder.record(
            lambda: self._losses(losses, rows) * weights, rows=segments.rows
        )
        gradients = self._output_gradients(found.sum(), calls)
        parts: dict[str, list[Contribution]] = {}
        numbers = 0
        with torch.no_grad():
            for call, gradient in zip(calls, gradients, strict=True):
                if gradient is None:
                    continue
                call.require_untouched()
                numbers += call.numbers + sum(part.numel() for part in call.inputs)
                wide = next(call.owner.layer.parameters(recurse=False)).dtype
                used = rules.Use(
                    layer=call.owner.layer,
                    inputs=tuple(_widened(part, wide) for part in call.inputs),
                    gradient=_widened(gradient, wide),
                    segments=segments.folded(call.slices),
                    mode=self._mode,
                )
                for name, part in self._rules[id(call.owner.layer)](used).items():
                    if name in call.owner.names:
                        parts.setdefault(call.owner.names[name], []).append(part)
            merged = {name: _merged(uses) for name, uses in parts.items()}
        numbers += sum(part.values.numel() for part in merged.values() if isinstance(part, Formed))
        return UnitGradients(segments.units, merged, numbers)

    def _losses(
        self, losses: Callable[..., torch.Tensor], rows: tuple[torch.Tensor, ...]
    ) -> torch.Tensor:
        if self._precision is Precision.FLOAT32:
            return losses(self._module, *rows)
        # The backward pass follows each operation's own type; no scaler, which would leave out
        # steps by what it finds in the data.
        with torch.autocast(rows[0].device.type, dtype=torch.bfloat16):
            return losses(self._module, *rows).float()

    def _output_gradients(
        self, total: torch.Tensor, calls: list[Call]
    ) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the calls' outputs; refuses parameters that were used past their layers."""
        if not total.requires_grad:
            return (None,) * len(calls)
        recorded = {name for call in calls for name in call.owner.names.values()}
        others = {n: p for n, p in self._recorder.trainable.items() if n not in recorded}
        found = torch.autograd.grad(
            total, [*(call.edge for call in calls), *others.values()], allow_unused=True
        )
        for name, gradient in zip(others, found[len(calls) :], strict=True):
            if gradient is not None:
                raise InvalidValue(
                    f"model parameter {name}",
                    "must be used by its own layer alone",
                    "a use elsewhere",
                    "Compose the model of layers, or use gradients: Functional.",
                )
        return tuple(found[: len(calls)])


class _Plain:
    """The written-out engine as long as the losses are for it, and then the other one.

    Args:
        module: The model.
        other: The engine for any losses.
    """

    def __init__(self, module: nn.Module, other: Engine) -> None:
        self._written: WrittenOut | None = WrittenOut(module)
        self._other = other

    @property
    def name(self) -> str:
        """Of the engine that is used."""
        return self._other.name if self._written is None else self._written.name

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses."""
        if self._written is not None:
            found = self._written(losses, rows, weights=weights, segments=segments)
            if found is not None:
                return found
            self._written = None
        return self._other(losses, rows, weights=weights, segments=segments)


def engine_of(
    module: nn.Module, mode: GradientMode, precision: Precision = Precision.FLOAT32
) -> Engine:
    """The engine of a mode.

    Raises:
        InvalidValue: If the mode knows float32 alone and is asked for less.
    """
    if mode is not GradientMode.FUNCTIONAL:
        found = BookKeeping(module, mode=mode, precision=precision)
        plain = mode is GradientMode.AUTO and precision is Precision.FLOAT32
        return _Plain(module, found) if plain and can_be_written_out(module) else found
    if precision is not Precision.FLOAT32:
        raise InvalidValue(
            "precision", "must be Float32 with gradients: Functional", precision.value
        )
    return Functional(module)


def _widened(part: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """A floating tensor of fewer bits in a parameter's own type; row numbers stay as they are."""
    return part.to(wide) if part.dtype is torch.bfloat16 else part


def _merged(uses: list[Contribution]) -> Contribution:
    """One contribution of a parameter that was used several times: gradients add up first."""
    if len(uses) == 1:
        return uses[0]
    products = [use for use in uses if isinstance(use, Product)]
    if len(products) == len(uses):
        return Product(
            torch.cat([use.left for use in products], dim=1),
            torch.cat([use.right for use in products], dim=1),
            products[0].shape,
        )
    return Formed(torch.stack([use.formed() for use in uses]).sum(dim=0))
