"""An entry has one spelling: in a store, under its hash, and in an auditor's file."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from ledger_lines import Long

from primum.domain.budget import book, lines
from primum.domain.errors import Tampered

SOME = list(Long(30))


def odd():
    """A line with everything that JSON spells in two ways."""
    return SOME[5]._replace(actor='a"b\\c\n\u2028é', payload='{"asked":{"é":"\\"x"}}')


def rehashed(line):
    return line._replace(hash=lines.hash_of(line))


def test_the_hash_of_stored_text_is_the_hash_of_the_entry():
    for line in [*SOME, rehashed(odd())]:
        assert lines.hash_of(line) == line.hash == book.hash_of(lines.entry_of(line))
        assert lines.line_of(lines.entry_of(line)) == line


def test_taking_the_hash_out_of_an_exported_line_leaves_what_was_hashed():
    for line in [*SOME, rehashed(odd())]:
        text = lines.exported(line)
        digest = json.loads(text)["hash"]
        rest = text.replace(f'"hash":"{digest}",', "", 1)
        assert hashlib.sha256(rest.encode()).hexdigest() == digest == line.hash


def test_an_exported_line_is_canonical_and_reads_back():
    for line in [*SOME, rehashed(odd())]:
        text = lines.exported(line)
        again = json.dumps(
            json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        assert text == again
        assert lines.imported(text, number=1) == line


@pytest.mark.parametrize(
    ("found", "other"),
    [
        ('"seq":6', '"seq":06'),
        ('"seq":6', '"seq":"6"'),
        ('"seq":6', '"seq": 6'),
        ('"seq":6', '"seq":6.0'),
        ('"actor"', '"Actor"'),
        ("platform/loop", "platform\\/loop"),
        ("platform/loop", "platform\\u002floop"),
        ("platform/loop", "platform\\ud800loop"),
        ('"payload":{', '"payload":[{'),
        ('{"accountId"', '{"a":1,"accountId"'),
    ],
)
def test_another_spelling_is_refused(found, other):
    text = lines.exported(SOME[5])
    assert found in text
    with pytest.raises(Tampered, match="Line 6 of the entries"):
        lines.imported(text.replace(found, other, 1), number=6)


@pytest.mark.parametrize(
    "payload",
    [
        "[]",
        "",
        "{",
        '{"b":1,"a":2}',
        '{"a":1,"a":2}',
        '{"a": 1}',
        '{"a":1.0}',
        '{"a":NaN}',
        "[" * 9999,
    ],
)
def test_a_payload_in_another_form_is_not_read(payload):
    with pytest.raises(Tampered, match="Entry 6 must be readable"):
        lines.entry_of(SOME[5]._replace(payload=payload))


@pytest.mark.parametrize("wrong", [b"bytes", 7, None, "\ud800"])
def test_a_column_that_is_no_text_has_no_hash(wrong):
    with pytest.raises(Tampered, match=re.escape("Entry 6 must be readable")):
        lines.hash_of(SOME[5]._replace(actor=wrong))
