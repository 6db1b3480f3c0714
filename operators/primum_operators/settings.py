"""Settings of the operator's process: ``PRIMUM_OPERATOR_*`` beside the platform's own.

Read once, at the start; an unknown name is refused, because the default in its place may be
another cluster's.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from primum.adapters.kube.pods import JobSettings
from primum.domain.errors import InvalidValue
from primum.entrypoints.cluster import ClusterSettings

PREFIX = "PRIMUM_OPERATOR_"
_WORDS = """
    KUBECONFIG NAMESPACES HOME_NAMESPACE IDENTITY WORKERS RESYNC_SECONDS RUN_SECONDS PROBE_PORT
    JOB_IMAGE JOB_SERVICE_ACCOUNT JOB_SETTINGS_SECRET JOB_KEYS_SECRET JOB_ARTIFACTS_CLAIM
    JOB_DATA_CLAIM JOB_CPU JOB_MEMORY JOB_DEADLINE_SECONDS JOB_KEEP_SECONDS JOB_QUEUE
"""
NAMES = frozenset(PREFIX + word for word in _WORDS.split())
_WHOLE_MAX = 10_000_000


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """What the operator runs by.

    Args:
        cluster: How it meets its cluster. ``KUBECONFIG``, ``NAMESPACES`` (comma-separated; empty
            for all), ``HOME_NAMESPACE`` (default ``primum-system``), ``IDENTITY`` (default: the
            host's name, which is the pod's), and ``JOB_*`` for the pods of runs; the image has no
            default.
        workers: ``WORKERS``. How many resources are looked at at once. Default 4.
        resync_seconds: ``RESYNC_SECONDS``. After which everything is looked at again, whatever was
            heard of it. Default 60; leases of reservations are moved on far more seldom.
        run_seconds: ``RUN_SECONDS``. After which a Study under way is looked at again, for what
            its steps recorded. Default 10.
        probe_port: ``PROBE_PORT``. Where probes and metrics are served. Default 8080.
    """

    cluster: ClusterSettings
    workers: int
    resync_seconds: int
    run_seconds: int
    probe_port: int


def from_environment(environment: Mapping[str, str] | None = None) -> OperatorSettings:
    """Read the settings.

    Args:
        environment: Variables to read; the process' own where ``None``.

    Raises:
        InvalidValue: If a name is not a setting's, or a value is out of range.
    """
    values = os.environ if environment is None else environment
    for name in values:
        if name.startswith(PREFIX) and name not in NAMES:
            rule = f"must be one of the settings {', '.join(sorted(NAMES))}"
            raise InvalidValue(name, rule, "another name")
    told = {name: values.get(PREFIX + name, "") for name in _WORDS.split()}
    defaults = JobSettings.defaults()
    jobs = JobSettings(
        image=told["JOB_IMAGE"],
        service_account=told["JOB_SERVICE_ACCOUNT"] or defaults["service_account"],
        settings_secret=told["JOB_SETTINGS_SECRET"] or defaults["settings_secret"],
        keys_secret=told["JOB_KEYS_SECRET"] or defaults["keys_secret"],
        artifacts_claim=told["JOB_ARTIFACTS_CLAIM"] or defaults["artifacts_claim"],
        data_claim=told["JOB_DATA_CLAIM"],
        cpu=told["JOB_CPU"] or defaults["cpu"],
        memory=told["JOB_MEMORY"] or defaults["memory"],
        deadline_seconds=_whole(told, "JOB_DEADLINE_SECONDS", 86_400),
        keep_seconds=_whole(told, "JOB_KEEP_SECONDS", 86_400),
        queue=told["JOB_QUEUE"],
    )
    cluster = ClusterSettings(
        kubeconfig=told["KUBECONFIG"],
        namespaces=tuple(part.strip() for part in told["NAMESPACES"].split(",") if part.strip()),
        home_namespace=told["HOME_NAMESPACE"] or "primum-system",
        identity=told["IDENTITY"] or socket.gethostname(),
        jobs=jobs,
    )
    return OperatorSettings(
        cluster=cluster,
        workers=_whole(told, "WORKERS", 4),
        resync_seconds=_whole(told, "RESYNC_SECONDS", 60),
        run_seconds=_whole(told, "RUN_SECONDS", 10),
        probe_port=_whole(told, "PROBE_PORT", 8080),
    )


def _whole(told: Mapping[str, str], name: str, default: int) -> int:
    text = told[name]
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _WHOLE_MAX):
        raise InvalidValue(PREFIX + name, f"must be a whole number from 1 to {_WHOLE_MAX}", text)
    return int(text)
