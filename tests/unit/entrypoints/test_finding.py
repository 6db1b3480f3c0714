"""Does a command find the resource that was meant, by the name that messages show?"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from primum.domain.errors import InvalidValue, NotFound
from primum.domain.names import ResourceKey
from primum.entrypoints.cli.session import only_namespace


class Held:
    """Studies by key, as a store of resources gives them."""

    def __init__(self, *names):
        self._keys = [ResourceKey("Study", *name.split("/")) for name in names]

    def get(self, key):
        return next((key for own in self._keys if own == key), None)

    def list(self, kind):
        return [SimpleNamespace(key=key) for key in self._keys if key.kind == kind]


HELD = Held("oncology/malignancy", "cardiology/rhythm", "oncology/rhythm")


@pytest.mark.parametrize(
    ("name", "namespace", "found"),
    [
        ("malignancy", "", "oncology/malignancy"),
        ("rhythm", "cardiology", "cardiology/rhythm"),
        ("oncology/rhythm", "", "oncology/rhythm"),
        ("oncology/rhythm", "oncology", "oncology/rhythm"),
    ],
)
def test_one_is_meant(name, namespace, found):
    key = only_namespace(HELD, "Study", name, namespace)
    assert f"{key.namespace}/{key.name}" == found


@pytest.mark.parametrize(
    ("name", "namespace", "message"),
    [
        ("", "", "name must be given, as in study/NAME"),
        ("rhythm", "", "--namespace must be given, because rhythm exists in cardiology, oncology"),
        ("oncology/rhythm", "cardiology", "--namespace must be that of oncology/rhythm"),
    ],
)
def test_none_or_several_are_meant(name, namespace, message):
    with pytest.raises(InvalidValue, match=message):
        only_namespace(HELD, "Study", name, namespace)


@pytest.mark.parametrize("name", ["nobody", "oncology/nobody", "cardiology/malignancy"])
def test_what_is_not_there_is_not_found(name):
    with pytest.raises(NotFound, match="does not exist"):
        only_namespace(HELD, "Study", name, "")
