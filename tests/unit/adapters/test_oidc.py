"""An OpenID Connect issuer on loopback: which of its tokens are believed, and for what."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from primum.adapters import oidc
from primum.adapters.identity import NOBODY, Role
from primum.adapters.oidc import OidcIdentities, OidcSettings, read_settings
from primum.domain.errors import InvalidValue, Unavailable
from primum.entrypoints import bootstrap, settings

AUDIENCE = "primum"
RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS = {
    "RS256": RSA_KEY,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


class Issuer:
    """Publishes discovery and keys, and counts who asks."""

    def __init__(self):
        self.asked: list[str] = []
        self.keys = [published(name, key) for name, key in KEYS.items()]
        self.answers: dict[str, tuple[int, bytes, dict]] = {}
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked.append(self.path)
                code, body, headers = issuer.answer(self.path)
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/realm"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.thread.start()

    def answer(self, path):
        if path in self.answers:
            return self.answers[path]
        if path.endswith("openid-configuration"):
            found = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        else:
            found = {"keys": self.keys}
        return 200, json.dumps(found).encode(), {}

    def says(self, path, value, code=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answers[f"/realm{path}"] = (code, body, headers)

    def token(self, algorithm="RS256", *, key=None, kid="", header=None, **changes):
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "lena",
            "iat": now,
            "exp": now + 300,
            "groups": ["stewards", "others"],
        }
        claims = {k: v for k, v in {**claims, **changes}.items() if v is not None}
        headers = {"kid": kid or algorithm, **(header or {})}
        headers = {k: v for k, v in headers.items() if v is not None}
        return jwt.encode(claims, key or KEYS[algorithm], algorithm=algorithm, headers=headers)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def published(kid, key, **more):
    """A key as its issuer publishes it."""
    kinds = {
        "RS256": rsa.RSAPrivateKey,
        "ES256": ec.EllipticCurvePrivateKey,
        "EdDSA": ed25519.Ed25519PrivateKey,
    }
    (algorithm,) = [name for name, kind in kinds.items() if isinstance(key, kind)]
    made = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(key.public_key())
    return {**json.loads(made), "kid": kid, "use": "sig", **more}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def issuer():
    made = Issuer()
    yield made
    made.close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def provider(issuer, clock):
    return OidcIdentities(settings_of(issuer), monotonic=clock)


def settings_of(issuer, **changes):
    roles = {"stewards": frozenset({Role.STEWARD}), "auditors": frozenset({Role.AUDITOR})}
    fields = {"issuer": issuer.url, "audience": AUDIENCE, "roles": roles}
    return OidcSettings(**{**fields, **changes})


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_token_of_the_issuer_gives_its_roles(issuer, provider, algorithm):
    token = issuer.token(algorithm)
    assert provider.issued(token)
    found = provider.identify(token)
    assert (found.name, found.roles) == ("lena", {Role.STEWARD})


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another"},
        {"aud": ["another", "third"]},
        {"aud": None},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 300},
        {"groups": None},
        {"groups": []},
        {"groups": ["others"]},
        {"groups": {"stewards": True}},
        {"groups": [["stewards"]]},
        {"groups": 7},
    ],
)
def test_a_token_that_is_not_for_us_is_nobodys(issuer, provider, changes):
    assert provider.identify(issuer.token(**changes)) == NOBODY


def test_a_token_for_several_is_for_us_too(issuer, provider):
    assert provider.identify(issuer.token(aud=["another", AUDIENCE])).roles == {Role.STEWARD}


def test_clocks_may_differ_a_little_and_no_more(issuer, provider):
    now = int(time.time())
    assert provider.identify(issuer.token(exp=now - 5)) != NOBODY
    assert provider.identify(issuer.token(exp=now - 120)) == NOBODY


def unsigned(claims, header):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}."


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def test_a_token_without_a_signature_is_nobodys(issuer, provider):
    claims = claims_of(issuer.token())
    for algorithm in ("none", "None", "NONE", ""):
        header = {"alg": algorithm, "typ": "JWT", "kid": "RS256"}
        assert provider.identify(unsigned(claims, header)) == NOBODY
    assert provider.identify(unsigned(claims, {"alg": "RS256", "kid": "RS256"})) == NOBODY


@pytest.mark.parametrize("form", ["PEM", "DER", "JWK"])
def test_a_public_key_is_no_shared_secret(issuer, provider, form):
    public = RSA_KEY.public_key()
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "PEM": public.public_bytes(serialization.Encoding.PEM, info),
        "DER": public.public_bytes(serialization.Encoding.DER, info),
        "JWK": json.dumps(issuer.keys[0]).encode(),
    }[form]
    body = unsigned(claims_of(issuer.token()), {"alg": "HS256", "kid": "RS256"}).rstrip(".")
    mac = hmac.new(secret, body.encode(), hashlib.sha256).digest()
    forged = f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
    assert provider.identify(forged) == NOBODY


def test_an_algorithm_of_another_kind_of_key_is_refused(issuer, provider):
    assert provider.identify(issuer.token("ES256", kid="RS256")) == NOBODY
    assert provider.identify(issuer.token("RS384", key=RSA_KEY, kid="RS256")) == NOBODY
    assert provider.identify(issuer.token("PS256", key=RSA_KEY, kid="RS256")) == NOBODY


def test_a_key_that_the_token_brings_along_is_not_believed(issuer, provider):
    mine = rsa.generate_private_key(65537, 2048)
    header = {"jwk": published("mine", mine), "jku": f"{issuer.url}/mine", "kid": "mine"}
    assert provider.identify(issuer.token(key=mine, header=header)) == NOBODY
    assert not any("mine" in path for path in issuer.asked)
    assert provider.identify(issuer.token(key=mine)) == NOBODY


def test_an_extension_that_nobody_knows_is_refused(issuer, provider):
    assert provider.identify(issuer.token(header={"crit": ["exp"]})) == NOBODY


def test_keys_are_asked_for_once_and_again_after_a_while(issuer, provider, clock):
    for _ in range(5):
        provider.identify(issuer.token())
    assert len(issuer.asked) == 2
    clock.now += oidc.KEYS_SECONDS + 1
    provider.identify(issuer.token())
    assert len(issuer.asked) == 4


def test_a_rotated_key_is_found(issuer, provider, clock):
    provider.identify(issuer.token())
    fresh = rsa.generate_private_key(65537, 2048)
    issuer.keys = [published("fresh", fresh)]
    token = issuer.token(key=fresh, kid="fresh")
    assert provider.identify(token) == NOBODY, "asked a moment ago"
    clock.now += oidc.UNKNOWN_SECONDS + 1
    assert provider.identify(token).roles == {Role.STEWARD}
    assert provider.identify(issuer.token()) == NOBODY, "the old key is gone"


def test_a_flood_of_unknown_keys_asks_the_issuer_seldom(issuer, provider, clock):
    for number in range(200):
        clock.now += 0.1
        assert provider.identify(issuer.token(kid=f"unknown-{number}")) == NOBODY
    assert len(issuer.asked) <= 2 * 3


def test_a_token_that_names_no_key_is_believed_where_there_is_one_alone(issuer, provider, clock):
    bare = issuer.token(header={"kid": None})
    assert provider.identify(bare) == NOBODY
    issuer.keys = issuer.keys[:1]
    clock.now += oidc.KEYS_SECONDS + 1
    assert provider.identify(bare).roles == {Role.STEWARD}


def test_an_issuer_that_is_away_is_believed_for_an_hour_and_no_longer(issuer, provider, clock):
    provider.identify(issuer.token())
    issuer.says("/.well-known/openid-configuration", {}, code=503)
    clock.now += oidc.KEYS_SECONDS + 1
    assert provider.identify(issuer.token()).roles == {Role.STEWARD}
    clock.now += oidc.KEYS_SECONDS_MAX
    with pytest.raises(Unavailable, match="did not answer"):
        provider.identify(issuer.token())


@pytest.mark.parametrize(
    ("path", "value", "code", "headers"),
    [
        ("/.well-known/openid-configuration", {"issuer": "https://evil", "jwks_uri": "x"}, 200, {}),
        ("/.well-known/openid-configuration", b"<html>", 200, {}),
        ("/.well-known/openid-configuration", [], 200, {}),
        ("/.well-known/openid-configuration", b"", 302, {"Location": "/realm/elsewhere"}),
        ("/keys", {"keys": "none"}, 200, {}),
        ("/keys", b"{" + b" " * 600_000 + b"}", 200, {}),
        ("/keys", b"[" * 100_000, 200, {}),
        ("/keys", {}, 500, {}),
    ],
)
def test_an_issuer_that_says_something_else_is_unavailable(
    issuer, provider, path, value, code, headers
):
    issuer.says(path, value, code, **headers)
    with pytest.raises(Unavailable):
        provider.identify(issuer.token())
    assert "/realm/elsewhere" not in issuer.asked


def test_keys_elsewhere_must_be_over_tls(issuer, provider):
    told = {"issuer": issuer.url, "jwks_uri": "http://keys.example/keys"}
    issuer.says("/.well-known/openid-configuration", told)
    with pytest.raises(Unavailable, match="https"):
        provider.identify(issuer.token())


def test_keys_that_are_weak_foreign_or_damaged_are_passed_over(issuer, provider):
    small = rsa.generate_private_key(65537, 1024)
    issuer.keys = [
        published("small", small),
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "damaged", "n": "!", "e": "AQAB"},
        published("sealing", RSA_KEY, use="enc"),
        published("other", RSA_KEY, alg="RS512"),
        "text",
        published("RS256", RSA_KEY),
    ]
    assert provider.identify(issuer.token()).roles == {Role.STEWARD}
    for kid in ("sealing", "other"):
        assert provider.identify(issuer.token(kid=kid)) == NOBODY
    forged = jwt.encode(
        claims_of(issuer.token()), b"secret" * 8, "HS256", headers={"kid": "secret"}
    )
    assert provider.identify(forged) == NOBODY


@pytest.mark.parametrize(
    "token", ["", "x", "a.b.c", "a.b.c.d", "é.é.é", "." * 20_000, "a" * 20_000]
)
def test_what_is_no_token_is_nobodys(issuer, provider, token):
    assert not provider.issued(token)
    assert provider.identify(token) == NOBODY


def test_roles_may_lie_inside_a_claim(issuer, clock):
    deep = settings_of(issuer, claim="realm_access.roles", name="email")
    provider = OidcIdentities(deep, monotonic=clock)
    token = issuer.token(realm_access={"roles": ["auditors"]}, email="lena@hospital.example")
    found = provider.identify(token)
    assert (found.name, found.roles) == ("lena@hospital.example", {Role.AUDITOR})
    assert provider.identify(issuer.token(realm_access="auditors", email="l")) == NOBODY


def write(tmp_path, value):
    path = tmp_path / "oidc.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return str(path)


GOOD = {
    "issuer": "https://login.hospital.example/realm",
    "audience": "primum",
    "roles": {"stewards": ["steward", "auditor"], "compliance": "compliance"},
    "claim": "groups",
    "name": "email",
}


def test_settings_are_read_from_a_file(tmp_path):
    found = read_settings(write(tmp_path, GOOD))
    assert found.roles["stewards"] == {Role.STEWARD, Role.AUDITOR}
    assert (found.issuer, found.name, found.ca) == (GOOD["issuer"], "email", "")


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://login.hospital.example"},
        {"issuer": "https://user:word@login.example"},
        {"issuer": ""},
        {"issuer": 7},
        {"audience": ""},
        {"claim": ""},
        {"roles": []},
        {"roles": {"a": "boss"}},
        {"roles": {"a": 7}},
        {"roles": {"processes": "platform"}},
        {"rolse": {}},
    ],
)
def test_settings_that_are_wrong_are_refused(tmp_path, change):
    with pytest.raises(InvalidValue) as wrong:
        read_settings(write(tmp_path, {**GOOD, **change}))
    assert "word" not in str(wrong.value)


@pytest.mark.parametrize("text", ["{", "[]", "", '{"issuer": "https://x"}'])
def test_a_file_that_is_none_is_refused(tmp_path, text):
    with pytest.raises(InvalidValue, match="PRIMUM_OIDC"):
        read_settings(write(tmp_path, text))
    with pytest.raises(InvalidValue, match="PRIMUM_OIDC"):
        read_settings(str(tmp_path / "nothing.json"))


def test_tokens_of_others_are_somebody_elses_to_know(issuer, tmp_path):
    path = write(tmp_path, {**GOOD, "issuer": issuer.url, "name": "sub"})
    told = settings.from_environment({"PRIMUM_OIDC": path, "PRIMUM_HOME": str(tmp_path)})
    asked = []
    identify = bootstrap.identities(told, lambda token: asked.append(token) or NOBODY)
    assert identify(issuer.token()).roles == {Role.STEWARD, Role.AUDITOR}
    assert identify(issuer.token(exp=1)) == NOBODY
    assert asked == []
    identify(issuer.token(iss="https://kubernetes.default.svc"))
    identify("primum_token")
    assert len(asked) == 2
