"""Strict validators of manifests: unknown fields are mistakes, as a server would only warn of them.

Objects of Kubernetes itself are checked against the models of its Python client, custom ones
against their released CRDs, which lie beside the checkout and are not ours to copy.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import jsonschema
import pytest
import yaml

ASSETS = os.environ.get("PRIMUM_TEST_ASSETS", "")
_CRDS = {
    ("ray.io", "RayJob"): "kuberay/ray.io_rayjobs.yaml",
    ("ray.io", "RayCluster"): "kuberay/ray.io_rayclusters.yaml",
    ("serving.kserve.io", "InferenceService"): "kserve/serving.kserve.io_inferenceservices.yaml",
    ("kueue.x-k8s.io", "AdmissionCheck"): "kueue/kueue.x-k8s.io_admissionchecks.yaml",
    ("kueue.x-k8s.io", "Workload"): "kueue/kueue.x-k8s.io_workloads.yaml",
    ("kueue.x-k8s.io", "LocalQueue"): "kueue/kueue.x-k8s.io_localqueues.yaml",
    ("kueue.x-k8s.io", "ClusterQueue"): "kueue/kueue.x-k8s.io_clusterqueues.yaml",
}
_DROPPED = ("default", "nullable", "format", "description")
_FLAGS = re.compile(r"^\^\(\?([a-z]+)\)")


def released_schema(kind: str, group: str, version: str) -> dict[str, Any]:
    """``openAPIV3Schema`` of a released CRD, or a skip that says what is missing."""
    path = Path(ASSETS) / "schemas" / _CRDS[(group, kind)]
    if not ASSETS or not path.is_file():
        pytest.skip("released CRDs are not here: set PRIMUM_TEST_ASSETS to a folder with schemas/")
    return _released(path, version)


@functools.cache
def _released(path: Path, version: str) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # The largest has 1.4 MB.
    found = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    versions = {item["name"]: item for item in found["spec"]["versions"]}
    schema: dict[str, Any] = versions[version]["schema"]["openAPIV3Schema"]
    return schema


def problems(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with a custom object by its released CRD, structure and CEL rules together."""
    group, _, version = str(manifest["apiVersion"]).rpartition("/")
    schema = released_schema(str(manifest["kind"]), group, version)
    found = [
        f"{'.'.join(str(part) for part in error.absolute_path)}: {error.message[:200]}"
        for error in _validator(str(manifest["kind"]), group, version).iter_errors(manifest)
    ]
    return found + [message for message, holds in rules(schema, manifest) if not holds]


@functools.cache
def _validator(kind: str, group: str, version: str) -> jsonschema.Draft202012Validator:
    schema = strict(released_schema(kind, group, version))
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(schema)


def strict(node: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema as a JSON Schema that refuses unknown fields."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in _DROPPED or key.startswith("x-kubernetes"):
            continue
        if key == "properties":
            found[key] = {name: strict(item) for name, item in value.items()}
        elif key in ("items", "additionalProperties", "not") and isinstance(value, Mapping):
            found[key] = strict(value)
        elif key in ("allOf", "anyOf", "oneOf"):
            found[key] = [_partial(item) for item in value]
        elif key == "pattern":
            found[key] = _FLAGS.sub(r"(?\1)^", value)
        else:
            found[key] = value
    if node.get("x-kubernetes-int-or-string"):
        found["type"] = ["integer", "string"]
        found.pop("anyOf", None)
    open_ended = node.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in found and "additionalProperties" not in found and not open_ended:
        found["additionalProperties"] = False
    # A server fills defaults in before it asks what is required.
    given = {name for name, item in node.get("properties", {}).items() if "default" in item}
    if given & set(found.get("required", ())):
        found["required"] = [name for name in found["required"] if name not in given]
    return found


def _partial(node: Mapping[str, Any]) -> dict[str, Any]:
    """A member of a union, which names some fields and says nothing about the others."""
    found = strict(node)
    if found.get("additionalProperties") is False:
        del found["additionalProperties"]
    return found


def rules(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[str, bool]]:
    """Every CEL rule for creation below a value, with whether it holds."""
    for rule in schema.get("x-kubernetes-validations", ()):
        text = str(rule["rule"])
        if "oldSelf" not in text and "quantity(" not in text:
            yield f"{text}: {rule.get('message', '')}", _holds(text, value)
    if isinstance(value, Mapping):
        further = schema.get("additionalProperties")
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, further)
            if isinstance(inner, Mapping):
                yield from rules(inner, item)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            yield from rules(schema["items"], item)


def _holds(rule: str, value: Any) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return cel.evaluate(rule, {"self": value}) is True


def builtin_problems(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with an object of Kubernetes itself, by the models of its Python client."""
    from kubernetes import client

    group, _, version = str(manifest["apiVersion"]).rpartition("/")
    short = group.removesuffix(".k8s.io").split(".")[0]
    prefix = version[0].upper() + version[1:]
    names = (f"{prefix}{manifest['kind']}", f"{short.title()}{prefix}{manifest['kind']}")
    model = next((getattr(client, name) for name in names if hasattr(client, name)), None)
    if model is None:
        return [f"{manifest['apiVersion']} {manifest['kind']} is not a kind of Kubernetes"]
    return list(_wrong(model.__name__, manifest, str(manifest["kind"])))


def _wrong(kind: str, value: Any, path: str) -> Iterator[str]:
    from kubernetes import client

    collection = re.fullmatch(r"list\[(.*)\]|dict\(str, (.*)\)", kind)
    if collection:
        inner = collection[1] or collection[2]
        if not isinstance(value, list if collection[1] else Mapping):
            yield f"{path} must be {kind}; found {type(value).__name__}"
            return
        items = enumerate(value) if collection[1] else value.items()
        for key, item in items:
            yield from _wrong(inner, item, f"{path}[{key}]")
        return
    model = getattr(client, kind, None)
    if model is None:
        yield from _scalar(kind, value, path)
        return
    if not isinstance(value, Mapping):
        yield f"{path} must be {kind}; found {type(value).__name__}"
        return
    fields = {outer: inner for inner, outer in model.attribute_map.items()}
    given: dict[str, Any] = {}
    for name, item in value.items():
        if name not in fields:
            yield f"{path}.{name} is not a field of {kind}"
        elif item is not None:
            given[fields[name]] = item
            yield from _wrong(model.openapi_types[fields[name]], item, f"{path}.{name}")
    try:
        model(**given)
    except (TypeError, ValueError) as fault:
        yield f"{path}: {fault}"


def _scalar(kind: str, value: Any, path: str) -> Iterator[str]:
    expected: dict[str, type | tuple[type, ...]] = {
        "str": str,
        "int": int,
        "bool": bool,
        "float": (int, float),
        "object": (str, int, bool, dict, list),
        "datetime": str,
    }
    right = isinstance(value, expected[kind])
    if ".resources." in path and isinstance(value, int):
        return  # A quantity may be a number.
    if not right or (kind == "int" and isinstance(value, bool)):
        yield f"{path} must be {kind}; found {type(value).__name__}"


def pod_templates(manifest: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod spec anywhere in a manifest, with its path."""
    if isinstance(manifest, Mapping):
        if isinstance(manifest.get("containers"), list):
            yield path, dict(manifest)
        for name, item in manifest.items():
            yield from pod_templates(item, f"{path}.{name}")
    elif isinstance(manifest, list):
        for number, item in enumerate(manifest):
            yield from pod_templates(item, f"{path}[{number}]")


_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}


def unrestricted(pod: Mapping[str, Any]) -> list[str]:
    """What keeps a pod spec from the restricted Pod Security Standard, and from our own additions.

    Ours: a read-only root file system, requests and limits, no service links.
    """
    found = []
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 1) == 0:
        found.append("runs as root")
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("has no seccomp profile")
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    if pod.get("enableServiceLinks") is not False:
        found.append("has service links, which look like settings of ours")
    if pod.get("automountServiceAccountToken") is None:
        found.append("does not say whether it has a token")
    for volume in pod.get("volumes", ()):
        found += [f"volume {key}" for key in volume if key not in _VOLUMES | {"name"}]
    for container in (*pod["containers"], *pod.get("initContainers", ())):
        found += [f"{container['name']} {what}" for what in _unrestricted(container)]
    return found


def _unrestricted(container: Mapping[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may escalate"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or "add" in context["capabilities"]:
        yield "keeps capabilities"
    if context.get("privileged"):
        yield "is privileged"
    if context.get("runAsNonRoot") is False or context.get("runAsUser", 1) == 0:
        yield "runs as root"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write its root file system"
    resources = container.get("resources", {})
    for part in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(resources.get(part, {})):
            yield f"has no {part}"
    yield from (f"host port {port}" for port in container.get("ports", ()) if "hostPort" in port)
