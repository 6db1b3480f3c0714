"""The gradient engine: losses of rows in, every unit's gradient out, in a form that can be clipped.

One forward pass and one backward pass to the layers' outputs; parameter gradients of the whole
batch are never computed (book-keeping: Bu, Wang, Zha & Karypis, *Differentially private
optimization on large model at small cost*, 2023, with a choice per layer as in their mixed ghost
clipping, 2022).
Must never leave out a use of a parameter: one that no layer's rule has seen is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
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
from primum_pipelines.optimization.gradients.written_out import (
    Answered,
    AskedOtherwiseError,
    WrittenOut,
    written_part,
)
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
        plain = mode is GradientMode.AUTO and precision is Precision.FLOAT32
        self._use(written_part(module) if plain else None)

    def _use(self, written: WrittenOut | None) -> None:
        """Record all layers but those of the sequence that is written out."""
        self._written = written
        self._recorder = Recorder(
            self._module, without=None if written is None else written.sequence
        )
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
        if written is not None:
            note += ", plain layers written out"
        if self._precision is not Precision.FLOAT32:
            note += f", {self._precision.value} passes"
        self.name = f"book-keeping ({self._mode.value}{note})"

    def __call__(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        *,
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """The gradients of the units' losses."""
        try:
            return self._gradients(losses, rows, weights, segments)
        except AskedOtherwiseError:
            self._use(None)  # For good: a loss asks in the same way every time.
        return self._gradients(losses, rows, weights, segments)

    def _gradients(
        self,
        losses: Callable[..., torch.Tensor],
        rows: tuple[torch.Tensor, ...],
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        answered = Answered()
        with ExitStack() as stack:
            if self._written is not None:
                answered = stack.enter_context(self._written.answering(segments.rows))
            found, calls = self._recorder.record(
                lambda: self._losses(losses, rows) * weights, rows=segments.rows
            )
        gradients, at_answers = self._output_gradients(found.sum(), calls, answered)
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
            numbers += sum(p.values.numel() for p in merged.values() if isinstance(p, Formed))
            if self._written is not None and answered.forward is not None:
                numbers += answered.forward.numbers
                if at_answers is not None:
                    merged |= self._written.parts(answered, at_answers, segments)
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
        self, total: torch.Tensor, calls: list[Call], answered: Answered
    ) -> tuple[tuple[torch.Tensor | None, ...], torch.Tensor | None]:
        """Gradients of the calls' outputs, and at the written answers.

        Refuses parameters that were used past their layers.
        """
        if not total.requires_grad:
            return (None,) * len(calls), None
        recorded = {name for call in calls for name in call.owner.names.values()}
        others = {n: p for n, p in self._recorder.trainable.items() if n not in recorded}
        leaves = [] if answered.leaf is None else [answered.leaf]
        found = torch.autograd.grad(
            total,
            [*(call.edge for call in calls), *leaves, *others.values()],
            allow_unused=True,
        )
        past = len(calls) + len(leaves)
        for name, gradient in zip(others, found[past:], strict=True):
            if gradient is None:
                continue
            if self._written is not None:
                raise AskedOtherwiseError  # The layers' own rules know what to make of it.
            raise InvalidValue(
                f"model parameter {name}",
                "must be used by its own layer alone",
                "a use elsewhere",
                "Compose the model of layers, or use gradients: Functional.",
            )
        return tuple(found[: len(calls)]), found[len(calls)] if leaves else None


def engine_of(
    module: nn.Module, mode: GradientMode, precision: Precision = Precision.FLOAT32
) -> Engine:
    """The engine of a mode.

    Raises:
        InvalidValue: If the mode knows float32 alone and is asked for less.
    """
    if mode is not GradientMode.FUNCTIONAL:
        return BookKeeping(module, mode=mode, precision=precision)
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
