"""A digest of the installed audits moves with their code, and costs no import of theirs."""

from __future__ import annotations

import subprocess
import sys

from primum import extensions


def fresh(*statements):
    """What a new process prints."""
    program = "\n".join(["from primum import extensions", *statements])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_the_fingerprint_is_the_same_everywhere_and_imports_no_attack():
    said = fresh(
        "import sys",
        "print(extensions.fingerprint('primum.audits'))",
        "print([m for m in ('torch', 'primum_pipelines.attacks.shadows') if m in sys.modules])",
    )
    assert said.splitlines() == [extensions.fingerprint("primum.audits"), "[]"]


def test_it_moves_with_the_code(tmp_path):
    folder = tmp_path / "attacks_of_somebody"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "one.py").write_text("STRENGTH = 1\n")

    def fingerprint():
        point = "EntryPoint('One', 'attacks_of_somebody.one:STRENGTH', 'primum.audits')"
        return fresh(
            "import sys",
            "from importlib.metadata import EntryPoint",
            f"sys.path.insert(0, {str(tmp_path)!r})",
            f"extensions._points = lambda group: {{'One': {point}}}",
            "print(extensions.fingerprint('primum.audits'))",
        )

    before = fingerprint()
    assert fingerprint() == before
    (folder / "one.py").write_text("STRENGTH = 2\n")
    assert fingerprint() != before
