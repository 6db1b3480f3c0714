"""YAML text to plain documents, safely: bounded in every way, no tags, no repeated keys.

Numbers are read as ``kubectl`` reads them (``1e-5`` is a number, not text), so that one file means
the same in both places, and keep their written form for messages. Knows nothing about resources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

if TYPE_CHECKING:
    from yaml import SafeLoader as _Loader
else:
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C where PyYAML was built with it.

BYTES_MAX = 1_048_576  # What an API server takes in one object; a file of resources is far smaller.
DEPTH_MAX = 32  # The deepest resource has 7 levels.
VALUES_MAX = 50_000  # After aliases are followed: a "billion laughs" ends here.
ALIASES_MAX = 64
DOCUMENTS_MAX = 500

_NUMBER = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
_WHOLE = re.compile(r"^[-+]?(0|[1-9][0-9]*)$")
_TRUTH = re.compile(
    r"^(true|True|TRUE|yes|Yes|YES|on|On|ON|false|False|FALSE|no|No|NO|off|Off|OFF)$"
)
_NOTHING = re.compile(r"^(~|null|Null|NULL|)$")
_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq")
)


class WrittenNumber(float):
    """A number with a point or an exponent, which shows itself as it was written."""

    written: str

    def __new__(cls, written: str) -> WrittenNumber:
        """Read the number from its text."""
        number = super().__new__(cls, written.replace(".inf", "inf").replace(".nan", "nan"))
        number.written = written
        return number

    def __repr__(self) -> str:
        """The text in the file."""
        return self.written


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a YAML stream.

    Args:
        source: The file it came from, for messages.
        line: Where it starts, counted from 1.
        value: What it says.
    """

    source: str
    line: int
    value: JSON


class _Reader(_Loader):
    """Resolves plain scalars by the rules above instead of PyYAML's."""


_Reader.yaml_implicit_resolvers = {}  # Without this, PyYAML's own would be copied and extended.
for _name, _pattern, _first in (
    ("bool", _TRUTH, "yYnNtTfFoO"),
    ("int", _WHOLE, "-+0123456789"),
    ("float", _NUMBER, "-+0123456789."),
    ("null", _NOTHING, ["~", "n", "N", ""]),
):
    _Reader.add_implicit_resolver(_TAG + _name, _pattern, list(_first))


def read_documents(text: str, *, source: str) -> tuple[Document, ...]:
    """Every document of a YAML text that is not empty.

    Args:
        text: The YAML.
        source: Where it came from, for messages.

    Raises:
        InvalidValue: If it is not YAML, repeats a key, or is larger or deeper than any resource.
    """
    if len(text.encode()) > BYTES_MAX:
        raise InvalidValue(
            source, f"must have at most {BYTES_MAX} bytes", len(text.encode()), "Split the file."
        )
    try:
        _measure(text, source)
        found = tuple(_compose(text, source))
    except yaml.YAMLError as error:
        raise _not_yaml(error, source) from None
    return tuple(document for document in found if document.value is not None)


def _measure(text: str, source: str) -> None:
    """Walk the events first, which needs no recursion, and stop at the first excess."""
    depth = aliases = documents = 0
    for event in yaml.parse(text, Loader=_Reader):
        where = _place(event, source)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        if depth > DEPTH_MAX:
            raise InvalidValue(where, f"must not nest deeper than {DEPTH_MAX} levels", "more")
        if aliases > ALIASES_MAX:
            raise InvalidValue(where, f"must not use more than {ALIASES_MAX} aliases", "more")
        if documents > DOCUMENTS_MAX:
            raise InvalidValue(where, f"must not hold more than {DOCUMENTS_MAX} documents", "more")


def _compose(text: str, source: str) -> Iterator[Document]:
    reader = _Reader(text)
    try:
        while reader.check_node():
            node = reader.get_node()
            if node is not None:
                line = node.start_mark.line + 1
                yield Document(source, line, _Builder(source).value(node, 0))
    finally:
        reader.dispose()


class _Builder:
    """Plain values from one document's nodes, counting as it goes."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._values = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        """The value of a node."""
        where = _place(node, self._source)
        self._values += 1
        if self._values > VALUES_MAX or depth > DEPTH_MAX:
            raise InvalidValue(
                where, f"must not hold more than {VALUES_MAX} values, {DEPTH_MAX} deep", "more"
            )
        if node.tag not in _PLAIN_TAGS:
            raise InvalidValue(where, "must not use YAML tags", node.tag)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        return _scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            where = _place(key_node, self._source)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                raise InvalidValue(
                    where, "must have field names that are text", str(key_node.value)[:40]
                )
            if key_node.value in found:
                raise InvalidValue(where, "must give each field once", f"a second {key_node.value}")
            found[key_node.value] = self.value(value_node, depth + 1)
        return found


def _place(item: yaml.Event | yaml.Node, source: str) -> str:
    mark = item.start_mark
    return source if mark is None else f"{source}:{mark.line + 1}"


def _scalar(node: yaml.Node, where: str) -> Any:
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "on")
    try:
        if kind == "int":
            return int(text)
        return WrittenNumber(text) if kind == "float" else text
    except ValueError:
        raise InvalidValue(where, "must be a number", text) from None


def _not_yaml(error: yaml.YAMLError, source: str) -> InvalidValue:
    mark = getattr(error, "problem_mark", None)
    where = f"{source}:{mark.line + 1}" if mark is not None else source
    problem = (
        getattr(error, "problem", None) or getattr(error, "reason", None) or "something unreadable"
    )
    problem = str(problem)
    return InvalidValue(
        where,
        "must be YAML",
        f"a place where the reader {problem}" if problem.startswith("did not") else problem,
        "Check indentation, colons, and quotes there.",
    )
