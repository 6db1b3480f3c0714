"""Settings: read once, named when wrong, passed on whole."""

from __future__ import annotations

import dataclasses
import os

import pytest

from primum.domain.errors import InvalidValue
from primum.entrypoints.settings import NAMES, ComputeKind, Settings, from_environment


def test_defaults_keep_everything_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = from_environment({})
    assert found.home == tmp_path / ".primum"
    assert found.database_url == f"sqlite:///{tmp_path / '.primum' / 'primum.db'}"
    assert found.data_dirs == (str(tmp_path / ".primum" / "data"),)
    assert (found.host, found.api_port, found.serving_port) == ("127.0.0.1", 8399, 8400)
    assert found.lineage_url == ""


def test_a_child_reads_the_same_settings(tmp_path):
    told = {
        "PRIMUM_HOME": str(tmp_path),
        "PRIMUM_DATABASE_URL": "postgresql://db/primum",
        "PRIMUM_DATA": os.pathsep.join(("/a", "/b")),
        "PRIMUM_PUBLIC_DATA": "/public/,https://example.org/sets/",
        "PRIMUM_HOST": "::1",
        "PRIMUM_API_PORT": "1",
        "PRIMUM_SERVING_PORT": "65535",
        "PRIMUM_LEASE_SECONDS": "12.5",
        "PRIMUM_TOKEN_SECONDS": "7",
        "PRIMUM_CREDENTIAL_SECONDS": "60",
        "PRIMUM_POLL_SECONDS": "0.05",
        "PRIMUM_WORKERS": "3",
        "PRIMUM_LINEAGE_URL": "http://lineage",
    }
    found = from_environment(told)
    assert found.data_dirs == ("/a", "/b")
    assert found.public_data == ("/public/", "https://example.org/sets/")
    assert from_environment(found.environment()) == found


def test_a_child_asks_the_ledger_api_where_its_parent_does():
    told = {"PRIMUM_LEDGER_URL": "https://ledger:8399", "PRIMUM_LEDGER_CA": "/ca.crt"}
    found = from_environment(told)
    assert (found.ledger_url, found.ledger_ca) == ("https://ledger:8399", "/ca.crt")
    assert "PRIMUM_DATABASE_URL" not in found.environment()
    assert from_environment(found.environment()) == found


def test_heavy_work_runs_where_it_is_said():
    assert from_environment({}).compute is ComputeKind.LOCAL
    told = {
        "PRIMUM_COMPUTE": "rayjob",
        "PRIMUM_LEDGER_URL": "https://ledger:8399",
        "PRIMUM_RAY_JOB": "{}",
        "PRIMUM_KUBECONFIG": "/config",
        "PRIMUM_STEPS": "/steps",
    }
    found = from_environment(told)
    assert found.compute is ComputeKind.RAY_JOB
    child = from_environment(found.environment())
    assert dataclasses.replace(child, steps="/steps") == found
    for name in ("PRIMUM_LEDGER_URL", "PRIMUM_RAY_JOB"):
        with pytest.raises(InvalidValue, match=f"{name} must be set where PRIMUM_COMPUTE is"):
            from_environment({k: v for k, v in told.items() if k != name})
    with pytest.raises(InvalidValue, match="must be one of local, rayjob, ray"):
        from_environment({"PRIMUM_COMPUTE": "cloud"})


def test_the_ledger_is_in_one_place():
    told = {"PRIMUM_LEDGER_URL": "https://ledger", "PRIMUM_DATABASE_URL": "sqlite:///p.db"}
    with pytest.raises(InvalidValue, match="must not be set beside PRIMUM_DATABASE_URL"):
        from_environment(told)


def test_the_token_is_not_passed_on():
    found = from_environment({"PRIMUM_TOKEN": "primum_secret"})
    assert "primum_secret" not in str(found.environment())


def test_every_field_has_a_variable():
    fields = {f"PRIMUM_{field.name.upper()}" for field in dataclasses.fields(Settings)}
    fields = {name.replace("DATA_DIRS", "DATA") for name in fields}
    assert fields | {"PRIMUM_DEBUG"} == NAMES


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("PRIMUM_API_PORT", "0", "must be at least 1"),
        ("PRIMUM_API_PORT", "65536", "must be at most 65535"),
        ("PRIMUM_API_PORT", "1e3", "must be a whole number"),
        ("PRIMUM_SERVING_PORT", "-1", "must be a whole number"),
        ("PRIMUM_WORKERS", "²", "must be a whole number"),
        ("PRIMUM_WORKERS", "9" * 5000, "must be at most"),
        ("PRIMUM_LEASE_SECONDS", "inf", "must be a finite number"),
        ("PRIMUM_TOKEN_SECONDS", "nan", "must be a finite number"),
        ("PRIMUM_POLL_SECONDS", "0", "must be above 0"),
        ("PRIMUM_POLL_SECONDS", "soon", "must be a number"),
        ("PRIMUM_PUBLIC_DATA", "public", "must list absolute folders and addresses"),
        ("PRIMUM_PUBLIC_DATA", "/", "must list absolute folders and addresses"),
        ("PRIMUM_PUBLIC_DATA", "/public/../home", "must list absolute folders and addresses"),
        ("PRIMUM_HOEM", "/x", "Did you mean PRIMUM_HOME?"),
        ("PRIMUM_ANYTHING", "1", "must be one of the settings"),
    ],
)
def test_what_is_wrong_is_named(name, value, rule):
    with pytest.raises(InvalidValue, match=name) as wrong:
        from_environment({name: value})
    assert rule in str(wrong.value)


@pytest.mark.parametrize("name", ["PRIMUM_TEST_ASSETS", "PRIMUM_SIM_SEEDS", "HOME", "PATH"])
def test_what_is_no_setting_is_left_alone(name):
    from_environment({name: "x"})
