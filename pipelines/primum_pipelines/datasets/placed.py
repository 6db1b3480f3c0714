"""What drivers share whose data lies at a place and has a column for everything that is declared.

Opening the whole and opening some blocks is one reading: with a layout or without.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.places import TRANSPORTS, place_of

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable


class PlacedDriver(ABC):
    """The opening half of a ``DividingDriver`` whose bytes ``places.place_of`` brings."""

    transports = TRANSPORTS

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """The path or address."""
        return place_of(uri, data_dirs).address

    def load(
        self, uri: str, unit: PrivacyUnit, options: Mapping[str, JSON], data_dirs: Sequence[str]
    ) -> UnitTable:
        """Open the whole dataset."""
        return self._loaded(uri, unit, options, data_dirs, layout=None, wanted=None)

    def load_blocks(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *,
        layout: BlockLayout,
        wanted: Collection[str] | None,
    ) -> UnitTable:
        """Open the wanted blocks."""
        return self._loaded(uri, unit, options, data_dirs, layout=layout, wanted=wanted)

    @abstractmethod
    def _loaded(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],
        *,
        layout: BlockLayout | None,
        wanted: Collection[str] | None,
    ) -> UnitTable:
        """Open the dataset, or the wanted blocks of it where there is a layout."""
