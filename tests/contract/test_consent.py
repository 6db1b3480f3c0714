"""Do withdrawn units disappear from whatever opens private data, and does nothing open in doubt?"""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from primum import signing
from primum.domain.canonical import canonical_json
from primum.domain.errors import Refused, Tampered
from primum.domain.study.steps import WorkRequest
from primum_pipelines.datasets import consent, withdrawal
from primum_pipelines.datasets.access import open_private
from primum_pipelines.datasets.registration import register

ACCOUNT = "00000000-0000-5000-8000-00000000000a"
OTHER = "00000000-0000-5000-8000-00000000000b"
URI = "csv://ward.csv"
AT = "2026-11-22T06:00:00.000000Z"
NAMED = {"label": "sick", "unitColumn": "mrn", "features": {"age": ["0", "120"]}}
PLACED = {"label": "sick", "features": {"age": ["0", "120"]}}
DIVIDED = {"by": "Cohort", "column": "cohort", "values": ["a", "b"]}
ROWS = 40


def name(row):
    return f"MRN-{7000 + row}"


def rows(count=ROWS):
    return [f"{name(n)},{20 + n},{n % 2},{'ab'[n % 2]}" for n in range(count)]


@dataclass
class Zone:
    """A steward's zone with one CSV file, and what a worker and the platform ask of it."""

    folder: Path
    options: dict
    layout: dict | None = None

    def __post_init__(self):
        self.private, self.public = signing.generate()
        self.write(rows())

    @property
    def registry(self):
        return self.folder / "zone" / "consent"

    def write(self, lines):
        (self.folder / "ward.csv").write_text("\n".join(["mrn,age,sick,cohort", *lines]) + "\n")

    def payload(self, **changes):
        given = {
            "account": ACCOUNT,
            "at": AT,
            "dataDirs": [str(self.folder)],
            "layout": self.layout,
            "names": [],
            "options": self.options,
            "unit": "Patient",
            "uri": URI,
            "zoneDir": str(self.folder / "zone"),
        }
        return given | changes

    def withdraw(self, *names, **changes):
        return withdrawal.withdraw(self.payload(names=list(names), **changes))

    def marks(self, *names, **changes):
        return [item["mark"] for item in self.withdraw(*names, **changes)["named"]]

    def request(self, *, blocks=(), account=ACCOUNT, withdrawn=0, zone=None, **claims):
        layout = self.layout if self.layout is not None else {}
        dataset = {"uri": URI, "unit": "Patient", "options": self.options}
        token = dataset | {
            "id": "t",
            "access": "train",
            "budget": "ward",
            "accountId": account,
            "layout": layout,
            "blocks": list(blocks),
            "withdrawn": withdrawn,
            "studyUid": "u",
            "generation": 1,
            "expires": "2999-01-01T00:00:00.000000Z",
        }
        token = {key: value for key, value in (token | claims).items() if value is not None}
        envelope = signing.sign(self.private, signing.DATA_TOKEN_TYPE, canonical_json(token))
        context = {
            "study": {"uid": "u", "generation": 1},
            "plan": {
                "accesses": [{"name": "train", "budget": "ward"}],
                "blocks": {"ward": list(blocks)} if blocks else {},
            },
            "datasets": {"ward": dataset | {"layout": layout, "blocks": list(blocks)}},
        }
        return WorkRequest(
            context=context,
            tokens={"train": signing.encode_token(envelope)},
            public_key=self.public,
            artifacts_uri="",
            data_dirs=[str(self.folder)],
            inputs={},
            zone_dir=str(self.folder / "zone") if zone is None else zone,
        )

    def opened(self, **changes):
        return open_private(self.request(**changes), "train")

    def ages(self, **changes):
        """The ages that come out; row n has age 20 + n."""
        return [int(age) for age in self.opened(**changes).features[:, 0]]


@pytest.fixture
def zone(tmp_path):
    return Zone(tmp_path, NAMED)


@pytest.fixture
def placed(tmp_path):
    """A zone in which a row's place names its unit."""
    return Zone(tmp_path, PLACED)


def test_a_withdrawn_unit_is_in_no_table_that_is_opened_afterwards(zone):
    before = zone.opened()
    zone.marks(name(3), name(17))
    after = zone.opened(withdrawn=2)
    gone = ~np.isin(before.units, ["patient-MRN-7003", "patient-MRN-7017"])
    assert len(after.units) == ROWS - 2
    for column in ("features", "labels", "units", "train"):
        np.testing.assert_array_equal(getattr(after, column), getattr(before, column)[gone])


def test_a_dataset_without_withdrawals_is_opened_whole(zone):
    assert len(zone.opened().units) == ROWS
    assert not zone.registry.exists()


def test_the_split_of_those_who_stay_does_not_move(zone):
    before = dict(zip(zone.opened().units, zone.opened().train, strict=True))
    zone.marks(name(3))
    after = zone.opened()
    assert all(before[unit] == side for unit, side in zip(after.units, after.train, strict=True))


@pytest.mark.parametrize("said", [name(5), f"patient-{name(5)}", f"  {name(5)} "])
def test_a_unit_is_named_as_in_its_column_or_as_the_driver_names_it(zone, said):
    zone.marks(said)
    assert 25 not in zone.ages()


def test_a_name_with_spaces_around_it_in_the_data_can_be_given_as_it_is(zone):
    zone.write([*rows(), " x ,99,0,a"])
    assert "error" in zone.withdraw("x")
    zone.marks(" x ")
    assert 99 not in zone.ages()


def test_withdrawing_again_gives_the_same_mark(zone):
    first = zone.marks(name(3))
    both = zone.marks(name(4), name(3), name(4))
    assert both == [both[0], first[0], both[0]]
    assert len(set(both)) == 2
    assert zone.marks(name(3), at="2027-01-01T00:00:00.000000Z") == first


def test_a_unit_whose_row_was_removed_since_keeps_its_mark(zone):
    first = zone.marks(name(3))
    zone.write([line for n, line in enumerate(rows()) if n != 3])
    assert zone.marks(name(3)) == first
    assert len(zone.opened().units) == ROWS - 1


def test_a_unit_that_comes_back_is_still_withdrawn(zone):
    zone.marks(name(3))
    zone.write([*rows()[4:], rows()[3]])
    assert 23 not in zone.ages()


def test_an_unknown_name_withdraws_nobody_and_is_not_repeated(zone):
    answer = zone.withdraw(name(3), "", "Jane Doe 1961")
    message = answer["error"]["message"]
    assert answer["error"]["kind"] == "InvalidValue"
    assert "line 3" in message
    assert "Jane" not in json.dumps(answer)
    assert len(zone.opened().units) == ROWS


def test_a_name_of_two_units_is_refused(zone):
    zone.write([*rows(), "x,99,0,a", "patient-x,98,1,b"])
    answer = zone.withdraw("patient-x")
    assert "a name of two units" in answer["error"]["message"]
    assert {98, 99} <= set(zone.ages())


@pytest.mark.parametrize("names", [[], [""], ["x"] * (withdrawal.UNITS_MAX + 1), ["y" * 201]])
def test_too_few_too_many_and_too_long_names_are_refused(zone, names):
    assert "unit file" in zone.withdraw(*names)["error"]["message"]


def test_the_registry_holds_no_name_and_is_its_owners_alone(zone):
    zone.marks(name(3), name(17))
    for file in zone.registry.iterdir():
        assert b"MRN" not in file.read_bytes()
        assert b"7003" not in file.read_bytes()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(zone.registry.stat().st_mode) == 0o700


def test_two_zones_hide_the_same_unit_under_different_digests(tmp_path):
    digests = []
    for place in ("one", "two"):
        folder = tmp_path / place
        folder.mkdir()
        other = Zone(folder, NAMED)
        other.marks(name(3))
        (registry,) = consent.registries(str(folder / "zone"))
        digests.append(registry.tombstones[0].unit)
    assert digests[0] != digests[1]


def test_the_same_data_under_another_account_drops_the_unit_too(zone):
    zone.marks(name(3))
    assert 23 not in zone.ages(account=OTHER)


def test_another_dataset_is_not_touched(zone):
    zone.marks(name(3))
    (zone.folder / "clinic.csv").write_text((zone.folder / "ward.csv").read_text())
    request = zone.request(account=OTHER, uri="csv://clinic.csv")
    request.context["datasets"]["ward"]["uri"] = "csv://clinic.csv"
    assert len(open_private(request, "train").units) == ROWS


# In doubt, nothing opens.

DAMAGE = {
    "a flipped byte": lambda folder, file: file.write_bytes(
        file.read_bytes().replace(b'"version":1', b'"version":2')
    ),
    "a removed tombstone": lambda folder, file: file.write_text(
        json.dumps(json.loads(file.read_text()) | {"tombstones": []})
    ),
    "cut off": lambda folder, file: file.write_bytes(file.read_bytes()[:-40]),
    "empty": lambda folder, file: file.write_bytes(b""),
    "a list": lambda folder, file: file.write_text("[]"),
    "a folder": lambda folder, file: (file.unlink(), file.mkdir()),
    "another account's file": lambda folder, file: file.rename(folder / f"{OTHER}.json"),
    "no key": lambda folder, file: (folder / "key").unlink(),
    "another key": lambda folder, file: (folder / "key").write_bytes(b"x" * consent.KEY_BYTES),
    "half a key": lambda folder, file: (folder / "key").write_bytes(b"x"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_nothing_opens_while_the_registry_cannot_be_trusted(zone, damage):
    zone.marks(name(3))
    DAMAGE[damage](zone.registry, zone.registry / f"{ACCOUNT}.json")
    for account in (ACCOUNT, OTHER):
        with pytest.raises(Tampered, match="withdrawn consents must be readable"):
            zone.opened(account=account)
    assert register(zone.payload())["error"]["kind"] == "Tampered"
    assert zone.withdraw(name(4))["error"]["kind"] == "Tampered"


def test_a_lost_registry_is_told_from_one_that_never_was_by_what_the_ledger_knows(zone):
    zone.marks(name(3))
    for file in zone.registry.iterdir():
        file.unlink()
    assert len(zone.opened(withdrawn=0).units) == ROWS
    with pytest.raises(Tampered, match="fewer than the ledger"):
        zone.opened(withdrawn=1)


def test_an_older_registry_is_told_by_what_the_ledger_knows(zone):
    zone.marks(name(3))
    file = zone.registry / f"{ACCOUNT}.json"
    older = file.read_bytes()
    zone.marks(name(4))
    file.write_bytes(older)
    with pytest.raises(Tampered, match="fewer than the ledger"):
        zone.opened(withdrawn=2)


def test_a_worker_that_was_told_of_no_zone_opens_nothing_that_has_withdrawals(zone):
    zone.marks(name(3))
    with pytest.raises(Tampered, match="no zone"):
        zone.opened(zone="", withdrawn=1)


@pytest.mark.parametrize("missing", ["accountId", "withdrawn"])
def test_a_token_that_does_not_speak_of_consents_opens_nothing_in_a_zone(zone, missing):
    with pytest.raises(Refused, match="withdrawn consents"):
        zone.opened(**{missing: None})


def test_a_dataset_of_withdrawn_units_only_is_refused(zone):
    zone.marks(*[name(n) for n in range(ROWS)])
    with pytest.raises(Refused, match="consent stands"):
        zone.opened()


def test_a_key_is_never_made_anew_beside_registries(zone):
    zone.marks(name(3))
    (zone.registry / "key").unlink()
    assert zone.withdraw(name(4))["error"]["kind"] == "Tampered"
    assert not (zone.registry / "key").exists()


def test_what_a_crash_left_half_written_is_passed_over(zone):
    """A file is written beside and renamed over: a crash leaves the older one and a remnant."""
    first = zone.marks(name(3))
    (zone.registry / f"{ACCOUNT}.json.new").write_bytes(b'{"half')
    assert 23 not in zone.ages()
    assert zone.marks(name(3), name(4))[0] == first[0]
    assert {23, 24}.isdisjoint(zone.ages())


def test_withdrawals_at_the_same_time_do_not_lose_one_another(zone):
    with ThreadPoolExecutor(8) as pool:
        marks = list(pool.map(lambda row: zone.marks(name(row))[0], range(8)))
    assert len(set(marks)) == 8
    assert {20 + row for row in range(8)}.isdisjoint(zone.ages(withdrawn=8))


# Where a row's place names its unit.


def test_a_row_is_withdrawn_by_its_place(placed):
    placed.marks("3")
    assert 23 not in placed.ages()


@pytest.mark.parametrize("change", ["removed", "added", "reordered", "corrected"])
def test_rows_that_moved_are_not_opened_where_places_name_units(placed, change):
    placed.marks("3")
    lines = rows()
    changed = {
        "removed": lines[1:],
        "added": [lines[0], *lines],
        "reordered": lines[::-1],
        "corrected": [lines[0].replace("20", "21"), *lines[1:]],
    }[change]
    placed.write(changed)
    with pytest.raises(Refused, match="must be unchanged"):
        placed.opened()
    assert "must be unchanged" in register(placed.payload())["error"]["message"]
    assert "must be unchanged" in placed.withdraw("4")["error"]["message"]
    placed.write(lines)
    assert 23 not in placed.ages()


def test_rows_may_move_where_a_column_names_units(zone):
    zone.marks(name(3))
    zone.write(rows(ROWS + 5)[::-1])
    assert 23 not in zone.ages()
    assert len(zone.opened().units) == ROWS + 4


def test_units_that_are_named_otherwise_since_are_not_opened(placed):
    placed.marks("3")
    renamed = replace_options(placed, NAMED)
    with pytest.raises(Refused, match="must be named by row"):
        renamed.opened()
    assert "must be named by row" in renamed.withdraw(name(4))["error"]["message"]


def replace_options(source, options):
    return replace(source, options=options)


# Blocks.


def test_a_unit_of_a_block_is_dropped_when_the_block_is_read(tmp_path):
    zone = Zone(tmp_path, NAMED, DIVIDED)
    zone.marks(name(3))  # cohort b
    assert 23 not in zone.ages(blocks=("a", "b"))
    assert 23 not in zone.ages(blocks=("b",))
    assert len(zone.opened(blocks=("a",)).units) == ROWS // 2


def test_the_zone_remembers_the_block_of_a_withdrawn_unit(tmp_path):
    zone = Zone(tmp_path, NAMED, DIVIDED)
    zone.marks(name(3), name(4))
    found = withdrawal.withdrawn({"account": ACCOUNT, "zoneDir": str(zone.folder / "zone")})
    assert [item["block"] for item in found["tombstones"]] == ["b", "a"]


def test_a_block_with_a_withdrawn_place_must_not_change_and_others_may(tmp_path):
    zone = Zone(tmp_path, PLACED, DIVIDED)
    zone.marks("3")  # cohort b
    assert zone.ages(blocks=("b",)) == [21, *range(25, 20 + ROWS, 2)]
    zone.write([*rows(), "MRN-1,90,0,a"])
    assert 90 in zone.ages(blocks=("a",))
    assert 23 not in zone.ages(blocks=("b",))
    zone.write([rows()[5], *rows()])
    with pytest.raises(Refused, match="must be unchanged"):
        zone.opened(blocks=("b",))


# Registration.


def test_a_withdrawal_moves_neither_identity_nor_declared_size(zone):
    before = register(zone.payload())
    zone.marks(name(3), name(17))
    assert register(zone.payload()) == before


def test_a_withdrawn_row_is_not_checked_any_more_nor_in_a_moved_copy(zone):
    """It cannot make a dataset unsound: nothing looks at it."""
    zone.marks(name(3))
    lines = rows()
    lines[3] = f"{name(3)},,0,b"
    zone.write(lines)
    assert "error" not in register(zone.payload())
    zone.withdraw(name(3))
    (zone.folder / "moved.csv").write_text((zone.folder / "ward.csv").read_text())
    assert "error" not in register(zone.payload(uri="csv://moved.csv"))
    zone.write([*lines, "MRN-1,,0,b"])
    assert "must have no missing value" in register(zone.payload())["error"]["message"]


def test_marks_are_listed_per_account_without_opening_data(zone):
    first = zone.marks(name(3), name(4))
    zone.marks(name(5), account=OTHER)
    (zone.folder / "ward.csv").unlink()
    found = withdrawal.withdrawn({"account": ACCOUNT, "zoneDir": str(zone.folder / "zone")})
    assert found == {"tombstones": [{"mark": mark, "at": AT, "block": ""} for mark in first]}


def test_nothing_else_opens_a_dataset():
    """Who asks a driver for data also asks whose consent stands, or only withdraws."""
    root = Path(consent.__file__).resolve().parents[1]
    opening = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if re.search(r"\bdriver_for\(|(?<!def )\bload_blocks\(", path.read_text())
    }
    datasets = {"access", "driver", "registration", "withdrawal"}
    assert opening == {f"datasets/{name}.py" for name in datasets}
