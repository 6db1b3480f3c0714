"""The platform's signing key in a folder: made once, readable by its owner only, never shown.

Losing the key makes no old certificate wrong; copying it makes every new one doubtful. So the
private half appears under its name in one step with mode 0600 and is refused when others could have
read it.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from primum import signing
from primum.adapters import files
from primum.domain.canonical import JSON
from primum.domain.errors import NotFound, Refused

PRIVATE_NAME = "signing.pem"
PUBLIC_NAME = "signing.pub.pem"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def ensure(folder: Path) -> str:
    """Make the key pair once, and give the public half's PEM.

    Two processes may start at once: the first private key that is there wins.

    Args:
        folder: Where the key lies; made with mode 0700.

    Raises:
        Refused: If others than the owner may read the private key.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / PRIVATE_NAME
    if not path.exists():
        with suppress(FileExistsError):
            files.create(path, signing.generate()[0].encode(), mode=files.OWNER_ONLY)
    public_pem = signing.public_key_of(_read_private(path))
    public = folder / PUBLIC_NAME
    if not public.exists() or public.read_text() != public_pem:
        files.replace(public, public_pem.encode(), mode=files.READABLE)
    return public_pem


class FileSigner:
    """The platform's key, kept in ``folder``: signs tokens, checkpoints and certificates.

    Args:
        folder: Where the key lies, or is made.

    Raises:
        Refused: If others than the owner may read the private key.
    """

    def __init__(self, folder: Path) -> None:
        self._public = ensure(folder)
        self._private = _read_private(folder / PRIVATE_NAME)

    def __repr__(self) -> str:
        return f"FileSigner(key={self.key_id[:12]})"

    @property
    def key_id(self) -> str:
        """How envelopes name this key."""
        return signing.key_id(self._public)

    def public_key(self) -> str:
        """PEM of the Ed25519 public key."""
        return self._public

    def sign(self, payload_type: str, payload: bytes) -> Mapping[str, JSON]:
        """A DSSE envelope around the payload."""
        return signing.sign(self._private, payload_type, payload)

    def open(self, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
        """Verify an envelope and give its payload.

        Raises:
            Tampered: If the signature, the type or the shape is wrong.
        """
        return signing.verify(self._public, envelope, payload_type)


class PublicKeyReader:
    """The verifying half only, for processes that must not be able to sign."""

    def __init__(self, folder: Path) -> None:
        path = folder / PUBLIC_NAME
        try:
            self._public = path.read_text()
        except FileNotFoundError:
            raise NotFound(
                f"public key {path} must exist; found nothing there. Start the platform once."
            ) from None

    def public_key(self) -> str:
        """PEM of the Ed25519 public key."""
        return self._public

    def open(self, envelope: Mapping[str, JSON], payload_type: str) -> bytes:
        """Verify an envelope and give its payload.

        Raises:
            Tampered: If the signature, the type or the shape is wrong.
        """
        return signing.verify(self._public, envelope, payload_type)


def _read_private(path: Path) -> str:
    mode = path.stat().st_mode
    if mode & _OTHERS:
        raise Refused(
            f"private key {path} must be readable by its owner only; found mode {mode & 0o777:o}. "
            f"Treat it as leaked and replace it, or: chmod 600 {path}"
        )
    return path.read_text()
