"""Where a dataset's files lie: a file, or a folder with files named by a table.

A name in a table is data of somebody else: it must not lead out of the folder, by dots, by an
absolute path or by a link. Nothing is read beyond a stated size, and no message shows a name out of
a table, which may be a person's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import quote

from primum.domain.errors import InvalidValue, NotFound, Unavailable
from primum_pipelines import storage
from primum_pipelines.datasets.driver import parse_uri

TRANSPORTS = ("http", "https", "memory", "s3", "gs", "abfs")
_NAME_LENGTH_MAX = 1024
_PIECE_BYTES = 2**18
_REMEDY = "Put it into one of these folders, or set another data folder."
_NO_PARTS = "?#@"  # Queries and credentials would be public, and signatures run out.


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder.

    Args:
        address: Real path on this machine, without a link in it, or fsspec URL.
        said: What it is called in messages.
    """

    address: str
    said: str

    @property
    def suffix(self) -> str:
        """The last ending of its name, lower case, such as ``.csv``."""
        return PurePosixPath(self.address).suffix.lower()

    @property
    def _local(self) -> bool:
        return "://" not in self.address

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file, to be read from its beginning.

        Raises:
            NotFound: If it is nowhere.
            InvalidValue: If it is no ordinary file.
            Unavailable: If the place does not answer.
        """
        if self._local:
            _require_ordinary(Path(self.address), self.said)
        with storage.opened(self.address, said=self.said) as file:
            yield file

    def read(self, *, bytes_max: int) -> bytes:
        """The whole file.

        Args:
            bytes_max: The most it may have.

        Raises:
            NotFound, Unavailable: As ``open``.
            InvalidValue: If it is larger, or no ordinary file.
        """
        parts, left = [], bytes_max
        with self.open() as file:
            # In pieces: asking for all that may be there would set that much memory aside.
            while piece := file.read(_PIECE_BYTES):
                left -= len(piece)
                if left < 0:
                    raise InvalidValue(self.said, f"must have at most {bytes_max} bytes", "more")
                parts.append(piece)
        return b"".join(parts)

    def child(self, name: str, *, said: str) -> Place:
        """A file or folder below this folder.

        Args:
            name: As a table has it, with forward slashes.
            said: What to call it in messages, by its position and not by its name.

        Raises:
            InvalidValue: If the name is empty, or leads out of the folder.
        """
        pure = PurePosixPath(name)
        inside = (
            0 < len(name) <= _NAME_LENGTH_MAX
            and name.isprintable()
            and "\\" not in name
            and "::" not in name
            and not pure.is_absolute()
            and ".." not in pure.parts
            and pure.parts
        )
        if not inside:
            raise InvalidValue(said, "must be named by a path below the folder", "another name")
        if not self._local:
            escaped = quote(str(pure)) if self.address.startswith("http") else str(pure)
            return Place(f"{self.address.rstrip('/')}/{escaped}", said)
        path = os.path.realpath(f"{self.address}/{pure}")
        if not path.startswith(self.address.rstrip("/") + "/"):
            raise InvalidValue(said, "must lie in the folder of the dataset", "a link out of it")
        return Place(path, said)

    def names(self) -> frozenset[str] | None:
        """Names of all files below this folder; ``None`` where the place lists nothing (HTTP).

        Raises:
            NotFound: If the folder is nowhere.
            Unavailable: If the place does not answer.
        """
        found = storage.listed(self.address, said=self.said)
        return None if found is None else frozenset(found)


def place_of(uri: str, data_dirs: Sequence[str]) -> Place:
    """Where a dataset lies: ``scheme://path`` here, ``scheme+protocol://path`` elsewhere.

    Args:
        uri: The dataset.
        data_dirs: Folders to look in for a relative path.

    Raises:
        NotFound: If a path on this machine is nowhere; says where it was looked for.
        InvalidValue: If the URI breaks a rule.
    """
    parts = parse_uri(uri)
    if ".." in PurePosixPath(parts.rest).parts:
        raise InvalidValue("dataset.uri", "must have no part ..", uri)
    if parts.transport:
        if any(sign in parts.rest for sign in _NO_PARTS) or "::" in parts.rest:
            rule = "must be a plain address, without query, fragment, credentials or chain"
            raise InvalidValue("dataset.uri", rule, uri.partition("?")[0].rpartition("@")[2])
        return Place(f"{parts.transport}://{parts.rest.rstrip('/')}", "dataset file")
    if Path(parts.rest).is_absolute():
        if not Path(parts.rest).exists():
            raise NotFound(f"dataset file {parts.rest} must exist; looked there only.")
        return Place(os.path.realpath(parts.rest), "dataset file")
    for folder in data_dirs:
        path = Path(folder).expanduser() / parts.rest
        if path.exists():
            return Place(os.path.realpath(path), "dataset file")
    places = ", ".join(str(folder) for folder in data_dirs) or "no data folder is set"
    raise NotFound(f"dataset file {parts.rest} must exist; looked in {places}. {_REMEDY}")


def _require_ordinary(path: Path, said: str) -> None:
    """Refuse folders, devices and pipes: reading one would not end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{said} must exist; found nothing there.") from None
    except OSError as error:
        raise Unavailable(f"{said} must be readable; found {type(error).__name__}.") from None
    if not stat.S_ISREG(mode):
        raise InvalidValue(said, "must be an ordinary file", "something else")
