"""What a steward declares about a dataset: labels, features, groups, gray levels, shape.

All of it is configuration that anyone may see, read from ``dataset.options`` and checked before any
data is opened. Imports nothing heavy. Must never fall back on a look at the data: what is needed
and not declared is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum_pipelines.datasets.table import LabelTask

LABEL_OPTIONS = ("label", "labels", "mask", "classes", "positive")
ROW_OPTIONS = ("unitColumn", "subgroups", "readers")
_CLASSES_DEFAULT = ("0", "1")
_CLASSES_MIN = 2  # One class is no task.
_BOUNDS = 2
_AXES_MAX = 3
_SIDE_MAX = 4096
OTHER_GROUP = "other"
MASK_CLASSES_MAX = 256  # A mask has one byte per pixel.


@dataclass(frozen=True, slots=True)
class Labels:
    """What is to be predicted.

    Args:
        task: One class per row, any of several, or a class per pixel.
        columns: The column of the class, the columns of 0 and 1, or the column of the masks.
        classes: Public names, in the order of their numbers.
        positive: The class that counts as positive.
    """

    task: LabelTask
    columns: tuple[str, ...]
    classes: tuple[str, ...]
    positive: str


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature column of a table with its public range.

    Args:
        column: Its name.
        low: Least value of the code book, not of the data.
        high: Greatest value.
        missing: What an empty cell stands for; ``None`` where none may be empty.
        values: The texts that a categorical column holds, each of which becomes a feature of 0 and
            1; empty for numbers.
    """

    column: str
    low: float = 0.0
    high: float = 1.0
    missing: float | None = None
    values: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features that it becomes."""
        return tuple(f"{self.column}={value}" for value in self.values) or (self.column,)


@dataclass(frozen=True, slots=True)
class Subgroup:
    """A column whose values are groups that a model is evaluated in.

    Args:
        column: Its name.
        values: Public texts, one group each; whatever else is there is the group ``other``.
        cuts: Public numbers, rising, between which the groups of a numeric column lie; a number
            equal to a cut belongs above it. What is no number is the group ``other``.
    """

    column: str
    values: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups by their numbers."""
        if self.values:
            return (*self.values, OTHER_GROUP)
        between = zip(self.cuts, self.cuts[1:], strict=False)
        middle = (f"{low} to {high}" for low, high in between)
        return (f"below {self.cuts[0]}", *middle, f"from {self.cuts[-1]}", OTHER_GROUP)


@dataclass(frozen=True, slots=True)
class Window:
    """The gray levels that become 0 and 1; what lies outside is clipped."""

    low: float
    high: float


def labels_of(options: Mapping[str, JSON], *, column: str = "") -> Labels:
    """What is to be predicted.

    Args:
        options: The dataset's options.
        column: The label's column where a format fixes it; else an option must name it.

    Raises:
        InvalidValue: If not exactly one kind of label is declared, or names are wrong.
    """
    given = [name for name in ("label", "labels", "mask") if name in options]
    if len(given) > 1:
        raise InvalidValue(
            "dataset.options", "must have one of label, labels and mask", ", ".join(given)
        )
    if given == ["labels"]:
        if "classes" in options:
            rule = "must be absent with labels, which are the classes"
            raise InvalidValue("dataset.options.classes", rule, "some")
        classes = _names("labels", options["labels"], least=1)
        return Labels(
            LabelTask.MULTI_LABEL, classes, classes, _positive(options, classes, default=classes[0])
        )
    classes = _names("classes", options.get("classes", list(_CLASSES_DEFAULT)), least=_CLASSES_MIN)
    positive = _positive(options, classes, default=classes[1])
    if given == ["mask"]:
        mask = column_named(options, "mask")
        return Labels(LabelTask.SEGMENTATION, (mask,), classes, positive)
    if given and column:
        rule = f"must be absent, because labels are in the array {column}"
        raise InvalidValue("dataset.options.label", rule, options["label"])
    label = column or column_named(options, "label")
    return Labels(LabelTask.MULTI_CLASS, (label,), classes, positive)


def features_of(options: Mapping[str, JSON]) -> tuple[Feature, ...]:
    """The feature columns that are read, in order.

    Raises:
        InvalidValue: If there is none, or one lacks its public range.
    """
    field, value = "dataset.options.features", options.get("features")
    if not isinstance(value, Mapping) or not value:
        raise InvalidValue(
            field,
            "must state the public bounds of each column",
            "none",
            'For example features: [{name: age, low: "0", high: "100"}].',
        )
    return tuple(_feature(str(name), item) for name, item in value.items())


def subgroups_of(options: Mapping[str, JSON]) -> tuple[Subgroup, ...]:
    """The subgroups that a model is evaluated in; none where none are declared.

    Raises:
        InvalidValue: If one lacks a column, or has not exactly one of values and cuts.
    """
    field, value = "dataset.options.subgroups", options.get("subgroups", [])
    found = [_subgroup(field, item) for item in _items("subgroups", value)]
    names = [item.column for item in found]
    if len(set(names)) != len(names):
        raise InvalidValue(field, "must name each column once", ", ".join(names))
    return tuple(found)


def readers_of(options: Mapping[str, JSON], labels: Labels) -> tuple[str, ...]:
    """The columns of what people said of a row; none where none are declared.

    Raises:
        InvalidValue: If a name is missing or there twice, or labels are not one class per row.
    """
    if "readers" not in options:
        return ()
    if labels.task is not LabelTask.MULTI_CLASS:
        rule = "must be absent unless labels are one class per row"
        raise InvalidValue("dataset.options.readers", rule, labels.task.value)
    return _names("readers", options["readers"], least=1)


def window_of(options: Mapping[str, JSON]) -> Window | None:
    """The declared gray levels, or ``None``.

    Raises:
        InvalidValue: If they are no two quoted decimals, the low one first.
    """
    if "window" not in options:
        return None
    return Window(*_bounds("dataset.options.window", options["window"]))


def shape_of(options: Mapping[str, JSON]) -> tuple[int, ...]:
    """The declared height and width, or depth, height and width; empty where none are declared.

    Raises:
        InvalidValue: If they are no two or three whole numbers from 1 to 4096.
    """
    if "shape" not in options:
        return ()
    sides = list(_items("shape", options["shape"]))
    proper = all(type(side) is int and 1 <= side <= _SIDE_MAX for side in sides)
    if not proper or len(sides) not in (_BOUNDS, _AXES_MAX):
        rule = f"must be height and width, or depth, height and width, each from 1 to {_SIDE_MAX}"
        raise InvalidValue("dataset.options.shape", rule, str(options["shape"]))
    return tuple(int(str(side)) for side in sides)


def column_named(
    options: Mapping[str, JSON], name: str, *, default: str = "", what: str = "a column"
) -> str:
    """The column, or whatever else, that an option names.

    Raises:
        InvalidValue: If it names none.
    """
    value = options.get(name, default)
    if not isinstance(value, str) or not value:
        rule, found = f"must name {what}", value or "nothing"
        raise InvalidValue(f"dataset.options.{name}", rule, found)
    return value


def columns_of(options: Mapping[str, JSON], labels: Labels) -> list[str]:
    """Every column that is read for what a row is, beside its features and its block."""
    units = [str(options["unitColumn"])] if "unitColumn" in options else []
    groups = [item.column for item in subgroups_of(options)]
    return [*labels.columns, *units, *groups, *readers_of(options, labels)]


def _positive(options: Mapping[str, JSON], classes: Sequence[str], *, default: str) -> str:
    value = options.get("positive", default)
    if not isinstance(value, str) or value not in classes:
        rule = f"must be one of {', '.join(classes)}"
        raise InvalidValue("dataset.options.positive", rule, value)
    return value


def _names(name: str, value: JSON, *, least: int) -> tuple[str, ...]:
    names = tuple(str(item) for item in _items(name, value))
    if len(names) < least or len(set(names)) != len(names):
        many = "two distinct names" if least == _CLASSES_MIN else "one name, each once"
        raise InvalidValue(f"dataset.options.{name}", f"must list at least {many}", names)
    return names


def _feature(column: str, item: JSON) -> Feature:
    field = f"dataset.options.features.{column}"
    if isinstance(item, Mapping):
        if set(item) == {"values"}:
            return Feature(column, values=_names(f"features.{column}", item["values"], least=1))
        missing = item.get("missing")
        low, high = _bounds(field, [item.get("low"), item.get("high")])
        if missing is None:
            return Feature(column, low, high)
        return Feature(column, low, high, float(parse_decimal(f"{field}.missing", missing)))
    low, high = _bounds(field, item)
    return Feature(column, low, high)


def _subgroup(field: str, item: JSON) -> Subgroup:
    if not isinstance(item, Mapping):
        raise InvalidValue(field, "must be a list of objects", item)
    column = column_named(item, "column")
    if ("values" in item) == ("cuts" in item) or set(item) > {"column", "values", "cuts"}:
        raise InvalidValue(f"{field}.{column}", "must have either values or cuts", "both or none")
    if "values" in item:
        return Subgroup(
            column, values=_names(f"subgroups.{column}.values", item["values"], least=1)
        )
    cuts = [parse_decimal(f"{field}.{column}.cuts", cut) for cut in _items("cuts", item["cuts"])]
    if not cuts or sorted(set(cuts)) != cuts:
        raise InvalidValue(f"{field}.{column}.cuts", "must rise", [str(cut) for cut in cuts])
    return Subgroup(column, cuts=tuple(str(cut) for cut in cuts))


def _bounds(field: str, value: JSON) -> tuple[float, float]:
    given = [value.get("low"), value.get("high")] if isinstance(value, Mapping) else value
    parts = list(given) if isinstance(given, list | tuple) else []
    if len(parts) != _BOUNDS:
        raise InvalidValue(field, "must have a low and a high bound", value)
    low, high = (parse_decimal(field, part) for part in parts)
    if low >= high:
        raise InvalidValue(field, "must have low below high", f"{low}, {high}")
    return float(low), float(high)


def _items(name: str, value: JSON) -> Iterable[JSON]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise InvalidValue(f"dataset.options.{name}", "must be a list", value)
    return value
