"""``primum ledger checkpoint``, ``export`` and ``verify``: what they write, refuse and find."""

from __future__ import annotations

import json
import sqlite3

import pytest
from command_line import CommandLine
from ledger_words import HALF, charge, expose, request, reserve, terms

from primum.entrypoints import bootstrap, settings


@pytest.fixture
def primum(tmp_path, capsys):
    command = CommandLine(tmp_path / "home")
    return lambda *words, **more: command(*words, capsys=capsys, **more)


@pytest.fixture
def ledger(tmp_path):
    """The ledger of a home folder in which something was spent."""
    found = settings.from_environment({"PRIMUM_HOME": str(tmp_path / "home")})
    bootstrap.prepare_home(found)
    stores = bootstrap.stores(found)
    account, _ = stores.ledger.open_account(terms(), actor="s")
    spend(stores.ledger, account, "r1")
    yield stores.ledger
    stores.close()


@pytest.fixture
def key(tmp_path):
    return tmp_path / "home" / "keys" / "signing.pub.pem"


def spend(ledger, account, name):
    reserve(ledger, request(account, name, HALF))
    expose(ledger, name)
    charge(ledger, name)


def changed(home, statement):
    """The database, changed by somebody who can write its file."""
    with sqlite3.connect(home / "primum.db") as connection:
        for name in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS ledger_entries_no_{name}")
        assert connection.execute(statement).rowcount == 1
    connection.close()


def test_a_checkpoint_is_kept_in_a_file_and_met_again(primum, ledger, tmp_path):
    done = primum("ledger", "checkpoint", "--out", tmp_path / "c.json")
    assert (done.code, done.out.startswith("signed: entry 4, head ")) == (0, True), done
    last = ledger.entries(after=4)[0]
    assert (last.kind, last.actor) == ("Checkpoint", "person/owner")
    assert json.loads((tmp_path / "c.json").read_text()) == last.payload["envelope"]
    spend(ledger, ledger.accounts()[0].account_id, "r2")
    done = primum("ledger", "verify", "--checkpoint", tmp_path / "c.json")
    assert (done.code, done.out.startswith("intact: 8 entries")) == (0, True), done


def test_a_checkpoint_can_be_piped(primum, ledger):
    assert primum("ledger", "checkpoint").json() == ledger.entries(after=4)[0].payload["envelope"]


def test_an_older_checkpoint_is_never_replaced(primum, ledger, tmp_path):
    (tmp_path / "c.json").write_text("older")
    done = primum("ledger", "checkpoint", "--out", tmp_path / "c.json")
    assert (done.code, "must not exist yet" in done.err) == (5, True)
    assert (tmp_path / "c.json").read_text() == "older"
    assert ledger.head()[0] == 4


@pytest.mark.parametrize("words", [("checkpoint",), ("export", "x.tar")])
def test_nobody_has_the_ledger_signed(primum, ledger, words):
    done = primum("ledger", *words, PRIMUM_TOKEN="nobody")
    assert (done.code, "needs the role compliance, steward or auditor" in done.err) == (3, True)
    assert ledger.head()[0] == 4


def test_a_flipped_byte_is_found_and_exits_six(primum, ledger, tmp_path):
    primum("ledger", "checkpoint")
    changed(tmp_path / "home", "UPDATE ledger_entries SET actor = 'loop.' WHERE seq = 2")
    done = primum("ledger", "verify")
    assert (done.code, done.out) == (6, "Entry 2 must match its hash; found changed content.\n")
    found = primum("ledger", "verify", "-o", "json").json()
    assert found["contradictions"] == ["Entry 2 must match its hash; found changed content."]


def test_the_chain_alone_is_verified_and_says_so(primum, ledger, tmp_path):
    assert primum("ledger", "verify", "--chain").out.startswith("chain intact: 4 entries, head ")
    done = primum("ledger", "verify", "--chain", "--public-key", "k.pem")
    assert (done.code, "--chain must be given alone" in done.err) == (2, True)
    changed(tmp_path / "home", "UPDATE ledger_holdings SET added = 'then'")
    assert primum("ledger", "verify", "--chain").code == 0
    assert primum("ledger", "verify").code == 6
    changed(tmp_path / "home", "UPDATE ledger_entries SET actor = 'loop.' WHERE seq = 2")
    assert primum("ledger", "verify", "--chain").code == 6


def test_a_rollback_beside_its_anchor_is_found_by_a_checkpoint(primum, ledger, tmp_path):
    home = tmp_path / "home"
    older = sqlite3.connect(":memory:")
    with sqlite3.connect(home / "primum.db") as present:
        present.backup(older)
    present.close()
    anchored = (home / "anchor.json").read_bytes()
    spend(ledger, ledger.accounts()[0].account_id, "r2")
    primum("ledger", "checkpoint", "--out", tmp_path / "c.json")
    with sqlite3.connect(home / "primum.db") as present:
        older.backup(present)
    present.close()
    older.close()
    assert primum("ledger", "verify").code == 6  # The anchor tells.
    (home / "anchor.json").write_bytes(anchored)
    assert primum("ledger", "verify").code == 0  # Nothing in the home can.
    done = primum("ledger", "verify", "--checkpoint", tmp_path / "c.json")
    assert done.code == 6
    assert f"must hold entry 7, which the checkpoint {tmp_path / 'c.json'} states" in done.out


def test_the_anchor_lies_where_it_is_set_to(primum, ledger, tmp_path):
    elsewhere = tmp_path / "volume" / "anchor.json"
    primum("ledger", "checkpoint", PRIMUM_ANCHOR=str(elsewhere))
    assert json.loads(elsewhere.read_text())["seq"] == ledger.head()[0] == 5


def test_a_bundle_verifies_without_the_platform(primum, ledger, key, tmp_path, capsys):
    primum("ledger", "checkpoint", "--out", tmp_path / "c.json")
    done = primum("ledger", "export", tmp_path / "l.tar")
    assert done.out.startswith("exported: 5 entries, head ")
    elsewhere = CommandLine(tmp_path / "nothing" / "here")
    known = tmp_path / "known.pem"
    known.write_bytes(key.read_bytes())
    words = ("ledger", "verify", "--bundle", tmp_path / "l.tar", "--public-key", known)
    done = elsewhere(*words, "--checkpoint", tmp_path / "c.json", capsys=capsys)
    assert (done.code, done.out[:17]) == (0, "intact: 5 entries"), done
    assert not (tmp_path / "nothing").exists()
    content = bytearray((tmp_path / "l.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "l.tar").write_bytes(content)
    done = elsewhere(*words, "-o", "json", capsys=capsys)
    assert (done.code, done.json()["contradictions"] != []) == (6, True)


MISTAKES = {
    ("--bundle", "l.tar"): (2, "--public-key must be given with --bundle; found none."),
    ("--bundle", "none.tar", "--public-key", "KEY"): (4, "bundle none.tar does not exist"),
    ("--public-key", "none.pem"): (4, "public key none.pem does not exist"),
    ("--checkpoint", "none.json"): (4, "checkpoint none.json does not exist"),
    ("--public-key", "TEXT"): (2, "public_key must be an Ed25519 key in PEM"),
    ("--checkpoint", "TEXT"): (6, "must be JSON; found something else"),
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_every_mistake_is_one_sentence(primum, ledger, key, tmp_path, words):
    (tmp_path / "text").write_text("text")
    named = {"KEY": key, "TEXT": tmp_path / "text"}
    code, said = MISTAKES[words]
    done = primum("ledger", "verify", *(named.get(word, word) for word in words))
    assert (done.code, done.out) == (code, ""), done
    assert said in done.err
