"""The steward's zone on one machine.

Registers datasets in a process of its own, so that no private byte and no data
library ever enters the control loop.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence

from primum.application.ports import Registration
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, NotFound, Unavailable
from primum.domain.study.spec import DatasetSpec

REGISTER_SECONDS_MAX = (
    600  # A few gigabytes of images are digested in this time; more belongs on a worker.
)

# The child prints one JSON line last; whatever libraries print before it is ignored.
_CHILD = (
    "import json, sys; "
    "from primum import extensions; "
    "register = extensions.load('primum.step_runtime', 'register'); "
    "print(); print(json.dumps(register(json.load(sys.stdin))))"
)


class LocalZone:
    """Datasets port over child processes."""

    def __init__(self, data_dirs: Sequence[str], environment: Mapping[str, str]) -> None:
        self._data_dirs = tuple(data_dirs)
        self._environment = dict(environment)

    def register(self, dataset: DatasetSpec) -> Registration:
        """Digest the dataset and count its units; see the port."""
        payload = {
            "uri": dataset.uri,
            "unit": dataset.unit.value,
            "options": dict(dataset.options),
            "units": dataset.units,
            "dataDirs": list(self._data_dirs),
        }
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
                [sys.executable, "-c", _CHILD],
                input=canonical_json(payload),
                capture_output=True,
                timeout=REGISTER_SECONDS_MAX,
                env=self._environment,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unavailable(
                f"dataset {dataset.uri} was not registered in {REGISTER_SECONDS_MAX} s"
            ) from None
        if done.returncode != 0:
            # The child's output may name values of the data: it stays where it is.
            raise Unavailable(
                f"dataset {dataset.uri}: the registering process ended with {done.returncode}"
            )
        return _registration(json.loads(done.stdout.decode().strip().splitlines()[-1]))


def _registration(answer: Mapping[str, object]) -> Registration:
    error = answer.get("error")
    if isinstance(error, Mapping):
        message = str(error["message"])
        if error["kind"] == "NotFound":
            raise NotFound(message)
        raise RegistrationRefused(message)
    return Registration(
        digest=str(answer["digest"]),
        units=int(str(answer["units"])),
        train_units=int(str(answer["trainUnits"])),
        message=str(answer.get("message", "")),
    )


class RegistrationRefused(InvalidValue):
    """The dataset breaks a rule; the sentence comes from the registering process as it is."""

    def __init__(self, message: str) -> None:
        super().__init__("dataset", "must be usable", "")
        self.args = (message,)
