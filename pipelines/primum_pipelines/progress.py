"""What a worker tells people of its progress, and the steward's log of what stays in the zone.

Both are files beside the Study's artifacts, since a worker has no line to the platform. Progress
holds counts and our own sentences. The log holds tracebacks, which may quote data: it is readable
by the owner alone and nothing reads it into a status, an event or a lineage facet.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from primum.domain.errors import InvalidValue
from primum.domain.study.steps import WorkRequest

_MESSAGE_LENGTH_MAX = 200
_STEP = re.compile(r"^[a-z][a-z0-9-]{0,62}$")
_LOG_BYTES_MAX = 1_000_000  # A step that fails again and again must not fill the disk.


class Progress:
    """How far a step is. Never raises: a full disk must not stop a training run that is paid for.

    Args:
        request: What the step's worker was given.
    """

    def __init__(self, request: WorkRequest) -> None:
        self._path = progress_file(request.artifacts_uri, str(request.context["step"]))

    def update(self, done: int, total: int, message: str = "") -> None:
        """Say that ``done`` of ``total`` parts are done.

        Args:
            done: Parts done so far.
            total: Parts in all; 0 where nobody knows.
            message: For people; counts and names only, no measured value and nothing of a record.
        """
        if self._path is None:
            return
        state = {"done": int(done), "total": int(total), "message": message[:_MESSAGE_LENGTH_MAX]}
        try:
            _replace(self._path, json.dumps(state))
        except OSError:
            return


def progress_file(artifacts_uri: str, step: str) -> Path | None:
    """Where a step's progress lies; ``None`` where the artifacts are not on a local disk."""
    folder = local_folder(artifacts_uri)
    return folder / "progress" / f"{_checked(step)}.json" if folder else None


def keep_traceback(artifacts_uri: str, step: str, text: str) -> None:
    """Append a traceback to the step's log in the steward's zone, readable by the owner alone."""
    folder = local_folder(artifacts_uri)
    if folder is None:
        return
    path = folder / "restricted" / f"{_checked(step)}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "a", encoding="utf-8") as file:
            if file.tell() < _LOG_BYTES_MAX:
                file.write(text + "\n")
    except OSError:
        return


def local_folder(uri: str) -> Path | None:
    """The local folder of a plain path or ``file://`` URI; ``None`` for any other scheme."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return Path(unquote(parts.path) if parts.scheme else uri)
    return None


def _checked(step: str) -> str:
    if not _STEP.fullmatch(step):
        raise InvalidValue("step", "must be a short lower-case name", step)
    return step


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
