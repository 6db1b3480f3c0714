"""Whatever single byte of an auditor's bundle is changed, verifying finds it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_words import HALF, charge, expose, request, reserve, terms

from primum.adapters import bundle
from primum.adapters.memory import ManualClock, MemoryLedgerStore, MemorySigner

SIGNER = MemorySigner()
BLOCK = 512


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A bundle, and a second file to put its changed bytes into."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account, _ = ledger.open_account(terms(), actor="s")
    reserve(ledger, request(account, "r1", HALF))
    expose(ledger, "r1")
    charge(ledger, "r1")
    ledger.checkpoint(SIGNER, actor="s")
    path = tmp_path_factory.mktemp("bundle") / "ledger.tar"
    bundle.write_bundle(path, ledger, SIGNER)
    return path.read_bytes(), path.with_name("changed.tar")


def intact(path):
    return not bundle.verify_bundle(path, public_key=SIGNER.public_key(), outside={}).faults


@settings(max_examples=400, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_changed_byte_is_found(written, place, change):
    content, path = written
    at = int(place * len(content))
    changed = bytearray(content)
    changed[at] ^= change
    path.write_bytes(changed)
    assert not intact(path)


@settings(max_examples=60, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), count=st.integers(1, BLOCK))
def test_any_cut_is_found(written, place, count):
    content, path = written
    at = int(place * len(content))
    path.write_bytes(content[:at] + content[at + count :])
    assert not intact(path)


def test_without_a_change_nothing_is_found(written):
    content, path = written
    path.write_bytes(content)
    assert intact(path)
