"""What a checkpoint states, when one is due, and which envelopes are believed."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import pytest
from ledger_lines import Long

from primum import signing
from primum.adapters.memory import MemorySigner
from primum.application import checkpointing
from primum.domain.budget import checkpoints, verification
from primum.domain.budget.book import Head
from primum.domain.budget.checkpoints import (
    ENTRIES_BETWEEN,
    AccountsDigest,
    Checkpoint,
    balance_text,
    digest_of_accounts,
)
from primum.domain.budget.shards import Shard
from primum.domain.budget.verification import Here, Replay, Stated
from primum.domain.canonical import canonical_json
from primum.domain.errors import Tampered

SIGNER = MemorySigner()
KEY = SIGNER.public_key()
NOON, NOON_LATER = "2026-01-01T12:00:00.000000Z", "2026-01-01T12:59:59.999999Z"


def state_of(long):
    return checkpoints.checkpoint_at(
        long.head, long.accounts.values(), time=NOON, key_id=signing.key_id(KEY)
    )


def test_a_statement_reads_back():
    stated = Checkpoint(7, "ab" * 32, NOON, "sha256:" + "c" * 64, signing.key_id(KEY))
    assert checkpoints.checkpoint_from(canonical_json(stated.to_json())) == stated


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{}",
        b'{"accounts":"a","hash":"h","keyId":"k","seq":-1,"time":"t"}',
        b'{"accounts":"a","hash":"h","keyId":"k","seq":true,"time":"t"}',
        b'{"accounts":"a","hash":"h","keyId":"k","seq":"1","time":"t"}',
        b'{"accounts":"a","hash":7,"keyId":"k","seq":1,"time":"t"}',
        b'{"accounts":"a","hash":"h","keyId":"k","seq":1,"time":"t","z":1}',
        b'{"accounts":"a", "hash":"h","keyId":"k","seq":1,"time":"t"}',
        b'{"accounts":"a","hash":"h","keyId":"k","seq":1.5,"time":"t"}',
        b"\xff",
    ],
)
def test_anything_else_is_no_statement(text):
    with pytest.raises(Tampered, match="checkpoint must be a canonical statement"):
        checkpoints.checkpoint_from(text)


def test_the_accounts_digest_is_what_the_procedure_says():
    long = Long(40, accounts=2)
    list(long)
    shown = {
        name: {
            side: {k: str(n) for k, n in getattr(account.blocks["whole"], side).amounts if n}
            for side in ("charged", "reserved")
        }
        for name, account in long.accounts.items()
    }
    text = json.dumps(shown, sort_keys=True, separators=(",", ":"))
    assert any(item["charged"] for item in shown.values())
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert digest_of_accounts(long.accounts.values()) == digest


def test_a_kept_digest_follows_every_change():
    long, kept = Long(60, accounts=2), AccountsDigest()
    for line in long:
        kept.put({line.account_id: balance_text(long.accounts[line.account_id])})
        assert kept.value() == digest_of_accounts(long.accounts.values())


@pytest.mark.parametrize(
    ("fresh", "now", "due"),
    [
        (0, "2026-01-02T12:00:00.000000Z", False),
        (1, NOON, False),
        (ENTRIES_BETWEEN - 1, NOON_LATER, False),
        (ENTRIES_BETWEEN, NOON, True),
        (1, "2026-01-01T13:00:00.000000Z", True),
        (1, "2026-01-01T11:00:00.000000Z", False),
    ],
)
def test_a_checkpoint_is_due_by_entries_or_time(fresh, now, due):
    last = Head(5, "h", NOON)
    assert checkpoints.is_due(last, Head(5 + fresh, "i", NOON), now=now) is due


def test_only_the_platforms_key_is_believed():
    long = Long(10)
    list(long)
    payload = canonical_json(state_of(long).to_json())
    other = MemorySigner()
    wrong = {
        "foreign": other.sign(signing.CHECKPOINT_TYPE, payload),
        "another type": SIGNER.sign(signing.TICKET_TYPE, payload),
        "no statement": SIGNER.sign(signing.CHECKPOINT_TYPE, b"{}"),
        "another key's name": SIGNER.sign(
            signing.CHECKPOINT_TYPE,
            payload.replace(signing.key_id(KEY).encode(), b"0" * 64),
        ),
        "no envelope": {},
    }
    for name, envelope in wrong.items():
        stated, faults = checkpointing.believed((), {name: envelope}, public_key=KEY)
        assert stated == []
        assert len(faults) == 1
        assert name in faults[0]


def replayed(lines, *stated):
    here = Here(Shard())
    replay = Replay([here], [Stated(item, "the checkpoint x") for item in stated])
    replay.run(here.fed(lines))
    return list(replay.conclusion())


def test_a_statement_is_met_wherever_it_stands():
    long = Long(60)
    seen = []
    lines = []
    for line in long:
        seen.append(state_of(long))
        lines.append(line)
    assert replayed(lines, *seen, Checkpoint(0, "0" * 64, NOON, digest_of_accounts(()), "k")) == []


def test_a_statement_about_another_ledger_is_not_met():
    long = Long(60)
    lines = list(long)
    stated = state_of(long)
    short = replayed(lines[:-10], stated)
    assert short == [
        f"The ledger must hold entry {len(lines)}, which the checkpoint x states; "
        f"found its end at {len(lines) - 10}."
    ]
    other = Checkpoint(stated.seq, "f" * 64, NOON, stated.accounts, "k")
    assert "must be the one that the checkpoint x states" in replayed(lines, other)[0]
    refunded = Checkpoint(stated.seq, stated.hash, NOON, digest_of_accounts(()), "k")
    assert "Balances after entry" in replayed(lines, refunded)[0]


def test_a_missing_entry_that_was_stated_is_named():
    long = Long(60)
    lines, middle = [], None
    for line in long:
        lines.append(line)
        middle = state_of(long) if line.seq == 30 else middle
    faults = replayed(lines[:29] + lines[30:], middle)
    assert "The ledger must hold entry 30, which the checkpoint x states; found none." in faults


def test_the_chain_alone_finds_what_hashes_show():
    lines = list(Long(60))
    assert verification.chain_faults(lines) == ()
    lines[20] = lines[20]._replace(time="2026-06-01T00:00:00.000000Z")
    assert "Entry 21 must match its hash; found changed content." in verification.chain_faults(
        lines
    )


def test_a_damaged_column_is_named_and_the_rest_still_read():
    lines = list(Long(20))
    lines[7] = lines[7]._replace(time=None)
    assert verification.chain_faults(lines) == ("Entry 8 must be readable; found damaged text.",)


def test_a_key_that_comes_twice_is_named_with_both():
    lines = list(Long(20))
    faults = verification.chain_faults([*lines[:8], lines[7]])
    assert "Entry 8 must have a key of its own; found that of entry 8." in faults


def test_sentences_about_a_destroyed_chain_are_limited():
    lines = [line._replace(actor="eve") for line in Long(1200)]
    assert len(verification.chain_faults(lines)) == verification.FAULTS_MAX


def peak_of(count):
    """Bytes that a replay of so many entries needs at most, beside the lines themselves."""
    lines = list(Long(count))
    tracemalloc.start()
    try:
        assert replayed(iter(lines)) == []
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_replay_keeps_a_few_bytes_per_entry():
    """A word per key and per reservation; accounts and open reservations alone are kept whole."""
    short, long = peak_of(3000), peak_of(6000)
    assert (long - short) / 3000 < 120
