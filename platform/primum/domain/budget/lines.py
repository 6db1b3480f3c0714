"""Entries as text: what a store keeps, what is hashed, and what an auditor's file shows.

One spelling for all three, so that a hash can be checked on stored text without parsing it, and a
changed byte is found even where it would parse to the same. Nothing here knows what an entry means.
"""

from __future__ import annotations

import hashlib
import json
import re
from json.encoder import encode_basestring as _quoted
from typing import NamedTuple

from primum.domain.budget.entries import Entry, EntryKind
from primum.domain.canonical import canonical_json, parsed_json
from primum.domain.errors import Tampered

_STRING = r'"((?:[^"\\]|\\.)*)"'
_HASH = '"hash":"([0-9a-f]{64})",'
_EXPORTED = re.compile(
    rf'\{{"accountId":{_STRING},"actor":{_STRING},{_HASH}"idempotencyKey":{_STRING},'
    rf'"kind":{_STRING},"payload":(\{{.*\}}),"prevHash":"([0-9a-f]{{64}})",'
    rf'"reservationId":{_STRING},"seq":(0|[1-9][0-9]{{0,17}}),"time":{_STRING}\}}'
)


class Line(NamedTuple):
    """An entry as stored: its columns as text.

    A tuple, because verification makes one per entry and a frozen class takes four times as long.
    """

    seq: int
    prev_hash: str
    account_id: str
    kind: str
    reservation_id: str
    idempotency_key: str
    actor: str
    time: str
    payload: str
    hash: str


def line_of(entry: Entry) -> Line:
    """An entry as it is stored."""
    return Line(
        seq=entry.seq,
        prev_hash=entry.prev_hash,
        account_id=entry.account_id,
        kind=entry.kind.value,
        reservation_id=entry.reservation_id,
        idempotency_key=entry.idempotency_key,
        actor=entry.actor,
        time=entry.time,
        payload=canonical_json(entry.payload).decode(),
        hash=entry.hash,
    )


def entry_of(line: Line) -> Entry:
    """A stored entry, read.

    Raises:
        Tampered: If it cannot be read, or its payload is not in canonical form.
    """
    try:
        # What stands behind the value, or before it, is not in its canonical form.
        payload, _ = _DECODER.raw_decode(line.payload)
        canonical = parsed_json(payload)
        kind = _KINDS[line.kind]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise Tampered(f"Entry {line.seq} must be readable; found damaged text.") from error
    if type(payload) is not dict or canonical != line.payload:
        raise Tampered(f"Entry {line.seq} must be readable; found text in another form.")
    return Entry(
        line.seq,
        line.prev_hash,
        line.account_id,
        kind,
        line.reservation_id,
        line.idempotency_key,
        line.actor,
        line.time,
        payload,
        line.hash,
    )


def hash_of(line: Line) -> str:
    """SHA-256 over the canonical JSON of everything but the hash, as 64 hex digits.

    The payload counts as it is stored.

    Raises:
        Tampered: If a column holds something else than text that UTF-8 can say.
    """
    try:
        # Written out: looking columns up by name takes a third of the time.
        seq, before, account, kind, reservation, key, actor, time, payload, _ = line
        return hashlib.sha256(
            f'{{"accountId":{_quoted(account)},"actor":{_quoted(actor)},'
            f'"idempotencyKey":{_quoted(key)},"kind":{_quoted(kind)},'
            f'"payload":{payload},"prevHash":{_quoted(before)},'
            f'"reservationId":{_quoted(reservation)},"seq":{seq},'
            f'"time":{_quoted(time)}}}'.encode()
        ).hexdigest()
    except (TypeError, UnicodeEncodeError) as error:
        raise Tampered(f"Entry {line.seq} must be readable; found damaged text.") from error


def exported(line: Line) -> str:
    """An entry as one line of an auditor's file: canonical JSON, its hash among the keys.

    Taking the characters ``"hash":"...",`` out of it leaves what was hashed.
    """
    before, after = _halves(line)
    return f'{before}"hash":{_quoted(line.hash)},{after}'


def imported(text: str, *, number: int) -> Line:
    """The line that ``exported`` gave.

    Args:
        text: One line of the file.
        number: Its place, for the message.

    Raises:
        Tampered: If it is not, byte for byte, what ``exported`` gives.
    """
    found = _EXPORTED.fullmatch(text)
    if found is None:
        raise Tampered(f"Line {number} of the entries must be an entry; found another text.")
    account, actor, digest, key, kind, payload, before, reservation, seq, time = found.groups()
    try:
        line = Line(
            int(seq),
            before,
            _unquoted(account),
            _unquoted(kind),
            _unquoted(reservation),
            _unquoted(key),
            _unquoted(actor),
            _unquoted(time),
            payload,
            digest,
        )
    except ValueError as error:
        raise Tampered(f"Line {number} of the entries must be readable; found damage.") from error
    if exported(line) != text:
        raise Tampered(f"Line {number} of the entries must be canonical; found another spelling.")
    return line


def _halves(line: Line) -> tuple[str, str]:
    """What stands before and after the hash, in the order of canonical JSON."""
    before = f'{{"accountId":{_quoted(line.account_id)},"actor":{_quoted(line.actor)},'
    after = (
        f'"idempotencyKey":{_quoted(line.idempotency_key)},"kind":{_quoted(line.kind)},'
        f'"payload":{line.payload},"prevHash":{_quoted(line.prev_hash)},'
        f'"reservationId":{_quoted(line.reservation_id)},"seq":{line.seq},'
        f'"time":{_quoted(line.time)}}}'
    )
    return before, after


def _unquoted(text: str) -> str:
    return str(json.loads(f'"{text}"')) if "\\" in text else text


def _no_float(text: str) -> object:
    raise ValueError(f"{text[:20]} has no canonical form")


# Built once, for a verification reads a million payloads.
_DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)
_KINDS = {kind.value: kind for kind in EntryKind}
