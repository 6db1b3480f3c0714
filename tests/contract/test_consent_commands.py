"""``primum consent``: what a steward sees of it, and that nobody else learns who was withdrawn.

Commands run in this process against a home folder with a registered budget; the steward's zone is
a real process.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from unittest import mock

import pytest
from command_line import CommandLine, copied
from ledger_words import HALF, expose, request, reserve

from primum.adapters import identity
from primum.adapters.zone import LocalZone
from primum.application.observing import PUBLISHED
from primum.application.released import CERTIFICATE
from primum.domain.budget.entries import EntryKind
from primum.entrypoints import bootstrap, settings
from primum_pipelines.datasets import consent

BUDGET = """
apiVersion: primum.dev/v1alpha1
kind: PrivacyBudget
metadata: {name: ward, namespace: oncology}
spec:
  dataset:
    uri: csv://ward.csv
    unit: Patient
    options:
      label: sick
      unitColumn: mrn
      features: [{name: age, low: "0", high: "120"}]
  guarantee: {epsilon: "8.0", delta: "1e-5"}
"""
NAMES = ("Grünwald-1951", "Osei-1987")
ROWS = [f"{NAMES[n] if n < 2 else f'P-{n}'},{20 + n % 60},{n % 2}" for n in range(120)]


def silent():
    class Unread:
        @staticmethod
        def readouterr():
            return type("Said", (), {"out": "", "err": ""})

    return Unread


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A home folder whose budget `ward` is registered; never changed."""
    from primum.adapters.ray.compute import RayCompute

    folder = tmp_path_factory.mktemp("registered")
    (folder / "data").mkdir()
    (folder / "data" / "ward.csv").write_text("\n".join(["mrn,age,sick", *ROWS]) + "\n")
    (folder / "budget.yaml").write_text(BUDGET)
    command = CommandLine(folder / "home")
    with mock.patch.object(RayCompute, "warm", return_value=None):
        done = command("apply", "-f", folder / "budget.yaml", capsys=silent())
    assert done.code == 0
    return folder


@pytest.fixture
def place(registered, tmp_path, capsys):
    """A copy of the registered home, with the commands of its owner."""

    class Place:
        home = copied(registered / "home", tmp_path / "home")
        data = registered / "data"
        file = tmp_path / "units.txt"

        def __call__(self, *words, **more):
            command = CommandLine(self.home, PRIMUM_DATA=str(self.data))
            return command("consent", *words, capsys=capsys, **more)

        def settings(self):
            return settings.from_environment(
                {"PRIMUM_HOME": str(self.home), "PRIMUM_DATA": str(self.data)}
            )

        def stores(self):
            return bootstrap.stores(self.settings())

        def account(self):
            (account,) = self.stores().ledger.accounts()
            return account.account_id

        def entries(self):
            return [
                entry
                for entry in self.stores().ledger.entries()
                if entry.kind is EntryKind.CONSENT_WITHDRAWN
            ]

        def withdraw(self, *names, **more):
            self.file.write_text("\n".join(names) + "\n", encoding="utf-8")
            return self("withdraw", "ward", "--unit-file", self.file, "-o", "json", **more)

        def token(self, *roles):
            return identity.issue(self.home, name="ada", roles=roles)

    return Place()


def test_a_steward_withdraws_lists_and_is_told_that_nothing_is_unlearned(place):
    place.file.write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    said = place("withdraw", "ward", "--unit-file", place.file)
    assert said.code == 0, said.err
    assert "not opened any more" in said.out
    assert "Nothing was unlearned" in said.out
    listed = place("list", "ward", "-o", "json").json()
    assert [item["entry"] for item in listed] == [entry.seq for entry in place.entries()]
    assert len({item["mark"] for item in listed}) == 2
    table = place("list", "ward").out
    assert all(item["mark"] in table for item in listed)


def test_names_may_come_from_standard_input(place, monkeypatch):
    typed = io.TextIOWrapper(io.BytesIO(f"{NAMES[0]}\n".encode()))
    monkeypatch.setattr(sys, "stdin", typed)
    done = place("withdraw", "ward", "--unit-file", "-", "-o", "json")
    assert done.code == 0, done.err
    assert len(place.entries()) == 1


def test_withdrawing_again_gives_the_same_mark_and_no_second_entry(place):
    first = place.withdraw(*NAMES).json()
    again = place.withdraw(NAMES[1]).json()
    assert again["withdrawn"] == first["withdrawn"][1:]
    assert len(place.entries()) == 2
    assert not place.stores().ledger.verify()


def test_a_withdrawal_costs_nothing(place):
    (before,) = place.stores().ledger.accounts()
    place.withdraw(*NAMES)
    (after,) = place.stores().ledger.accounts()
    assert (before.epsilon_left, before.blocks) == (after.epsilon_left, after.blocks)


@pytest.mark.parametrize(
    "words",
    [
        ("withdraw", "ward", "--unit-file", "-"),
        ("list", "ward"),
        ("impact", "ward"),
    ],
)
def test_only_a_steward_may(place, words):
    roles = tuple(role for role in identity.Role if role is not identity.Role.STEWARD)
    done = place(*words, PRIMUM_TOKEN=place.token(*roles))
    assert (done.code, done.out) == (3, "")
    assert "needs the role steward; ada does not hold it" in done.err
    assert place("list", "ward", PRIMUM_TOKEN=place.token(identity.Role.STEWARD)).code == 0


def test_a_name_that_is_no_unit_is_refused_by_its_line_and_never_repeated(place):
    done = place.withdraw(NAMES[0], "Nobody-1900")
    assert done.code == 2
    assert "unit file line 2 must name one unit" in done.err
    assert "Nobody-1900" not in done.err + done.out
    assert place.entries() == []
    assert place("list", "ward", "-o", "json").json() == []


MISTAKES = {
    "no file": (("withdraw", "ward", "--unit-file", "/nowhere/units"), 4),
    "no budget": (("withdraw", "nowhere", "--unit-file", "-"), 4),
    "no mark": (("impact", "ward", "--mark", "f" * 32), 4),
    "no unit file": (("withdraw", "ward"), 2),
    "a name as an argument": (("withdraw", "ward", NAMES[0]), 2),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_with_its_exit_code(place, mistake, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\n")))
    words, code = MISTAKES[mistake]
    done = place(*words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert place.entries() == []


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe", b"a\n" * 10_001])
def test_a_file_that_names_nobody_or_is_no_text_is_refused(place, content):
    place.file.write_bytes(content)
    done = place("withdraw", "ward", "--unit-file", place.file)
    assert done.code == 2
    assert "unit file must" in done.err


def test_a_withdrawn_name_stands_nowhere_but_in_the_dataset(place, caplog, tmp_path):
    """Ledger, evidence, resources, lineage, zone, logs: every file of the home, and what is said.

    The database keeps what was written in its write-ahead log, so the raw bytes are searched.
    """
    said = place.withdraw(*NAMES)
    wrong = place.withdraw(NAMES[0], "Nobody-1900")
    shown = [place(word, "ward", "-o", form) for word in ("list", "impact") for form in ("json",)]
    place.file.unlink()
    texts = [done.out + done.err for done in (said, wrong, *shown)] + [caplog.text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    content = [path.read_bytes() for path in files] + [text.encode() for text in texts]
    for name in (*NAMES, "Nobody-1900"):
        for form in (name.encode(), name.encode("utf-16-le"), json.dumps(name)[1:-1].encode()):
            assert not any(form in item for item in content)
        assert not any(name in path.name for path in files)


# A crash between the zone and the ledger.


class Crashed(Exception):
    """The process ends here."""


def test_a_crash_before_the_ledger_leaves_the_unit_blocked_and_is_made_good(place, monkeypatch):
    from primum.adapters.sql.ledger import SqlLedgerStore

    def crash(*_arguments, **_named):
        raise Crashed

    with monkeypatch.context() as broken:
        broken.setattr(SqlLedgerStore, "withdraw_consent", crash)
        assert place.withdraw(NAMES[0]).code == 1
    assert place.entries() == []
    (registry,) = consent.registries(str(place.home / "zone"))
    assert len(registry.tombstones) == 1
    assert "missing" in place("list", "ward").out
    # Any later withdrawal of the budget enters what is missing; the mark is the one of before.
    assert place.withdraw(NAMES[1]).code == 0
    marks = [entry.payload["asked"]["mark"] for entry in place.entries()]
    assert marks[0] == registry.tombstones[0].mark
    assert len(marks) == 2
    assert "missing" not in place("list", "ward").out


def test_a_crash_after_the_ledger_is_made_good_without_a_second_entry(place, monkeypatch):
    from primum.adapters.sql.evidence import SqlEvidenceStore

    def crash(*_arguments, **_named):
        raise Crashed

    with monkeypatch.context() as broken:
        broken.setattr(SqlEvidenceStore, "put_fact", crash)
        assert place.withdraw(NAMES[0]).code == 1
    before = place.entries()
    assert len(before) == 1
    assert place.withdraw(NAMES[0]).code == 0
    assert place.entries() == before


def test_the_ledger_says_nothing_of_what_the_zone_did_not_write(place):
    """The zone's folder cannot be made: a file lies in its place."""
    (place.home / "zone").write_text("in the way")
    done = place.withdraw(NAMES[0])
    assert done.code == 7, done.err
    assert place.entries() == []


def test_a_damaged_registry_is_said_and_stops_everything(place):
    place.withdraw(NAMES[0])
    (place.home / "zone" / "consent" / "key").write_bytes(b"x" * 32)
    for words in (("list", "ward"), ("withdraw", "ward", "--unit-file", place.file)):
        done = place(*words)
        assert done.code == 6
        assert "withdrawn consents must be readable" in done.err
    assert len(place.entries()) == 1


# What came before.


def test_impact_names_studies_certificates_and_releases_that_came_before_and_none_after(place):
    stores, account = place.stores(), place.account()
    for name, uid in (("early", "u1"), ("unopened", "u2"), ("late", "u3")):
        study = request(account, name, HALF, study_uid=uid, study=f"oncology/{name}")
        assert reserve(stores.ledger, study).stands
    expose(stores.ledger, "early")
    stores.evidence.put_fact(CERTIFICATE, "u1/1", {"digest": "sha256:" + "c" * 64})
    stores.evidence.put_fact(PUBLISHED, "u1/1", {"release": "risk", "url": "http://x"})
    said = place.withdraw(NAMES[0]).json()
    assert said["running"] == [{"namespace": "oncology", "study": "early"}]
    expose(stores.ledger, "late")

    found = place("impact", "ward", "-o", "json").json()
    assert found["studies"] == [
        {
            "study": "oncology/early",
            "generation": 1,
            "path": "Read",
            "source": None,
            "certificate": "sha256:" + "c" * 64,
            "releases": [{"name": "risk", "kind": None, "standing": "Deleted"}],
        }
    ]
    assert found["unlearned"] is False
    text = place("impact", "ward").out
    assert "oncology/early" in text
    assert "Nothing was unlearned" in text
    assert "late" not in text

    second = place.withdraw(NAMES[1]).json()["withdrawn"][0]["mark"]
    both = place("impact", "ward", "--mark", second, "-o", "json").json()
    assert [item["study"] for item in both["studies"]] == ["oncology/early", "oncology/late"]
    first = place("impact", "ward", "--mark", said["withdrawn"][0]["mark"], "-o", "json").json()
    assert [item["study"] for item in first["studies"]] == ["oncology/early"]


def test_a_running_study_is_said_with_what_stops_it(place):
    stores = place.stores()
    reserve(stores.ledger, request(place.account(), "r1", HALF, study="oncology/early"))
    expose(stores.ledger, "r1")
    place.file.write_text(NAMES[0] + "\n", encoding="utf-8")
    said = place("withdraw", "ward", "--unit-file", place.file).out
    assert "running: oncology/early goes on with what it opened before" in said
    assert "primum delete study early -n oncology" in said


def test_a_budget_without_withdrawals_says_so(place):
    assert "no consent was withdrawn" in place("impact", "ward").out
    assert place("list", "ward").out == "nothing found\n"


def test_registering_again_meets_the_same_account(place):
    """A withdrawal changes neither digest nor size, so it cannot open a fresh budget."""
    from primum.resources import conversion

    zone = bootstrap.zone(place.settings())
    assert isinstance(zone, LocalZone)
    (stored,) = place.stores().resources.list("PrivacyBudget")
    dataset = conversion.budget_spec(stored).dataset
    before = zone.register(dataset)
    place.withdraw(*NAMES)
    assert zone.register(dataset) == before


def test_the_commands_are_explained():
    page = Path(__file__).resolve().parents[2] / "docs" / "consent.md"
    text = page.read_text()
    for command in ("withdraw", "list", "impact"):
        assert f"primum consent {command}" in text


# Blocks.

DIVIDED = """  blocks: {by: Cohort, column: arm, values: [old, new]}
"""


def test_a_study_of_other_blocks_has_not_read_the_unit(tmp_path, capsys):
    from primum.adapters.ray.compute import RayCompute

    (tmp_path / "data").mkdir()
    lines = [f"{line},{'old' if n % 2 else 'new'}" for n, line in enumerate(ROWS)]
    (tmp_path / "data" / "ward.csv").write_text("\n".join(["mrn,age,sick,arm", *lines]) + "\n")
    (tmp_path / "budget.yaml").write_text(BUDGET.rstrip() + "\n" + DIVIDED)
    (tmp_path / "units.txt").write_text(f"{NAMES[1]}\n", encoding="utf-8")
    command = CommandLine(tmp_path / "home")
    with mock.patch.object(RayCompute, "warm", return_value=None):
        done = command("apply", "-f", tmp_path / "budget.yaml", capsys=capsys)
    assert done.code == 0, done.err
    found = settings.from_environment({"PRIMUM_HOME": str(tmp_path / "home")})
    ledger = bootstrap.stores(found).ledger
    (account,) = ledger.accounts()
    for name, blocks in (("of-old", ("old",)), ("of-new", ("new",)), ("of-all", ())):
        said = {"study": f"oncology/{name}", "study_uid": name, "blocks": blocks}
        assert reserve(ledger, request(account.account_id, name, HALF, **said)).stands
        expose(ledger, name)
    options = ("ward", "--unit-file", tmp_path / "units.txt")
    assert command("consent", "withdraw", *options, capsys=capsys).code == 0
    found = command("consent", "impact", "ward", "-o", "json", capsys=capsys).json()
    assert [item["study"] for item in found["studies"]] == ["oncology/of-old", "oncology/of-all"]
