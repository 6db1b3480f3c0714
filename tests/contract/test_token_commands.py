"""``primum token``: who may ask; a role is given only by who holds it, and ends at once."""

from __future__ import annotations

import pytest
from command_line import CommandLine

from primum.adapters import identity
from primum.adapters.identity import NOBODY, Role
from primum.entrypoints import bootstrap, settings


@pytest.fixture
def home(tmp_path):
    found = settings.from_environment({"PRIMUM_HOME": str(tmp_path / "home")})
    bootstrap.prepare_home(found)
    return found.home


@pytest.fixture
def primum(home, capsys):
    command = CommandLine(home)
    return lambda *words, **more: command("token", *words, capsys=capsys, **more)


def test_a_token_carries_its_roles_until_it_is_revoked(primum, home):
    done = primum("issue", "grace", "--role", "compliance", "--role", "auditor")
    token = done.out.strip()
    assert done.code == 0, done
    assert identity.identify(home, token).roles == {Role.COMPLIANCE, Role.AUDITOR}
    listed = primum("list")
    assert "grace" in listed.out
    assert token not in listed.out
    assert primum("list", "-o", "json").json()[1] == {
        "name": "grace",
        "roles": ["auditor", "compliance"],
    }
    assert token not in (home / "tokens.json").read_text()
    assert primum("revoke", "grace").code == 0
    assert identity.identify(home, token) == NOBODY
    assert primum("revoke", "grace").code == 4


def test_nobody_gives_or_ends_a_role_that_they_do_not_hold(primum, home):
    token = primum("issue", "grace", "--role", "compliance").out.strip()
    refused = primum("issue", "mallory", "--role", "steward", PRIMUM_TOKEN=token)
    assert (refused.code, "does not hold steward" in refused.err) == (3, True)
    assert primum("revoke", "owner", PRIMUM_TOKEN=token).code == 3
    assert primum("issue", "alan", "--role", "compliance", PRIMUM_TOKEN=token).code == 0
    assert primum("list", PRIMUM_TOKEN="mallory").code == 3


def test_a_name_is_given_once_and_is_a_name(primum):
    assert primum("issue", "grace", "--role", "auditor").code == 0
    assert primum("issue", "grace", "--role", "auditor").code == 5
    assert primum("issue", "Grace Hopper", "--role", "auditor").code == 2
    assert primum("issue", "alan", "--role", "king").code == 2
