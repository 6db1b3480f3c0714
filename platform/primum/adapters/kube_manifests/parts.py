"""What every pod of the platform has: the restricted security profile, limits, and nothing else.

Must not know which controller will run the pod.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from primum.adapters.kube_manifests import names
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

USER_ID = 65532  # Of the images in operators/images; not root, and nobody's on the node.
DIGEST_LENGTH = 12  # 48 bits of a hash: enough for the names of one namespace.
GPU = "nvidia.com/gpu"

_IMAGE = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_QUANTITY = re.compile(r"[1-9][0-9]{0,9}(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Owner:
    """The resource that a manifest belongs to, in the same namespace: with it, it goes.

    Args:
        api_version: Such as ``primum.dev/v1alpha1``.
        kind: Such as ``Study``.
        name: Its name.
        uid: Its uid.
    """

    api_version: str
    kind: str
    name: str
    uid: str

    def references(self) -> list[dict[str, JSON]]:
        """``metadata.ownerReferences``.

        ``blockOwnerDeletion`` is left out: setting it takes a right over the owner's finalizers.
        """
        return [
            {
                "apiVersion": self.api_version,
                "kind": self.kind,
                "name": self.name,
                "uid": self.uid,
                "controller": True,
            }
        ]


@dataclass(frozen=True, slots=True)
class Size:
    """What one container asks for; it may use no more memory, and no more CPU than ``cpu_limit``.

    Args:
        cpu: Kubernetes quantity, such as ``500m``.
        memory: Kubernetes quantity, such as ``2Gi``.
        cpu_limit: Kubernetes quantity; ``cpu`` where empty.
    """

    cpu: str
    memory: str
    cpu_limit: str = ""

    def times(self, count: int) -> Size:
        """What several such containers ask for.

        Raises:
            InvalidValue: If a quantity is none.
        """
        limit = self.cpu_limit and _times("cpu_limit", self.cpu_limit, count)
        return Size(_times("cpu", self.cpu, count), _times("memory", self.memory, count), limit)

    def resources(self, *, gpus: int = 0) -> dict[str, JSON]:
        """``resources`` of a container.

        Raises:
            InvalidValue: If a quantity is none.
        """
        for name, value in (("cpu", self.cpu), ("memory", self.memory)):
            if not _QUANTITY.fullmatch(value):
                raise InvalidValue(f"size.{name}", "must be a Kubernetes quantity", value)
        requests: dict[str, JSON] = {"cpu": self.cpu, "memory": self.memory}
        limits: dict[str, JSON] = {"cpu": self.cpu_limit or self.cpu, "memory": self.memory}
        if gpus:
            requests[GPU] = gpus
            limits[GPU] = gpus
        return {"requests": requests, "limits": limits}


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where it appears.

    Args:
        name: DNS label, unique in its pod.
        path: Absolute path in the container.
        source: The volume's source, such as ``{"emptyDir": {}}``.
        access: ``ReadOnly`` or ``ReadWrite``.
        folder: The one folder or file of the volume that is shown; all of it where empty.
    """

    name: str
    path: str
    source: Mapping[str, JSON]
    access: str = "ReadOnly"
    folder: str = ""

    def volume(self) -> dict[str, JSON]:
        """The entry of ``volumes``."""
        return {"name": self.name, **self.source}

    def mount(self) -> dict[str, JSON]:
        """The entry of ``volumeMounts``."""
        entry: dict[str, JSON] = {"name": self.name, "mountPath": self.path}
        if self.folder:
            entry["subPath"] = self.folder
        return entry | ({"readOnly": True} if self.access == "ReadOnly" else {})


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """One container.

    Args:
        name: Its name.
        image: By digest.
        size: What it may use.
        gpus: Whole GPUs.
        command: Its command, or none for the image's (or the controller's) own.
        arguments: Its arguments.
        environment: Plain values; nothing secret, everybody who may view the pod reads them.
        mounts: What it sees of the pod's volumes.
        variables: Further entries of its ``env``, such as references to keys of a Secret.
        more: Further fields, such as ports and probes.
    """

    name: str
    image: str
    size: Size
    gpus: int = 0
    command: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[Mount, ...] = ()
    variables: tuple[Mapping[str, JSON], ...] = ()
    more: Mapping[str, JSON] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """The container.

        Raises:
            InvalidValue: If its image is not named by digest, or its size is none.
        """
        made: dict[str, JSON] = {
            "name": self.name,
            "image": pinned(self.image),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "resources": self.size.resources(gpus=self.gpus),
        }
        if self.command:
            made["command"] = list(self.command)
        if self.arguments:
            made["args"] = list(self.arguments)
        plain = [{"name": name, "value": value} for name, value in sorted(self.environment.items())]
        if plain or self.variables:
            made["env"] = [*plain, *(dict(item) for item in self.variables)]
        if self.mounts:
            made["volumeMounts"] = [item.mount() for item in self.mounts]
        return made | dict(self.more)


def _times(name: str, quantity: str, count: int) -> str:
    if not _QUANTITY.fullmatch(quantity):
        raise InvalidValue(f"size.{name}", "must be a Kubernetes quantity", quantity)
    number = re.match(r"[0-9]+", quantity)
    digits = number.group() if number else ""
    return f"{int(digits) * count}{quantity[len(digits) :]}"


def pinned(image: str) -> str:
    """An image, if it is named by digest.

    Raises:
        InvalidValue: If it is not.
    """
    if not _IMAGE.fullmatch(image):
        raise InvalidValue(
            "image", "must be named by digest", image, "Write name@sha256:<64 hex digits>."
        )
    return image


def pod_spec(
    containers: Sequence[ContainerSpec],
    *,
    service_account: str = "",
    gpus: int = 0,
    restart: str = "",
) -> dict[str, JSON]:
    """A pod under the restricted Pod Security Standard, without a token of the API server.

    Args:
        containers: Its containers; their mounts become its volumes.
        service_account: Whom it runs as; the namespace's default account where empty.
        gpus: GPUs of the pod; with any it tolerates the taint of GPU nodes.
        restart: ``restartPolicy``; its controller's own where empty.

    Raises:
        InvalidValue: If a container cannot be made.
    """
    spec: dict[str, JSON] = {
        "automountServiceAccountToken": False,
        # A Service named primum-api would appear as PRIMUM_API_PORT, which is a setting of ours.
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container.to_json() for container in containers],
    }
    if restart:
        spec["restartPolicy"] = restart
    if service_account:
        spec["serviceAccountName"] = service_account
    volumes = {item.name: item for container in containers for item in container.mounts}
    if volumes:
        spec["volumes"] = [item.volume() for item in volumes.values()]
    if gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return spec


def scratch(name: str, path: str, *, limit: str, medium: str = "") -> Mount:
    """An empty folder that goes with the pod.

    Args:
        name: DNS label.
        path: Where it appears.
        limit: The most it may hold.
        medium: ``Memory``, or empty for disk.
    """
    source: dict[str, JSON] = {"sizeLimit": limit}
    if medium:
        source["medium"] = medium
    return Mount(name, path, {"emptyDir": source}, access="ReadWrite")


def labels(component: str, further: Mapping[str, str]) -> dict[str, JSON]:
    """Labels of everything that the platform makes; empty ones are left out.

    Raises:
        InvalidValue: If a value cannot be one.
    """
    found = {names.PART_OF: names.PLATFORM, names.MANAGED_BY: names.PLATFORM}
    found |= {names.COMPONENT: component, **further}
    for key, value in found.items():
        if value and not _LABEL_VALUE.fullmatch(value):
            raise InvalidValue(f"label {key}", "must be a label value of Kubernetes", value)
    return {key: value for key, value in found.items() if value}


def bounded_name(parts: Sequence[str], identity: Sequence[str], *, length_max: int) -> str:
    """A deterministic DNS-1035 label: readable parts, shortened, and a digest that tells it apart.

    Args:
        parts: What people recognize, most important first; each DNS-1123.
        identity: What makes it this one: the same identity has the same name everywhere, always.
        length_max: Longest name that whoever derives names from it can take.
    """
    digest = hashlib.sha256("\x1f".join(identity).encode()).hexdigest()[:DIGEST_LENGTH]
    readable = "-".join(part for part in parts if part)
    if not readable[:1].isalpha():
        readable = f"s-{readable}"
    return f"{readable[: length_max - DIGEST_LENGTH - 1].rstrip('-')}-{digest}"
