"""How pods that open data log in where it lies: keys of one protected Secret, and nothing else.

The Secret is the steward's, in each governed namespace, and its name says that it is protected, so
that policy lets no other pod have it. Must never hold or show a value of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from primum.adapters.kube_manifests import names
from primum.adapters.kube_manifests.parts import Mount
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue

FOLDER = "/var/run/secrets/primum-data"
_VOLUME = "data-access"
_MODE = 0o440  # Readable by the pod's own group, which its user is in.
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,127}")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_FIELDS = {"secret", "variables", "files"}
_ENTRIES_MAX = 32  # No protocol's library reads as many.


@dataclass(frozen=True, slots=True)
class DataAccess:
    """Credentials for object stores and servers, as each protocol's library reads them.

    Args:
        secret: The Secret of the Study's namespace; empty where nothing logs in.
        variables: Variables that hold a key's value, such as ``AWS_ACCESS_KEY_ID``: by variable,
            the key.
        files: Variables that hold the path of a file with a key's value, such as
            ``GOOGLE_APPLICATION_CREDENTIALS``: by variable, the key.

    Raises:
        InvalidValue: If the Secret's name does not say that it is protected, or a name cannot be
            one.
    """

    secret: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        told = {**self.variables, **self.files}
        if len(told) < len(self.variables) + len(self.files) or len(told) > _ENTRIES_MAX:
            rule = f"must name each variable once, at most {_ENTRIES_MAX}"
            raise InvalidValue("data access", rule, f"{len(self.variables) + len(self.files)}")
        if bool(self.secret) is not bool(told):
            rule = "must have a secret exactly where it has variables or files"
            raise InvalidValue("data access", rule, "one without the other")
        if self.secret and not self.secret.startswith(names.DATASET_PREFIX):
            rule = f"must begin with {names.DATASET_PREFIX}"
            remedy = "Policy keeps Secrets of such names from every other pod."
            raise InvalidValue("data access secret", rule, self.secret, remedy)
        for name, key in told.items():
            if not _VARIABLE.fullmatch(name) or name.startswith("PRIMUM_"):
                rule = "must be a variable in capitals that is no setting of the platform"
                raise InvalidValue("data access variable", rule, name)
            if not _KEY.fullmatch(key) or key in (".", ".."):
                raise InvalidValue(f"data access {name}", "must be a key of a Secret", key)

    def environment(self) -> list[dict[str, JSON]]:
        """Entries of a container's ``env``."""
        values: list[dict[str, JSON]] = [
            {
                "name": name,
                "valueFrom": {"secretKeyRef": {"name": self.secret, "key": key}},
            }
            for name, key in sorted(self.variables.items())
        ]
        return values + [{"name": name, "value": path} for name, path in self.paths().items()]

    def paths(self) -> dict[str, str]:
        """Where the files are, by variable."""
        return {name: f"{FOLDER}/{key}" for name, key in sorted(self.files.items())}

    def mounts(self) -> tuple[Mount, ...]:
        """The volume with the files, and where it appears; none where there are none."""
        if not self.files:
            return ()
        items: Sequence[JSON] = [{"key": k, "path": k} for k in sorted(set(self.files.values()))]
        source: dict[str, JSON] = {
            "secretName": self.secret,
            "items": items,
            "defaultMode": _MODE,
        }
        return (Mount(_VOLUME, FOLDER, {"secret": source}),)

    def to_text(self) -> str:
        """JSON, for the environment of the operator; empty where nothing logs in."""
        if not self.secret:
            return ""
        told = {"secret": self.secret, "variables": self.variables, "files": self.files}
        return json.dumps(told, sort_keys=True)


def data_access_from_text(text: str) -> DataAccess:
    """Read it back.

    Raises:
        InvalidValue: If it is not what the chart writes.
    """
    if not text:
        return DataAccess()
    rule = "must be JSON with secret, variables and files"
    try:
        told = json.loads(text)
    except ValueError:
        raise InvalidValue("data access", rule, "something else") from None
    if not isinstance(told, dict) or not set(told) <= _FIELDS:
        raise InvalidValue("data access", rule, "something else")
    maps = [told.get(name) or {} for name in ("variables", "files")]
    for found in maps:
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise InvalidValue("data access", "must map variables to keys", "something else")
    return DataAccess(str(told.get("secret", "")), *maps)
