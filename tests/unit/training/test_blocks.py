"""Does a Study of some blocks read exactly the units in them, and a tampered one nothing?"""

from __future__ import annotations

import base64
import datetime
import json
from dataclasses import replace

import numpy as np
import pytest

from primum import signing
from primum.domain.budget.layout import BlockLayout, Division, Period
from primum.domain.errors import InvalidValue, Refused
from primum.domain.quantities import PrivacyUnit
from primum.domain.study.spec import DatasetSpec
from primum_pipelines.datasets import driver
from primum_pipelines.datasets.access import open_private
from primum_pipelines.datasets.registration import register
from primum_pipelines.datasets.tables import CsvDriver
from primum_pipelines.steps import validate

OPTIONS = {
    "label": "sick",
    "features": {"age": ["0", "100"]},
    "classes": ["no", "yes"],
    "unitColumn": "patient",
}
WARDS = BlockLayout(by=Division.COHORT, column="ward", values=("icu", "surgery", "emergency"))
MONTHS = BlockLayout(
    by=Division.TIME,
    column="admitted",
    period=Period.MONTH,
    start=datetime.date(2026, 1, 1),
    end=datetime.date(2026, 4, 1),
)
ACCESS = "train@wisconsin"
SECRET = "Zanzibar"


def patients():
    """Patients p0 to p89: by turns in icu and surgery, admitted over three months."""
    return [
        {
            "patient": f"p{n}",
            "age": str(20 + n % 60),
            "sick": "yes" if n % 3 else "no",
            "ward": ("icu", "surgery")[n % 2],
            "admitted": f"2026-{1 + n // 30:02d}-{1 + n % 28:02d}",
        }
        for n in range(90)
    ]


def write(folder, rows):
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    (folder / "ward.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def divided(make_zone, study, facts):
    """A zone of a Study on some blocks of the csv dataset."""

    def make(layout, *blocks, rows=None, claims=None):
        dataset = DatasetSpec("csv://ward.csv", PrivacyUnit.PATIENT, options=OPTIONS, layout=layout)
        known = facts(dataset=dataset, units=45, train_units=36, blocks=blocks)
        zone = make_zone(
            study=study(job={**study().job, "batchSize": 8}), facts=known, claims=claims or {}
        )
        write(zone.folder, rows or patients())
        return zone

    return make


def payload(folder, layout, *, rows=None):
    write(folder, rows or patients())
    return {
        "uri": "csv://ward.csv",
        "unit": "Patient",
        "options": OPTIONS,
        "units": None,
        "layout": layout.to_json(),
        "dataDirs": [str(folder)],
    }


def test_a_study_of_one_cohort_reads_exactly_its_units(divided):
    table = open_private(divided(WARDS, "icu").request("job"), ACCESS)
    assert sorted(table.units) == sorted(
        f"patient-{row['patient']}" for row in patients() if row["ward"] == "icu"
    )
    assert set(table.blocks) == {"icu"}
    assert len(table.features) == len(table.labels) == len(table.train) == 45


def test_a_study_of_two_months_reads_exactly_their_units(divided):
    table = open_private(divided(MONTHS, "2026-01", "2026-03").request("job"), ACCESS)
    wanted = [row for row in patients() if row["admitted"][:7] in ("2026-01", "2026-03")]
    assert list(table.units) == [f"patient-{row['patient']}" for row in wanted]
    ages = [float(row["age"]) for row in wanted]
    assert np.array_equal(table.features[:, 0], np.array(ages, dtype=np.float32))


def test_what_lies_in_other_blocks_changes_nothing(divided):
    """The whole point of blocks: nobody in another one is touched, not even by a bad cell."""
    before = open_private(divided(WARDS, "icu").request("job"), ACCESS)
    rows = [row for row in patients() if row["ward"] == "icu"]
    strange = {**patients()[1], "patient": "p900", "age": "old", "sick": "maybe"}
    nowhere = {**patients()[0], "patient": "p901", "ward": "attic"}
    after = open_private(
        divided(WARDS, "icu", rows=[strange, *rows, nowhere]).request("job"), ACCESS
    )
    assert list(after.units) == list(before.units)
    assert np.array_equal(after.features, before.features)
    assert np.array_equal(after.train, before.train)


def test_a_block_without_rows_is_read_as_nothing(divided):
    assert len(open_private(divided(WARDS, "emergency").request("job"), ACCESS).labels) == 0


def test_a_study_of_every_day_of_eleven_years_opens(divided):
    """What was paid for must open, however long its list of blocks: once exposed, it is charged."""
    days = BlockLayout(
        by=Division.TIME, column="admitted", period=Period.DAY, start=datetime.date(2015, 3, 1)
    )
    blocks = days.blocks_until(datetime.date(2026, 4, 1))
    assert len(blocks) > 4000
    assert len(open_private(divided(days, *blocks).request("job"), ACCESS).labels) == 90


def test_every_step_of_the_study_looks_at_the_same_blocks(divided):
    zone = divided(
        WARDS,
        "icu",
        rows=[{**r, "age": "5000"} if r["ward"] == "surgery" else r for r in patients()],
    )
    result = validate.run(zone.request("validate"))
    assert (result.status, result.reason) == ("Succeeded", "ExpectationsMet")


@pytest.fixture
def unopened(monkeypatch):
    """Fails where a driver is asked for data."""

    def touched(*_args, **_kwargs):
        raise AssertionError("data was touched before the refusal")

    monkeypatch.setattr(CsvDriver, "load", touched)
    monkeypatch.setattr(CsvDriver, "load_blocks", touched)


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"blocks": ["icu", "surgery"]}, "blocks must be those of the step's context"),
        ({"blocks": ["surgery"]}, "blocks must be those of the step's context"),
        ({"blocks": []}, "blocks must be those of the step's context"),
        ({"blocks": "icu"}, "must be a list of names"),
        ({"blocks": [1]}, "must be a list of names"),
        ({"layout": {}}, "layout must be that of the step's context"),
        ({"layout": {**WARDS.to_json(), "column": "patient"}}, "layout must be that of"),
        ({"layout": {}, "blocks": []}, "blocks must be those of the step's context"),
    ],
)
@pytest.mark.usefixtures("unopened")
def test_a_token_of_other_blocks_opens_nothing(divided, claims, named):
    with pytest.raises(Refused, match=named):
        open_private(divided(WARDS, "icu", claims=claims).request("job"), ACCESS)


@pytest.mark.usefixtures("unopened")
def test_a_token_without_blocks_opens_nothing_of_a_divided_dataset(divided):
    """Even where the step was told of none either: the layout alone says that it is divided."""
    zone = divided(WARDS, "icu", claims={"blocks": []})
    request = zone.request("job")
    context = json.loads(json.dumps(request.context))
    context["datasets"]["wisconsin"]["blocks"] = []
    context["plan"].pop("blocks")
    with pytest.raises(Refused, match="must state its blocks; found no blocks"):
        open_private(replace(request, context=context), ACCESS)


@pytest.mark.parametrize("part", ["context", "plan"])
@pytest.mark.usefixtures("unopened")
def test_a_context_that_names_other_blocks_is_refused(divided, part):
    request = divided(WARDS, "icu").request("job")
    context = json.loads(json.dumps(request.context))
    if part == "plan":
        context["plan"]["blocks"]["wisconsin"] = ["icu", "surgery"]
    else:
        context["datasets"]["wisconsin"]["blocks"] = ["icu", "surgery"]
    with pytest.raises(Refused, match=f"blocks must be those of the step's {part}"):
        open_private(replace(request, context=context), ACCESS)


@pytest.mark.usefixtures("unopened")
def test_a_tampered_block_list_breaks_the_signature(divided):
    request = divided(WARDS, "icu").request("job")
    token = request.tokens[ACCESS]
    envelope = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    payload = base64.b64decode(envelope["payload"]).replace(b'["icu"]', b'["icu","surgery"]')
    forged = signing.encode_token({**envelope, "payload": base64.b64encode(payload).decode()})
    with pytest.raises(Refused, match="signed by the platform"):
        open_private(replace(request, tokens={ACCESS: forged}), ACCESS)


def test_registering_counts_every_block(tmp_path):
    found = register(payload(tmp_path, WARDS))
    assert {name: units for name, (units, _) in found["blocks"].items()} == {
        "icu": 45,
        "surgery": 45,
    }
    assert sum(trained for _, trained in found["blocks"].values()) == found["trainUnits"]
    assert found["units"] == 90


def test_registering_counts_months(tmp_path):
    found = register(payload(tmp_path, MONTHS))
    assert [units for units, _ in found["blocks"].values()] == [30, 30, 30]


def test_the_digest_does_not_depend_on_the_division(tmp_path):
    """The same data under another division meets the same account, which refuses the change."""
    whole = {**payload(tmp_path, WARDS), "layout": None}
    assert register(whole)["digest"] == register(payload(tmp_path, WARDS))["digest"]
    assert "blocks" not in register(whole)


@pytest.mark.parametrize(
    ("layout", "column", "value"),
    [
        (WARDS, "ward", SECRET),
        (WARDS, "ward", ""),
        (MONTHS, "admitted", SECRET),
        (MONTHS, "admitted", "2025-12-31"),
        (MONTHS, "admitted", "2026-04-01"),  # A block that does not exist yet.
    ],
)
def test_a_unit_without_a_block_is_not_registered(tmp_path, layout, column, value):
    rows = patients()
    rows[7][column] = value
    error = register(payload(tmp_path, layout, rows=rows))["error"]
    assert error["kind"] == "InvalidValue"
    assert error["message"].startswith(f"dataset column {column} must hold ")
    assert not value or value not in error["message"]


def test_a_unit_in_two_blocks_is_not_registered(tmp_path):
    rows = patients()
    rows[1]["patient"] = rows[0]["patient"]
    error = register(payload(tmp_path, WARDS, rows=rows))["error"]
    assert "must be one per privacy unit" in error["message"]


def test_a_missing_column_is_named(tmp_path):
    layout = replace(WARDS, column="site")
    error = register(payload(tmp_path, layout))["error"]
    assert "dataset column site must be in the file" in error["message"]


def test_a_driver_that_cannot_place_units_says_so(tmp_path):
    asked = {**payload(tmp_path, WARDS), "uri": "sklearn://breast_cancer", "options": {}}
    error = register(asked)["error"]
    assert error["message"].startswith("spec.blocks must be absent with the dataset driver sklearn")


class Careless:
    """A plug-in that gives every row, whatever was wanted, and one that places none."""

    scheme = "careless"

    def __init__(self, table):
        self._table = table

    def describe(self, uri, options):
        return {}

    def locate(self, uri, data_dirs):
        return ""

    def load(self, uri, unit, options, data_dirs):
        return self._table

    def load_blocks(self, uri, unit, options, data_dirs, *, layout, wanted):
        return self._table


def test_rows_of_other_blocks_are_dropped_whatever_a_driver_gives(divided, monkeypatch):
    zone = divided(WARDS, "icu", "surgery")
    table = open_private(zone.request("job"), ACCESS)
    monkeypatch.setattr(driver, "driver_for", lambda _uri: Careless(table))
    wanted = {"layout": WARDS, "wanted": frozenset({"icu"})}
    kept = driver.load_blocks("careless://x", PrivacyUnit.PATIENT, {}, [], **wanted)
    assert set(kept.blocks) == {"icu"}
    assert len(kept.labels) == 45
    monkeypatch.setattr(driver, "driver_for", lambda _uri: Careless(replace(table, blocks=None)))
    with pytest.raises(InvalidValue, match="must place every row in a block"):
        driver.load_blocks("careless://x", PrivacyUnit.PATIENT, {}, [], **wanted)
