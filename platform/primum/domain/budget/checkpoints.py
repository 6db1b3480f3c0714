"""Checkpoints: what the platform signs about its ledger, so that others can keep it elsewhere.

A checkpoint states where the chain stood, and what every account held there. Nothing here signs,
verifies a signature or stores: whoever reads a statement has believed its envelope before.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from primum.domain.accounting.charges import Charge
from primum.domain.budget.book import Account, Draft, Head, Holding
from primum.domain.budget.entries import EntryKind
from primum.domain.budget.layout import WHOLE
from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import InvalidValue, Tampered

# Due after whichever comes first. A thousand entries bound what a forger who also holds the anchor
# could rewrite unseen, and are replayed in a tenth of a second; an hour does the same for a quiet
# ledger, and keeps the checkpoints themselves below one entry in a thousand of a busy one.
ENTRIES_BETWEEN = 1000
SECONDS_BETWEEN = 3600.0

_FIELDS = {"accounts", "hash", "keyId", "seq", "time"}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is signed.

    Args:
        seq: Sequence number of the entry at which the chain stood; 0 for an empty ledger.
        hash: Hash of that entry.
        time: The ledger's time when it was stated, RFC 3339 in UTC.
        accounts: Digest of every account's balance after that entry (``AccountsDigest``).
        key_id: SHA-256 of the public key, as envelopes name it.
    """

    seq: int
    hash: str
    time: str
    accounts: str
    key_id: str

    def to_json(self) -> dict[str, JSON]:
        """The statement, for an envelope."""
        return {
            "accounts": self.accounts,
            "hash": self.hash,
            "keyId": self.key_id,
            "seq": self.seq,
            "time": self.time,
        }


class AccountsDigest:
    """Digest of every account's balance: SHA-256 over canonical JSON.

    The JSON is ``{account id: {"charged": {...}, "reserved": {...}}}`` with amounts as strings of
    digits, and without those that are 0; of a divided dataset it is that of each block by its name,
    under ``blocks``, and where anything is unlocked step by step, ``unlocked`` stands beside them.
    A text stays until another one is put in its place, since a replay asks for the digest of mostly
    the same balances again and again.
    """

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def put(self, texts: Mapping[str, str]) -> None:
        """Replace accounts by what ``balance_text`` says of them, by id."""
        self._texts.update(texts)

    def value(self) -> str:
        """The digest, as ``sha256:<64 hex digits>``."""
        shown = sorted(self._texts.items())
        return digest_of_bytes(f"{{{','.join(text for _, text in shown)}}}".encode())


def balance_text(account: Account) -> str:
    """What an account's balance is in the digest of all of them."""
    content: dict[str, JSON] = {account.account_id: _content(account)}
    return canonical_json(content).decode()[1:-1]


def digest_of_accounts(accounts: Iterable[Account]) -> str:
    """The digest of accounts as they stand; see ``AccountsDigest``."""
    digest = AccountsDigest()
    digest.put({account.account_id: balance_text(account) for account in accounts})
    return digest.value()


def checkpoint_at(head: Head, accounts: Iterable[Account], *, time: str, key_id: str) -> Checkpoint:
    """What can be stated about a ledger at one moment.

    Args:
        head: The end of the chain.
        accounts: Every account at that moment.
        time: The ledger's time.
        key_id: Whose key will sign.
    """
    return Checkpoint(head.seq, head.hash, time, digest_of_accounts(accounts), key_id)


def checkpoint_from(payload: bytes) -> Checkpoint:
    """The statement in an envelope that has been verified.

    Raises:
        Tampered: If it is no checkpoint in canonical form.
    """
    try:
        value = json.loads(payload)
        fits = isinstance(value, dict) and set(value) == _FIELDS and type(value["seq"]) is int
        texts = fits and all(isinstance(value[name], str) for name in _FIELDS - {"seq"})
        if not texts or value["seq"] < 0 or canonical_json(value) != payload:
            raise Tampered("checkpoint must be a canonical statement; found something else.")
    except (ValueError, RecursionError, InvalidValue):
        raise Tampered("checkpoint must be a canonical statement; found something else.") from None
    return Checkpoint(value["seq"], value["hash"], value["time"], value["accounts"], value["keyId"])


def draft_of(checkpoint: Checkpoint, envelope: Mapping[str, JSON]) -> Draft:
    """The entry that keeps a checkpoint in the ledger itself."""
    key = f"checkpoint/{checkpoint.seq}"
    return Draft("", EntryKind.CHECKPOINT, "", key, {"envelope": envelope})


def envelope_in(payload: Mapping[str, JSON], *, seq: int) -> Mapping[str, JSON]:
    """The envelope that a checkpoint's entry keeps.

    Raises:
        Tampered: If there is none.
    """
    envelope = payload.get("envelope")
    if set(payload) != {"envelope"} or not isinstance(envelope, Mapping):
        raise Tampered(f"Entry {seq} must hold a signed checkpoint; found something else.")
    return envelope


def is_due(last: Head, head: Head, *, now: str) -> bool:
    """Whether a further checkpoint is worth its entry.

    Args:
        last: Where the entry that keeps the last one stands; for none the time of the first entry.
        head: The end of the chain.
        now: The ledger's time.
    """
    fresh = head.seq - last.seq
    if fresh <= 0:
        return False
    return fresh >= ENTRIES_BETWEEN or _seconds(last.time, now) >= SECONDS_BETWEEN


def _content(account: Account) -> dict[str, JSON]:
    blocks: dict[str, JSON] = {name: _amounts(held) for name, held in account.blocks.items()}
    if account.terms.layout:
        return {"blocks": blocks}
    return _amounts(account.blocks[WHOLE])


def _amounts(held: Holding) -> dict[str, JSON]:
    found: dict[str, JSON] = {"charged": _shown(held.charged), "reserved": _shown(held.reserved)}
    return found | ({} if held.unlocked.is_zero else {"unlocked": _shown(held.unlocked)})


def _shown(charge: Charge) -> dict[str, JSON]:
    return {key: str(amount) for key, amount in charge.amounts if amount}


def _seconds(start: str, end: str) -> float:
    began, ended = datetime.datetime.fromisoformat(start), datetime.datetime.fromisoformat(end)
    return (ended - began).total_seconds()
