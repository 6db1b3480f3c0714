"""A trained classifier as one ``model.safetensors``: weights, architecture, classes, public bounds.

The file carries everything a server needs to answer for raw features, and nothing measured on
private data but the weights. Must never unpickle: the format is safetensors, its metadata JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import InvalidValue, NotFound
from primum_pipelines.models.registry import build

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

FILE_NAME = "model.safetensors"
FORMAT_VERSION = 1
_METADATA_KEY = "primum"
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


@dataclass(frozen=True, slots=True, repr=False)
class LoadedModel:
    """A model ready to answer.

    Args:
        module: The network in evaluation mode.
        spec: What the file says about itself.
    """

    module: nn.Module
    spec: ModelSpec

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities.

        Args:
            features: ``(n, *input_shape)`` in raw published units; images in [0, 1].

        Returns:
            float64 ``(n, classes)``; rows sum to 1.

        Raises:
            InvalidValue: If the shape is wrong or a value is not finite.
        """
        import numpy as np
        import torch

        scaled = scale(checked_rows(features, self.spec), self.spec)
        answers = []
        with torch.inference_mode():
            for start in range(0, len(scaled), _BATCH_ROWS):
                logits = self.module(torch.from_numpy(scaled[start : start + _BATCH_ROWS]))
                answers.append(torch.softmax(logits.double(), dim=1).numpy())
        return np.concatenate(answers) if answers else np.zeros((0, len(self.spec.classes)))


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


def to_bytes(module: nn.Module, spec: ModelSpec) -> bytes:
    """The bytes of a model file.

    Args:
        module: The trained network, without canary heads or wrappers.
        spec: What it is.
    """
    from safetensors.torch import save

    weights = {
        name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()
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
        }
    ).decode()
    return {_METADATA_KEY: metadata}


def load_model(path: str | Path) -> LoadedModel:
    """A model from its file.

    Args:
        path: The local file.

    Raises:
        NotFound: If there is none.
        InvalidValue: If it is not a model file of ours.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"model file {path} must exist; found nothing there.") from None
    return from_bytes(data)


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
        module = build(
            spec.model, spec.parameters, input_shape=spec.input_shape, classes=len(spec.classes)
        )
        module.load_state_dict(weights, strict=True)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidValue(
            "model file", "must be a safetensors file written by Primum", type(error).__name__
        ) from error
    return LoadedModel(module=module.eval(), spec=spec)


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
    )
