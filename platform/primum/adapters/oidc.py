"""Identity from an OpenID Connect provider: whose token it is, by its signature and claims.

The only door to ``jwt``. Signatures are checked with keys that the issuer publishes, in algorithms
with public keys alone; what the token itself says of keys (``jku``, ``jwk``, ``x5u``) is never
followed. Must not let anybody in whom a role is not written down for, nor name a process of the
platform.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog

from primum.adapters.identity import NOBODY, Identity, Role
from primum.domain.errors import InvalidValue, Unavailable

# By the kind of key, so that a token cannot have a public key taken for a shared secret.
ALGORITHMS: Mapping[str, str] = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
KEYS_SECONDS = 300.0  # After which keys are asked for again.
KEYS_SECONDS_MAX = 3600.0  # So long may they be used while the issuer does not answer.
UNKNOWN_SECONDS = 10.0  # Between two questions because of an unknown key: a flood asks no oftener.
SKEW_SECONDS = 30.0
_ANSWER_BYTES_MAX = 512 * 1024
_TOKEN_LENGTH_MAX = 16_384
_NAME_LENGTH_MAX = 253
_KEYS_MAX = 64
_RSA_BITS_MIN = 2048
_FETCH_SECONDS = 5.0
_DISCOVERY = "/.well-known/openid-configuration"
_REQUIRED = ("exp", "iat", "iss", "aud", "sub")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_FIELDS = {"issuer", "audience", "roles", "claim", "name", "ca"}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Which provider is believed, and what its claims mean.

    Args:
        issuer: Its address, exactly as tokens say it.
        audience: Whom tokens must be for: this API.
        roles: What each value of the claim stands for.
        claim: The claim with groups or roles; dots lead into objects (``realm_access.roles``).
        name: The claim with who it is.
        ca: PEM file of the authorities that its certificate is checked with; the system's where
            empty.

    Raises:
        InvalidValue: If the issuer's address is not TLS, or a value cannot be one.
    """

    issuer: str
    audience: str
    roles: Mapping[str, frozenset[Role]]
    claim: str = "groups"
    name: str = "sub"
    ca: str = ""

    def __post_init__(self) -> None:
        _check_address("oidc.issuer", self.issuer)
        for name in ("audience", "claim", "name"):
            if not getattr(self, name):
                raise InvalidValue(f"oidc.{name}", "must be said", "nothing")
        if Role.PLATFORM in {role for roles in self.roles.values() for role in roles}:
            raise InvalidValue(
                "oidc.roles", "must not give the role platform", "platform", "It is for processes."
            )


def read_settings(path: str) -> OidcSettings:
    """The settings in a JSON file.

    Raises:
        InvalidValue: If it cannot be read, or a field is missing, unknown or wrong.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidValue("PRIMUM_OIDC", "must be a JSON file", type(error).__name__) from None
    if not isinstance(value, dict) or not {"issuer", "audience", "roles"} <= set(value) <= _FIELDS:
        rule = "must have issuer, audience and roles, and may have claim, name and ca"
        raise InvalidValue("PRIMUM_OIDC", rule, "other fields")
    roles = value.pop("roles")
    if not all(isinstance(item, str) for item in value.values()) or not isinstance(roles, dict):
        raise InvalidValue("PRIMUM_OIDC", "must hold texts, and roles an object", "another type")
    return OidcSettings(**value, roles={str(name): _roles(item) for name, item in roles.items()})


class OidcIdentities:
    """Knows callers by tokens of one issuer; safe to use from many threads.

    Args:
        settings: The issuer and what its claims mean.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(
        self, settings: OidcSettings, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._keys = _Keys(settings, monotonic)

    def issued(self, token: str) -> bool:
        """Whether a token says that it is of this issuer; nothing of it is believed yet."""
        if len(token) > _TOKEN_LENGTH_MAX or token.count(".") != 2:  # noqa: PLR2004 - a JWS
            return False
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return False
        return bool(claims.get("iss") == self._settings.issuer)

    def identify(self, token: str) -> Identity:
        """Whose token it is; ``NOBODY`` where it is not good, or gives no role.

        Raises:
            Unavailable: If the issuer's keys cannot be had.
        """
        if not token or len(token) > _TOKEN_LENGTH_MAX:
            return NOBODY
        try:
            claims = self._claims(token)
        except jwt.PyJWTError as error:
            log.info("a token was refused", reason=type(error).__name__)
            return NOBODY
        name = claims.get(self._settings.name)
        usable = isinstance(name, str) and 0 < len(name) <= _NAME_LENGTH_MAX and name.isprintable()
        roles = self._roles(claims)
        return Identity(str(name), roles) if usable and roles else NOBODY

    def _claims(self, token: str) -> Mapping[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS.values():
            raise jwt.InvalidAlgorithmError("not an algorithm with public keys")
        if header.get("crit"):
            raise jwt.InvalidTokenError("an extension that nobody here knows")
        key = self._keys.find(kid if isinstance(kid, str) else "")
        if key is None or key.algorithm != algorithm:
            raise jwt.InvalidKeyError("no key of the issuer")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key.public,
            algorithms=[key.algorithm],
            audience=self._settings.audience,
            issuer=self._settings.issuer,
            leeway=SKEW_SECONDS,
            options={"require": list(_REQUIRED)},
        )
        return claims

    def _roles(self, claims: Mapping[str, Any]) -> frozenset[Role]:
        found: Any = claims.get(self._settings.claim)
        if found is None:
            found = claims
            for part in self._settings.claim.split("."):
                found = found.get(part) if isinstance(found, Mapping) else None
        values = [found] if isinstance(found, str) else found if isinstance(found, list) else []
        given = (self._settings.roles.get(item, frozenset()) for item in values if _is_text(item))
        return frozenset(role for roles in given for role in roles)


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    algorithm: str
    public: Any = field(repr=False)


class _Keys:
    """The issuer's keys, kept for a while."""

    def __init__(self, settings: OidcSettings, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: Sequence[_Key] = ()
        self._since = float("-inf")
        self._tried = float("-inf")

    def find(self, kid: str) -> _Key | None:
        """The key of a name; the only key there is where the token names none."""
        with self._lock:
            if self._monotonic() - self._since >= KEYS_SECONDS:
                self._refresh()
            found = self._known(kid)
            if found is None and self._monotonic() - self._tried >= UNKNOWN_SECONDS:
                self._refresh()
                found = self._known(kid)
        return found

    def _known(self, kid: str) -> _Key | None:
        if not kid:
            return self._keys[0] if len(self._keys) == 1 else None
        return next((key for key in self._keys if key.kid == kid), None)

    def _refresh(self) -> None:
        now = self._monotonic()
        if now - self._tried < UNKNOWN_SECONDS and now - self._since < KEYS_SECONDS_MAX:
            return
        self._tried = now
        try:
            self._keys, self._since = self._published(), now
        except Unavailable:
            if now - self._since >= KEYS_SECONDS_MAX:
                self._keys = ()
                raise
            log.warning("the issuer's keys could not be asked for again")

    def _published(self) -> Sequence[_Key]:
        issuer = self._settings.issuer
        told = self._fetched(issuer.rstrip("/") + _DISCOVERY)
        if told.get("issuer") != issuer:
            raise Unavailable("the OIDC issuer must name itself as it is set; found another one")
        address = told.get("jwks_uri")
        try:
            _check_address("jwks_uri", address if isinstance(address, str) else "")
        except InvalidValue as error:
            raise Unavailable(f"the OIDC issuer published something else: {error}") from None
        listed = self._fetched(str(address)).get("keys")
        if not isinstance(listed, list):
            raise Unavailable("the OIDC issuer must publish keys; found something else")
        found = [_key(item) for item in listed[:_KEYS_MAX] if isinstance(item, dict)]
        return tuple(key for key in found if key is not None)

    def _fetched(self, address: str) -> Mapping[str, Any]:
        context = ssl.create_default_context(cafile=self._settings.ca or None)
        opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=context), _NoRedirects()
        )
        try:
            with opener.open(address, timeout=_FETCH_SECONDS) as answer:
                text = answer.read(_ANSWER_BYTES_MAX + 1)
            value = json.loads(text) if len(text) <= _ANSWER_BYTES_MAX else None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise Unavailable(f"the OIDC issuer did not answer ({type(error).__name__})") from None
        if not isinstance(value, dict):
            raise Unavailable("the OIDC issuer must answer with an object; found something else")
        return value


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow nobody elsewhere: keys come from where the issuer says they are."""


def _key(item: Mapping[str, Any]) -> _Key | None:
    """A published key, if signatures of tokens may be checked with it."""
    algorithm = ALGORITHMS.get(str(item.get("kty")))
    if algorithm is None or item.get("use", "sig") != "sig":
        return None
    if item.get("alg", algorithm) != algorithm:
        return None
    try:
        public = jwt.PyJWK(dict(item), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if algorithm == "RS256" and public.key_size < _RSA_BITS_MIN:
        return None
    if hasattr(public, "private_bytes"):
        return None  # Whoever publishes a private key has no secret left.
    return _Key(str(item.get("kid", "")), algorithm, public)


def _roles(value: object) -> frozenset[Role]:
    listed = [value] if isinstance(value, str) else value
    known = {role.value for role in Role}
    if not isinstance(listed, list) or not all(_is_text(i) and i in known for i in listed):
        rule = f"must map to one or more of {', '.join(sorted(known - {Role.PLATFORM}))}"
        raise InvalidValue("oidc.roles", rule, "something else")
    return frozenset(Role(item) for item in listed)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _check_address(name: str, address: str) -> None:
    parts = urlsplit(address)
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    if not parts.hostname or parts.username or not (parts.scheme == "https" or plain):
        # Not shown: somebody may have written a password into it.
        raise InvalidValue(name, "must be an https address", "another address")
