"""The steward's zone on one machine.

Registers datasets and withdraws consents in a process of its own, so that no private byte and no
data library ever enters the control loop. What a unit is called reaches that process over standard
input, and nothing else.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primum.application.consent import Tombstone, Written
from primum.application.registering import UnusableDataset
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import NotFound, PrimumError, Refused, Tampered, Unavailable
from primum.domain.study.registration import Registration
from primum.domain.study.spec import DatasetSpec

REGISTER_SECONDS_MAX = (
    600  # A few gigabytes of images are digested in this time; more belongs on a worker.
)

# The child prints one JSON line last; whatever libraries print before it is ignored.
_CHILD = (
    "import json, sys; "
    "from primum import extensions; "
    "act = extensions.load('primum.step_runtime', sys.argv[1]); "
    "print(); print(json.dumps(act(json.load(sys.stdin.buffer))))"
)


class LocalZone:
    """Datasets and consents over child processes.

    Args:
        data_dirs: Folders searched for dataset files.
        environment: The children's environment.
        folder: Where the zone keeps what never leaves it.
    """

    def __init__(
        self, data_dirs: Sequence[str], environment: Mapping[str, str], *, folder: Path
    ) -> None:
        self._data_dirs = tuple(data_dirs)
        self._environment = dict(environment)
        self._folder = folder

    def register(self, dataset: DatasetSpec) -> Registration:
        """Digest the dataset and count its units; see the port."""
        payload = self._dataset(dataset) | {"units": dataset.units}
        try:
            answer = self._asked("register", payload, about=f"dataset {dataset.uri}")
        except (Refused, Tampered) as error:
            # A dataset that cannot be trusted is one that cannot be used: the budget says so.
            raise UnusableDataset(str(error)) from None
        return Registration(
            digest=str(answer["digest"]),
            units=int(str(answer["units"])),
            train_units=int(str(answer["trainUnits"])),
            message=str(answer.get("message", "")),
            blocks=_sizes(answer.get("blocks")),
        )

    def withdraw(
        self, account_id: str, dataset: DatasetSpec, names: Sequence[str], *, at: str
    ) -> Written:
        """Write tombstones; see the port."""
        payload = self._dataset(dataset) | {
            "account": account_id,
            "names": list(names),
            "at": at,
        }
        answer = self._asked("withdraw", payload, about=f"dataset {dataset.uri}")
        return Written(_tombstones(answer["named"]), _tombstones(answer["tombstones"]))

    def withdrawn(self, account_id: str) -> tuple[Tombstone, ...]:
        """The tombstones of an account; see the port."""
        payload: dict[str, JSON] = {"account": account_id, "zoneDir": str(self._folder)}
        return _tombstones(self._asked("withdrawn", payload, about="the zone")["tombstones"])

    def _dataset(self, dataset: DatasetSpec) -> dict[str, JSON]:
        return {
            "uri": dataset.uri,
            "unit": dataset.unit.value,
            "options": dict(dataset.options),
            "layout": None if dataset.layout is None else dataset.layout.to_json(),
            "dataDirs": list(self._data_dirs),
            "zoneDir": str(self._folder),
        }

    def _asked(self, act: str, payload: Mapping[str, JSON], *, about: str) -> Mapping[str, Any]:
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
                [sys.executable, "-c", _CHILD, act],
                input=canonical_json(payload),
                capture_output=True,
                timeout=REGISTER_SECONDS_MAX,
                env=self._environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(f"{about}: {act} took over {REGISTER_SECONDS_MAX} s") from None
        if done.returncode != 0:
            # The child's output may name values of the data: it stays where it is.
            raise Unavailable(f"{about}: the process for {act} ended with {done.returncode}")
        answer: Mapping[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
        error = answer.get("error")
        if isinstance(error, Mapping):
            raise _raised(str(error["kind"]), str(error["message"]))
        return answer


def _sizes(answer: object) -> dict[str, tuple[int, int]]:
    given = answer if isinstance(answer, Mapping) else {}
    return {str(name): (int(units), int(trained)) for name, (units, trained) in given.items()}


def _tombstones(items: Sequence[Mapping[str, Any]]) -> tuple[Tombstone, ...]:
    return tuple(Tombstone(str(i["mark"]), str(i["at"]), str(i["block"])) for i in items)


def _raised(kind: str, message: str) -> PrimumError:
    known = {error.__name__: error for error in (NotFound, Refused, Tampered, Unavailable)}
    return known[kind](message) if kind in known else UnusableDataset(message)
