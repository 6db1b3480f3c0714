"""Local identity: a token file with roles, for one machine.

In a cluster the API server answers this question.

Only digests of tokens are stored. The one readable token belongs to whoever owns the home folder,
which is the steward's zone on one machine.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primum.adapters import files
from primum.domain.errors import Tampered

TOKENS = "tokens.json"
TOKEN = "token"  # noqa: S105 - a file name
_LOCK = "tokens.lock"


class Role(enum.StrEnum):
    """What somebody may do; ``PLATFORM`` is for our own processes."""

    ENGINEER = "engineer"
    STEWARD = "steward"
    SCIENTIST = "scientist"
    COMPLIANCE = "compliance"
    AUDITOR = "auditor"
    PLATFORM = "platform"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, and the roles they hold."""

    name: str
    roles: frozenset[Role]

    def holds(self, *roles: Role) -> bool:
        """Whether any of the roles is held."""
        return bool(self.roles.intersection(roles))


NOBODY = Identity("nobody", frozenset())


def ensure_owner(home: Path) -> None:
    """Create the owner's token with every role, once, whoever else starts at the same moment."""
    if (home / TOKENS).exists():
        return
    with _alone(home):
        if (home / TOKENS).exists():
            return
        token = _new_token()
        # The digest comes last: a process that dies between the two has made no owner yet.
        files.replace(home / TOKEN, token.encode(), mode=files.OWNER_ONLY)
        _remember(home, [_entry("owner", tuple(Role), token)])


def issue(home: Path, *, name: str, roles: tuple[Role, ...]) -> str:
    """Add an identity and return its token, which is shown once and never stored.

    Args:
        home: The home folder.
        name: Who; a person or a service, never a patient.
        roles: The roles granted.
    """
    token = _new_token()
    with _alone(home):
        _remember(home, [*_known(home), _entry(name, roles, token)])
    return token


def holders(home: Path) -> tuple[Identity, ...]:
    """Everybody who holds a token, in the order in which they got it."""
    return tuple(
        Identity(str(item["name"]), frozenset(Role(role) for role in item["roles"]))
        for item in _known(home)
    )


def withdraw(home: Path, name: str) -> None:
    """End every token of a name; a no-op for nobody's."""
    with _alone(home):
        _remember(home, [item for item in _known(home) if item["name"] != name])


def identify(home: Path, token: str) -> Identity:
    """Whose token it is; ``NOBODY`` where it is nobody's."""
    given = _digest(token)
    for item in _known(home):
        if hmac.compare_digest(str(item["sha256"]), given):
            roles = frozenset(Role(role) for role in item["roles"])
            return Identity(str(item["name"]), roles)
    return NOBODY


def caller(home: Path, token: str) -> Identity:
    """The identity of a local command: its own token, else the readable one in the home folder."""
    if not token and os.access(home / TOKEN, os.R_OK):
        token = (home / TOKEN).read_text().strip()
    return identify(home, token) if token else NOBODY


def _known(home: Path) -> list[dict[str, Any]]:
    path = home / TOKENS
    if not path.exists():
        return []
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    shaped = isinstance(known, list) and all(
        isinstance(item, dict) and {"name", "roles", "sha256"} <= item.keys() for item in known
    )
    if not shaped:
        raise Tampered(f"{path} must list who holds which role; found something else")
    return list(known)


def _new_token() -> str:
    return "primum_" + secrets.token_urlsafe(32)


def _entry(name: str, roles: tuple[Role, ...], token: str) -> dict[str, Any]:
    return {"name": name, "roles": sorted(role.value for role in roles), "sha256": _digest(token)}


def _remember(home: Path, known: list[dict[str, Any]]) -> None:
    files.replace(home / TOKENS, json.dumps(known, indent=1).encode(), mode=files.OWNER_ONLY)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """What is read here and written again loses nobody's token: one process at a time."""
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with files.locked(home / _LOCK):
        yield


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
