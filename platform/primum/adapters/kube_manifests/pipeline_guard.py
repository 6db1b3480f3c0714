"""The guard: what a data scientist's own pipeline must not hold, read from its compiled form.

A pipeline of one's own opens no protected data. Who wants to learn from such data declares a Study,
whose run is the platform's: reserved before, by reviewed steps, under tickets. The guard says so
before anything is submitted; the admission policies say it again of every pod. It reads statically
and believes nothing that it does not know: an unknown setting of a pod is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primum.adapters.kube_manifests import names
from primum.resources.metadata import GROUP

Json = Mapping[str, Any]

RESERVED_PREFIX = "primum-"
"""Claims and Secrets of the platform begin so: protected data, artifacts before they are released,
tickets of runs. None of them is a pipeline's to mount."""

PLACEHOLDER_DIGEST = "@sha256:" + "0" * 64
_TASK_MODULE = "primum.entrypoints.pipeline_task"  # published components
_STEP_MODULES = ("primum.entrypoints.step", "primum.entrypoints.walk", "primum_pipelines.runtime")
_BY_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_CREATE_CLAIM, _DELETE_CLAIM = "argostub/createpvc", "argostub/deletepvc"
_LABEL_OWNERS = (f"{GROUP}/", "pipeline/runid", "pipelines.kubeflow.org/")
_SETTINGS = {
    "secretAsVolume",
    "secretAsEnv",
    "pvcMount",
    "nodeSelector",
    "podMetadata",
    "imagePullSecret",
    "imagePullPolicy",
    "configMapAsVolume",
    "configMapAsEnv",
    "activeDeadlineSeconds",
    "fieldPathAsEnv",
    "tolerations",
    "genericEphemeralVolume",
    "nodeAffinity",
    "podAffinity",
    "enabledSharedMemory",
    "emptyDirMounts",
    "securityContext",
}
# Protobuf reads these spellings too; kfp writes the other one, and the guard reads that.
_OTHER_SPELLINGS = {
    "artifact_uri",
    "caching_options",
    "component_input_parameter",
    "component_ref",
    "deployment_spec",
    "enable_cache",
    "executor_label",
    "pipeline_config",
    "pod_metadata",
    "producer_task",
    "pvc_mount",
    "pvc_name_parameter",
    "pvc_spec_patch",
    "runtime_value",
    "secret_as_env",
    "secret_as_volume",
    "secret_name",
    "secret_name_parameter",
    "task_output_parameter",
}
_WORKSPACE_CLAIM = frozenset(("accessModes", "storageClassName", "resources", "volumeMode"))
_REMEDY = "Declare a Study with the component `study`: the platform reserves, and opens the data."


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a pipeline.

    Args:
        name: What a person would search for.
        rule: What must hold.
        found: What was found instead.
        remedy: How to put it right.
    """

    name: str
    rule: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.name} {self.rule}; found {self.found}. {self.remedy}"


def findings(
    pipeline: Json,
    platform: Json,
    *,
    datasets: Mapping[str, str],
    arguments: Mapping[str, Any],
) -> Sequence[Finding]:
    """Everything that a pipeline must not hold, in the order of the documents.

    Args:
        pipeline: The first document of the IR.
        platform: The second one; empty where there is none.
        datasets: Protected datasets that are known: address to the budget's name.
        arguments: Parameters that it is submitted with.

    Returns:
        What is wrong; nothing where the pipeline may be submitted.
    """
    executors = _mapping(_mapping(pipeline.get("deploymentSpec")).get("executors"))
    return tuple(
        dict.fromkeys(
            (
                *_spellings(pipeline),
                *_spellings(platform),
                *_executors(executors),
                *_tasks(pipeline),
                *_platform(pipeline, platform),
                *_addresses({"pipeline": pipeline, "arguments": arguments}, datasets),
            )
        )
    )


def _spellings(found: Any) -> Iterator[Finding]:
    if isinstance(found, Mapping):
        for key in sorted(_OTHER_SPELLINGS & set(found)):
            yield Finding(
                key, "must be spelled as kfp's compiler does", key, "Compile the pipeline with kfp."
            )
    for value in found.values() if isinstance(found, Mapping) else _list(found):
        yield from _spellings(value)


def _executors(executors: Json) -> Iterator[Finding]:
    for label, executor in executors.items():
        words = _words(_mapping(_mapping(executor).get("container")))
        if any(module in words for module in _STEP_MODULES):
            yield Finding(
                label,
                "must not run a step of a Study",
                "one",
                "A step has tickets only in its Study's own run. " + _REMEDY,
            )


def for_cluster(pipeline: Json) -> Sequence[Finding]:
    """What keeps a pipeline from a cluster alone: images that nothing can pull."""
    executors = _mapping(_mapping(pipeline.get("deploymentSpec")).get("executors"))
    found = []
    for label, executor in executors.items():
        container = _mapping(_mapping(executor).get("container"))
        image = str(container.get("image", ""))
        pinned = _BY_DIGEST.search(image) and not image.endswith(PLACEHOLDER_DIGEST)
        if _TASK_MODULE in _words(container) and not pinned:
            remedy = (
                "Load the components with image=..., or write them with `primum pipeline "
                "components --image`."
            )
            rule = "must be your site's worker image, by digest"
            found.append(Finding(f"{label}: image", rule, image, remedy))
    return tuple(found)


def _words(container: Json) -> str:
    parts = (*_list(container.get("command")), *_list(container.get("args")))
    return " ".join(str(word) for word in parts)


def _tasks(pipeline: Json) -> Iterator[Finding]:
    for where, task in _every_task(pipeline):
        container = _container(pipeline, task)
        cached = _mapping(task.get("cachingOptions")).get("enableCache")
        if cached and _TASK_MODULE in str(container.get("command")):
            yield Finding(
                f"task {where}",
                "must not be cached",
                "a cache",
                "Call set_caching_options(enable_caching=False): a Study that was cached did "
                "not run.",
            )
        image = container.get("image")
        if image in (_CREATE_CLAIM, _DELETE_CLAIM):
            yield from _claim_task(where, task)


def _claim_task(where: str, task: Json) -> Iterator[Finding]:
    """Claims that a pipeline makes and deletes are its own, and hold nothing when they are made."""
    for name, given in _mapping(_mapping(task.get("inputs")).get("parameters")).items():
        if name in ("volume_name", "data_source"):
            yield Finding(
                f"task {where}: {name}",
                "must not be given",
                "one",
                "A claim of a pipeline begins empty: another's volume may hold protected data.",
            )
        elif name in ("pvc_name", "pvc_name_suffix") and "taskOutputParameter" not in given:
            yield from _name(f"task {where}: {name}", given)


def _platform(pipeline: Json, platform: Json) -> Iterator[Finding]:
    tasks = tuple(_every_task(pipeline))
    made = {name for name, task in tasks if _makes_claim(pipeline, task)}
    made -= {name for name, task in tasks if not _makes_claim(pipeline, task)}
    for name, item in _mapping(platform.get("platforms")).items():
        if name != "kubernetes":
            yield Finding(f"platform {name}", "must be kubernetes", name, "Remove the other one.")
            continue
        yield from _workspace(_mapping(_mapping(item).get("pipelineConfig")))
        pods = _mapping(_mapping(_mapping(item).get("deploymentSpec")).get("executors"))
        for label, pod in pods.items():
            yield from _pod(label, _mapping(pod), made)


def _pod(label: str, pod: Json, made: set[str]) -> Iterator[Finding]:
    for unknown in sorted(set(pod) - _SETTINGS):
        yield Finding(
            f"{label}: {unknown}",
            "must be a setting that the guard knows",
            "another",
            "Leave it out.",
        )
    for kind in ("secretAsVolume", "secretAsEnv", "imagePullSecret"):
        for item in _list(pod.get(kind)):
            for given in _references(item, "secretNameParameter", "secretName"):
                yield from _name(f"{label}: {kind}", given)
    for item in _list(pod.get("pvcMount")):
        for given in _references(item, "pvcNameParameter", "constant"):
            producer = _mapping(given.get("taskOutputParameter")).get("producerTask")
            if producer not in made:
                yield from _name(f"{label}: pvcMount", given)
    metadata = _mapping(pod.get("podMetadata"))
    for part in ("labels", "annotations"):
        for key in _mapping(metadata.get(part)):
            if key.startswith(_LABEL_OWNERS) or key == names.PART_OF:
                yield Finding(
                    f"{label}: {part}",
                    "must not be those of the platform",
                    key,
                    "Only the operator says which reservation a pod runs under. " + _REMEDY,
                )
    if names.DATASET_PREFIX in str(pod):
        yield Finding(label, "must not name protected data", names.DATASET_PREFIX + "...", _REMEDY)


def _workspace(config: Json) -> Iterator[Finding]:
    workspace = _mapping(_mapping(config.get("workspace")).get("kubernetes"))
    for key in sorted(set(_mapping(workspace.get("pvcSpecPatch"))) - _WORKSPACE_CLAIM):
        yield Finding(
            f"workspace: {key}",
            "must not be given",
            "one",
            "A workspace begins empty: another's volume may hold protected data.",
        )


def _name(where: str, given: Any) -> Iterator[Finding]:
    """A claim's or Secret's name: written out, and not one of the platform's."""
    value = _mapping(_mapping(given).get("runtimeValue")).get("constant")
    if not isinstance(value, str) or "{{" in value:
        yield Finding(
            where,
            "must be named in the pipeline itself",
            "a name that is known only at run time",
            "Write the name where it is mounted.",
        )
    elif value.startswith(names.DATASET_PREFIX):
        yield Finding(where, "must not open protected data without a reservation", value, _REMEDY)
    elif value.startswith(RESERVED_PREFIX):
        yield Finding(
            where,
            f"must not begin with {RESERVED_PREFIX}",
            value,
            "What is called so is the platform's: artifacts before release, tickets, keys. "
            "Read what was released with the component `release`.",
        )


def _addresses(found: Any, datasets: Mapping[str, str], where: str = "") -> Iterator[Finding]:
    """Texts that name a protected dataset's address, wherever they stand."""
    if isinstance(found, str):
        for uri, budget in datasets.items():
            if uri in found:
                yield Finding(
                    where, "must not name the dataset of a budget", f"that of {budget}", _REMEDY
                )
    elif isinstance(found, Mapping):
        for key, value in found.items():
            yield from _addresses(value, datasets, f"{where}.{key}" if where else str(key))
    elif isinstance(found, list | tuple):
        for value in found:
            yield from _addresses(value, datasets, where)


def _every_task(pipeline: Json) -> Iterator[tuple[str, Json]]:
    dags = [_mapping(pipeline.get("root")).get("dag")]
    dags += [_mapping(item).get("dag") for item in _mapping(pipeline.get("components")).values()]
    for dag in dags:
        for name, task in _mapping(_mapping(dag).get("tasks")).items():
            yield str(name), _mapping(task)


def _makes_claim(pipeline: Json, task: Json) -> bool:
    return bool(_container(pipeline, task).get("image") == _CREATE_CLAIM)


def _container(pipeline: Json, task: Json) -> Json:
    """What a task runs; nothing where it is a pipeline of its own."""
    reference = str(_mapping(task.get("componentRef")).get("name"))
    component = _mapping(_mapping(pipeline.get("components")).get(reference))
    executors = _mapping(_mapping(pipeline.get("deploymentSpec")).get("executors"))
    executor = _mapping(executors.get(str(component.get("executorLabel"))))
    return _mapping(executor.get("container"))


def _references(item: Any, parameter: str, written: str) -> Iterator[Json]:
    """Every way in which one mount names what it mounts: kfp writes two, old and new."""
    mount = _mapping(item)
    found = [mount[parameter]] if parameter in mount else []
    if "taskOutputParameter" in mount:
        found.append({"taskOutputParameter": mount["taskOutputParameter"]})
    if written in mount:
        found.append({"runtimeValue": {"constant": mount[written]}})
    for given in found or [{}]:
        yield _mapping(given)


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
