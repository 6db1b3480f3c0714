"""What an auditor's bundle says about itself: the procedure, in words that need no program of ours.

A copy of the procedure that somebody else hands over with the bundle proves nothing; the same text
is in the documentation, docs/ledger-bundle.md, beside a program that follows it.
"""

from __future__ import annotations

README = """\
# An epsilon ledger, for an auditor

This file holds every entry of a Primum ledger. It can be verified offline with nothing but itself
and the platform's public key. Use a key that you were given another way: the one in here only
shows which one to ask for. `primum ledger verify --bundle FILE --public-key KEY` follows these
steps; so can any program that knows SHA-256, Ed25519 and JSON.

Files: entries.jsonl (one entry per line), checkpoints.jsonl (signed statements about them, one per
line, the last one about the last entry), public-key.pem, manifest.json, this file.

1. manifest.json names the SHA-256 of each other file. Compare.
2. Every line of entries.jsonl is canonical JSON: keys sorted, no spaces, UTF-8. Take the characters
   `"hash":"<64 hex digits>",` out of the line at the first place where `,"hash":"` stands (and keep
   the comma before them). The SHA-256 of what remains must be those 64 digits.
3. `seq` counts 1, 2, 3 without gaps, `prevHash` is the `hash` of the line before (64 zeros in the
   first), `time` never falls, and no two lines share both `accountId` and `idempotencyKey`.
4. Balances are those of an account's blocks: `whole`, unless Opened asks for a `layout`; then
   Divided adds blocks by name. They start at nothing, per key of the account's charges. Reserved
   adds `payload.charge` to what is reserved of each of `payload.blocks` (`whole` where absent).
   Charged takes the reservation's charge from what is reserved of its blocks and adds
   `payload.charged` to what is charged. Returned takes it from what is reserved. Unlocked adds
   `amounts` to what is unlocked of the `blocks` beside them. Other entries move nothing. No balance
   ever falls below 0. Amounts are in units of 1e-12.
5. Every line of checkpoints.jsonl is a DSSE v1 envelope. Its signature is Ed25519 over
   `DSSEv1 SP <bytes of payloadType> SP payloadType SP <bytes of payload> SP payload`, where payload
   is the decoded base64, and payloadType is application/vnd.primum.ledger-checkpoint+json. All but
   the last stand, in order, in the entries of kind Checkpoint.
6. The payload is {"accounts", "hash", "keyId", "seq", "time"}. Entry `seq` must have that `hash`,
   and `accounts` must be "sha256:" and the SHA-256 of the canonical JSON
   {account id: {"charged": {...}, "reserved": {...}}} of the balances after that entry, amounts as
   strings of digits and none that are 0, with "unlocked": {...} beside them where any is unlocked,
   and for a divided account {account id: {"blocks": {name: {...}}}}. `keyId` is the SHA-256 of the
   key's 32 raw bytes.
7. The last checkpoint must be about the last entry. A checkpoint that you kept from an earlier day
   must hold for this bundle in the same way: if its entry is missing or has another hash, the
   ledger was rolled back or rewritten since.
"""
