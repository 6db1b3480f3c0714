"""What of a training's recipe only its run decided: which point was chosen, how many steps ran.

The job leaves it as an artifact of the zone, so that shadows can be trained in the same way. All of
it stands in the public Training evidence too; of a random number of trials it says nothing but the
winner. Light. Must not hold anything that was measured on data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Tampered

ARTIFACT_KIND = "RunRecord"
FILE_NAME = "run.json"
EXECUTED = "stepsExecuted"
"""Among parameters of shadows: how many of the planned steps they train, where a rule ended it."""
_NAMES = {"chosen", "steps"}


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a search chose and how long a training went on.

    Args:
        chosen: The winner's point of the searched space; empty without a search.
        steps: Steps that count as executed, at least 1; those of a lost worker made no weights.
    """

    chosen: Mapping[str, JSON]
    steps: int

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json({"chosen": dict(self.chosen), "steps": self.steps})


def from_json(value: Mapping[str, JSON], *, space: frozenset[str], steps_planned: int) -> RunRecord:
    """A record that a job left, read against its plan.

    Args:
        value: The artifact.
        space: Names of the parameters that the plan searches; empty without a search.
        steps_planned: Most steps that the plan allows.

    Raises:
        Tampered: If it says what the plan does not allow.
    """
    chosen, steps = value.get("chosen"), value.get("steps")
    if (
        set(value) != _NAMES
        or not isinstance(chosen, Mapping)
        or set(chosen) != space
        or type(steps) is not int
        or not 1 <= steps <= steps_planned
    ):
        raise Tampered(f"artifact {ARTIFACT_KIND} must fit its plan; found something else.")
    return RunRecord(chosen, steps)
