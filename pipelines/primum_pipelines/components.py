"""The platform's steps as components of data scientists' own Kubeflow pipelines.

::

    from kfp import dsl
    from primum_pipelines.components import load

    primum = load(image="registry.example.org/primum/worker@sha256:...")

    @dsl.pipeline(name="risk")
    def pipeline(manifest: str):
        study = primum.study(manifest=manifest)
        study.set_caching_options(enable_caching=False)
        where = study.outputs["namespace"]
        release = primum.release(name=study.outputs["release"], namespace=where)
        release.set_caching_options(enable_caching=False)

The same are files in ``compiled/components``, for ``kfp.components.load_component_from_file``. A
component declares and follows; it opens no data, and reserving is never a task. It must stand
alone: kfp copies a function's source into the pipeline.
"""

# mypy: disable-error-code="valid-type"
# kfp reads outputs from a NamedTuple that the signature itself makes, so that a copy stands alone.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from primum.domain.errors import InvalidValue

PLACEHOLDER_IMAGE = "registry.example.org/primum/python-worker@sha256:" + "0" * 64
"""In the files that are checked in; a site's own image takes its place, and nothing pulls this."""

_TEXTS: Mapping[str, str] = {
    "study": "Declare a Study and wait until it has ended well. The platform plans it, reserves, "
    "runs it apart from this pipeline, settles and releases. The same again is a no-op.",
    "audit": "Declare an AuditRun and wait for its verdict, whichever it is.",
    "release": "Wait until a Release stands, and say what it released.",
}


@dataclass(frozen=True, slots=True)
class Components:
    """Components with a site's image.

    Args:
        study: ``(manifest, namespace="", timeout_seconds=86400)`` to ``name``, ``namespace``,
            ``release``, ``epsilon_spent``, ``certificate``. Fails where the Study does.
        audit: ``(manifest, namespace="", timeout_seconds=86400)`` to ``verdict``, ``reason``.
        release: ``(name, namespace="", timeout_seconds=86400)`` to ``artifact``, ``digest``,
            ``claim``, ``certificate``. Fails where it was revoked.
    """

    study: Any
    audit: Any
    release: Any


def load(*, image: str = PLACEHOLDER_IMAGE) -> Components:
    """The components.

    Args:
        image: The site's worker image, by digest; on one machine nothing runs it.

    Raises:
        InvalidValue: If the image is not named by digest.
    """
    if "@sha256:" not in image:
        raise InvalidValue(
            "image", "must be named by digest", image, "Write name@sha256:<64 hex digits>."
        )
    return Components(study=_study(image), audit=_audit(image), release=_release(image))


def _study(image: str) -> Any:
    def study(manifest: str, namespace: str = "", timeout_seconds: int = 86400) -> NamedTuple(
        "Outputs",
        [
            ("name", str),
            ("namespace", str),
            ("release", str),
            ("epsilon_spent", str),
            ("certificate", str),
        ],
    ):
        from primum.entrypoints.pipeline_task import run_study

        return run_study(manifest, namespace, timeout_seconds)

    outputs = _outputs(name=str, namespace=str, release=str, epsilon_spent=str, certificate=str)
    return _component(study, image, {"manifest": str}, outputs)


def _audit(image: str) -> Any:
    def audit(manifest: str, namespace: str = "", timeout_seconds: int = 86400) -> NamedTuple(
        "Outputs", [("verdict", str), ("reason", str)]
    ):
        from primum.entrypoints.pipeline_task import run_audit

        return run_audit(manifest, namespace, timeout_seconds)

    return _component(audit, image, {"manifest": str}, _outputs(verdict=str, reason=str))


def _release(image: str) -> Any:
    def release(name: str, namespace: str = "", timeout_seconds: int = 86400) -> NamedTuple(
        "Outputs",
        [("artifact", str), ("digest", str), ("claim", str), ("certificate", str)],
    ):
        from primum.entrypoints.pipeline_task import read_release

        return read_release(name, namespace, timeout_seconds)

    outputs = _outputs(artifact=str, digest=str, claim=str, certificate=str)
    return _component(release, image, {"name": str}, outputs)


def _outputs(**fields: type) -> Any:
    return NamedTuple("Outputs", list(fields.items()))


def _component(
    function: Callable[..., Any], image: str, inputs: Mapping[str, type], outputs: Any
) -> Any:
    from kfp import dsl

    # Types, which kfp reads, not their names.
    function.__annotations__ = {
        **inputs,
        "namespace": str,
        "timeout_seconds": int,
        "return": outputs,
    }
    function.__doc__ = _TEXTS[function.__name__]
    made = dsl.component(base_image=image, install_kfp_package=False)(function)
    made.component_spec.description = _TEXTS[function.__name__]
    return made
