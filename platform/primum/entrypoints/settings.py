"""Every setting: its environment variable, unit, default, and why that default.

Read once, at a process' start.

A plain dataclass on purpose: a settings library costs a quarter of a second, half of what ``primum
get`` may take (docs/decisions/0004).
"""

from __future__ import annotations

import enum
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from primum.domain.errors import InvalidValue

PREFIX = "PRIMUM_"
_WORDS = """
    HOME DATABASE_URL ANCHOR DATA PUBLIC_DATA HOST API_PORT SERVING_PORT LEASE_SECONDS
    TOKEN_SECONDS CREDENTIAL_SECONDS POLL_SECONDS WORKERS GPUS LINEAGE_URL LEDGER_URL LEDGER_CA
    TOKEN TOKEN_FILE OIDC COMPUTE RAY_JOB KUBECONFIG STEPS DEBUG
"""
# DEBUG is no setting of the platform: with it the command line shows a developer where it failed.
NAMES = frozenset(PREFIX + word for word in _WORDS.split())
PORT_MAX = 65535
WORKERS_MAX = 4096  # More CPUs than any machine has.
_DIGITS_MAX = 9
# Not settings of the platform; the operator reads its own.
_OTHERS = ("PRIMUM_TEST_", "PRIMUM_LOCK_", "PRIMUM_PROCESS_", "PRIMUM_SIM_", "PRIMUM_OPERATOR_")


class ComputeKind(enum.StrEnum):
    """Where the heavy part of a step runs."""

    LOCAL = "local"  # on warm workers of this machine, or this pod
    RAY_JOB = "rayjob"  # in a RayJob that the step makes and follows
    RAY = "ray"  # on the workers of the Ray cluster that this process is in


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process runs by.

    Args:
        home: ``PRIMUM_HOME``. The platform's folder, which is the steward's zone on one machine.
            Default ``.primum`` below the current folder, so that two checkouts never share a ledger
            by accident.
        database_url: ``PRIMUM_DATABASE_URL``. Default: SQLite in the home folder.
        anchor: ``PRIMUM_ANCHOR``. The file that remembers the end of the ledger. Default
            ``home/anchor.json``, so that one folder is enough to start; it belongs on another
            volume than the database and out of its backups (docs/limits.md).
        data_dirs: ``PRIMUM_DATA``. Folders with dataset files, separated by ``os.pathsep``.
            Default: ``home/data``.
        public_data: ``PRIMUM_PUBLIC_DATA``. Folders and addresses that hold nothing private,
            separated by commas, such as ``/data/public/,https://zenodo.org/records/``. Public
            inputs of Studies are read from there only, beside sets whose published files are
            recognized. Default none.
        host: ``PRIMUM_HOST``. Address that API and endpoints listen on. Default loopback: nothing
            leaves the machine before somebody says so.
        api_port: ``PRIMUM_API_PORT``. Default 8399.
        serving_port: ``PRIMUM_SERVING_PORT``. Default 8400.
        lease_seconds: ``PRIMUM_LEASE_SECONDS``. A reservation without a heartbeat is resolved after
            this long. Default 900: longer than any pause of a laptop's disk, shorter than a lost
            afternoon.
        token_seconds: ``PRIMUM_TOKEN_SECONDS``. How long a data token opens data. Default 3600:
            steps open once, at their start, and may wait for a worker before that.
        credential_seconds: ``PRIMUM_CREDENTIAL_SECONDS``. How long a run may ask the ledger API for
            what it needs, its wait in a queue included. Default 604800, a week; it ends with the
            run in any case.
        poll_seconds: ``PRIMUM_POLL_SECONDS``. Pause of the control loop between looks. Default 0.2.
        workers: ``PRIMUM_WORKERS``. Ray CPUs; default: all of the machine.
        gpus: ``PRIMUM_GPUS``. GPUs that Studies may share; default: those that this machine has.
        lineage_url: ``PRIMUM_LINEAGE_URL``. OpenLineage HTTP endpoint; default none, events go to a
            file.
        ledger_url: ``PRIMUM_LEDGER_URL``. The ledger API, for a process that holds neither database
            nor key; must not be set beside ``PRIMUM_DATABASE_URL``. Default none: the database.
        ledger_ca: ``PRIMUM_LEDGER_CA``. PEM file of the authorities that the ledger API's
            certificate is checked with; default those of the system.
        token: ``PRIMUM_TOKEN``. The caller's token; default: the one in ``home/token``.
        token_file: ``PRIMUM_TOKEN_FILE``. A file with a token that is replaced from time to time,
            which the ledger API is asked with; default none, ``PRIMUM_TOKEN``.
        oidc: ``PRIMUM_OIDC``. A JSON file that says which OpenID Connect provider the API believes
            and what its claims mean (``adapters.oidc``); default none.
        compute: ``PRIMUM_COMPUTE``. Where the heavy part of a step runs: ``local`` (the default),
            ``rayjob``, or ``ray``, which is what a RayJob's own process has.
        ray_job: ``PRIMUM_RAY_JOB``. With ``rayjob``: how RayJobs are made, as the operator writes
            it.
        kubeconfig: ``PRIMUM_KUBECONFIG``. With ``rayjob``: a kubeconfig file; default the pod's
            service account.
        steps: ``PRIMUM_STEPS``. Folder with the contexts of the run's steps; default where the pods
            of runs have it.
    """

    home: Path
    database_url: str
    anchor: Path
    data_dirs: tuple[str, ...]
    public_data: tuple[str, ...]
    host: str
    api_port: int
    serving_port: int
    lease_seconds: float
    token_seconds: float
    credential_seconds: float
    poll_seconds: float
    workers: int
    gpus: int | None
    lineage_url: str
    ledger_url: str
    ledger_ca: str
    token: str
    token_file: str
    oidc: str
    compute: ComputeKind = ComputeKind.LOCAL
    ray_job: str = ""
    kubeconfig: str = ""
    steps: str = ""

    def environment(self) -> dict[str, str]:
        """The variables that make a child process read the same settings."""
        gpus = {} if self.gpus is None else {"PRIMUM_GPUS": str(self.gpus)}
        where = {"PRIMUM_DATABASE_URL": self.database_url}
        if self.ledger_url:
            where = {"PRIMUM_LEDGER_URL": self.ledger_url, "PRIMUM_LEDGER_CA": self.ledger_ca}
        if self.compute is ComputeKind.RAY_JOB:
            where |= {"PRIMUM_RAY_JOB": self.ray_job, "PRIMUM_KUBECONFIG": self.kubeconfig}
        return (gpus | where) | {
            "PRIMUM_COMPUTE": self.compute.value,
            "PRIMUM_HOME": str(self.home),
            "PRIMUM_ANCHOR": str(self.anchor),
            "PRIMUM_DATA": os.pathsep.join(self.data_dirs),
            "PRIMUM_PUBLIC_DATA": ",".join(self.public_data),
            "PRIMUM_HOST": self.host,
            "PRIMUM_API_PORT": str(self.api_port),
            "PRIMUM_SERVING_PORT": str(self.serving_port),
            "PRIMUM_LEASE_SECONDS": str(self.lease_seconds),
            "PRIMUM_TOKEN_SECONDS": str(self.token_seconds),
            "PRIMUM_CREDENTIAL_SECONDS": str(self.credential_seconds),
            "PRIMUM_POLL_SECONDS": str(self.poll_seconds),
            "PRIMUM_WORKERS": str(self.workers),
            "PRIMUM_LINEAGE_URL": self.lineage_url,
        }


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    Args:
        environment: Variables to read; the process' own where ``None``.

    Raises:
        InvalidValue: If a number is not one or out of range, or a name is not a setting's.
    """
    values = os.environ if environment is None else environment
    _refuse_unknown(values)
    home = Path(values.get(PREFIX + "HOME", ".primum")).absolute()
    data = values.get(PREFIX + "DATA", "")
    if values.get(PREFIX + "LEDGER_URL") and values.get(PREFIX + "DATABASE_URL"):
        raise InvalidValue(
            PREFIX + "LEDGER_URL",
            f"must not be set beside {PREFIX}DATABASE_URL",
            "both",
            "A process asks the ledger API, or the database itself.",
        )
    return Settings(
        home=home,
        database_url=values.get(PREFIX + "DATABASE_URL") or f"sqlite:///{home / 'primum.db'}",
        anchor=Path(values.get(PREFIX + "ANCHOR") or home / "anchor.json").absolute(),
        data_dirs=tuple(part for part in data.split(os.pathsep) if part) or (str(home / "data"),),
        public_data=_places(values.get(PREFIX + "PUBLIC_DATA", "")),
        host=values.get(PREFIX + "HOST", "127.0.0.1"),
        api_port=_whole(values, "API_PORT", 8399, most=PORT_MAX),
        serving_port=_whole(values, "SERVING_PORT", 8400, most=PORT_MAX),
        lease_seconds=_number(values, "LEASE_SECONDS", 900),
        token_seconds=_number(values, "TOKEN_SECONDS", 3600),
        credential_seconds=_number(values, "CREDENTIAL_SECONDS", 604_800),
        poll_seconds=_number(values, "POLL_SECONDS", 0.2),
        workers=_whole(values, "WORKERS", os.cpu_count() or 1, most=WORKERS_MAX),
        gpus=_count(values, "GPUS"),
        lineage_url=values.get(PREFIX + "LINEAGE_URL", ""),
        ledger_url=values.get(PREFIX + "LEDGER_URL", ""),
        ledger_ca=values.get(PREFIX + "LEDGER_CA", ""),
        token=values.get(PREFIX + "TOKEN", ""),
        token_file=values.get(PREFIX + "TOKEN_FILE", ""),
        oidc=values.get(PREFIX + "OIDC", ""),
        compute=_compute(values),
        ray_job=values.get(PREFIX + "RAY_JOB", ""),
        kubeconfig=values.get(PREFIX + "KUBECONFIG", ""),
        steps=values.get(PREFIX + "STEPS", ""),
    )


def _places(text: str) -> tuple[str, ...]:
    """Where public data lies: absolute folders and addresses, each made to end in a slash."""
    places = [part.strip().rstrip("/") + "/" for part in text.split(",") if part.strip()]
    for place in places:
        if not (place.startswith("/") or "://" in place) or place == "/" or "/../" in place:
            rule = "must list absolute folders and addresses, not all of this machine"
            raise InvalidValue(PREFIX + "PUBLIC_DATA", rule, place)
    return tuple(places)


def _compute(values: Mapping[str, str]) -> ComputeKind:
    """Where heavy work runs; a RayJob's pods are never told the database's URL."""
    text = values.get(PREFIX + "COMPUTE") or ComputeKind.LOCAL.value
    if text not in {kind.value for kind in ComputeKind}:
        rule = f"must be one of {', '.join(kind.value for kind in ComputeKind)}"
        raise InvalidValue(PREFIX + "COMPUTE", rule, text)
    kind = ComputeKind(text)
    needed = ("LEDGER_URL", "RAY_JOB") if kind is ComputeKind.RAY_JOB else ()
    for name in needed:
        if not values.get(PREFIX + name):
            rule = f"must be set where {PREFIX}COMPUTE is {kind.value}"
            raise InvalidValue(PREFIX + name, rule, "nothing")
    return kind


def _number(values: Mapping[str, str], name: str, default: float) -> float:
    text = values.get(PREFIX + name, "")
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        raise InvalidValue(PREFIX + name, "must be a number", text) from None
    if not math.isfinite(number):
        raise InvalidValue(PREFIX + name, "must be a finite number", text)
    if not number > 0:
        raise InvalidValue(PREFIX + name, "must be above 0", text)
    return number


def _whole(values: Mapping[str, str], name: str, default: int, *, most: int) -> int:
    text = values.get(PREFIX + name, "")
    if text and not (text.isascii() and text.isdigit()):
        raise InvalidValue(PREFIX + name, "must be a whole number", text)
    number = int(text[:_DIGITS_MAX]) if text else default
    if not 1 <= number <= most:
        raise InvalidValue(PREFIX + name, f"must be at least 1 and must be at most {most}", text)
    return number


def _count(values: Mapping[str, str], name: str) -> int | None:
    """A whole number from 0, or nothing where it is not set."""
    text = values.get(PREFIX + name, "")
    if not text:
        return None
    return 0 if text == "0" else _whole(values, name, 1, most=WORKERS_MAX)


def _refuse_unknown(values: Mapping[str, str]) -> None:
    """A misspelt setting must not be ignored: the default in its place may be another ledger."""
    for name in values:
        if name.startswith(PREFIX) and name not in NAMES and not name.startswith(_OTHERS):
            import difflib

            close = difflib.get_close_matches(name, sorted(NAMES), n=1)
            remedy = f"Did you mean {close[0]}?" if close else ""
            rule = f"must be one of the settings {', '.join(sorted(NAMES))}"
            raise InvalidValue(name, rule, "another name", remedy)
