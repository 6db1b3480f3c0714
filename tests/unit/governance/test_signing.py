"""Does an envelope open for its signer, its type and its bytes, and for nothing else?"""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum import signing
from primum.domain.errors import InvalidValue, Tampered

PRIVATE, PUBLIC = signing.generate()
_, OTHER_PUBLIC = signing.generate()
TYPE = "application/vnd.primum.ticket+json"


def test_encoding_is_the_one_of_the_specification():
    """The example of the DSSE v1 protocol document."""
    encoded = signing.pre_authentication_encoding("http://example.com/HelloWorld", b"hello world")
    assert encoded == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_are_of_bytes():
    assert signing.pre_authentication_encoding("é", b"") == b"DSSEv1 2 \xc3\xa9 0 "


@given(st.binary(max_size=300))
def test_payload_comes_back(payload):
    envelope = signing.sign(PRIVATE, TYPE, payload)
    assert signing.verify(PUBLIC, envelope, TYPE) == payload
    assert signing.decode_token(signing.encode_token(envelope)) == envelope


def test_key_id_is_of_the_public_key():
    envelope = signing.sign(PRIVATE, TYPE, b"x")
    assert envelope["signatures"][0]["keyid"] == signing.key_id(PUBLIC)
    assert signing.public_key_of(PRIVATE) == PUBLIC


def flipped(text, position):
    raw = bytearray(base64.b64decode(text))
    raw[position % len(raw)] ^= 1
    return base64.b64encode(raw).decode()


@pytest.mark.parametrize("position", range(0, 64, 7))
def test_a_flipped_bit_is_noticed(position):
    envelope = signing.sign(PRIVATE, TYPE, b"some payload")
    with pytest.raises(Tampered):
        signing.verify(
            PUBLIC, {**envelope, "payload": flipped(envelope["payload"], position)}, TYPE
        )
    signature = {**envelope["signatures"][0]}
    signature["sig"] = flipped(signature["sig"], position)
    with pytest.raises(Tampered):
        signing.verify(PUBLIC, {**envelope, "signatures": [signature]}, TYPE)


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": "application/vnd.primum.certificate+json"},
        {"payloadType": None},
        {"payload": "not base64!"},
        {"payload": "aGk"},
        {"payload": "aGl=\n"},
        {
            "payload": "aGl="
        },  # Decodes like aGk= under a lenient reader: one payload, two spellings.
        {"payload": 7},
        {"signatures": []},
        {"signatures": {}},
        {"signatures": ["x"]},
        {"signatures": [{"sig": 1}]},
        {"signatures": [{"keyid": "", "sig": "AAAA"}]},
        {"signatures": [{"sig": "AAAA"}] * 17},
    ],
)
def test_a_damaged_envelope_is_tampered(change):
    envelope = signing.sign(PRIVATE, TYPE, b"hi")
    with pytest.raises(Tampered):
        signing.verify(PUBLIC, {**envelope, **change}, TYPE)


def test_a_type_cannot_be_swapped():
    """A ticket never passes for a certificate, even with its type rewritten."""
    envelope = signing.sign(PRIVATE, TYPE, b"hi")
    with pytest.raises(Tampered):
        signing.verify(PUBLIC, envelope, signing.CERTIFICATE_TYPE)
    renamed = {**envelope, "payloadType": signing.CERTIFICATE_TYPE}
    with pytest.raises(Tampered):
        signing.verify(PUBLIC, renamed, signing.CERTIFICATE_TYPE)


def test_another_key_is_refused_whatever_the_key_id_says():
    envelope = signing.sign(PRIVATE, TYPE, b"hi")
    envelope["signatures"][0]["keyid"] = signing.key_id(OTHER_PUBLIC)
    with pytest.raises(Tampered):
        signing.verify(OTHER_PUBLIC, envelope, TYPE)
    assert signing.verify(PUBLIC, envelope, TYPE) == b"hi"


def test_one_good_signature_of_several_is_enough():
    other_private, _ = signing.generate()
    envelope = signing.sign(PRIVATE, TYPE, b"hi")
    second = signing.sign(other_private, TYPE, b"hi")["signatures"]
    both = {**envelope, "signatures": [*second, *envelope["signatures"]]}
    assert signing.verify(PUBLIC, both, TYPE) == b"hi"


@pytest.mark.parametrize("text", ["", "%%%", "e30", "W10", "eyJhIjogMX0", "eyJhIjoxLjV9", "e30="])
def test_tokens_have_one_spelling(text):
    """``e30`` is {} in canonical form, so it alone decodes; white space, floats, lists do not."""
    if text == "e30":
        assert signing.decode_token(text) == {}
    else:
        with pytest.raises(Tampered):
            signing.decode_token(text)


@pytest.mark.parametrize("pem", ["", "no key", PUBLIC.replace("PUBLIC", "PRIVATE")])
def test_bad_keys_are_named_and_not_shown(pem):
    with pytest.raises(InvalidValue, match="private_key must be an Ed25519 key") as caught:
        signing.sign(pem, TYPE, b"")
    assert "no key" not in str(caught.value)
    with pytest.raises(InvalidValue, match="public_key"):
        signing.verify(PRIVATE, signing.sign(PRIVATE, TYPE, b""), TYPE)
