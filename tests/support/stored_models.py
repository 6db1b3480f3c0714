"""Models that a step left in a folder, read as the server reads them: from the file's bytes."""

from __future__ import annotations

from pathlib import Path

from primum_pipelines.models.artifact import LoadedModel, from_bytes


def load_model(path: str | Path) -> LoadedModel:
    """The model of a file."""
    return from_bytes(Path(path).read_bytes())
