"""A search over hyper-parameters as a Study asks for it, and what it costs. Light.

A fixed number of trials is charged in full: every training composes, and so does every noisy look
at held-out units. A random number of trials, of which the best alone is released, costs what
Papernot & Steinke (*Hyperparameter Tuning with Renyi Differential Privacy*, ICLR 2022, Theorems 2
and 6) prove, and only under what they assume: each trial is drawn independently from the same
declared space and is private by itself, its score included; the number of trials is drawn from the
declared distribution before the first one and told to nobody; one trial is put out and nothing of
the others.

What decides, here and in early stopping, follows one rule. A score on public or released data is a
function of the noisy weights, and free. A score on private units is taken on the held-out split,
which is trained on by nobody, has noise, is declared in the plan and is charged. There is no third
way: not even a budget that discloses Utility lets an exact figure of held-out units choose.

Must never let two trials differ in what bounds them: the plan charges every trial as the one with
the highest sampling rate and the most steps that the space holds.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Context, Decimal

from primum.domain.accounting.events import Composed, Event, Gaussian, Repeated, decimal_text
from primum.domain.accounting.selection import RandomStopping, StoppingLaw
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum.domain.study.plan import DatasetFacts
from primum.domain.study.spec import DataRole, StudySpec
from primum_pipelines.kinds.declaring import Parameters
from primum_pipelines.kinds.train.early_stopping import HELD_OUT, what_decides

FIELD = "search"
SECTION = f"spec.job.train.{FIELD}"
MODEL_PREFIX = "modelParameters."
TRIALS_MAX = 200
_WHOLE = ("batchSize", "epochs")
_DECIMALS = ("learningRate", "maxGradNorm")
_SHARES = ("momentum", "warmUp", "averaging", "weightDecay", "biasAware")
_WORDS = ("schedule",)
_PARAMETERS_MAX, _VALUES_MAX, _CORNERS_MAX = 16, 32, 1024
_DIGITS = Context(prec=6)  # Of a drawn number: what people can read, and what the trial runs by.


class Scale(enum.StrEnum):
    """On which scale a range is even."""

    LINEAR = "Linear"
    LOG = "Log"


@dataclass(frozen=True, slots=True)
class Searched:
    """One parameter of the space: some values, all alike, or a range.

    Args:
        parameter: Its name in ``spec.job.train``, or ``modelParameters.`` and its name there.
        values: Values in the job's words; empty for a range.
        low: Lower end of a range.
        high: Upper end.
        scale: Of a range.
    """

    parameter: str
    values: tuple[JSON, ...] = ()
    low: Decimal = Decimal(0)
    high: Decimal = Decimal(0)
    scale: Scale = Scale.LINEAR

    def at(self, uniform: float) -> JSON:
        """The value that a uniform number from 0 to below 1 stands for, in the job's words."""
        if self.values:
            return self.values[int(uniform * len(self.values))]
        low, high = float(self.low), float(self.high)
        if self.parameter in _WHOLE:
            return int(low) + int(uniform * (int(high) - int(low) + 1))
        if self.scale is Scale.LOG:
            found = math.exp(math.log(low) + uniform * (math.log(high) - math.log(low)))
        else:
            found = low + uniform * (high - low)
        drawn = _DIGITS.create_decimal_from_float(found)
        return decimal_text(min(max(drawn, self.low), self.high))

    @property
    def ends(self) -> tuple[JSON, ...]:
        """Values that hold every rule and bound if all of them do."""
        if self.values:
            return self.values
        if self.parameter in _WHOLE:
            return (int(self.low), int(self.high))
        return (decimal_text(self.low), decimal_text(self.high))

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a plan."""
        if self.values:
            return {"parameter": self.parameter, "values": list(self.values)}
        return {
            "parameter": self.parameter,
            "low": decimal_text(self.low),
            "high": decimal_text(self.high),
            "scale": self.scale.value,
        }


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched, how often, and what decides.

    Args:
        space: The parameters; drawn independently of each other and of all data.
        trials: How many, all charged; ``None`` for a random number.
        stopping: How many at random; ``None`` for a fixed number.
        score: ``Public``, ``Synthetic`` or ``HeldOut``: whose accuracy decides.
        noise_multiplier: Of each look at held-out units; ``None`` for the others.
    """

    space: tuple[Searched, ...]
    trials: int | None
    stopping: RandomStopping | None
    score: str
    noise_multiplier: Decimal | None

    def event(self, training: Event) -> Event:
        """What the whole search does.

        Args:
            training: What a trial's training does at most.

        Raises:
            UnsupportedEvent: If a random number of such trainings cannot be selected from.
        """
        trial = self.trial(training)
        if self.stopping is not None:
            return self.stopping.event(trial)
        return Repeated(trial, self.trials or 0)

    def trial(self, training: Event) -> Event:
        """What one trial does, its score included."""
        if self.noise_multiplier is None:
            return training
        return Composed((training, Gaussian(self.noise_multiplier)))

    def drawn(self, uniforms: Sequence[float]) -> dict[str, JSON]:
        """One point of the space.

        Args:
            uniforms: One number from 0 to below 1 for each parameter, in order.
        """
        return {
            item.parameter: item.at(uniform)
            for item, uniform in zip(self.space, uniforms, strict=True)
        }

    def ends(self, name: str, given: JSON) -> tuple[JSON, ...]:
        """Values of a parameter between which all others lie; the one given if not searched."""
        for item in self.space:
            if item.parameter == name:
                return item.ends
        return (given,)

    @property
    def why(self) -> str:
        """What is charged, in a sentence."""
        scored = " and noisy scores of held-out units" if self.noise_multiplier is not None else ""
        if self.stopping is None:
            return (
                f"Noisy sums of clipped per-unit gradients{scored} of {self.trials} trials decide."
            )
        return (
            f"Noisy sums of clipped per-unit gradients{scored} decide; of a random number of "
            "trials that nobody is told only the best leaves."
        )

    def corners(self, study: StudySpec) -> Iterator[StudySpec]:
        """The Study with points of the space put in: if all of them are sound, every point is.

        Model parameters in all combinations, everything else one by one.
        """
        plain = {name: value for name, value in study.job.items() if name != FIELD}
        model = [item for item in self.space if item.parameter.startswith(MODEL_PREFIX)]
        for values in itertools.product(*(item.ends for item in model)):
            point = dict(zip((item.parameter for item in model), values, strict=True))
            yield replace(study, job=placed(plain, point))
        for item in self.space:
            for end in item.ends if item not in model else ():
                yield replace(study, job=placed(plain, {item.parameter: end}))

    def to_json(self) -> dict[str, JSON]:
        """As it stands in a plan, without what it costs."""
        found: dict[str, JSON] = {
            "space": [item.to_json() for item in self.space],
            "score": self.score,
        }
        if self.noise_multiplier is not None:
            found["noiseMultiplier"] = decimal_text(self.noise_multiplier)
        if self.trials is not None:
            found["trials"] = self.trials
        if self.stopping is not None:
            found["randomStopping"] = _stopping_json(self.stopping)
        return found


def placed(job: Mapping[str, JSON], point: Mapping[str, JSON]) -> dict[str, JSON]:
    """A job's parameters, or a plan's, with a point of the space put in."""
    found = dict(job)
    for name, value in point.items():
        if name.startswith(MODEL_PREFIX):
            given = found.get("modelParameters", {})
            inner = dict(given) if isinstance(given, Mapping) else {}
            found["modelParameters"] = {**inner, name.removeprefix(MODEL_PREFIX): value}
        else:
            found[name] = value
    return found


def read(study: StudySpec) -> Search | None:
    """The search of a Study, or ``None``.

    Raises:
        InvalidValue: If a parameter breaks its rule, the data that decides is not an input, or the
            job has what a search cannot be combined with.
    """
    given = study.job.get(FIELD)
    if given is None:
        return None
    parameters = _part(SECTION, given)
    parameters.require_known(("space", "trials", "randomStopping", "score", "noiseMultiplier"))
    _refuse_together(study)
    both = sorted({"trials", "randomStopping"} & set(parameters.values))
    if len(both) != 1:
        rule = "must have either trials or randomStopping"
        raise InvalidValue(SECTION, rule, " and ".join(both) or "neither")
    score, noise = what_decides(study, parameters)
    stopping = parameters.values.get("randomStopping")
    return Search(
        space=_space(parameters.values.get("space")),
        trials=parameters.whole("trials", low=2, high=TRIALS_MAX) if stopping is None else None,
        stopping=None if stopping is None else _stopping(f"{SECTION}.randomStopping", stopping),
        score=score,
        noise_multiplier=noise,
    )


def from_plan(value: Mapping[str, JSON]) -> Search:
    """The search that a plan states."""
    noise, stopping = value.get("noiseMultiplier"), value.get("randomStopping")
    trials = value.get("trials")
    return Search(
        space=_space(value["space"]),
        trials=None if trials is None else int(str(trials)),
        stopping=None if stopping is None else _stopping("plan.search.randomStopping", stopping),
        score=str(value["score"]),
        noise_multiplier=None if noise is None else Decimal(str(noise)),
    )


def require_possible(search: Search, study: StudySpec, facts: DatasetFacts) -> None:
    """Refuse a search whose promise does not hold for this dataset or this many workers.

    Raises:
        InvalidValue: If so.
    """
    if search.score == HELD_OUT and facts.units <= facts.train_units:
        raise InvalidValue(f"{SECTION}.score", "must have held-out units", "none")
    if study.workers > 1:
        raise InvalidValue(
            "spec.job.resources.workers",
            "must be 1 for a search",
            study.workers,
            "Trials of a fixed number run beside each other on free CPUs; a random number runs in "
            "turn, because workers would show how many there are.",
        )


def headline(told: Mapping[str, JSON]) -> str:
    """A plan's search in a few words, beside what a single training would cost.

    Args:
        told: What the plan's mechanism says of it.
    """
    one = f"one training: epsilon {_short(told['epsilonOfOneTraining'])}"
    if "trials" in told:
        return f"search of {told['trials']} trials, all charged ({one})"
    in_full = f"as many in full: {_short(told['epsilonOfAsManyInFull'])}"
    expected = _short(told["expectedTrials"])
    return f"search with random stopping, {expected} trials expected ({one}, {in_full})"


def _short(value: JSON) -> str:
    number = Decimal(str(value))
    if not number.is_finite():
        return "without bound"
    return str(number.quantize(Decimal("0.01"), ROUND_CEILING))


def _refuse_together(study: StudySpec) -> None:
    for name, why in _APART.items():
        if study.job.get(name) is not None:
            raise InvalidValue(f"spec.job.train.{name}", f"must be absent with {FIELD}", name, why)
    if study.job.get("mechanism") == "None":
        rule = f"must be Gaussian with {FIELD}: without a mechanism nothing is charged"
        raise InvalidValue("spec.job.train.mechanism", rule, "None")
    if all(item.role is not DataRole.PRIVATE for item in study.inputs):
        rule, remedy = (
            "must be absent where no data is private",
            "Search before, and give the best.",
        )
        raise InvalidValue(SECTION, rule, FIELD, remedy)


_APART = {
    "individualFilter": "Nothing is proved about the best of several filtered trainings.",
    "earlyStopping": "Search over epochs instead.",
    "langevin": "Its temperature is stated for one learning rate.",
}


def _space(value: JSON) -> tuple[Searched, ...]:
    field = f"{SECTION}.space"
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= _PARAMETERS_MAX:
        rule = f"must be a list of 1 to {_PARAMETERS_MAX} parameters"
        raise InvalidValue(field, rule, type(value).__name__)
    found = tuple(_searched(_part(f"{field}[{at}]", item)) for at, item in enumerate(value))
    names = [item.parameter for item in found]
    if len(set(names)) != len(names):
        raise InvalidValue(field, "must name each parameter once", ", ".join(names))
    corners = math.prod(len(i.ends) for i in found if i.parameter.startswith(MODEL_PREFIX))
    if corners > _CORNERS_MAX:
        rule = f"must have at most {_CORNERS_MAX} combinations of model parameters"
        raise InvalidValue(field, rule, corners)
    return found


def _searched(part: Parameters) -> Searched:
    part.require_known(("parameter", "values", "low", "high", "scale"))
    name = part.values.get("parameter")
    known = (*_WHOLE, *_DECIMALS, *_SHARES, *_WORDS)
    if not isinstance(name, str) or not (name in known or name.startswith(MODEL_PREFIX)):
        rule = f"must be one of {', '.join(known)}, or {MODEL_PREFIX} and a name"
        remedy = (
            "Noise is decided by the plan; what else changes the training is no matter of search."
        )
        raise InvalidValue(f"{part.section}.parameter", rule, str(name)[:80], remedy)
    if "values" in part.values:
        part.require_known(("parameter", "values"))
        return Searched(name, values=_values(part, name))
    if name not in (*_WHOLE, *_DECIMALS, *_SHARES):
        raise InvalidValue(f"{part.section}.values", "must be given for what is no number", name)
    low, high = (parse_decimal(f"{part.section}.{end}", part.values.get(end)) for end in _ENDS)
    scale = Scale(part.choice("scale", tuple(Scale), default=Scale.LINEAR.value))
    if not 0 <= low < high or (scale is Scale.LOG and low == 0):
        rule = "must be above 0 on a Log scale, at least 0 otherwise, and below high"
        raise InvalidValue(f"{part.section}.low", rule, str(low))
    if name in _WHOLE and not (low == int(low) and high == int(high) and scale is Scale.LINEAR):
        rule = f"must be whole numbers on a Linear scale for {name}"
        raise InvalidValue(f"{part.section}.low", rule, f"{low} to {high}, {scale}")
    return Searched(name, low=low, high=high, scale=scale)


_ENDS = ("low", "high")


def _values(part: Parameters, name: str) -> tuple[JSON, ...]:
    given = part.values["values"]
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= _VALUES_MAX:
        rule = f"must be a list of 1 to {_VALUES_MAX}"
        raise InvalidValue(f"{part.section}.values", rule, type(given).__name__)
    texts = [str(item) for item in given]
    if len(set(texts)) != len(texts):
        raise InvalidValue(f"{part.section}.values", "must name each value once", ", ".join(texts))
    if name not in _WHOLE:
        return tuple(texts)
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        rule = f"must be whole numbers for {name}"
        raise InvalidValue(f"{part.section}.values", rule, ", ".join(texts)) from None


def _stopping(section: str, value: JSON) -> RandomStopping:
    part = _part(section, value)
    part.require_known(("distribution", "shape", "gamma", "mean"))
    law = StoppingLaw(part.choice("distribution", tuple(StoppingLaw)))
    numbers = {
        name: parse_decimal(f"{section}.{name}", part.values[name])
        for name in ("shape", "gamma", "mean")
        if name in part.values
    }
    wanted = {"mean"} if law is StoppingLaw.POISSON else {"shape", "gamma"}
    if set(numbers) != wanted:
        rule = f"must have {' and '.join(sorted(wanted))} for {law.value}"
        raise InvalidValue(section, rule, ", ".join(sorted(numbers)) or "neither")
    return RandomStopping(law, **numbers)


def _stopping_json(stopping: RandomStopping) -> dict[str, JSON]:
    numbers = {"shape": stopping.shape, "gamma": stopping.gamma, "mean": stopping.mean}
    given = {name: decimal_text(value) for name, value in numbers.items() if value is not None}
    return {"distribution": stopping.law.value, **given}


def _part(section: str, value: JSON) -> Parameters:
    if not isinstance(value, Mapping):
        raise InvalidValue(section, "must be an object", type(value).__name__)
    return Parameters(section, value)
