"""Tables, ages and documents for people and scripts."""

from __future__ import annotations

import datetime
import json

import pytest
import yaml

from primum.entrypoints.cli.rendering import Output, age, structured, table

CREATED = "2026-11-22T06:00:00.000000Z"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (-5, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"),
     (172799, "47h"), (172800, "2d"), (8640000, "100d")],
)  # fmt: skip
def test_ages(seconds, shown):
    now = datetime.datetime.fromisoformat(CREATED) + datetime.timedelta(seconds=seconds)
    assert age(CREATED, now) == shown


def test_columns_are_aligned(capsys):
    table(["name", "n"], [["a", "1"], ["longer", "22"]])
    assert capsys.readouterr().out == "NAME     N\na        1\nlonger   22\n"


def test_an_empty_table_says_so(capsys):
    table(["name"], [])
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(
    ("output", "read"), [(Output.JSON, json.loads), (Output.YAML, yaml.safe_load)]
)
def test_scripts_read_back_what_was_written(capsys, output, read):
    value = {"a": [1, "x", None, True], "ü": {"b": "1e-5"}}
    structured({**value, "t": ("1",)}, output)
    assert read(capsys.readouterr().out) == {**value, "t": ["1"]}
