"""What registering a dataset finds out about it. Public: it sets sampling rates and delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from primum.domain.canonical import JSON


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

    def to_json(self) -> dict[str, JSON]:
        """Canonical form; ``blocks`` only where there are any."""
        blocks = {name: list(sizes) for name, sizes in self.blocks.items()}
        return {
            "digest": self.digest,
            "units": self.units,
            "trainUnits": self.train_units,
            "message": self.message,
            **({"blocks": blocks} if blocks else {}),
        }


def registration_from_json(value: Mapping[str, JSON]) -> Registration:
    """Read a registration back from its canonical form."""
    blocks = value.get("blocks")
    return Registration(
        digest=str(value["digest"]),
        units=int(str(value["units"])),
        train_units=int(str(value["trainUnits"])),
        message=str(value.get("message", "")),
        blocks={str(name): _sizes(sizes) for name, sizes in blocks.items()}
        if isinstance(blocks, Mapping)
        else {},
    )


def _sizes(value: JSON) -> tuple[int, int]:
    units, trained = value if isinstance(value, list | tuple) else (0, 0)
    return int(str(units)), int(str(trained))
