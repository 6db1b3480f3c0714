"""Makes the pipeline that Kubeflow Pipelines runs in a cluster, without importing kfp.

The operator submits runs and has no kfp: it imports slowly and caps the Kubernetes client. What kfp
would compile is checked in as a prototype of one step (``python -m primum_pipelines.compile
--write``); a chain repeats that step. A test compiles the same with kfp and compares. It must not
put a ticket or a context into a pipeline: a task names the file in its run's Secret.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primum.domain.errors import InvalidValue

PROTOTYPE_FILE = Path(__file__).with_name("compiled") / "study.json"
PROTOTYPE_STEP = "step"
CHAIN = "study"
NOTIFICATION = "notify"

_CHAIN_COMPONENT = "comp-exit-handler-1"
_STEP = re.compile(r"^[a-z][a-z0-9-]{0,39}$")
_IMAGE = re.compile(r"^[^@\s]+@sha256:[0-9a-f]{64}$")
_STEPS_MAX = 32
_NOTIFY_SECONDS = 600

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClusterForm:
    """What the pods of a run's steps look like; the exit task's have the first four alone.

    Args:
        image: Image of every task, by digest.
        user: User and group id of every container; not root.
        labels: Labels of every pod.
        deadline_seconds: After which the whole run is ended.
        keep_seconds: How long the ended workflow stays.
        step_labels: Further labels of the pods of steps, such as the reservation.
        step_annotations: Annotations of the pods of steps.
        contexts: Where the run's Secret is mounted, without a slash at the end.
        secret: Name of the run's Secret.
        environment: Variables of steps; nothing secret.
        variables: Variables of steps that hold a key of a Secret: by variable, Secret and key.
        secrets: Further Secrets of steps by mount path; Kubeflow shows all keys of each.
        claims: Claim by mount path.
        config_maps: ConfigMap by mount path.
        scratch: Mount paths of empty volumes; in memory where the value is ``Memory``.
        cpu: CPUs of a step, requested and allowed.
        memory: Memory of a step, requested and allowed.
    """

    image: str
    user: int
    labels: Mapping[str, str]
    deadline_seconds: int
    keep_seconds: int
    contexts: str
    secret: str
    cpu: str
    memory: str
    step_labels: Mapping[str, str] = field(default_factory=dict)
    step_annotations: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)
    config_maps: Mapping[str, str] = field(default_factory=dict)
    scratch: Mapping[str, str] = field(default_factory=dict)


def context_file(number: int, step: str) -> str:
    """The file in a run's Secret that holds a step's context."""
    return f"{number:03d}-{step}.json"


def cluster_pipeline(steps: Sequence[str], **form: Any) -> Json:
    """The pipeline of a run: its steps one after the other, and the exit task.

    Args:
        steps: Names of the steps in order.
        form: The arguments of ``ClusterForm``.

    Returns:
        ``{"pipeline_spec", "platform_spec"}``, as a run is created with; equal for equal arguments.

    Raises:
        InvalidValue: If a step's name, their number, the image or the user is unusable.
    """
    shape = ClusterForm(**form)
    _check(steps, shape)
    made = copy.deepcopy(_prototype())
    component, executor = made["components"].pop(f"comp-{PROTOTYPE_STEP}"), _executors(made)
    container = executor.pop(f"exec-{PROTOTYPE_STEP}")
    chain = made["components"][_CHAIN_COMPONENT]["dag"]
    task = chain["tasks"].pop(PROTOTYPE_STEP)
    for number, step in enumerate(steps):
        before = steps[number - 1] if number else ""
        made["components"][f"comp-{step}"] = {**component, "executorLabel": f"exec-{step}"}
        executor[f"exec-{step}"] = _container(container, shape)
        file = f"{shape.contexts}/{context_file(number, step)}"
        chain["tasks"][step] = _task(task, step, before=before, context=file)
    _executors(made)[f"exec-{NOTIFICATION}"]["container"]["image"] = shape.image
    return {"pipeline_spec": made, "platform_spec": _platform(steps, shape)}


@functools.cache
def _prototype() -> Json:
    found: Json = json.loads(PROTOTYPE_FILE.read_text(encoding="utf-8"))
    return found


def _executors(made: Json) -> Json:
    found: Json = made["deploymentSpec"]["executors"]
    return found


def _check(steps: Sequence[str], form: ClusterForm) -> None:
    if not 0 < len(steps) <= _STEPS_MAX or len(set(steps)) != len(steps):
        raise InvalidValue("steps", f"must be 1 to {_STEPS_MAX} different names", list(steps))
    for step in steps:
        if not _STEP.fullmatch(step) or step == NOTIFICATION:
            raise InvalidValue("steps", f"must be short lower-case names, not {NOTIFICATION}", step)
    if not _IMAGE.fullmatch(form.image):
        raise InvalidValue(
            "image", "must be named by digest", form.image, "Write name@sha256:<64 hex digits>."
        )
    if form.user <= 0:
        raise InvalidValue("user", "must not be root", form.user)


def _task(prototype: Json, step: str, *, before: str, context: str) -> Json:
    task = copy.deepcopy(prototype)
    task["componentRef"]["name"] = f"comp-{step}"
    task["taskInfo"]["name"] = step
    task["inputs"]["parameters"]["context"] = {"runtimeValue": {"constant": context}}
    return {**task, "dependentTasks": [before]} if before else task


def _container(prototype: Json, form: ClusterForm) -> Json:
    container = copy.deepcopy(prototype["container"])
    container["image"] = form.image
    container["env"] = [
        {"name": name, "value": form.environment[name]} for name in form.environment
    ]
    container["resources"] = {
        "resourceCpuRequest": form.cpu,
        "resourceCpuLimit": form.cpu,
        "resourceMemoryRequest": form.memory,
        "resourceMemoryLimit": form.memory,
    }
    return {"container": container}


def _platform(steps: Sequence[str], form: ClusterForm) -> Json:
    executors = {f"exec-{step}": _step_pod(form) for step in steps}
    executors[f"exec-{NOTIFICATION}"] = _pod(form, form.labels, seconds=_NOTIFY_SECONDS)
    whole = {
        "activeDeadlineSeconds": form.deadline_seconds,
        "resourceTtlOnCompletion": form.keep_seconds,
    }
    kubernetes = {"deploymentSpec": {"executors": executors}, "pipelineConfig": whole}
    return {"platforms": {"kubernetes": kubernetes}}


def _pod(form: ClusterForm, labels: Mapping[str, str], *, seconds: int) -> Json:
    """What a pod of any task has; integers of 64 bits are text in protobuf's JSON."""
    user = str(form.user)
    return {
        "activeDeadlineSeconds": str(seconds),
        "podMetadata": {"labels": dict(labels)},
        "securityContext": {"runAsUser": user, "runAsGroup": user, "runAsNonRoot": True},
    }


def _step_pod(form: ClusterForm) -> Json:
    pod = _pod(form, {**form.labels, **form.step_labels}, seconds=form.deadline_seconds)
    if form.step_annotations:
        pod["podMetadata"]["annotations"] = dict(form.step_annotations)
    pod["secretAsVolume"] = [
        {
            "mountPath": path,
            "optional": False,
            "secretName": name,
            "secretNameParameter": _constant(name),
        }
        for path, name in {form.contexts: form.secret, **form.secrets}.items()
    ]
    pod["secretAsEnv"] = [
        {
            "keyToEnv": [{"envVar": variable, "secretKey": key}],
            "optional": False,
            "secretName": name,
            "secretNameParameter": _constant(name),
        }
        for variable, (name, key) in form.variables.items()
    ]
    pod["pvcMount"] = [
        {"mountPath": path, "constant": claim, "pvcNameParameter": _constant(claim)}
        for path, claim in form.claims.items()
    ]
    pod["configMapAsVolume"] = [
        {
            "mountPath": path,
            "optional": False,
            "configMapName": name,
            "configMapNameParameter": _constant(name),
        }
        for path, name in form.config_maps.items()
    ]
    pod["emptyDirMounts"] = [
        {"volumeName": f"scratch-{number}", "mountPath": path} | ({"medium": kind} if kind else {})
        for number, (path, kind) in enumerate(form.scratch.items())
    ]
    return {name: value for name, value in pod.items() if value != []}


def _constant(value: str) -> Json:
    return {"runtimeValue": {"constant": value}}
