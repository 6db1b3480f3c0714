"""Signed documents in a folder, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from primum.adapters import files


class FolderArchive:
    """Archive port over a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, name: str, content: bytes) -> str:
        """See the port."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        if path.exists() and path.read_bytes() == content:
            return path.as_uri()
        files.replace(path, content, mode=files.READABLE)
        return path.as_uri()
