"""YAML is read as kubectl reads it, and nothing in a file can make the reader work without end."""

from __future__ import annotations

import pytest

from primum.domain.errors import InvalidValue
from primum.resources import documents
from primum.resources.documents import WrittenNumber, read_documents


def value_of(text: str) -> object:
    (document,) = read_documents(text, source="f.yaml")
    return document.value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", WrittenNumber("1e-5")),
        ("1.0", 1.0),
        (".5", 0.5),
        ("20", 20),
        ("-3", -3),
        ("010", WrittenNumber("010")),
        ("1:30", "1:30"),
        ("2026-11-22", "2026-11-22"),
        ("yes", True),
        ("Off", False),
        ("null", None),
        ("~", None),
        ("None", "None"),
        ('"1e-5"', "1e-5"),
        ("1e-5x", "1e-5x"),
    ],
)
def test_a_scalar_is_read_as_kubectl_reads_it(written: str, value: object) -> None:
    found = value_of(f"a: {written}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value) or isinstance(value, float)  # type: ignore[index]


def test_a_number_shows_itself_as_written() -> None:
    found = value_of("a: 1.50e-3")
    assert repr(found["a"]) == "1.50e-3"  # type: ignore[index]
    assert found["a"] == 0.0015  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [1\n", "f.yaml:2 must be YAML"),
        ("a: b: c\n", "f.yaml:1 must be YAML"),
        ("a:\n\t- b\n", "f.yaml:2 must be YAML"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3 must give each field once; found a second a."),
        ("1: a\n", "f.yaml:1 must have field names that are text; found 1."),
        ("a: !!python/object:os.system x\n", "f.yaml:1 must not use YAML tags"),
        ("a: !secret x\n", "f.yaml:1 must not use YAML tags; found !secret."),
        ("a: &x [*x]\n", "f.yaml:1 must not hold more than"),
        ("a: *nobody\n", "f.yaml:1 must be YAML; found found undefined alias"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(text: str, sentence: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        read_documents(text, source="f.yaml")
    assert sentence in str(caught.value)


def test_deep_nesting_is_refused_before_anything_recurses() -> None:
    with pytest.raises(InvalidValue, match="must not nest deeper than 32 levels"):
        read_documents("[" * 100_000, source="f.yaml")


def test_an_alias_bomb_is_refused() -> None:
    """Nine levels of nine aliases each would be 387 million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 7)}]" for i in range(1, 9)]
    with pytest.raises(InvalidValue, match="must not hold more than 50000 values"):
        read_documents("\n".join(lines), source="f.yaml")


def test_too_many_aliases_are_refused() -> None:
    text = "a: &a x\nb: [" + ", ".join(["*a"] * (documents.ALIASES_MAX + 1)) + "]"
    with pytest.raises(InvalidValue, match="must not use more than 64 aliases"):
        read_documents(text, source="f.yaml")


def test_a_few_aliases_are_welcome() -> None:
    assert value_of("a: &a {b: c}\nd: *a\n") == {"a": {"b": "c"}, "d": {"b": "c"}}


def test_large_text_is_refused() -> None:
    with pytest.raises(InvalidValue, match="must have at most 1048576 bytes"):
        read_documents("a: " + "x" * documents.BYTES_MAX, source="f.yaml")


def test_too_many_documents_are_refused() -> None:
    with pytest.raises(InvalidValue, match="must not hold more than 500 documents"):
        read_documents("--- a\n" * (documents.DOCUMENTS_MAX + 1), source="f.yaml")


def test_every_document_knows_its_line() -> None:
    found = read_documents("a: 1\n---\n# note\nb: 2\n", source="f.yaml")
    assert [(item.line, item.value) for item in found] == [(1, {"a": 1}), (4, {"b": 2})]
