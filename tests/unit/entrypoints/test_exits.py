"""Exit codes: one per way of going wrong, and no traceback for anybody."""

from __future__ import annotations

import pytest

from primum.domain import errors
from primum.entrypoints import cli
from primum.entrypoints.cli.exits import Exit, code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidValue("a", "must be b", "c"), 2),
        (errors.UnsupportedEvent("x"), 2),
        (errors.Refused("x"), 3),
        (errors.NotFound("x"), 4),
        (errors.Conflict("x"), 5),
        (errors.Tampered("x"), 6),
        (errors.Unavailable("x"), 7),
        (errors.PrimumError("x"), 1),
    ],
)
def test_codes(error, code):
    assert code_of(error) == code


def test_every_code_is_used_once():
    assert len({int(code) for code in Exit}) == len(Exit) == 9


def run(monkeypatch, capsys, fault):
    def broken(**how):
        raise fault

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_our_error_is_one_sentence(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, errors.NotFound("Study x does not exist"))
    assert (code, said) == (4, "error: Study x does not exist\n")


def test_a_foreign_error_shows_its_type_alone(monkeypatch, capsys):
    monkeypatch.delenv("PRIMUM_DEBUG", raising=False)
    code, said = run(monkeypatch, capsys, ValueError("patient 17, 54 years"))
    assert code == 1
    assert said == "error: a fault of Primum (ValueError); set PRIMUM_DEBUG=1 to see where\n"


def test_a_developer_sees_where(monkeypatch, capsys):
    monkeypatch.setenv("PRIMUM_DEBUG", "1")
    monkeypatch.setattr(cli, "app", lambda **how: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_a_full_disk_is_named(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, OSError(28, "No space left on device", "/home/x"))
    assert (code, said) == (7, "error: /home/x: No space left on device\n")


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    code, said = run(monkeypatch, capsys, KeyboardInterrupt())
    assert code == 130
    assert "run the same command again" in said
