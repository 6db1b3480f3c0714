"""Files, folders and standard input to checked resources; every mistake becomes one clear sentence.

Reads; never writes, applies or decides. Either everything that was given is right, or nothing is
returned.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.names import ResourceKey
from primum.resources.conversion import spec_mapping
from primum.resources.documents import BYTES_MAX, Document, read_documents
from primum.resources.kinds import KINDS, AnyResource
from primum.resources.metadata import API_VERSION, NAMESPACE_DEFAULT, SERVER_FIELDS
from primum.resources.wording import first_problem, nearest, shown

STANDARD_INPUT = "-"
_SUFFIXES = (".yaml", ".yml")  # A folder also holds requests and data in other formats.


@dataclass(frozen=True, slots=True)
class Loaded:
    """One checked resource and where it was written."""

    source: str
    line: int
    resource: AnyResource

    @property
    def key(self) -> ResourceKey:
        """Kind, namespace and name."""
        return self.resource.key

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels it declares."""
        return self.resource.metadata.labels

    def spec_mapping(self) -> dict[str, JSON]:
        """The spec as it is stored: defaults filled in, decimals as written."""
        return spec_mapping(self.resource)


def load_files(
    paths: Sequence[str | Path], *, namespace: str = NAMESPACE_DEFAULT
) -> tuple[Loaded, ...]:
    """Every resource in files, folders (``*.yaml`` and ``*.yml``) and standard input (``-``).

    Args:
        paths: What to read, in order.
        namespace: The namespace of resources that name none.

    Raises:
        NotFound: If a path does not exist.
        InvalidValue: With the first thing that is wrong.
    """
    found: list[Loaded] = []
    for path in paths:
        if str(path) == STANDARD_INPUT:
            found += load_text(
                sys.stdin.read(BYTES_MAX + 1), source="standard input", namespace=namespace
            )
            continue
        for file in _files(Path(path)):
            found += load_text(_text_of(file), source=str(file), namespace=namespace)
    _refuse_repeated(found)
    return tuple(found)


def load_text(text: str, *, source: str, namespace: str = NAMESPACE_DEFAULT) -> tuple[Loaded, ...]:
    """Every resource of a YAML text.

    Raises:
        InvalidValue: With the first thing that is wrong, or if there is no resource at all.
    """
    documents = read_documents(text, source=source)
    if not documents:
        raise InvalidValue(source, "must hold at least one resource", "none")
    found = [
        Loaded(document.source, document.line, _checked(document, namespace))
        for document in documents
    ]
    _refuse_repeated(found)
    return tuple(found)


def checked_resource(
    value: Mapping[str, JSON], *, about: str = "", namespace: str = NAMESPACE_DEFAULT
) -> AnyResource:
    """A resource from a mapping, such as the body of a request or an object of an API server.

    Args:
        value: ``{"apiVersion", "kind", "metadata", "spec"}``; what servers set is ignored.
        about: Where it came from, to open messages with; may be empty.
        namespace: Its namespace if it names none.

    Raises:
        InvalidValue: With the first thing that is wrong.
    """
    kind_name = _kind_of(value, about)
    model = KINDS[kind_name].resource
    metadata = value.get("metadata")
    kept = dict(value)
    kept.pop("status", None)
    if isinstance(metadata, Mapping):
        given = {name: item for name, item in metadata.items() if name not in SERVER_FIELDS}
        kept["metadata"] = {"namespace": namespace, **given}
    subject = _subject(kind_name, kept.get("metadata"))
    opening = f"{about}: {subject}" if about else subject
    try:
        return model.model_validate(kept, by_alias=True, by_name=False)
    except ValidationError as error:
        raise first_problem(error, model, about=opening) from None


def _checked(document: Document, namespace: str) -> AnyResource:
    if not isinstance(document.value, Mapping):
        where = f"{document.source}:{document.line}"
        raise InvalidValue(
            where,
            "must be a resource with apiVersion, kind, metadata, and spec",
            shown(document.value),
        )
    named = isinstance(document.value.get("metadata"), Mapping) and "kind" in document.value
    about = document.source if named else f"{document.source}:{document.line}"
    return checked_resource(document.value, about=about, namespace=namespace)


def _kind_of(value: Mapping[str, JSON], about: str) -> str:
    opening = f"{about}: " if about else ""
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        rule = f"must be one of {', '.join(KINDS)}"
        raise InvalidValue(f"{opening}kind", rule, shown(kind), nearest(str(kind), tuple(KINDS)))
    if version != API_VERSION:
        subject = _subject(kind, value.get("metadata"))
        raise InvalidValue(
            f"{opening}{subject}: apiVersion",
            f"must be {API_VERSION}",
            shown(version),
            f"Write apiVersion: {API_VERSION}.",
        )
    return kind


def _subject(kind: str, metadata: JSON) -> str:
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        return kind
    namespace = metadata.get("namespace") or NAMESPACE_DEFAULT
    return f"{kind} {namespace}/{metadata['name']}"


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NotFound(f"{path} does not exist; looked from {Path.cwd()}")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
    if not files:
        raise InvalidValue(
            str(path), f"must hold a file ending in {' or '.join(_SUFFIXES)}", "none"
        )
    return files


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
        return data.decode("utf-8-sig")
    except OSError as error:
        raise InvalidValue(str(path), "must be readable", error.strerror or "an error") from None
    except UnicodeDecodeError as error:
        raise InvalidValue(
            str(path), "must be UTF-8 text", f"another byte at {error.start}"
        ) from None


def _refuse_repeated(found: Sequence[Loaded]) -> None:
    first: dict[ResourceKey, Loaded] = {}
    for item in found:
        earlier = first.setdefault(item.key, item)
        if earlier is not item:
            here = f"{item.source}:{item.line}: {item.key}"
            there = f"another one at {earlier.source}:{earlier.line}"
            raise InvalidValue(here, "must be declared once", there, "Remove one, or rename it.")
