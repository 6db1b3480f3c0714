"""Which models there are, what parameters they take, and how one is built. Light until ``build``.

A model must treat every row by itself: no batch statistics, or clipping per unit means nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn, Protocol

from primum import extensions
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.quantities import parse_decimal
from primum_pipelines.datasets.table import LabelTask

if TYPE_CHECKING:
    from torch import nn

GROUP = "primum.models"
_CLASSES_MAX = 1000
_TABLE_AXES, _VOLUME_AXES = 1, 4
_DIGITS_MAX = 12  # No parameter here has more; a hostile one must not become a huge number.
_PARAMETERS_FIELD = "modelParameters"  # Of whichever job kind asks.


_TASKS = (LabelTask.MULTI_CLASS, LabelTask.MULTI_LABEL)


class Model(Protocol):
    """One architecture, registered under ``primum.models``. Its module must not import torch.

    An architecture for other labels than classes of rows says so with an attribute ``tasks``, a
    tuple of ``LabelTask``. One that cannot take every input has a method ``fits(parameters, *,
    input_shape)``, which raises ``InvalidValue``: it lets a plan refuse before anything is spent.
    """

    name: str

    def check(self, parameters: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """The parameters with defaults filled in.

        Raises:
            InvalidValue: If one is unknown or out of range.
        """

    def build(
        self, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
    ) -> nn.Module:
        """A fresh module that maps ``(n, *input_shape)`` to logits ``(n, classes)``.

        Raises:
            InvalidValue: If the architecture cannot take this input shape.
        """


def model_named(name: str) -> Model:
    """The registered architecture of a name.

    Raises:
        InvalidValue: If there is none; lists what there is.
    """
    known = extensions.names(GROUP)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        remedy = f"Did you mean {close[0]}?" if close else "Install the plug-in that brings it."
        rule = f"must be one of {', '.join(known)}"
        raise InvalidValue("model", rule, name, remedy)
    model: Model = extensions.load(GROUP, name)()
    return model


def require_answers(name: str, task: LabelTask) -> None:
    """Refuse a model that does not answer for labels of a kind.

    Raises:
        InvalidValue: If it does not.
    """
    tasks = getattr(model_named(name), "tasks", _TASKS)
    if task not in tasks:
        rule = f"must answer for labels of kind {task}"
        found = f"{name}, which is for {', '.join(tasks)}"
        remedy = "Use UNet." if task is LabelTask.SEGMENTATION else "Use UNet for masks alone."
        raise InvalidValue("model", rule, found, remedy)


def require_fits(name: str, parameters: Mapping[str, JSON], *, input_shape: Sequence[int]) -> None:
    """Refuse a model that cannot take rows of a shape, where it says so without being built.

    Raises:
        InvalidValue: If it cannot.
    """
    model = model_named(name)
    check = getattr(model, "fits", None)
    if check is not None:
        check(model.check(parameters), input_shape=tuple(input_shape))


def refuse_input(name: str, shape: Sequence[int], rule: str) -> NoReturn:
    """Refuse input that an architecture cannot take, and say which could.

    Args:
        name: The architecture.
        shape: Of one row, or its sides.
        rule: What the input must be.

    Raises:
        InvalidValue: Always.
    """
    remedy = {
        _TABLE_AXES: "Use Logistic or MLP for tables.",
        _VOLUME_AXES: "Use SliceAttention for volumes.",
    }
    found = f"{name} on input of shape {tuple(shape)}"
    raise InvalidValue("model", rule, found, remedy.get(len(shape), ""))


def build(
    name: str, parameters: Mapping[str, JSON], *, input_shape: Sequence[int], classes: int
) -> nn.Module:
    """A fresh module.

    Args:
        name: Registered name.
        parameters: The architecture's own parameters.
        input_shape: Shape of one row.
        classes: Number of classes, at least 2.

    Returns:
        A module without batch statistics, with torch's default initialization.

    Raises:
        InvalidValue: If name, parameters, shape or classes break a rule.
    """
    if not 2 <= classes <= _CLASSES_MAX:  # noqa: PLR2004 - one class is no task
        raise InvalidValue("classes", f"must be from 2 to {_CLASSES_MAX}", classes)
    model = model_named(name)
    require_fits(name, parameters, input_shape=input_shape)
    module = model.build(model.check(parameters), input_shape=tuple(input_shape), classes=classes)
    refuse_batch_statistics(module)
    return module


def refuse_batch_statistics(module: nn.Module) -> None:
    """Refuse layers whose output for a row depends on the other rows of the batch.

    Raises:
        InvalidValue: If there is one; names it.
    """
    from torch import nn

    mixing = (
        nn.modules.batchnorm._BatchNorm,  # the common base has no public name
        nn.modules.instancenorm._InstanceNorm,
    )
    for path, layer in module.named_modules():
        tracks = bool(getattr(layer, "track_running_stats", False))
        if isinstance(layer, mixing[0]) or (isinstance(layer, mixing[1]) and tracks):
            raise InvalidValue(
                f"model layer {path or type(layer).__name__}",
                "must not compute statistics over the batch",
                type(layer).__name__,
                "Use GroupNorm or LayerNorm.",
            )


def whole_parameter(
    parameters: Mapping[str, JSON], name: str, *, default: int, low: int, high: int
) -> int:
    """A whole-number parameter of an architecture, as a number or as quoted digits.

    Raises:
        InvalidValue: If it is not a whole number in range.
    """
    value = parameters.get(name, default)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:_DIGITS_MAX])
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        field = f"{_PARAMETERS_FIELD}.{name}"
        raise InvalidValue(field, f"must be a whole number from {low} to {high}", value)
    return value


def share_parameter(parameters: Mapping[str, JSON], name: str) -> str:
    """A share from 0 to below 1 as a quoted decimal; 0 where it is absent.

    Raises:
        InvalidValue: If it is none.
    """
    field = f"{_PARAMETERS_FIELD}.{name}"
    number = parse_decimal(field, parameters.get(name, "0"))
    if not 0 <= number < 1:
        raise InvalidValue(field, "must be at least 0 and below 1", str(number))
    return decimal_text(number)


def require_parameters(parameters: Mapping[str, JSON], allowed: Sequence[str]) -> None:
    """Refuse parameters that an architecture does not have.

    Raises:
        InvalidValue: If there is one; names it.
    """
    for name in parameters:
        if name not in allowed:
            rule = f"must be one of {', '.join(allowed)}" if allowed else "must not be present"
            close = difflib.get_close_matches(name, allowed, n=1)
            remedy = f"Did you mean {close[0]}?" if close else ""
            raise InvalidValue(f"{_PARAMETERS_FIELD}.{name}", rule, name, remedy)


def choice_parameter(parameters: Mapping[str, JSON], name: str, options: Sequence[str]) -> str:
    """One of a few names; the first where it is absent.

    Raises:
        InvalidValue: If it is another one.
    """
    value = parameters.get(name, options[0])
    if not isinstance(value, str) or value not in options:
        rule = f"must be one of {', '.join(options)}"
        raise InvalidValue(f"{_PARAMETERS_FIELD}.{name}", rule, str(value))
    return value
