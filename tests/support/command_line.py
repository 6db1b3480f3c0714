"""The command line as a person uses it: run in process against a home folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Done:
    """What one command did."""

    code: int
    out: str
    err: str

    def json(self):
        return json.loads(self.out)


class CommandLine:
    """`primum` with a home folder, in this process."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.environment = {
            "PRIMUM_HOME": str(home),
            "PRIMUM_DATA": str(home.parent / "data"),
            **environment,
        }

    def __call__(self, *words: object, capsys, **more: str) -> Done:
        from primum.entrypoints import cli

        arguments = ["primum", *(str(word) for word in words)]
        code = 0
        capsys.readouterr()
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")}
        with (
            mock.patch.object(sys, "argv", arguments),
            mock.patch.dict(os.environ, clean | self.environment | more, clear=True),
            contextlib.ExitStack() as stack,
        ):
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            stack.callback(capsys.readouterr)
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            said = capsys.readouterr()
        return Done(code, said.out, said.err)


def process_environment(home: Path, **more: str) -> dict[str, str]:
    """The environment of a `primum` process of a home folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PRIMUM_")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    kept["OMP_NUM_THREADS"] = "1"
    return kept | {"PRIMUM_HOME": str(home)} | more


def primum(*words: object, env: dict[str, str], timeout: float = 240, **options):
    """Run `primum` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "primum", *(str(word) for word in words)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **options,
    )


def copied(home: Path, target: Path) -> Path:
    """A home folder's copy, without what belongs to running processes."""
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("ray*", "*.lock", "up.json"))
    return target
