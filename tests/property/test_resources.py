"""Whatever a file says, reading it ends in resources or in one InvalidValue: nothing else, ever."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from primum.domain.errors import InvalidValue
from primum.resources.conversion import spec_mapping, wire_form
from primum.resources.documents import read_documents
from primum.resources.kinds import KINDS
from primum.resources.loading import checked_resource, load_text

STUDY: dict[str, Any] = {
    "apiVersion": "primum.dev/v1alpha1",
    "kind": "Study",
    "metadata": {"name": "x", "namespace": "oncology"},
    "spec": {
        "purpose": "Try it",
        "data": [{"role": "Private", "budget": "wisconsin"}],
        "privacy": {"epsilon": "3.0", "delta": "1e-5"},
        "job": {
            "kind": "Train",
            "train": {"model": "Logistic", "epochs": 2, "batchSize": 8, "maxGradNorm": "1.0"},
        },
        "audits": [{"kind": "Membership", "attack": "OneRunCanary", "canaries": 100}],
        "release": {"endpoint": "x"},
    },
}

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


def tried(action: Callable[[], Any]) -> Any:
    """What an action returns, or the InvalidValue that it raises; anything else ends the test."""
    try:
        return action()
    except InvalidValue as error:
        return error


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [so_far] if so_far else []
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, item in items:
        found += paths(item, (*so_far, name))
    return found


@settings(max_examples=300, deadline=None)
@given(path=st.sampled_from(paths(STUDY)), value=anything)
def test_any_value_anywhere_is_accepted_or_refused_in_words(
    path: tuple[Any, ...], value: Any
) -> None:
    document = copy.deepcopy(STUDY)
    node = document
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    outcome = tried(lambda: checked_resource(document))
    if isinstance(outcome, InvalidValue):
        assert " must " in str(outcome)
        assert len(str(outcome)) < 1200
    else:
        json.dumps(spec_mapping(outcome), allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="ab:-[]{}&*!|>#'\"\n\t 0123456789.,~%@`?", max_size=60))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    outcome = tried(lambda: read_documents(text, source="f.yaml"))
    if isinstance(outcome, InvalidValue):
        assert "f.yaml" in str(outcome)
    else:
        assert all(document.line >= 1 for document in outcome)


@settings(max_examples=200, deadline=None)
@given(
    epsilon=st.decimals(min_value=Decimal("1e-9"), max_value=1_000_000, allow_nan=False, places=9)
)
def test_a_decimal_is_stored_exactly_as_written(epsilon: Decimal) -> None:
    written = f"{epsilon:f}"
    (found,) = load_text(
        json.dumps(STUDY).replace('"3.0"', json.dumps(written)), source="study.json"
    )
    spec = found.spec_mapping()
    assert spec["privacy"]["epsilon"] == written  # type: ignore[index,call-overload]
    again = KINDS["Study"].spec.model_validate(spec, by_alias=True, by_name=False)
    assert wire_form(again) == spec
    assert Decimal(spec["privacy"]["epsilon"]) == epsilon  # type: ignore[index,call-overload,arg-type]
