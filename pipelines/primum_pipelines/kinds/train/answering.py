"""How a trained model answers: at which temperature, and when not at all. Light.

Neither costs privacy. A temperature is fitted on public or released rows alone: on private rows it
would be one more look at them. Members of an ensemble are iterates of the one charged run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.kinds.declaring import Parameters

FIELD = "answers"
ABSTAIN = "abstain"
"""What an endpoint says instead of a class; no class may be called that."""

_SECTION = "spec.job.train.answers"
_TEMPERATURES = ("One", "Public")
_HALF = Decimal("0.5")


@dataclass(frozen=True, slots=True)
class Answering:
    """How the released model answers.

    Args:
        scaled: Whether a temperature is fitted on the held-out rows of public inputs.
        abstain_below: Least share of the ensemble's members behind an answer; ``None`` where the
            last iterate answers alone.
    """

    scaled: bool = False
    abstain_below: Decimal | None = None

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a plan."""
        found: dict[str, JSON] = {"temperature": "Public" if self.scaled else "One"}
        if self.abstain_below is not None:
            found["abstainBelow"] = decimal_text(self.abstain_below)
        return found


def read(job: Mapping[str, JSON]) -> Answering:
    """What a Study's job asks for.

    Raises:
        InvalidValue: If a setting is unknown or breaks its rule.
    """
    given = job.get(FIELD, {})
    if not isinstance(given, Mapping):
        raise InvalidValue(_SECTION, "must be an object", type(given).__name__)
    parameters = Parameters(_SECTION, given)
    parameters.require_known(("temperature", "abstainBelow"))
    share = parameters.positive("abstainBelow") if "abstainBelow" in given else None
    if share is not None and not _HALF < share <= 1:
        remedy = "At one half two answers could win."
        raise InvalidValue(
            f"{_SECTION}.abstainBelow", "must be above 0.5 and at most 1", str(share), remedy
        )
    scaled = parameters.choice("temperature", _TEMPERATURES, default="One") == "Public"
    return Answering(scaled, share)


def from_plan(parameters: Mapping[str, JSON]) -> Answering:
    """What a plan says, or nothing where it is older than this."""
    return read({FIELD: parameters.get(FIELD, {})})


def require_possible(
    wanted: Answering, study: StudySpec, *, ensemble: int, beside: Sequence[str]
) -> None:
    """Refuse what could not be done after the training was paid for.

    Args:
        wanted: What is asked for.
        study: The Study.
        ensemble: Members that the job keeps; 0 for none.
        beside: Names of other settings under which a training has no iterates of its own, such as
            a search, or may end before it keeps any.

    Raises:
        InvalidValue: If there is no public row to fit on, or no member to ask.
    """
    released = [item for item in study.inputs if item.role is not DataRole.PRIVATE]
    if wanted.scaled and not released:
        raise InvalidValue(
            f"{_SECTION}.temperature",
            "must be One without a public or synthetic input",
            "Public",
            "Add an input with role Public whose held-out rows it can be fitted on.",
        )
    if wanted.abstain_below is not None and not ensemble:
        raise InvalidValue(
            f"{_SECTION}.abstainBelow",
            "must be absent without ensemble, whose members are asked",
            str(wanted.abstain_below),
        )
    if beside and wanted != Answering():
        raise InvalidValue(_SECTION, f"must be absent with {' and '.join(beside)}", "some")


def require_members(wanted: Answering, *, ensemble: int, steps: int) -> None:
    """Refuse fewer steps than keep every member: iterates are of the last half of the steps.

    Raises:
        InvalidValue: If there are too few.
    """
    if wanted.abstain_below is not None and steps < 2 * ensemble:
        rule = f"must be at most {steps // 2}, half of the steps, with {_SECTION}.abstainBelow"
        raise InvalidValue("spec.job.train.ensemble", rule, ensemble, "Give more epochs.")
