"""Signatures: the only door to ``cryptography``, and the one envelope everything is signed in.

DSSE v1 envelopes with Ed25519. What is signed is the pre-authentication encoding, which binds the
payload type, so that a ticket can never pass for a certificate. This module holds no keys, reads no
files and knows no payload; it must not decide who may sign what.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import InvalidValue, Tampered

CERTIFICATE_TYPE = "application/vnd.primum.certificate+json"
CHECKPOINT_TYPE = "application/vnd.primum.ledger-checkpoint+json"
DATA_TOKEN_TYPE = "application/vnd.primum.data-token+json"  # noqa: S105 - a media type
RUN_CREDENTIAL_TYPE = "application/vnd.primum.run-credential+json"
TICKET_TYPE = "application/vnd.primum.ticket+json"

_ENVELOPE_BYTES_MAX = 4 * 2**20  # Far above any certificate; a hostile file must not fill memory.
_SIGNATURES_MAX = 16
_SIGNATURE_BYTES = 64  # Ed25519, RFC 8032 section 5.1.6.


def generate() -> tuple[str, str]:
    """A fresh Ed25519 key pair from the operating system's generator.

    Returns:
        Private key (PKCS 8, unencrypted) and public key (SubjectPublicKeyInfo), both PEM.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return pem, _public_pem(private.public_key())


def public_key_of(private_pem: str) -> str:
    """The public half of a private key, PEM.

    Raises:
        InvalidValue: If it is no Ed25519 private key.
    """
    return _public_pem(_private_key(private_pem).public_key())


def key_id(public_pem: str) -> str:
    """How an envelope names its signer: SHA-256 over the 32 raw bytes of the public key.

    A hint for choosing a key, never a proof: only the signature proves.

    Raises:
        InvalidValue: If it is no Ed25519 public key.
    """
    return _key_id(_public_key(public_pem))


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE v1 PAE.

    ``"DSSEv1" SP len(type) SP type SP len(payload) SP payload``, lengths in bytes, ASCII decimal.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign(private_pem: str, payload_type: str, payload: bytes) -> dict[str, JSON]:
    """A DSSE envelope around a payload.

    Args:
        private_pem: Ed25519 private key, PEM.
        payload_type: Media type of the payload; part of what is signed.
        payload: Any bytes.

    Returns:
        ``{"payloadType", "payload", "signatures": [{"keyid", "sig"}]}``, base64 with padding.

    Raises:
        InvalidValue: If the key cannot be read.
    """
    key = _private_key(private_pem)
    signature = key.sign(pre_authentication_encoding(payload_type, payload))
    return {
        "payloadType": payload_type,
        "payload": base64.b64encode(payload).decode(),
        "signatures": [
            {"keyid": _key_id(key.public_key()), "sig": base64.b64encode(signature).decode()}
        ],
    }


def verify(public_pem: str, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
    """The payload of an envelope, if the owner of a key signed it as this type.

    Several signatures are tolerated: one that verifies under this key is enough, whatever its
    key id says.

    Args:
        public_pem: Ed25519 public key, PEM.
        envelope: A DSSE envelope.
        payload_type: The type that the caller is about to read the payload as.

    Returns:
        The signed bytes; parse only these.

    Raises:
        Tampered: If shape, type or every signature is wrong.
        InvalidValue: If the key cannot be read.
    """
    key = _public_key(public_pem)
    found = envelope.get("payloadType") if isinstance(envelope, Mapping) else None
    if not isinstance(found, str) or found != payload_type:
        shown = found[:80] if isinstance(found, str) else type(found).__name__
        raise Tampered(f"envelope.payloadType must be {payload_type}; found {shown}.")
    payload = _decoded("envelope.payload", envelope.get("payload"))
    message = pre_authentication_encoding(payload_type, payload)
    if not any(_signed(key, signature, message) for signature in _signatures(envelope)):
        name = _key_id(key)[:12]
        raise Tampered(f"envelope must be signed by key {name}; found no such signature.")
    return payload


def encode_token(envelope: Mapping[str, JSON]) -> str:
    """An envelope as one URL-safe word: base64url of its canonical JSON, without padding."""
    return base64.urlsafe_b64encode(canonical_json(envelope)).decode().rstrip("=")


def decode_token(text: str) -> dict[str, JSON]:
    """The envelope in a token. Not verified: pass it to ``verify`` before believing a byte of it.

    Raises:
        Tampered: If it is no token, or not in the one form that ``encode_token`` writes.
    """
    if not isinstance(text, str) or len(text) > _ENVELOPE_BYTES_MAX:
        raise Tampered("token must be text of a sane length; found something else.")
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        value = json.loads(raw)
    except (ValueError, RecursionError):
        raise Tampered("token must be base64url of JSON; found something else.") from None
    if not isinstance(value, dict):
        raise Tampered("token must hold a JSON object; found something else.")
    try:
        canonical = encode_token(value) == text
    except (InvalidValue, UnicodeEncodeError, RecursionError):
        canonical = False
    if not canonical:
        raise Tampered("token must be in canonical form; found another spelling.")
    return value


def _public_pem(key: Ed25519PublicKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(encoding, form).decode()


def _private_key(pem: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):  # The message never shows the key.
        raise InvalidValue("private_key", "must be an Ed25519 key in PEM", "another text")
    return key


def _public_key(pem: str) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidValue("public_key", "must be an Ed25519 key in PEM", "another text")
    return key


def _key_id(key: Ed25519PublicKey) -> str:
    encoding, form = serialization.Encoding.Raw, serialization.PublicFormat.Raw
    return hashlib.sha256(key.public_bytes(encoding, form)).hexdigest()


def _decoded(field: str, value: object) -> bytes:
    if not isinstance(value, str) or len(value) > _ENVELOPE_BYTES_MAX:
        raise Tampered(f"{field} must be base64 text; found something else.")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Tampered(f"{field} must be strict base64; found something else.") from None
    # Leftover bits in the last character would give one payload two spellings.
    if base64.b64encode(raw).decode() != value:
        raise Tampered(f"{field} must be strict base64; found another spelling.")
    return raw


def _signatures(envelope: Mapping[str, JSON]) -> Sequence[JSON]:
    found = envelope.get("signatures")
    if not isinstance(found, list | tuple) or not 0 < len(found) <= _SIGNATURES_MAX:
        rule = f"must list 1 to {_SIGNATURES_MAX}"
        raise Tampered(f"envelope.signatures {rule}; found something else.")
    return found


def _signed(key: Ed25519PublicKey, signature: JSON, message: bytes) -> bool:
    if not isinstance(signature, Mapping):
        raise Tampered("envelope.signatures must hold objects; found something else.")
    raw = _decoded("envelope.signatures.sig", signature.get("sig"))
    if len(raw) != _SIGNATURE_BYTES:
        return False
    try:
        key.verify(raw, message)
    except InvalidSignature:
        return False
    return True
