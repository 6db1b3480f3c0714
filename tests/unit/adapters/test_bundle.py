"""An auditor's bundle: verified with nothing but itself and a key, and every change is named."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from decimal import Decimal
from pathlib import Path

import pytest
from ledger_words import HALF, HUGE, charge, expose, request, reserve, terms

from primum.adapters import bundle
from primum.adapters.memory import ManualClock, MemoryLedgerStore, MemorySigner
from primum.domain.budget.rules import (
    Rules,
    SchedulerName,
    Scheduling,
    Unlocking,
    UnlockingRule,
)
from primum.domain.canonical import canonical_json, digest_of_bytes
from primum.domain.errors import Conflict, InvalidValue, NotFound

SIGNER = MemorySigner()
KEY = SIGNER.public_key()
PAGE = Path(__file__).parents[3] / "docs" / "ledger-bundle.md"


def spend(ledger, account, name):
    reserve(ledger, request(account, name, HALF))
    expose(ledger, name)
    charge(ledger, name)


def share_out(ledger):
    """A divided dataset with a queue: what is unlocked, granted from the queue, and charged."""
    layout = '{"by":"Cohort","column":"ward"}'
    other = terms(dataset_uri="file:///wards", dataset_digest="", layout=layout)
    account, _ = ledger.open_account(other, actor="s")
    rules = Rules(
        Unlocking(UnlockingRule.PER_CLAIM, claims=2),
        Scheduling(SchedulerName.DPF, wait_days=Decimal(1)),
    )
    ledger.configure(account, rules, key="first", actor="s")
    ledger.divide(account, ["er", "icu", "maternity"], actor="s")
    asked = request(account, "q1", HALF, study_uid="study-2", blocks=("er", "icu"))
    reserve(ledger, asked)
    ledger.schedule(lease_seconds=60, actor="s")
    expose(ledger, "q1")
    charge(ledger, "q1")


@pytest.fixture
def ledger():
    """A ledger with every kind of entry that moves a balance, and two checkpoints."""
    ledger = MemoryLedgerStore(clock=ManualClock())
    account, _ = ledger.open_account(terms(), actor="s")
    spend(ledger, account, "r1")
    ledger.checkpoint(SIGNER, actor="s")
    reserve(ledger, request(account, "r2", HALF))
    ledger.give_back("r2", reason="withdrawn", actor="s")
    reserve(ledger, request(account, "r3", HUGE))
    share_out(ledger)
    ledger.checkpoint(SIGNER, actor="s")
    reserve(ledger, request(account, "r4", HALF))
    return ledger


@pytest.fixture
def path(ledger, tmp_path):
    target = tmp_path / "ledger.tar"
    bundle.write_bundle(target, ledger, SIGNER)
    return target


def faults(path, *, key=KEY, **outside):
    return bundle.verify_bundle(path, public_key=key, outside=outside).faults


def members(path):
    with tarfile.open(path) as tar:
        return {item.name: tar.extractfile(item).read() for item in tar}


def rewritten(path, **changes):
    """The bundle with other content, and with digests that fit: what a forger would write."""
    files = members(path)
    for name, content in changes.items():
        files[name.replace("_", ".")] = content
    manifest = json.loads(files.pop("manifest.json"))
    manifest["files"] = {name: digest_of_bytes(content) for name, content in files.items()}
    files["manifest.json"] = canonical_json(manifest) + b"\n"
    with path.open("wb") as file:
        for name, content in files.items():
            padding = bytes(-len(content) % 512)
            file.write(bundle._header(name, len(content)) + content + padding)
        file.write(bytes(1024))
    return path


def test_an_intact_bundle_holds_and_says_how_far(ledger, path):
    found = bundle.verify_bundle(path, public_key=KEY, outside={})
    assert (found.seq, found.head, found.faults) == (*ledger.head(), ())


def test_any_tar_program_reads_it(path, ledger):
    files = members(path)
    assert list(files) == list(bundle._FILES)
    assert len(files["entries.jsonl"].splitlines()) == ledger.head()[0]
    assert json.loads(files["manifest.json"])["head"] == ledger.head()[1]
    assert files["public-key.pem"].decode() == KEY


def test_the_same_ledger_gives_the_same_bytes(ledger, path, tmp_path):
    again = tmp_path / "again.tar"
    bundle.write_bundle(again, ledger, SIGNER)
    assert again.read_bytes() == path.read_bytes()


def test_nothing_is_written_into_the_ledger(ledger, path):
    before = ledger.head()
    bundle.write_bundle(path.with_name("other.tar"), ledger, SIGNER)
    assert ledger.head() == before


def test_an_empty_ledger_can_be_exported(tmp_path):
    empty = MemoryLedgerStore(clock=ManualClock())
    assert bundle.write_bundle(tmp_path / "a.tar", empty, SIGNER) == (0, "0" * 64)
    assert faults(tmp_path / "a.tar") == ()


def test_pages_of_entries_join(ledger, tmp_path, monkeypatch, path):
    monkeypatch.setattr(bundle, "_PAGE", 2)
    bundle.write_bundle(tmp_path / "a.tar", ledger, SIGNER)
    assert (tmp_path / "a.tar").read_bytes() == path.read_bytes()


def test_an_older_bundle_is_never_replaced(ledger, path):
    before = path.read_bytes()
    with pytest.raises(Conflict, match="must not exist yet"):
        bundle.write_bundle(path, ledger, SIGNER)
    assert path.read_bytes() == before


def test_an_export_that_fails_leaves_nothing(ledger, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "lines", lambda **_: ())
    with pytest.raises(Exception, match="must reach entry"):
        bundle.write_bundle(tmp_path / "a.tar", ledger, SIGNER)
    assert list(tmp_path.iterdir()) == []


def test_another_key_is_told(path):
    found = faults(path, key=MemorySigner().public_key())
    assert any("public-key.pem must be the key that was given" in item for item in found)
    assert any("end of the entries must be signed" in item for item in found)


def test_a_bundle_that_is_not_there_and_a_key_that_is_none(tmp_path, path):
    with pytest.raises(NotFound):
        faults(tmp_path / "none.tar")
    with pytest.raises(NotFound):
        faults(tmp_path)
    with pytest.raises(InvalidValue, match="public_key"):
        faults(path, key="none")


@pytest.mark.parametrize("content", [b"", b"x", bytes(512), b"\xff" * 4096])
def test_another_file_is_no_bundle(tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert "bundle must hold README.md" in faults(tmp_path / "x.tar")[0]


def test_more_after_the_end_is_found(path):
    path.write_bytes(path.read_bytes() + b"\0")
    assert "must end after its last file" in faults(path)[0]


def entries_of(path):
    return members(path)["entries.jsonl"].splitlines(keepends=True)


def with_entries(path, lines):
    return rewritten(path, entries_jsonl=b"".join(lines))


def test_a_missing_entry_is_named(path):
    lines = entries_of(path)
    found = faults(with_entries(path, lines[:3] + lines[4:]))
    assert "Entry 4 must be there; found entry 5 after 3." in found
    assert any("entry 4, which line 1 of checkpoints.jsonl states" in item for item in found)


def test_a_missing_end_is_named(path):
    lines = entries_of(path)
    found = faults(with_entries(path, lines[:-1]))
    assert (
        f"The entries must end at {len(lines)} as signed; found their end at {len(lines) - 1}."
        in found
    )


def test_reordered_entries_are_named(path):
    lines = entries_of(path)
    lines[2], lines[3] = lines[3], lines[2]
    assert "Entry 3 must be there; found entry 4 after 2." in faults(with_entries(path, lines))


def test_an_entry_that_comes_twice_is_named(path):
    lines = entries_of(path)
    assert "Entry 3 must have a key of its own; found that of entry 3." in faults(
        with_entries(path, [*lines[:3], *lines[2:]])
    )


def test_a_changed_amount_is_named(path):
    lines = entries_of(path)
    lines[1] = lines[1].replace(b'"charge":{"12":"', b'"charge":{"12":"1', 1)
    found = faults(with_entries(path, lines))
    assert "Entry 2 must match its hash; found changed content." in found


def test_checkpoints_that_entries_keep_must_be_listed(path):
    listed = members(path)["checkpoints.jsonl"].splitlines(keepends=True)
    found = faults(rewritten(path, checkpoints_jsonl=listed[0] + listed[2]))
    assert any("checkpoints.jsonl must list entry" in item for item in found)


def test_checkpoints_that_no_entry_keeps_are_found(path):
    listed = members(path)["checkpoints.jsonl"].splitlines(keepends=True)
    found = faults(rewritten(path, checkpoints_jsonl=b"".join([*listed[:2], listed[1], listed[2]])))
    assert "checkpoints.jsonl must list what entries keep; found more." in found


def test_an_unsigned_end_is_found(path):
    assert any("must be signed" in item for item in faults(rewritten(path, checkpoints_jsonl=b"")))


def test_wrong_digests_are_found(path):
    content = path.read_bytes().replace(b"# An epsilon ledger", b"# An Epsilon ledger")
    path.write_bytes(content)
    assert faults(path) == ("manifest.json must name what the bundle holds; found other digests.",)


def test_a_rollback_is_found_by_a_checkpoint_kept_elsewhere(ledger, path):
    reserve(ledger, request(ledger.accounts()[0].account_id, "r5", HALF))
    later = ledger.checkpoint(SIGNER, actor="s")
    assert "which the checkpoint safe states" in faults(path, safe=later)[0]


def test_a_bundle_made_up_by_somebody_without_the_key_is_found(ledger, path, tmp_path):
    """A whole new ledger with a perfect chain, whose end nobody signed."""
    other = MemoryLedgerStore(clock=ManualClock())
    other.open_account(terms(), actor="eve")
    bundle.write_bundle(tmp_path / "eve.tar", other, MemorySigner())
    forged = rewritten(tmp_path / "eve.tar", **{"public-key_pem": KEY.encode()})
    assert any("must be signed" in item for item in faults(forged))


def follow(procedure, *arguments):
    """Run the page's program, without any package of ours."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(procedure), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def procedure(tmp_path):
    """The program on the page, which has no dependencies."""
    program = PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    file = tmp_path / "procedure.py"
    file.write_text(program, encoding="utf-8")
    return file


def test_the_documented_procedure_agrees(path, procedure, tmp_path, ledger):
    key, kept = tmp_path / "key.pem", tmp_path / "kept.json"
    key.write_text(KEY)
    envelopes = members(path)["checkpoints.jsonl"].splitlines()
    kept.write_bytes(envelopes[0])
    done = follow(procedure, path, key, kept)
    assert done.stdout == f"intact: {ledger.head()[0]} entries, head {ledger.head()[1][:16]}\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "entry 4: chain"),
        ("changed", "entry 2: hash"),
        ("foreign", "signature"),
        ("older", "checkpoint of entry"),
    ],
)
def test_the_documented_procedure_finds_what_is_wrong(
    path, procedure, tmp_path, ledger, name, said
):
    key, kept = tmp_path / "key.pem", []
    key.write_text(KEY)
    lines = entries_of(path)
    if name == "missing":
        with_entries(path, lines[:3] + lines[4:])
    elif name == "changed":
        with_entries(path, [line.replace(b"user:ada", b"user:eve") for line in lines])
    elif name == "foreign":
        key.write_text(MemorySigner().public_key())
    else:
        reserve(ledger, request(ledger.accounts()[0].account_id, "r5", HALF))
        kept = [tmp_path / "kept.json"]
        kept[0].write_bytes(canonical_json(ledger.checkpoint(SIGNER, actor="s")))
    done = follow(procedure, path, key, *kept)
    assert done.returncode == 1
    assert f"AssertionError: {said}" in done.stderr


def test_a_hostile_size_is_refused(path):
    content = bytearray(path.read_bytes())
    content[:512] = bundle._header("README.md", 300 * 2**20)
    path.write_bytes(bytes(content))
    assert faults(path)[0].startswith("bundle must")


def test_the_size_of_small_files_is_limited(path, monkeypatch):
    monkeypatch.setattr(bundle, "_SMALL_BYTES_MAX", 100)
    assert "sane files" in faults(path)[0]
