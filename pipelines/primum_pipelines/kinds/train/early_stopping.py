"""Early stopping as a Study asks for it, and what it costs. Light.

When a training ended is part of what is released. Decided by public or released data it is a
function of the noisy weights, and free; decided by private held-out units it is a Gaussian
mechanism, declared as an access of its own and charged. Must never let a figure of private units
decide without noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

from primum.domain.accounting.events import Event, Gaussian, Repeated, decimal_text
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.study.plan import Access, DatasetFacts
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.kinds import declaring
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.optimization.settings import STOPPING_PURPOSE, looks_planned

FIELD = "earlyStopping"
HELD_OUT = "HeldOut"
_SECTION = f"spec.job.train.{FIELD}"
_SCORES = (DataRole.PUBLIC.value, DataRole.SYNTHETIC.value, HELD_OUT)
_NAMES = ("score", "everyEpochs", "patience", "noiseMultiplier")
_EPOCHS_MAX = 10_000
_PATIENCE_MAX = 1_000
_WHY = "Noisy accuracy on held-out units, which are not trained on, decides when the training ends."
# Steps chosen by what came before may be charged as they ran only where the account's filter is
# sound for any such choice (privacy-theory.md 1.13); other accounts are charged the whole plan.
_ADAPTIVE_ACCOUNTING = ("RDP", "GDP")


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """When a training may end before its planned steps.

    Args:
        score: ``Public``, ``Synthetic`` or ``HeldOut``: whose accuracy decides.
        every_epochs: Expected passes between two looks.
        patience: Looks in a row without a new best.
        noise_multiplier: Of each look at held-out units; ``None`` for the others.
    """

    score: str
    every_epochs: int
    patience: int
    noise_multiplier: Decimal | None

    def every(self, sample_rate: Decimal) -> int:
        """Steps between two looks."""
        return int((self.every_epochs / sample_rate).to_integral_value(ROUND_CEILING))

    def event(self, *, steps: int, sample_rate: Decimal) -> Event | None:
        """What all looks do to the held-out units, or ``None`` where none is looked at."""
        looks = looks_planned(steps, every=self.every(sample_rate))
        if looks < 1:
            rule = "must leave a look before the last step"
            raise InvalidValue(f"{_SECTION}.everyEpochs", rule, self.every_epochs, "Give fewer.")
        if self.noise_multiplier is None:
            return None
        return Repeated(Gaussian(self.noise_multiplier), looks)

    def to_json(self, *, facts: DatasetFacts, sample_rate: Decimal) -> dict[str, JSON]:
        """As it stands in a plan; with the public number of held-out units where they decide."""
        found: dict[str, JSON] = {
            "score": self.score,
            "every": self.every(sample_rate),
            "patience": self.patience,
        }
        if self.noise_multiplier is not None:
            found["noiseMultiplier"] = decimal_text(self.noise_multiplier)
            found["heldOutUnits"] = facts.units - facts.train_units
        return found


def read(study: StudySpec) -> EarlyStopping | None:
    """The early stopping of a Study, or ``None``.

    Raises:
        InvalidValue: If a parameter breaks its rule, or the data that decides is not an input.
    """
    given = study.job.get(FIELD)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise InvalidValue(_SECTION, "must be an object", type(given).__name__)
    parameters = Parameters(_SECTION, given)
    parameters.require_known(_NAMES)
    score, noise = what_decides(study, parameters)
    return EarlyStopping(
        score=score,
        every_epochs=parameters.whole("everyEpochs", default=1, low=1, high=_EPOCHS_MAX),
        patience=parameters.whole("patience", low=1, high=_PATIENCE_MAX),
        noise_multiplier=noise,
    )


def what_decides(study: StudySpec, parameters: Parameters) -> tuple[str, Decimal | None]:
    """Whose accuracy decides, and the noise on it: some exactly where private units do.

    Args:
        study: What is asked for.
        parameters: The part of it with ``score`` and ``noiseMultiplier``.

    Raises:
        InvalidValue: If noise is missing or of no use, or the data is not an input.
    """
    score = parameters.choice("score", _SCORES)
    noisy = score == HELD_OUT
    if noisy != ("noiseMultiplier" in parameters.values):
        rule = "must be given with score HeldOut" if noisy else "must be absent but for HeldOut"
        raise InvalidValue(f"{parameters.section}.noiseMultiplier", rule, score)
    if not noisy and all(item.role.value != score for item in study.inputs):
        rule = f"must have an input with role {score}, whose accuracy is to decide"
        raise InvalidValue("spec.data", rule, "none")
    return score, parameters.positive("noiseMultiplier") if noisy else None


def access(facts: DatasetFacts, event: Event) -> Access:
    """The charged access of the looks at held-out units.

    Raises:
        InvalidValue: If the dataset has no held-out units.
    """
    if facts.units <= facts.train_units:
        raise InvalidValue(_SECTION, "must have held-out units to look at", "none")
    return declaring.charged(STOPPING_PURPOSE, facts, event, why=_WHY)


def require_rest(looks: Decimal, claim: Decimal) -> None:
    """Refuse looks that leave the training nothing.

    Args:
        looks: Epsilon of all looks by themselves.
        claim: Epsilon of the Study.

    Raises:
        InvalidValue: If they take as much as the Study claims.
    """
    if looks >= claim:
        found = f"looks that take {looks:.2f} of {claim}" if looks.is_finite() else "no bound"
        raise InvalidValue(
            f"{_SECTION}.noiseMultiplier",
            "must leave epsilon to the training",
            found,
            "Give more noise, or more epochs between looks.",
        )


def charged_as_executed(facts: DatasetFacts) -> bool:
    """Whether a training that ends early may be charged what ran, on this account."""
    return facts.accounting in _ADAPTIVE_ACCOUNTING
