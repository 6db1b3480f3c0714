"""The resource models are read by commands that must answer at once."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "ray", "kfp", "numpy", "scipy", "sqlalchemy", "fastapi", "kubernetes", "cel")


def test_resources_import_nothing_heavy() -> None:
    code = (
        "import sys; import primum.resources.loading; import primum.resources.conversion; "
        "import primum.resources.status; "
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
