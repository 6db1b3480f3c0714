"""Open Inference Protocol v2: requests to arrays, answers to JSON. No message repeats an input.

Reading is by hand rather than by a schema library, because those quote the offending input in their
errors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from primum_pipelines.datasets.table import LabelTask
from primum_serving.registry import Answers, ModelSpec, ServedModel

if TYPE_CHECKING:
    import numpy as np

INPUT_NAME = "features"
LABEL_NAME = "label"
PROBABILITY_NAME = "probability"
REASON_NAME = "reason"
ABSTAIN = "abstain"
BODY_BYTES_MAX = 16 * 2**20  # Some 1,000 rows of 28 x 28 pixels as JSON text.
ROWS_MAX = 1024
VALUES_MAX = 2_000_000
_DEPTH_MAX = 8
_THRESHOLD = 0.5
_ID_LENGTH_MAX = 128
_NUMERIC = frozenset(
    (
        "FP16",
        "FP32",
        "FP64",
        "INT8",
        "INT16",
        "INT32",
        "INT64",
        "UINT8",
        "UINT16",
        "UINT32",
        "UINT64",
    )
)


class BadRequest(Exception):
    """A request breaks the protocol or the model's rules; the message holds no value of it.

    Args:
        message: Name, rule.
        status: HTTP status.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


def parsed(body: bytes) -> Mapping[str, Any]:
    """A request body as a JSON object.

    Raises:
        BadRequest: If it is not one, or holds NaN or an infinity.
    """
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("request must be JSON without NaN or infinity") from None
    if not isinstance(value, dict):
        raise BadRequest("request must be a JSON object")
    return value


def rows(request: Mapping[str, Any], served: ServedModel) -> np.ndarray:
    """The rows of an inference request.

    Args:
        request: A parsed body.
        served: The model that will answer.

    Returns:
        float32 ``(n, *input_shape)``, every value finite.

    Raises:
        BadRequest: If inputs, shape, datatype or data break a rule.
    """
    import numpy as np

    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequest("inputs must list exactly one tensor")
    tensor = inputs[0]
    if tensor.get("name") != INPUT_NAME:
        raise BadRequest(f"inputs[0].name must be {INPUT_NAME}")
    if tensor.get("datatype") not in _NUMERIC:
        raise BadRequest(f"inputs[0].datatype must be one of {', '.join(sorted(_NUMERIC))}")
    shape = _shape(tensor.get("shape"), served.model.spec.input_shape)
    values: list[float] = []
    _flatten(tensor.get("data"), values, 0)
    if len(values) != math.prod(shape):
        raise BadRequest("inputs[0].data must have as many values as its shape says")
    with np.errstate(over="ignore"):  # What FP32 cannot hold becomes infinite: refused below.
        array = np.asarray(values, dtype=np.float64).astype(np.float32).reshape(shape)
    if not np.isfinite(array).all():
        raise BadRequest("inputs[0].data must be finite")
    return array


def answer(request: Mapping[str, Any], served: ServedModel) -> dict[str, Any]:
    """The answer to an inference request.

    Args:
        request: A parsed body.
        served: The model.

    Returns:
        The protocol's response object: ``label`` as BYTES ``(n)``, of several labels as BOOL ``(n,
        classes)``, of masks as UINT8 class numbers ``(n, ...)``; ``probability`` as FP32 ``(n,
        classes, ...)``. A model that abstains where its members disagree also has ``reason`` as
        BYTES ``(n)``, empty where it answers; elsewhere its label is ``abstain`` and its
        probabilities are 0, so that nobody takes an arbitrary answer for one.

    Raises:
        BadRequest: If the request breaks a rule.
    """
    spec = served.model.spec
    wanted = _wanted(request.get("outputs"), abstains=bool(spec.agreement))
    answers = served.model.answer(rows(request, served))
    outputs: list[dict[str, Any]] = []
    if LABEL_NAME in wanted:
        outputs.append({"name": LABEL_NAME, **_labels(answers, spec)})
    if PROBABILITY_NAME in wanted:
        probabilities = _probabilities(answers)
        flat = [round(float(value), 7) for value in probabilities.ravel()]
        outputs.append(
            {
                "name": PROBABILITY_NAME,
                "datatype": "FP32",
                "shape": list(probabilities.shape),
                "data": flat,
                "parameters": {"classes": ",".join(spec.classes)},
            }
        )
    if REASON_NAME in wanted:
        why = f"fewer than {spec.agreement} of the ensemble's members say the same"
        reasons = ["" if given else why for given in answers.answered]
        outputs.append(
            {"name": REASON_NAME, "datatype": "BYTES", "shape": [len(reasons)], "data": reasons}
        )
    found: dict[str, Any] = {
        "model_name": served.name,
        "model_version": served.version,
        "outputs": outputs,
    }
    identity = request.get("id")
    if isinstance(identity, str) and len(identity) <= _ID_LENGTH_MAX:
        found["id"] = identity
    return found


def _labels(answers: Answers, spec: ModelSpec) -> dict[str, Any]:
    """The answers without their probabilities; a label applies from one half on."""
    probabilities = answers.probabilities
    if spec.task == LabelTask.MULTI_LABEL:
        applies = probabilities >= _THRESHOLD
        return {"datatype": "BOOL", "shape": list(applies.shape), "data": applies.ravel().tolist()}
    chosen = probabilities.argmax(axis=1)
    if spec.task == LabelTask.SEGMENTATION:
        return {"datatype": "UINT8", "shape": list(chosen.shape), "data": chosen.ravel().tolist()}
    names = [
        spec.classes[int(index)] if given else ABSTAIN
        for index, given in zip(chosen, answers.answered, strict=True)
    ]
    return {"datatype": "BYTES", "shape": [len(names)], "data": names}


def _probabilities(answers: Answers) -> np.ndarray:
    """Of an abstention nothing is told."""
    probabilities = answers.probabilities.copy()
    probabilities[~answers.answered] = 0
    return probabilities


def metadata(served: ServedModel) -> dict[str, Any]:
    """The protocol's description of a model, with the claim that its certificate makes."""
    spec = served.model.spec
    pixels = list(spec.input_shape[1:]) if spec.task == LabelTask.SEGMENTATION else []
    label = {
        LabelTask.MULTI_LABEL.value: ("BOOL", [-1, len(spec.classes)]),
        LabelTask.SEGMENTATION.value: ("UINT8", [-1, *pixels]),
    }.get(spec.task, ("BYTES", [-1]))
    outputs = [
        {"name": LABEL_NAME, "datatype": label[0], "shape": label[1]},
        {
            "name": PROBABILITY_NAME,
            "datatype": "FP32",
            "shape": [-1, len(spec.classes), *pixels],
        },
    ]
    if spec.agreement:
        outputs.append({"name": REASON_NAME, "datatype": "BYTES", "shape": [-1]})
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": f"primum_{spec.model}",
        "inputs": [{"name": INPUT_NAME, "datatype": "FP32", "shape": [-1, *spec.input_shape]}],
        "outputs": outputs,
        "parameters": {
            "classes": list(spec.classes),
            "artifactDigest": served.digest,
            "certificateDigest": served.certificate,
            "claim": dict(served.claim),
        },
    }


def _shape(value: object, input_shape: Sequence[int]) -> tuple[int, ...]:
    expected = f"[n, {', '.join(str(side) for side in input_shape)}]"
    if not isinstance(value, list) or not all(type(side) is int for side in value):
        raise BadRequest(f"inputs[0].shape must be {expected}")
    if tuple(value[1:]) != tuple(input_shape):
        raise BadRequest(f"inputs[0].shape must be {expected}")
    if not 1 <= value[0] <= ROWS_MAX:
        raise BadRequest(f"inputs[0].shape must have 1 to {ROWS_MAX} rows", status=413)
    return tuple(value)


def _flatten(value: object, values: list[float], depth: int) -> None:
    if depth > _DEPTH_MAX or not isinstance(value, list):
        raise BadRequest("inputs[0].data must be a list of numbers, flat or nested by its shape")
    for item in value:
        if isinstance(item, list):
            _flatten(item, values, depth + 1)
        elif type(item) is float or type(item) is int:
            values.append(_number(item))
        else:
            raise BadRequest("inputs[0].data must hold only numbers")
        if len(values) > VALUES_MAX:
            raise BadRequest(f"inputs[0].data must have at most {VALUES_MAX} values", status=413)


def _number(item: float) -> float:
    try:
        return float(item)
    except OverflowError:
        raise BadRequest("inputs[0].data must be finite") from None


def _wanted(value: object, *, abstains: bool) -> frozenset[str]:
    known = frozenset((LABEL_NAME, PROBABILITY_NAME, *((REASON_NAME,) if abstains else ())))
    if value is None:
        return known
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadRequest("outputs must list objects with a name")
    names = frozenset(str(item.get("name")) for item in value)
    if not names or names - known:
        raise BadRequest(f"outputs must name {' or '.join(sorted(known))}")
    return names


def _refuse_constant(_: str) -> float:
    raise ValueError("not a number")
