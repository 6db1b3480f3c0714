"""Answering for Logistic and MLP with numpy alone, so that a server of small models needs no torch.

Gives what the torch module gives, to single precision, from the same file; a contract test compares
the two. Anything that is not exactly one of the two architectures is left to torch, never guessed
at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from primum.domain.errors import InvalidValue
from primum_pipelines.datasets.table import LabelTask
from primum_pipelines.models.artifact import (
    Answers,
    ModelSpec,
    checked_rows,
    read_spec,
    scale,
    tempered,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIGHT_MODELS = ("Logistic", "MLP")


@dataclass(frozen=True, slots=True, repr=False)
class LightModel:
    """A stack of linear layers with tanh between them.

    Args:
        spec: What the file says about itself.
        layers: ``(weight (out, in), bias (out))`` in order, float32.
    """

    spec: ModelSpec
    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities.

        Args:
            features: ``(n, *input_shape)`` in raw published units; images in [0, 1].

        Returns:
            float64 ``(n, classes)``; rows sum to 1, but of several labels each is by itself.

        Raises:
            InvalidValue: If the shape is wrong or a value is not finite.
        """
        import numpy as np

        rows = checked_rows(features, self.spec)
        values = scale(rows, self.spec).reshape(len(rows), -1)
        for position, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T + bias
            if position < len(self.layers) - 1:
                values = np.tanh(values)
        logits = values.astype(np.float64)
        if self.spec.task is LabelTask.MULTI_LABEL:
            each: np.ndarray = 0.5 * (1 + np.tanh(logits / 2))
            return each
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        return tempered(raised / raised.sum(axis=1, keepdims=True), self.spec)

    def answer(self, features: np.ndarray) -> Answers:
        """Probabilities; a model by itself answers for every row."""
        import numpy as np

        probabilities = self.predict_proba(features)
        return Answers(probabilities, np.ones(len(probabilities), dtype=bool))


def light_model(data: bytes) -> LightModel | None:
    """A light model from the bytes of its file.

    Args:
        data: The file.

    Returns:
        The model; ``None`` where only torch can answer for it.

    Raises:
        InvalidValue: If they are not a model file of ours.
    """
    import safetensors
    from safetensors.numpy import load

    spec = read_spec(data)
    if spec.model not in LIGHT_MODELS or spec.members or spec.guard:
        return None
    try:
        weights = load(data)
    except (safetensors.SafetensorError, ValueError) as error:
        rule = "must be a safetensors file written by Primum"
        raise InvalidValue("model file", rule, type(error).__name__) from error
    positions = sorted(
        {int(name.split(".")[0]) for name in weights if name.split(".")[0].isdigit()}
    )
    expected = {f"{at}.{part}" for at in positions for part in ("weight", "bias")}
    # nn.Sequential numbers its parts: Flatten is 0, linear layers are odd, tanh the others.
    if set(weights) != expected or positions != list(range(1, 2 * len(positions), 2)):
        return None
    layers = tuple((weights[f"{at}.weight"], weights[f"{at}.bias"]) for at in positions)
    return LightModel(spec, layers) if _fits(spec, layers) else None


def _fits(
    spec: ModelSpec, layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]
) -> bool:
    width = math.prod(spec.input_shape)
    for weight, bias in layers:
        if weight.dtype != "float32" or weight.shape != (len(bias), width):
            return False
        width = len(bias)
    single = spec.model != "Logistic" or len(layers) == 1
    return bool(layers) and single and width == len(spec.classes)
