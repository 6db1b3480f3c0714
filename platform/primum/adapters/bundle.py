"""The auditor's bundle: the whole ledger in one file that is verified with a public key alone.

A tar of five files in a fixed order with fixed headers, so that the same ledger gives the same
bytes and no byte of it can change unseen. Verifying reads nothing but the file: no home folder, no
database, no network. It must not trust what the bundle says about itself, least of all its key.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from primum import signing
from primum.adapters.bundle_readme import README
from primum.application import checkpointing
from primum.application.ports import LedgerStore, Signer
from primum.domain.budget import lines
from primum.domain.budget.chain import FAULTS_MAX
from primum.domain.budget.checkpoints import Checkpoint, envelope_in
from primum.domain.budget.entries import EntryKind
from primum.domain.budget.lines import Line
from primum.domain.budget.shards import Shard
from primum.domain.budget.verification import Here, Replay, Stated, link_of
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Conflict, InvalidValue, NotFound, PrimumError, Tampered

FORMAT = "primum-ledger-bundle/v1"
_README, _KEY, _ENTRIES = "README.md", "public-key.pem", "entries.jsonl"
_CHECKPOINTS, _MANIFEST = "checkpoints.jsonl", "manifest.json"
_FILES = (_README, _KEY, _ENTRIES, _CHECKPOINTS, _MANIFEST)
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_PAGE = 10_000  # Entries per read of the ledger.
_LINE_BYTES_MAX = 4 * 2**20  # Far above any entry; a hostile file must not fill memory.
_SMALL_BYTES_MAX = 256 * 2**20  # Of everything but the entries: a checkpoint takes under 1 KiB.


@dataclass(frozen=True, slots=True)
class Finding:
    """What a bundle turned out to be.

    Args:
        seq: Number of its last entry.
        head: Hash of its last entry.
        faults: What is wrong, as sentences; nothing for an intact bundle.
    """

    seq: int
    head: str
    faults: tuple[str, ...]


def write_bundle(target: Path, ledger: LedgerStore, signer: Signer) -> tuple[int, str]:
    """Write the ledger as it stands, with its end signed.

    Guarantees:
        The file is complete or not there. The same ledger gives the same entries, byte for byte;
        only the time in the signature of its end differs.

    Args:
        target: The file; must not exist.
        ledger: What to export.
        signer: The platform's key.

    Returns:
        Number and hash of the last entry in it.

    Raises:
        Conflict: If the file exists.
        Tampered: If the ledger is older than its anchor.
    """
    if target.exists():
        raise Conflict(f"bundle {target} must not exist yet; found a file there.")
    end = ledger.signed_head(signer)
    statement = checkpointing.opened(end, signer.public_key())
    partial = target.with_name(f".{target.name}.new")
    try:
        with partial.open("w+b") as file:
            _Writer(file).write(ledger, signer.public_key(), end, statement)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return statement.seq, statement.hash


def verify_bundle(
    source: Path, *, public_key: str, outside: Mapping[str, Mapping[str, JSON]]
) -> Finding:
    """Verify a bundle with nothing but itself and a key that was obtained elsewhere.

    Guarantees:
        Nothing is found only if every byte is what the platform wrote, the chain is whole, every
        reservation had room, every balance that was signed is what the entries give, and the end
        was signed with the key.

    Args:
        source: The bundle.
        public_key: PEM of the key to trust.
        outside: Checkpoints that were kept elsewhere, by what to call them.

    Returns:
        What was found; faults at most 1000.

    Raises:
        NotFound: If there is no such file.
        InvalidValue: If the key cannot be read.
    """
    signing.key_id(public_key)
    try:
        with source.open("rb") as file:
            return _Reader(file, public_key).verified(outside)
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"bundle {source} does not exist") from None
    except Tampered as error:
        return Finding(0, "", (str(error),))


class _Writer:
    """Writes members one after the other; a header is put before its content once that is known."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digests: dict[str, str] = {}

    def write(
        self, ledger: LedgerStore, public_key: str, end: Mapping[str, JSON], stated: Checkpoint
    ) -> None:
        kept: list[bytes] = []
        self._member(_README, [README.encode()])
        self._member(_KEY, [public_key.encode()])
        self._member(_ENTRIES, _exported(ledger, stated.seq, kept))
        self._member(_CHECKPOINTS, [b"%b\n" % item for item in (*kept, canonical_json(end))])
        self._member(_MANIFEST, [_manifest(self._digests, stated.seq, stated.hash)])
        self._file.write(_END)

    def _member(self, name: str, parts: Iterator[bytes] | Sequence[bytes]) -> None:
        start = self._file.tell()
        self._file.write(bytes(_BLOCK))
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
            self._file.write(part)
        size = self._file.tell() - start - _BLOCK
        self._file.write(bytes(-size % _BLOCK))
        self._file.seek(start)
        self._file.write(_header(name, size))
        self._file.seek(0, io.SEEK_END)
        self._digests[name] = f"sha256:{digest.hexdigest()}"


def _exported(ledger: LedgerStore, end: int, kept: list[bytes]) -> Iterator[bytes]:
    """Every entry up to one, as lines; puts the envelopes among them aside."""
    after = 0
    while after < end:
        page = ledger.lines(after=after, limit=min(_PAGE, end - after))
        if not page:
            raise Tampered(f"The ledger must reach entry {end}; found its end at {after}.")
        for line in page:
            yield f"{lines.exported(line)}\n".encode()
            if line.kind == EntryKind.CHECKPOINT:
                kept.append(_envelope_text(line))
        after = page[-1].seq


def _envelope_text(line: Line) -> bytes:
    return canonical_json(envelope_in(lines.entry_of(line).payload, seq=line.seq))


class _Reader:
    """Reads a bundle strictly: whatever is not exactly as written is a fault."""

    def __init__(self, file: BinaryIO, public_key: str) -> None:
        self._file = file
        self._key = public_key
        self._digests: dict[str, str] = {}
        self._faults: list[str] = []

    def verified(self, outside: Mapping[str, Mapping[str, JSON]]) -> Finding:
        places = self._places()
        small = {name: self._whole(*places[name]) for name in _FILES if name != _ENTRIES}
        envelopes = small[_CHECKPOINTS].splitlines(keepends=True)
        stated, self._faults = checkpointing.believed((), outside, public_key=self._key)
        stated += self._stated(envelopes)
        self._check_key(small[_KEY])
        shard = Shard()
        replay = Replay([Here(shard)], stated)
        self._replay(shard, replay, places[_ENTRIES], envelopes[:-1])
        head = replay.head
        self._check_end(envelopes, head.seq, head.hash)
        for name, text in small.items():
            if name != _MANIFEST:
                self._digests[name] = f"sha256:{hashlib.sha256(text).hexdigest()}"
        if small[_MANIFEST] != _manifest(self._digests, head.seq, head.hash):
            self._faults.append(
                f"{_MANIFEST} must name what the bundle holds; found other digests."
            )
        faults = (*self._faults, *replay.conclusion())[:FAULTS_MAX]
        return Finding(head.seq, head.hash, faults)

    def _places(self) -> dict[str, tuple[int, int]]:
        """Where each file begins, and its size.

        Raises:
            Tampered: If the container is not, byte for byte, one that is written here.
        """
        found: dict[str, tuple[int, int]] = {}
        for name in _FILES:
            header = self._file.read(_BLOCK)
            text = header[124:135]
            size = int(text, 8) if len(header) == _BLOCK and text.isdigit() else -1
            if size < 0 or header != _header(name, size):
                raise Tampered(f"bundle must hold {name} in its place; found another header.")
            found[name] = self._file.tell(), size
            self._file.seek(size, io.SEEK_CUR)
            padding = -size % _BLOCK
            if self._file.read(padding) != bytes(padding):
                raise Tampered(f"bundle must be filled with zeros after {name}; found other bytes.")
        if self._file.read(len(_END) + 1) != _END:
            raise Tampered("bundle must end after its last file; found other bytes.")
        return found

    def _whole(self, start: int, size: int) -> bytes:
        if size > _SMALL_BYTES_MAX:
            raise Tampered(f"bundle must hold sane files; found one of {size} bytes.")
        self._file.seek(start)
        return self._file.read(size)

    def _check_key(self, text: bytes) -> None:
        try:
            same = signing.key_id(text.decode()) == signing.key_id(self._key)
        except (InvalidValue, UnicodeDecodeError):
            same = False
        if not same:
            self._faults.append(f"{_KEY} must be the key that was given; found another.")

    def _stated(self, envelopes: Sequence[bytes]) -> list[Stated]:
        stated: list[Stated] = []
        for number, text in enumerate(envelopes, 1):
            try:
                checkpoint = checkpointing.opened(_envelope(text), self._key)
                stated.append(Stated(checkpoint, f"line {number} of {_CHECKPOINTS}"))
            except Tampered as error:
                self._faults.append(f"Line {number} of {_CHECKPOINTS} must be signed; {error}")
        return stated

    def _replay(
        self, shard: Shard, replay: Replay, place: tuple[int, int], envelopes: Sequence[bytes]
    ) -> None:
        kept = iter(envelopes)
        for number, text in enumerate(self._lines(*place), 1):
            try:
                line = lines.imported(text.decode().removesuffix("\n"), number=number)
                entry = shard.take(line)
                replay.take(link_of(line))
                if (
                    entry is not None
                    and entry.kind is EntryKind.CHECKPOINT
                    and b"%b\n" % canonical_json(entry.payload["envelope"]) != next(kept, b"")
                ):
                    self._faults.append(f"{_CHECKPOINTS} must list entry {entry.seq}; found none.")
            except UnicodeDecodeError:
                self._faults.append(f"Line {number} of the entries must be text; found damage.")
            except PrimumError as error:
                self._faults.append(str(error))
            if len(self._faults) + len(shard.faults) + replay.found >= FAULTS_MAX:
                return
        if next(kept, None) is not None:
            self._faults.append(f"{_CHECKPOINTS} must list what entries keep; found more.")

    def _lines(self, start: int, size: int) -> Iterator[bytes]:
        self._file.seek(start)
        digest, left = hashlib.sha256(), size
        while left:
            text = self._file.readline(min(left, _LINE_BYTES_MAX))
            digest.update(text)
            left -= len(text)
            yield text
        self._digests[_ENTRIES] = f"sha256:{digest.hexdigest()}"

    def _check_end(self, envelopes: Sequence[bytes], seq: int, head: str) -> None:
        try:
            end = checkpointing.opened(_envelope(envelopes[-1] if envelopes else b""), self._key)
        except Tampered:
            self._faults.append("The end of the entries must be signed; found no such signature.")
            return
        if (end.seq, end.hash) != (seq, head):
            self._faults.append(
                f"The entries must end at {end.seq} as signed; found their end at {seq}."
            )


def _envelope(text: bytes) -> Mapping[str, JSON]:
    try:
        value = json.loads(text)
        canonical = isinstance(value, dict) and b"%b\n" % canonical_json(value) == text
    except (ValueError, RecursionError, InvalidValue):
        canonical = False
    if not canonical:
        raise Tampered("envelope must be canonical JSON; found something else.")
    return dict(value)


def _manifest(digests: Mapping[str, str], seq: int, head: str) -> bytes:
    content: dict[str, JSON] = {
        "entries": seq,
        "files": dict(digests),
        "format": FORMAT,
        "head": head,
    }
    return b"%b\n" % canonical_json(content)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
