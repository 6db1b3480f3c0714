"""Files that people name on the command line: read whole, and refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def json_object(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file that was signed or should have been.

    Raises:
        NotFound: If there is no such file.
        Tampered: If it holds something else.
    """
    import json

    from primum.domain.errors import Tampered

    try:
        value = json.loads(text(file, what))
    except (ValueError, RecursionError):
        raise Tampered(f"{what} {file} must be JSON; found something else") from None
    if not isinstance(value, dict):
        raise Tampered(f"{what} {file} must be a JSON object; found something else")
    return value


def text(file: Path, what: str) -> str:
    """The text in a file.

    Raises:
        NotFound: If there is no such file.
        Tampered: If it is no text.
    """
    try:
        return content(file, what).decode("utf-8")
    except UnicodeDecodeError:
        from primum.domain.errors import Tampered

        raise Tampered(f"{what} {file} must be text; found other bytes") from None


def content(file: Path, what: str) -> bytes:
    """The bytes in a file.

    Raises:
        NotFound: If there is no such file.
        InvalidValue: If it cannot be read.
    """
    from primum.domain.errors import InvalidValue, NotFound

    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{what} {file} does not exist") from None
    except OSError as error:
        found = error.strerror or "an error"
        raise InvalidValue(f"{what} {file}", "must be readable", found) from None


def create(file: Path, data: bytes, what: str) -> None:
    """Write a new file, durably; an older one is never replaced.

    Raises:
        Conflict: If there is one already.
    """
    import os

    from primum.domain.errors import Conflict

    try:
        with file.open("xb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
    except FileExistsError:
        raise Conflict(f"{what} {file} must not exist yet; found a file there") from None
