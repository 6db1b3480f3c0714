"""What registering a dataset finds out about it. Public: it sets sampling rates and delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Registration:
    """What registering a dataset found out: its identity and its declared size.

    Args:
        digest: SHA-256 of the content.
        units: Number of units.
        train_units: Units in the training split.
        message: For people; names columns, never a value.
        blocks: Units and training units of each block that has any; empty for a dataset that is
            not divided.
    """

    digest: str
    units: int
    train_units: int
    message: str = ""
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
