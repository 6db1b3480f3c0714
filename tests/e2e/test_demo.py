"""What a new user gets: the demonstration of the README, then what the platform is for.

One platform for the whole module, as a person would have it: each test applies one more file of
`examples/breast-cancer/`. The last one freezes the budget.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import EXAMPLES, ROOT
from places import Place, cleared, free_port

from primum import extensions

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.xdist_group("demo"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes by their environment"),
]

FOLDER = EXAMPLES / "breast-cancer"
DEMO = r"""
\$ primum up --detach
up in \.primum: page and API http://127\.0\.0\.1:\d+, endpoints http://127\.0\.0\.1:\d+

\$ primum apply -f examples/breast-cancer/budget\.yaml -f examples/breast-cancer/study\.yaml
PrivacyBudget oncology/wisconsin   epsilon 8\.0, delta 1e-5, unit Patient +Ready
Study oncology/malignancy
  Plan     Train Logistic, 20 epochs, noise multiplier \d\.\d\d \(RDP\), 100 canaries +ok
  Reserve  epsilon 3\.00 of 8\.0 +ok
  Run      validated 1 dataset, trained \d+ of \d+ steps +(\d+ s)?  ok
  Check    mechanism self test, one run canary, gradient inversion +\d+ s  ok
  Release  5 of 5 gates passed, certificate signed +ok
Public     accuracy 0\.9\d \(0\.\d\d-\d\.\d\d\)   epsilon spent 3\.00, left: \d more Stud.* this
Restricted \(shown because you hold the role steward\)
           lower bound \d\.\d\d <= claim 3\.00 <= certifiable 3\.13; reconstruction NCC .*
Certificate  (\.primum/certificates/malignancy-1\.json)   verify: primum certificate verify \S+
Endpoint     (http://127\.0\.0\.1:\d+/v2/models/malignancy/infer)

\$ curl -s \S+ -d @examples/breast-cancer/request\.json
-> (malignant|benign) [01]\.\d+

\$ primum apply -f examples/breast-cancer/too-greedy\.yaml
Study oncology/everything
  Plan     Train Logistic, 60 epochs, noise multiplier \d\.\d\d \(RDP\) +ok
  Reserve  Denied +failed
Study oncology/everything  Denied at Reserve: budget wisconsin has \d\.\d\d left, .* needs 9\.40\.
  What would fit: noise multiplier \d\.\d+ .*, or \d+ epochs .*, or batch size \d+ .*

The platform keeps running: .*
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A folder with the examples in which the demonstration has run, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(EXAMPLES, folder / "examples")
    ports = {"PRIMUM_API_PORT": str(free_port()), "PRIMUM_SERVING_PORT": str(free_port())}
    place = Place(folder / ".primum", folder / "unused.yaml", ports)
    environment = {
        **place.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with cleared(place):
        started = time.monotonic()
        done = subprocess.run(
            ["sh", "examples/demo.sh"],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        print(f"the demonstration took {time.monotonic() - started:.0f} s")  # noqa: T201
        yield place, done
        assert place.run("down").returncode == 0
        assert list(place.processes()) == []


def apply(place, name):
    return place.run("apply", "-f", FOLDER / f"{name}.yaml")


def conditions(place, study):
    document = json.loads(place.run("get", f"study/{study}", "-o", "json").stdout)
    return {c["type"]: c for c in document["status"]["conditions"]}


def test_the_demonstration_ends_as_the_readme_shows(shown):
    place, done = shown
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(DEMO.strip(), done.stdout.strip()), done.stdout
    certificate = place.home / "certificates" / "malignancy-1.json"
    verified = place.run("certificate", "verify", certificate)
    assert verified.returncode == 0
    assert "claim Valid" in verified.stdout
    text = certificate.read_text()
    broken = certificate.with_name("broken.json")
    broken.write_text(text.replace("A", "B", 1))
    assert place.run("certificate", "verify", broken).returncode == 6


def test_without_a_mechanism_nothing_is_opened(shown):
    place, _ = shown
    done = apply(place, "non-private")
    assert done.returncode == 3
    found = conditions(place, "as-usual")
    assert found["Planned"]["reason"] == "NoMechanism"
    assert "DataExposed" not in found


def test_synthetic_data_does_not_launder(shown):
    place, _ = shown
    done = apply(place, "laundered")
    assert done.returncode == 3, done
    ended = conditions(place, "laundered")["Succeeded"]
    assert (ended["status"], ended["reason"]) == ("False", "ClaimVoid")
    for text in (ended["message"], done.stdout):
        assert "Void edge: budget wisconsin -> artifact of oncology/void-biopsies" in text
    assert "no privacy is claimed (Void)" in done.stdout
    verified = place.run(
        "certificate", "verify", place.home / "certificates" / "void-biopsies-1.json"
    )
    assert verified.returncode == 0
    assert "claim Void" in verified.stdout
    assert "generator trained on wisconsin without a charge" in verified.stdout
    releases = json.loads(place.run("get", "releases", "-o", "json").stdout)["items"]
    assert "laundered" not in {item["metadata"]["name"] for item in releases}


def test_a_released_model_is_attacked_again_by_hand(shown):
    place, _ = shown
    before = place.run("ledger", "accounts", "-o", "json").stdout
    done = place.run("audit", "run", "malignancy", "--attack", "LiRA", "--shadows", "64")
    assert done.returncode in (0, 3), done
    named = r"AuditRun oncology/malignancy-lira-[0-9a-f]{8} +(Pass|Inconclusive)"
    assert re.search(named, done.stdout)
    runs = json.loads(place.run("get", "auditruns", "-o", "json").stdout)["items"]
    assert runs[-1]["status"]["verdict"] in ("Pass", "Inconclusive")
    assert place.run("ledger", "accounts", "-o", "json").stdout == before  # It only looks.


def test_a_plugin_that_adds_no_noise_is_caught_twice_and_freezes_the_budget(shown):
    if "LeakySGD" not in extensions.names("primum.training_algorithms"):
        pytest.skip("pip install --no-deps examples/plugins/leaky_sgd")
    place, _ = shown
    done = apply(place, "leaky")
    assert done.returncode == 3, done
    found = conditions(place, "leaky")
    assert found["Succeeded"]["reason"] == "ClaimExceeded"
    for auditor in ("mechanism self test", "one run canary"):
        assert auditor in found["Succeeded"]["message"]
    assert "Released" not in found
    budget = json.loads(place.run("get", "budget/wisconsin", "-o", "json").stdout)
    assert budget["status"]["conditions"][0]["reason"] == "BudgetFrozen"
    refused = place.run("quote", "-f", FOLDER / "too-greedy.yaml")
    assert refused.returncode == 3
    assert place.run("ledger", "verify").returncode == 0
    thawed = place.run("ledger", "thaw", "wisconsin", "--reason", "plug-in removed")
    assert thawed.returncode == 0
    assert ROOT.joinpath("examples/plugins/leaky_sgd").is_dir()
