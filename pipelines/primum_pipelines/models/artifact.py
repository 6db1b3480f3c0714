"""A trained classifier as one ``model.safetensors``: weights, architecture, classes, public bounds.

The file carries everything a server needs to answer for raw features, and nothing measured on
private data but the weights. Must never unpickle: the format is safetensors, its metadata JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.models.registry import build

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

FILE_NAME = "model.safetensors"
FORMAT_VERSION = 1
_METADATA_KEY = "primum"
_GUARD = "guard/"  # What the names of a guard's weights begin with.
_MEMBER = "members/"  # What the names of a member's weights begin with; no module has a slash.
_BATCH_ROWS = 1024  # Rows per forward pass, so that a large request does not need memory at once.


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a model file says about itself. All of it is public.

    Args:
        model: Name of the architecture.
        parameters: Its parameters.
        input_shape: Shape of one row.
        classes: Class names, in the order of the outputs.
        positive: The class that a binary answer is about.
        feature_names: Column names; empty for images.
        feature_low: Public lower bounds as decimal strings; empty for images in [0, 1].
        feature_high: Public upper bounds.
        study: The Study that trained it, ``namespace/name``.
        digest: SHA-256 of the file; empty before it is stored.
        task: What it says of a row.
        temperature: What logits are divided with before they become probabilities (Guo et al.
            2017), as a decimal string; "1" changes nothing.
        members: Iterates of the same run that answer together; 0 where the last one answers alone.
        agreement: Least share of the members behind an answer, as a decimal string; below it the
            model abstains. Empty without members.
        guard: Bound on the expected L1 distortion of its confidences by MemGuard, as a decimal
            string; empty without a guard. A defense for comparison, which promises nothing.
    """

    model: str
    parameters: Mapping[str, JSON]
    input_shape: tuple[int, ...]
    classes: tuple[str, ...]
    positive: str
    feature_names: tuple[str, ...]
    feature_low: tuple[str, ...]
    feature_high: tuple[str, ...]
    study: str
    digest: str = ""
    task: LabelTask = LabelTask.MULTI_CLASS
    temperature: str = "1"
    members: int = 0
    agreement: str = ""
    guard: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Answers:
    """What a model answers for some rows.

    Args:
        probabilities: As ``LoadedModel.predict_proba`` gives them.
        answered: ``(n,)``, false where the model abstains; its probabilities then are nobody's.
    """

    probabilities: np.ndarray
    answered: np.ndarray


@dataclass(frozen=True, slots=True, repr=False)
class LoadedModel:
    """A model ready to answer.

    Args:
        module: The network in evaluation mode.
        spec: What the file says about itself.
        members: The networks that answer together, where there are some; then ``module``, the last
            iterate, does not answer by itself.
    """

    module: nn.Module
    spec: ModelSpec
    members: tuple[nn.Module, ...] = ()

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities of classes, of each label, or of classes at each pixel.

        Args:
            features: ``(n, *input_shape)`` in raw published units; images in [0, 1].

        Returns:
            float64 ``(n, classes)``, rows sum to 1; of several labels each by itself; of masks
            ``(n, classes, ...)``, pixels sum to 1. Of members it is the mean, before the
            temperature.

        Raises:
            InvalidValue: If the shape is wrong or a value is not finite.
        """
        said = self.members_say(features).mean(axis=0) if self.members else self._of(features)
        return tempered(said, self.spec)

    def members_say(self, features: np.ndarray) -> np.ndarray:
        """What each member says, ``(members, n, classes)``, at temperature 1."""
        import numpy as np

        return np.stack([self._alone(each).predict_proba(features) for each in self.members])

    @property
    def adjusted(self) -> bool:
        """Whether it answers otherwise than its last weights would."""
        return bool(self.members) or self.spec.temperature != "1"

    def last(self) -> LoadedModel:
        """The last weights by themselves, at temperature 1."""
        return self._alone(self.module)

    def answer(self, features: np.ndarray) -> Answers:
        """Probabilities, and which rows the model answers.

        Args:
            features: As ``predict_proba`` takes them.
        """
        import numpy as np

        if not self.members:
            probabilities = self.predict_proba(features)
            return Answers(probabilities, np.ones(len(probabilities), dtype=bool))
        from primum_pipelines.evaluation import multiplicity

        said = self.members_say(features)
        chosen = multiplicity.abstaining(
            multiplicity.votes(said), agreement=float(self.spec.agreement)
        )
        return Answers(tempered(said.mean(axis=0), self.spec), chosen != multiplicity.ABSTAIN)

    def _alone(self, module: nn.Module) -> LoadedModel:
        spec = replace(self.spec, temperature="1", members=0, agreement="")
        return LoadedModel(module, spec)

    def _of(self, features: np.ndarray) -> np.ndarray:
        import numpy as np
        import torch

        scaled = scale(checked_rows(features, self.spec), self.spec)
        answers = []
        with torch.inference_mode():
            for start in range(0, len(scaled), _BATCH_ROWS):
                logits = self.module(torch.from_numpy(scaled[start : start + _BATCH_ROWS]))
                several = self.spec.task is LabelTask.MULTI_LABEL
                said = logits.double().sigmoid() if several else logits.double().softmax(dim=1)
                answers.append(said.numpy())
        return np.concatenate(answers) if answers else np.zeros((0, len(self.spec.classes)))


def tempered(probabilities: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Probabilities at the temperature of a model."""
    if spec.temperature == "1":
        return probabilities
    from primum_pipelines.evaluation.calibration import scaled

    return scaled(probabilities, float(spec.temperature))


def checked_rows(features: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Features as float32 rows that the model can answer for.

    Raises:
        InvalidValue: If the shape is wrong or a value is not finite.
    """
    import numpy as np

    rows: np.ndarray = np.asarray(features, dtype=np.float32)
    if rows.shape[1:] != spec.input_shape:
        found = str(tuple(rows.shape[1:]))
        raise InvalidValue("inputs", f"must have rows of shape {spec.input_shape}", found)
    if not np.isfinite(rows).all():
        raise InvalidValue("inputs", "must be finite", "NaN or infinity")
    return rows


def scale(features: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Rows in [-1, 1] by the public bounds: a per-row step, so it costs no epsilon.

    Args:
        features: ``(n, *input_shape)`` in raw units.
        spec: The bounds; images without bounds are taken to lie in [0, 1].

    Returns:
        float32 of the same shape, clipped to [-1, 1].
    """
    import numpy as np

    low = (
        np.array([float(item) for item in spec.feature_low], np.float32) if spec.feature_low else 0
    )
    high = (
        np.array([float(item) for item in spec.feature_high], np.float32)
        if spec.feature_high
        else 1
    )
    unit = (features - low) / (high - low)
    scaled: np.ndarray = (2 * np.clip(unit, 0, 1) - 1).astype(np.float32)
    return scaled


def to_bytes(
    module: nn.Module,
    spec: ModelSpec,
    *,
    members: Sequence[Mapping[str, torch.Tensor]] = (),
    guard: Mapping[str, torch.Tensor] | None = None,
) -> bytes:
    """The bytes of a model file.

    Args:
        module: The trained network, without canary heads or wrappers.
        spec: What it is.
        members: State of each member, as many as the spec says.
        guard: State of its guard, where the spec has one.

    Raises:
        InvalidValue: If there are more or fewer members than the spec says.
    """
    from safetensors.torch import save

    if len(members) != spec.members:
        raise InvalidValue("model members", f"must be {spec.members}", len(members))
    if bool(spec.guard) != (guard is not None):
        raise InvalidValue(
            "model guard", "must be there exactly where the spec has one", spec.guard
        )
    states = {"": module.state_dict()}
    states |= {f"{_MEMBER}{number}/": state for number, state in enumerate(members)}
    states |= {} if guard is None else {_GUARD: guard}
    weights = {
        f"{prefix}{name}": value.detach().cpu().clone().contiguous()  # Members may share storage.
        for prefix, state in states.items()
        for name, value in state.items()
    }
    data: bytes = save(weights, metadata=describe(spec))
    return data


def describe(spec: ModelSpec) -> dict[str, str]:
    """What a file of such models says about itself, as safetensors keeps it."""
    metadata = canonical_json(
        {
            "format": FORMAT_VERSION,
            "model": spec.model,
            "parameters": dict(spec.parameters),
            "inputShape": list(spec.input_shape),
            "classes": list(spec.classes),
            "positive": spec.positive,
            "featureNames": list(spec.feature_names),
            "featureLow": list(spec.feature_low),
            "featureHigh": list(spec.feature_high),
            "study": spec.study,
            "task": spec.task.value,
            "temperature": spec.temperature,
            "members": spec.members,
            "agreement": spec.agreement,
            "guard": spec.guard,
        }
    ).decode()
    return {_METADATA_KEY: metadata}


def from_bytes(data: bytes) -> LoadedModel:
    """A model from the bytes of its file.

    Raises:
        InvalidValue: If they are not a model file of ours.
    """
    import safetensors
    from safetensors.torch import load

    try:
        weights = load(data)
        spec = _spec(_metadata(data), digest=digest_of_bytes(data))
        own = {n: value for n, value in weights.items() if not n.startswith((_MEMBER, _GUARD))}
        module = with_weights(spec, own)
        if spec.guard:
            module = _guarded(module, weights, spec)
        members = []
        for number in range(spec.members):
            prefix = f"{_MEMBER}{number}/"
            state = {n.removeprefix(prefix): v for n, v in weights.items() if n.startswith(prefix)}
            members.append(with_weights(spec, state))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            "model file", "must be a safetensors file written by Primum", type(error).__name__
        ) from error
    return LoadedModel(module=module, spec=spec, members=tuple(members))


def _guarded(module: nn.Module, weights: Mapping[str, torch.Tensor], spec: ModelSpec) -> nn.Module:
    from primum_pipelines.models.guard import guarded

    state = {n.removeprefix(_GUARD): v for n, v in weights.items() if n.startswith(_GUARD)}
    return guarded(module, state, classes=len(spec.classes), distortion=float(spec.guard))


def with_weights(spec: ModelSpec, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of a spec with given weights, in evaluation mode.

    Raises:
        RuntimeError: If they are not the network's.
    """
    module = build(
        spec.model, spec.parameters, input_shape=spec.input_shape, classes=len(spec.classes)
    )
    module.load_state_dict(state, strict=True)
    return module.eval()


def read_spec(data: bytes) -> ModelSpec:
    """What a model file says about itself, without loading its weights or torch.

    Raises:
        InvalidValue: If it is not a model file of ours.
    """
    try:
        return _spec(_metadata(data), digest=digest_of_bytes(data))
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValue(
            "model file", "must be a safetensors file written by Primum", type(error).__name__
        ) from error


def _metadata(data: bytes) -> Mapping[str, Any]:
    """The JSON that ``to_bytes`` put into the header (safetensors: 8-byte length, then JSON)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    found = json.loads(header["__metadata__"][_METADATA_KEY])
    if not isinstance(found, dict) or found.get("format") != FORMAT_VERSION:
        raise ValueError("another format version")
    return found


def _spec(value: Mapping[str, Any], *, digest: str) -> ModelSpec:
    return ModelSpec(
        model=str(value["model"]),
        parameters=dict(value["parameters"]),
        input_shape=tuple(int(item) for item in value["inputShape"]),
        classes=tuple(str(item) for item in value["classes"]),
        positive=str(value["positive"]),
        feature_names=tuple(str(item) for item in value["featureNames"]),
        feature_low=tuple(str(item) for item in value["featureLow"]),
        feature_high=tuple(str(item) for item in value["featureHigh"]),
        study=str(value["study"]),
        digest=digest,
        task=LabelTask(value.get("task", LabelTask.MULTI_CLASS)),
        temperature=str(value.get("temperature", "1")),
        members=int(value.get("members", 0)),
        agreement=str(value.get("agreement", "")),
        guard=str(value.get("guard", "")),
    )
