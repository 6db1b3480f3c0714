"""The alerts, by Prometheus' own program: they parse, and fire when they should and not else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "charts" / "primum" / "files" / "alerts.yaml"
CASES = Path(__file__).with_name("alert_cases.yaml")
DASHBOARD = RULES.with_name("dashboard.json")


def promtool(*arguments: str, folder: Path | None = None) -> str:
    """What promtool says; a skip where it is not here."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not here: install Prometheus (apt-get install prometheus)")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, cwd=folder, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_rules_are_in_form() -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint-fatal", str(RULES))


def test_alerts_fire_when_they_should_and_not_else(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path / "alerts.yaml")
    shutil.copy(CASES, tmp_path / "cases.yaml")
    assert "SUCCESS" in promtool("test", "rules", "cases.yaml", folder=tmp_path)


def test_every_alert_has_a_case() -> None:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    text = CASES.read_text(encoding="utf-8")
    assert alerts == set(re.findall(r'alertname(?:: |=")(Primum\w+)', text))


def test_a_rule_that_never_fires_is_found(tmp_path: Path) -> None:
    """The cases can fail: with a metric misspelt they do."""
    wrong = RULES.read_text(encoding="utf-8").replace("accounts_frozen", "account_frozen")
    (tmp_path / "alerts.yaml").write_text(wrong, encoding="utf-8")
    shutil.copy(CASES, tmp_path / "cases.yaml")
    with pytest.raises(AssertionError, match="PrimumAccountFrozen"):
        promtool("test", "rules", "cases.yaml", folder=tmp_path)


def test_every_question_of_the_dashboard_is_one_that_prometheus_understands(
    tmp_path: Path,
) -> None:
    """Each expression as a recording rule, with Grafana's own variables filled in."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    assert asked
    rules = [
        {"record": f"asked:{number}", "expr": re.sub(r"\$__\w+", "5m", expr)}
        for number, expr in enumerate(asked)
    ]
    document = {"groups": [{"name": "dashboard", "rules": rules}]}
    (tmp_path / "asked.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert f"SUCCESS: {len(asked)} rules" in promtool(
        "check", "rules", str(tmp_path / "asked.yaml")
    )
