"""Compiles the steps of a plan into a KFP v2 pipeline: the one door to kfp's compiler.

The same IR YAML runs on one machine and in a cluster. Every task runs an image by digest with no
installation at run time, no cache (a cached step would spend nothing and prove nothing) and no
retry by the engine (a step resumes by its outcome instead). A step's context is one JSON string: a
STRUCT parameter would turn 1 into 1.0 and change digests.

``python -m primum_pipelines.compile --write`` compiles what is checked in: the prototype that
``cluster_pipeline`` makes a cluster's pipelines from, and the components that data scientists load
from files.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from primum.domain.errors import InvalidValue, NotFound
from primum_pipelines import cluster_pipeline
from primum_pipelines.components import PLACEHOLDER_IMAGE, load

PIPELINE_NAME = "primum-study"
EMBEDDED_IMAGE = "primum/python-steps@sha256:" + "0" * 64
"""Named in the IR where steps run as processes of this machine; nothing pulls it."""

COMPONENTS_FOLDER = cluster_pipeline.PROTOTYPE_FILE.with_name("components")

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
    return compiled(lambda: _pipeline(steps, image))


def prototype() -> str:
    """The pipeline of one step and its exit task, as ``cluster_pipeline`` reads it.

    The exit task has nothing to ask the platform with: it says how the run ended in its own log.
    Settling is the control loop's, from what the steps recorded; an exit task may never run.
    """
    import yaml

    text = compiled(lambda: _prototype(cluster_pipeline.PROTOTYPE_STEP))
    (document,) = yaml.safe_load_all(text)
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def compiled(make: Callable[[], Any]) -> str:
    """The IR YAML of what a function makes with kfp's own words: a pipeline or a component."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # kfp's default image, which no task here uses
        from kfp import compiler

        with TemporaryDirectory() as folder:
            path = Path(folder) / "pipeline.yaml"
            compiler.Compiler().compile(make(), str(path))
            return path.read_text(encoding="utf-8")


def component_files(image: str = PLACEHOLDER_IMAGE) -> dict[str, str]:
    """The published components as files for ``load_component_from_file``, by file name.

    Args:
        image: The site's worker image, by digest.

    Raises:
        InvalidValue: If the image is not named by digest.
    """
    made = load(image=image)
    named = {"study": made.study, "audit": made.audit, "release": made.release}
    return {f"{name}.yaml": compiled(partial(_same, item)) for name, item in named.items()}


def _same(made: Any) -> Any:
    return made


def compile_own(source: str, *, function: str = "") -> str:
    """The IR YAML of a data scientist's own pipeline.

    Args:
        source: A Python file, or a package's module; it is imported, as whoever asks.
        function: The pipeline's name in it; where it holds one, that one.

    Raises:
        NotFound: If there is no such file, module or pipeline.
        InvalidValue: If it holds several and none is named, or kfp cannot compile it.
    """
    from kfp.dsl.base_component import BaseComponent
    from kfp.dsl.graph_component import GraphComponent

    module = _imported(source)
    found = {k: v for k, v in vars(module).items() if isinstance(v, GraphComponent)}
    if function:
        chosen = vars(module).get(function)
        if not isinstance(chosen, BaseComponent):
            raise NotFound(f"{source} must hold the pipeline {function}; found {_listed(found)}.")
        return compiled(partial(_same, chosen))
    if len(found) != 1:
        raise InvalidValue(source, "must hold one pipeline", _listed(found), "Name one of them.")
    (only,) = found.values()
    return compiled(partial(_same, only))


def _imported(source: str) -> Any:
    import importlib
    import importlib.util

    if not source.endswith(".py"):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise NotFound(
                f"{source} must be an importable module; found no {error.name}."
            ) from None
    path = Path(source)
    if not path.is_file():
        raise NotFound(f"{source} must be a file; found none.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise NotFound(f"{source} must be a Python file; found something else.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # kfp looks functions up by their module.
    spec.loader.exec_module(module)
    return module


def _listed(found: Any) -> str:
    return ", ".join(sorted(found)) or "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check what is compiled and checked in."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true")
    group.add_argument("--check", action="store_true")
    write = parser.parse_args(arguments).write
    files = {cluster_pipeline.PROTOTYPE_FILE: prototype()}
    files |= {COMPONENTS_FOLDER / name: text for name, text in component_files().items()}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    for path in stale if write else ():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    for path in stale:
        sys.stdout.write(f"{path.name} {'written' if write else 'is not up to date'}\n")
    return 1 if stale and not write else 0


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


def _prototype(step: str) -> Any:
    from kfp import dsl

    component, told = _component(step, EMBEDDED_IMAGE), _notification(EMBEDDED_IMAGE)

    def with_exit() -> None:
        end = told()
        end.set_caching_options(enable_caching=False)
        end.set_display_name(cluster_pipeline.NOTIFICATION)
        with dsl.ExitHandler(end, name=cluster_pipeline.CHAIN):
            task = component(context="")
            task.set_caching_options(enable_caching=False)
            task.set_display_name(step)

    return dsl.pipeline(name=PIPELINE_NAME)(_with_parameters(with_exit, ()))


def _notification(image: str) -> Any:
    from kfp import dsl

    def notify(status: dsl.PipelineTaskFinalStatus) -> None:
        print(f"the run ended: {status.state}")  # noqa: T201 - the task's own log

    notify.__annotations__ = {"status": dsl.PipelineTaskFinalStatus, "return": None}
    component = dsl.component(base_image=image, install_kfp_package=False)(notify)
    component.component_spec.name = cluster_pipeline.NOTIFICATION
    return component


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


if __name__ == "__main__":
    sys.exit(main())
