"""Compiles the steps of a plan into a KFP v2 pipeline: the one door to kfp's compiler.

The same IR YAML runs on one machine and in a cluster. Every task runs an image by digest with no
installation at run time, no cache (a cached step would spend nothing and prove nothing) and no
retry by the engine (a step resumes by its outcome instead). A step's context is one JSON string: a
STRUCT parameter would turn 1 into 1.0 and change digests.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from primum.domain.errors import InvalidValue

PIPELINE_NAME = "primum-study"
EMBEDDED_IMAGE = "primum/python-steps@sha256:" + "0" * 64
"""Named in the IR where steps run as processes of this machine; nothing pulls it."""

_STEP = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
_IMAGE = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")
_STEPS_MAX = 32  # A plan has four; a longer chain is a mistake, not a pipeline.


def context_parameter(step: str) -> str:
    """The pipeline parameter that carries a step's context."""
    return f"{step.replace('-', '_')}_context"


def compile_pipeline(steps: Sequence[str], *, image: str = EMBEDDED_IMAGE) -> str:
    """The IR YAML of a chain of steps, each after the one before.

    Args:
        steps: Names of the steps in order.
        image: Image of every step, by digest.

    Returns:
        IR YAML; the same text for the same arguments and kfp version.

    Raises:
        InvalidValue: If a step's name, their number or the image is unusable.
    """
    _check(steps, image)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # kfp's default image, which no task here uses
        from kfp import compiler

        with TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(_pipeline(steps, image), str(path))
            return path.read_text(encoding="utf-8")


def _check(steps: Sequence[str], image: str) -> None:
    if not 0 < len(steps) <= _STEPS_MAX or len(set(steps)) != len(steps):
        raise InvalidValue("steps", f"must be 1 to {_STEPS_MAX} different names", list(steps))
    for step in steps:
        if not _STEP.fullmatch(step):
            raise InvalidValue("steps", "must be short lower-case names", step)
    if not _IMAGE.fullmatch(image):
        raise InvalidValue(
            "image", "must be named by digest", image, "Write name@sha256:<64 hex digits>."
        )


def _pipeline(steps: Sequence[str], image: str) -> Any:
    from kfp import dsl

    components = {step: _component(step, image) for step in steps}

    def chain(*contexts: str) -> None:
        before = None
        for step, context in zip(steps, contexts, strict=True):
            task = components[step](context=context)
            task.set_caching_options(enable_caching=False)
            task.set_display_name(step)
            if before is not None:
                task.after(before)
            before = task

    return dsl.pipeline(name=PIPELINE_NAME)(_with_parameters(chain, steps))


def _with_parameters(function: Callable[..., None], steps: Sequence[str]) -> Callable[..., None]:
    """The function with one string parameter per step; kfp reads a pipeline's inputs from it."""
    names = [context_parameter(step) for step in steps]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=str) for name in names]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return function


def _component(step: str, image: str) -> Any:
    from kfp import dsl

    # kfp copies this function's source into the IR: it stands alone.
    def run_primum_step(context: str) -> None:
        from primum.entrypoints.step import run_step

        run_step(context)

    run_primum_step.__annotations__ = {
        "context": str,
        "return": None,
    }  # types, which kfp reads, not their names
    component = dsl.component(base_image=image, install_kfp_package=False)(run_primum_step)
    component.component_spec.name = (
        step  # The task's name in the run; kfp would number copies of one name.
    )
    return component
