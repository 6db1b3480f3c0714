"""What one use of one parameter contributes to each unit's gradient: its norm, its weighted sum.

Three forms: gradients that were formed (``Formed``), a product of two factors that need not be
formed (``Product``), and rows of a table that were looked up (``Lookup``). Norms that are computed
without forming the gradient are rounded up by a bound on their rounding error, so that nothing that
is called clipped exceeds its bound by more than the last digits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

# Times the sum of all absolute products: float32's unit roundoff is 6e-8, and the products of
# thousands of summands round worse than one.
_ROUNDING = 2.0**-21


class Contribution(Protocol):
    """One parameter's share of every unit's gradient; U units."""

    def squares(self) -> torch.Tensor:
        """Squared norms ``(U,)``, never below the true ones but for float rounding."""

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the sum over units of factor ``(U,)`` times gradient to a tensor of its shape."""

    def formed(self) -> torch.Tensor:
        """The gradients themselves, ``(U, *parameter shape)``."""

    def drop(self, units: torch.Tensor) -> None:
        """Forget units, booleans ``(U,)``: their gradient is exactly zero from now on."""


@dataclass(slots=True)
class Formed:
    """Gradients that are held.

    Args:
        values: ``(U, *parameter shape)``, or with the parameter's axes in another order.
        order: Where the parameter's axes lie among those of one unit; ``None`` in their order.
    """

    values: torch.Tensor
    order: tuple[int, ...] | None = None

    def squares(self) -> torch.Tensor:
        """Squared norms ``(U,)``."""
        return torch.linalg.vector_norm(self.values.flatten(1), dim=1).square()

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the weighted sum over units."""
        if self.order is None:
            total.view(-1).addmv_(self.values.flatten(1).t(), factors)
            return
        found = torch.mv(self.values.flatten(1).t(), factors).view(self.values.shape[1:])
        total += found.permute(self.order)

    def formed(self) -> torch.Tensor:
        """The gradients."""
        if self.order is None:
            return self.values
        return self.values.permute(0, *(axis + 1 for axis in self.order))

    def drop(self, units: torch.Tensor) -> None:
        """Forget units."""
        self.values = self.values.clone()
        self.values[units] = 0.0


@dataclass(slots=True)
class Product:
    """Gradients that are sums over positions of outer products, ``sum_t left_t right_t^T``.

    Args:
        left: ``(U, T, o)``: gradients of outputs.
        right: ``(U, T, d)``: what the weights were multiplied with.
        shape: Of the parameter; o x d numbers.
        total: ``(U,)`` to the weighted sum, where a layer has a faster way than the product.
    """

    left: torch.Tensor
    right: torch.Tensor
    shape: torch.Size
    total: Callable[[torch.Tensor], torch.Tensor] | None = None

    def squares(self) -> torch.Tensor:
        """Squared norms ``(U,)`` from Gram matrices (Li et al. 2022, equation 2)."""
        if self.left.shape[1] == 1:
            left, right = (
                torch.linalg.vector_norm(part, dim=(1, 2)) for part in (self.left, self.right)
            )
            return (left * right).square()
        outputs = torch.bmm(self.left, self.left.transpose(1, 2))
        inputs = torch.bmm(self.right, self.right.transpose(1, 2))
        found = torch.einsum("uts,uts->u", outputs, inputs)
        sizes = (outputs.diagonal(dim1=1, dim2=2) * inputs.diagonal(dim1=1, dim2=2)).sqrt()
        return found.clamp_min(0.0) + _ROUNDING * sizes.sum(dim=1).square()

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the weighted sum over units, as one matrix product."""
        if self.total is not None:
            total += self.total(factors)
            return
        left = (self.left * factors[:, None, None]).flatten(0, 1)
        total.view(self.shape[0], -1).addmm_(left.t(), self.right.flatten(0, 1))

    def formed(self) -> torch.Tensor:
        """The gradients, formed now."""
        values = torch.bmm(self.left.transpose(1, 2), self.right)
        return values.view(len(values), *self.shape)

    def drop(self, units: torch.Tensor) -> None:
        """Forget units."""
        self.left, self.right, self.total = self.left.clone(), self.right.clone(), None
        self.left[units] = 0.0
        self.right[units] = 0.0


@dataclass(slots=True)
class Lookup:
    """Gradients of a table of which a few rows were looked up.

    Args:
        rows: Row numbers ``(U, T)``; -1 looks up nothing.
        values: Gradients of what was looked up, ``(U, T, d)``.
        shape: Of the table.
    """

    rows: torch.Tensor
    values: torch.Tensor
    shape: torch.Size

    def squares(self) -> torch.Tensor:
        """Squared norms ``(U,)``: gradients of the same row add up before they are squared."""
        if self.rows.shape[1] == 1:
            return self._seen().square().sum(dim=(1, 2))
        values = self._seen()
        products = torch.bmm(values, values.transpose(1, 2))
        same = self.rows[:, :, None] == self.rows[:, None, :]
        sizes = products.diagonal(dim1=1, dim2=2).sqrt().sum(dim=1).square()
        return (products * same).sum(dim=(1, 2)).clamp_min(0.0) + _ROUNDING * sizes

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        """Add the weighted sum over units."""
        values = (self._seen() * factors[:, None, None]).flatten(0, 1)
        total.index_add_(0, self.rows.clamp_min(0).flatten(), values)

    def formed(self) -> torch.Tensor:
        """The gradients, formed now."""
        units = len(self.rows)
        zeros = self.values.new_zeros((units * self.shape[0], self.shape[1]))
        start = torch.arange(units, device=self.rows.device)[:, None] * self.shape[0]
        places = (start + self.rows.clamp_min(0)).flatten()
        return zeros.index_add_(0, places, self._seen().flatten(0, 1)).view(units, *self.shape)

    def drop(self, units: torch.Tensor) -> None:
        """Forget units."""
        self.values = self.values.clone()
        self.values[units] = 0.0

    def _seen(self) -> torch.Tensor:
        return self.values * (self.rows >= 0)[..., None]


@dataclass(slots=True, repr=False)
class UnitGradients:
    """The gradients of U units, by parameter. Restricted: never shown, never stored.

    Args:
        units: U.
        parts: What each parameter got; absent is zero.
        numbers: How many numbers were held for it at once.
    """

    units: int
    parts: Mapping[str, Contribution]
    numbers: int = 0

    def squares(self) -> dict[str, torch.Tensor]:
        """Each parameter's squared norms ``(U,)``."""
        return {name: part.squares() for name, part in self.parts.items()}

    def drop(self, units: torch.Tensor) -> None:
        """Forget units, booleans ``(U,)``; their gradients may be NaN and become zero."""
        for part in self.parts.values():
            part.drop(units)

    def add_to(
        self, totals: Mapping[str, torch.Tensor], factors: Mapping[str, torch.Tensor]
    ) -> None:
        """Add each parameter's sum over units of factor ``(U,)`` times gradient to its total."""
        for name, part in self.parts.items():
            part.add_to(totals[name], factors[name])

    def formed(self) -> dict[str, torch.Tensor]:
        """Each parameter's gradients ``(U, *shape)``."""
        return {name: part.formed() for name, part in self.parts.items()}
