"""What a dataset driver owes, and how one is found by the scheme of a URI.

A driver knows one kind of place. Its public facts (classes, columns, bounds, split rule) come from
published documentation or from declared options, never from looking at private values. This module
imports nothing heavy; it must not open data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from primum import extensions
from primum.domain.budget.layout import BlockLayout
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable

GROUP = "primum.datasets"
EXAMPLES_MAX = "maxExamplesPerUnit"  # Every driver's data obeys it, so no driver reads it.
_EXAMPLES_LIMIT = 1000  # What a unit contributes is held in memory at once for its one gradient.
TRAIN_SHARE = 0.8  # Of tables without a published split; decided by a hash of the unit.
_HASH_BITS = 64


class DatasetDriver(Protocol):
    """One kind of place where datasets lie.

    A driver that reads through ``places.place_of`` says so with an attribute ``transports``;
    without it, its data lies on this machine. One that reads published data alone, and recognizes
    it, has ``published = True``: then its data may be a public input wherever it lies.
    """

    scheme: str

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts: ``classes``, ``positive``, ``inputShape``, ``featureNames``, ``split``.

        And ``task``: what labels say of a row (``LabelTask``), by default one class.
        And ``unitNames``: what names a unit, so that a name means the same unit tomorrow:
        ``column NAME``, ``content``, or ``row`` (its place in the file), which is the default.
        And ``units``: the privacy units that it can tell apart; by default any.

        Raises:
            InvalidValue: If the URI or an option breaks a rule.
        """

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:
        """Where the file lies, or an empty string for data that ships with a library.

        Raises:
            NotFound: If it is nowhere; says where it was looked for and how to get it.
        """

    def load(
        self, uri: str, unit: PrivacyUnit, options: Mapping[str, JSON], data_dirs: Sequence[str]
    ) -> UnitTable:
        """Open the dataset. Call it through ``access.open_private`` or ``access.open_public``.

        Raises:
            NotFound: If the file is nowhere.
            InvalidValue: If it cannot be read, lacks a column, or cannot state the privacy unit.
        """


@runtime_checkable
class DividingDriver(DatasetDriver, Protocol):
    """A driver whose data has columns that can place units in blocks."""

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
        """Open the dataset with the block of each row (``BlockLayout.block_of``).

        Args:
            uri: The dataset.
            unit: The privacy unit.
            options: Driver options.
            data_dirs: Folders to look in.
            layout: How rows are placed.
            wanted: The blocks to read. ``None`` for every row, also those that the layout has no
                block for: only registration asks so.

        Raises:
            NotFound: If the file is nowhere.
            InvalidValue: If it cannot be read, lacks the layout's column, or cannot state the unit.
        """


@dataclass(frozen=True, slots=True)
class Uri:
    """A dataset URI in its parts.

    Args:
        scheme: Names the driver.
        rest: Path, or address under the transport.
        transport: The protocol that brings the bytes; empty for files on this machine.
    """

    scheme: str
    rest: str
    transport: str = ""


def parse_uri(uri: str) -> Uri:
    """The parts of ``scheme://rest`` or ``scheme+transport://rest``.

    Raises:
        InvalidValue: If it has another form.
    """
    first, separator, rest = uri.partition("://")
    scheme, plus, transport = first.partition("+")
    if not separator or not scheme or not rest.strip("/") or (plus and not transport):
        raise InvalidValue(
            "dataset.uri", "must have the form scheme://name", uri, "For example sklearn://digits."
        )
    return Uri(scheme=scheme, rest=rest, transport=transport)


def driver_for(uri: str) -> DatasetDriver:
    """The registered driver of a URI's scheme.

    Raises:
        InvalidValue: If the URI has no scheme, no driver knows it, or the driver's data cannot come
            over that transport.
    """
    parts = parse_uri(uri)
    known = extensions.names(GROUP)
    if parts.scheme not in known:
        raise InvalidValue("dataset.uri", f"must start with one of {', '.join(known)}", uri)
    driver: DatasetDriver = extensions.load(GROUP, parts.scheme)()
    if parts.transport and parts.transport not in getattr(driver, "transports", ()):
        listed = ", ".join(getattr(driver, "transports", ())) or "none"
        rule = f"must have a transport of {parts.scheme}, of which there are: {listed}"
        raise InvalidValue("dataset.uri", rule, parts.transport)
    return driver


def describe(uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Public facts of a dataset, without opening it. See ``DatasetDriver.describe``."""
    return driver_for(uri).describe(uri, options)


def task_of(uri: str, options: Mapping[str, JSON]) -> LabelTask:
    """What the labels of a dataset say of a row, without opening it."""
    return LabelTask(str(describe(uri, options).get("task", LabelTask.MULTI_CLASS)))


def is_published(uri: str) -> bool:
    """Whether a dataset is a published one that its driver recognizes wherever it lies."""
    return getattr(driver_for(uri), "published", False) is True


def load_blocks(
    uri: str,
    unit: PrivacyUnit,
    options: Mapping[str, JSON],
    data_dirs: Sequence[str],
    *,
    layout: BlockLayout,
    wanted: Collection[str] | None,
) -> UnitTable:
    """Open a divided dataset.

    Guarantees:
        Where blocks are wanted, no row of another one is in the table, whatever the driver gave.

    See ``DividingDriver.load_blocks``.

    Raises:
        InvalidValue: If the driver cannot place units, or placed some rows only.
    """
    driver = driver_for(uri)
    if not isinstance(driver, DividingDriver):
        raise InvalidValue(
            "spec.blocks",
            f"must be absent with the dataset driver {driver.scheme}, which cannot place units",
            f"blocks by column {layout.column}",
            "Use a csv dataset, or a driver that has load_blocks.",
        )
    table = driver.load_blocks(uri, unit, options, data_dirs, layout=layout, wanted=wanted)
    if table.blocks is None or len(table.blocks) != len(table.labels):
        rule = "must place every row in a block"
        raise InvalidValue(f"dataset driver {driver.scheme}", rule, "rows without")
    if wanted is None:
        return table
    import numpy as np

    return table.only(np.isin(table.blocks, sorted(wanted)))


def in_train_split(unit: str) -> bool:
    """Whether a unit belongs to the training side of a hash split.

    Guarantees:
        The answer depends on this unit's name alone, so adding or removing another unit moves
        nobody: the split costs no epsilon.

    Args:
        unit: The unit's name within its dataset.
    """
    digest = hashlib.sha256(b"primum-split-v1\x1f" + unit.encode()).digest()
    share = int.from_bytes(digest[: _HASH_BITS // 8], "big") / float(2**_HASH_BITS)
    return share < TRAIN_SHARE


def find_file(names: Sequence[str], data_dirs: Sequence[str], *, remedy: str) -> Path:
    """The first file of these names under the data folders, or one folder below.

    Args:
        names: Relative file names or patterns, best first.
        data_dirs: Folders to look in.
        remedy: How to get the file, for the message.

    Raises:
        NotFound: If there is none; lists the names and the folders.
    """
    for name in names:
        for folder in data_dirs:
            root = Path(folder).expanduser()
            if root.is_dir():
                matches = sorted(path for path in root.glob(name) if path.is_file())
                if matches:
                    return matches[0]
    places = ", ".join(str(folder) for folder in data_dirs) or "no data folder is set"
    raise NotFound(f"dataset file {' or '.join(names)} must exist; looked in {places}. {remedy}")


def examples_max(options: Mapping[str, JSON]) -> int | None:
    """How many rows a unit may contribute, as the steward declares; ``None`` where nothing is.

    Raises:
        InvalidValue: If it is no whole number from 1 to 1000.
    """
    value = options.get(EXAMPLES_MAX)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= _EXAMPLES_LIMIT:
        rule = f"must be a whole number from 1 to {_EXAMPLES_LIMIT}"
        raise InvalidValue(f"dataset.options.{EXAMPLES_MAX}", rule, value)
    return value


def known_options(options: Mapping[str, JSON], allowed: Sequence[str]) -> None:
    """Refuse options that a driver does not know: a misspelled one must not pass in silence.

    Raises:
        InvalidValue: If there is one; names it.
    """
    for name in options:
        if name not in allowed and name != EXAMPLES_MAX:
            listed = ", ".join(allowed) if allowed else "absent"
            raise InvalidValue(f"dataset.options.{name}", f"must be one of {listed}", name)


def choice(options: Mapping[str, JSON], name: str, allowed: Sequence[str], *, default: str) -> str:
    """One of a few words.

    Raises:
        InvalidValue: If the option is another one.
    """
    value = options.get(name, default)
    if not isinstance(value, str) or value not in allowed:
        raise InvalidValue(f"dataset.options.{name}", f"must be one of {', '.join(allowed)}", value)
    return value


def require_unit(unit: PrivacyUnit, allowed: Sequence[PrivacyUnit], *, why: str) -> None:
    """Refuse a privacy unit that the data cannot tell apart.

    Raises:
        InvalidValue: If it is not among those allowed.
    """
    if unit not in allowed:
        names = " or ".join(item.value for item in allowed)
        raise InvalidValue("dataset.unit", f"must be {names}", unit.value, why)
