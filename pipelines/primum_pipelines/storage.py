"""The only door to fsspec: where bytes lie, on this machine or behind a protocol.

Credentials come from the environment of the process (a Secret in a cluster), as each protocol's
library reads them; never from a URI, which is public. Must not decide what may be read.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from primum.domain.errors import InvalidValue, NotFound, Unavailable

_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*://")
_RETRY_SECONDS = 30.0
_GONE = (404, 410)
_STREAMED = ("http", "https")  # Read front to back in one answer; others know how to seek.


def filesystem_at(uri: str) -> tuple[Any, str]:
    """The file system of a path or fsspec URL, and the path within it.

    Raises:
        InvalidValue: If the protocol is unknown, its library is not installed, or protocols are
            chained: a chain can reach places that the address does not show.
    """
    import fsspec

    if not _PROTOCOL.match(uri):
        path = uri if uri.startswith("/") else str(Path(uri).expanduser().absolute())
        return fsspec.filesystem("file"), path
    if "::" in uri:
        raise InvalidValue("address", "must not chain protocols", "::")
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        protocol = uri.partition("://")[0]
        raise InvalidValue(
            f"protocol {protocol}",
            "must be one that this image has a library for",
            type(error).__name__,
            "Install fsspec's library for it beside Primum.",
        ) from None
    return filesystem, str(path)


@contextmanager
def opened(uri: str, *, said: str) -> Iterator[IO[bytes]]:
    """A file to read from its beginning.

    Args:
        uri: Path or fsspec URL.
        said: What it is, for messages; a URI of the data may hold a person's name.

    Raises:
        NotFound: If it is nowhere.
        Unavailable: If the place does not answer, also while it is read.
    """
    filesystem, path = filesystem_at(uri)
    options = {"block_size": 0} if uri.partition("://")[0] in _STREAMED else {}
    with _told(said), filesystem.open(path, "rb", **options) as file:
        yield file


def listed(uri: str, *, said: str) -> list[str] | None:
    """Names of all files below a folder, relative to it; ``None`` where a place lists nothing.

    Raises:
        NotFound: If the folder is nowhere.
        Unavailable: If the place does not answer.
    """
    if uri.partition("://")[0] in _STREAMED:
        return None
    filesystem, path = filesystem_at(uri)
    with _told(said):
        if not filesystem.isdir(path):
            raise FileNotFoundError
        found = filesystem.find(path)
    root = path.rstrip("/") + "/"
    return [str(name)[len(root) :] for name in found]


@contextmanager
def _told(said: str) -> Iterator[None]:
    """Errors of a place as ours."""
    try:
        yield
    except FileNotFoundError as error:
        # fsspec calls a server that does not answer a file that is not there.
        cause = error.__cause__
        if _foreign(cause) and getattr(cause, "status", None) not in _GONE:
            raise _unanswered(said, cause or error) from None
        raise NotFound(f"{said} must exist; found nothing there.") from None
    except gzip.BadGzipFile:
        raise  # What was read is wrong, not the place.
    except (OSError, RuntimeError) as error:
        raise _unanswered(said, error) from None
    except Exception as error:
        if not _foreign(error):
            raise
        raise _unanswered(said, error) from None


def _foreign(error: BaseException | None) -> bool:
    """Whether an error comes from a transport's library."""
    return type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "fsspec")


def _unanswered(said: str, error: BaseException) -> Unavailable:
    found = type(error).__name__
    return Unavailable(f"{said} must be readable; found {found}.", retry_seconds=_RETRY_SECONDS)
