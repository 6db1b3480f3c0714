"""Files that several processes share: written whole or not at all, and by one writer at a time.

Nothing here reads what a file holds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OWNER_ONLY = 0o600
READABLE = 0o644


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put ``content`` under a name in a folder that exists, durably, over what was there.

    Guarantees:
        A reader sees the old content or the new one. Writers of several processes and threads never
        share a draft: the last one to rename wins. No draft is left behind by an error.

    Args:
        path: The file.
        content: All of it.
        mode: The file's rights, before the process's own mask.

    Raises:
        OSError: If it cannot be written; what was there stands.
    """
    with _draft(path, content, mode) as draft:
        draft.replace(path)
    _sync_folder(path.parent)


def create(path: Path, content: bytes, *, mode: int) -> None:
    """The same where no file is; one that came first stands as it is.

    Raises:
        FileExistsError: If one came first.
        OSError: If it cannot be written.
    """
    with _draft(path, content, mode) as draft:
        os.link(draft, path)  # Unlike a rename, a link never replaces what came first.
    _sync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, alone among all processes; the kernel frees it with its holder.

    Args:
        path: The lock's own file, in a folder that exists; it stays.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, OWNER_ONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _draft(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _sync_folder(folder: Path) -> None:
    """A rename is durable only once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
