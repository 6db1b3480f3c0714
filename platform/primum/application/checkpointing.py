"""Checkpoints signed, and believed: where the ledger's statements meet the platform's key.

Nothing here stores. What an envelope says is read only after its signature was verified, with a key
that the caller chose to trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from primum import signing
from primum.application.ports import Signer
from primum.domain.budget import checkpoints
from primum.domain.budget.book import Account, Head
from primum.domain.budget.checkpoints import Checkpoint
from primum.domain.budget.lines import Line, entry_of
from primum.domain.budget.verification import Stated
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Tampered


def signed(
    signer: Signer, head: Head, accounts: Iterable[Account], *, time: str
) -> Mapping[str, JSON]:
    """The envelope of a checkpoint.

    Args:
        signer: The platform's key.
        head: The end of the chain.
        accounts: Every account at that moment.
        time: The ledger's time.
    """
    key_id = signing.key_id(signer.public_key())
    statement = checkpoints.checkpoint_at(head, accounts, time=time, key_id=key_id)
    return signer.sign(signing.CHECKPOINT_TYPE, canonical_json(statement.to_json()))


def opened(envelope: Mapping[str, JSON], public_key: str) -> Checkpoint:
    """The statement of a signed checkpoint.

    Raises:
        Tampered: If signature, type or form is wrong.
        InvalidValue: If the key cannot be read.
    """
    statement = checkpoints.checkpoint_from(
        signing.verify(public_key, envelope, signing.CHECKPOINT_TYPE)
    )
    if statement.key_id != signing.key_id(public_key):
        raise Tampered("checkpoint must name the key that signed it; found another.")
    return statement


def believed(
    kept: Sequence[Line], outside: Mapping[str, Mapping[str, JSON]], *, public_key: str
) -> tuple[list[Stated], list[str]]:
    """Every checkpoint whose signature holds, and what is wrong with the others.

    Args:
        kept: Entries that keep checkpoints.
        outside: Envelopes kept elsewhere, by what to call them.
        public_key: PEM; without one those in entries are not believed and not looked at.

    Returns:
        Statements to be met by a replay, and sentences.

    Raises:
        InvalidValue: If the key cannot be read.
    """
    if public_key or outside:
        signing.key_id(public_key)  # A key that is none must not pass where nothing is signed yet.
    stated: list[Stated] = []
    faults: list[str] = []
    for line in kept if public_key else ():
        try:
            envelope = checkpoints.envelope_in(entry_of(line).payload, seq=line.seq)
            name = f"the checkpoint in entry {line.seq}"
            stated.append(Stated(opened(envelope, public_key), name))
        except Tampered as error:
            faults.append(f"Entry {line.seq} must keep a signed checkpoint; {error}")
    for name, envelope in outside.items():
        try:
            stated.append(Stated(opened(envelope, public_key), f"the checkpoint {name}"))
        except Tampered as error:
            faults.append(f"Checkpoint {name} must be signed by this platform; {error}")
    return stated, faults
