"""The file that anchors the ledger: where its chain ended, remembered outside its database.

Recognizes a database that was restored from an older copy; it proves nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from primum.adapters import files
from primum.domain.errors import Tampered, Unavailable


class FileAnchor:
    """``LedgerAnchor`` in a file: the end of the ledger, remembered outside its database.

    Keep it on another volume than the database, and out of its backups: an old database beside an
    equally old anchor is not recognized.

    Guarantees:
        The file always holds a complete anchor that was once true: it is written beside and renamed
        over, both synced. Writers of several processes never move it back.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> tuple[int, str] | None:
        """What was anchored last; ``None`` if nothing ever was.

        Raises:
            Tampered: If the file is not an anchor.
            Unavailable: If it cannot be read.
        """
        try:
            value = json.loads(self._path.read_bytes())
            return int(value["seq"]), str(value["hash"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            message = f"The ledger's anchor must be readable; found damaged text in {self._path}."
            raise Tampered(message) from error
        except OSError as error:
            raise Unavailable(
                f"The ledger's anchor {self._path} cannot be read: {error}."
            ) from error

    def write(self, seq: int, digest: str) -> None:
        """Move the anchor forward, durably.

        Raises:
            Unavailable: If it cannot be written; the ledger's own entry stands.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with files.locked(self._path.with_suffix(".lock")):
                present = self.read()
                if present is None or present[0] < seq:
                    content = json.dumps({"seq": seq, "hash": digest}).encode()
                    files.replace(self._path, content, mode=files.READABLE)
        except OSError as error:
            raise Unavailable(
                f"The ledger's anchor {self._path} cannot be written: {error}."
            ) from error
