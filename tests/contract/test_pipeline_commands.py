"""``primum pipeline``: compiled, checked and submitted, with the rule told where one is broken."""

from __future__ import annotations

import json

import pytest
import yaml
from command_line import EXAMPLES, CommandLine
from simulated_kfp import SimulatedKfp

from primum_pipelines.components import PLACEHOLDER_IMAGE

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
RISK = EXAMPLES / "pipelines" / "risk.py"
WORKER = "registry.example.org/primum/worker@sha256:" + "b" * 64
STUDY = EXAMPLES / "breast-cancer" / "study.yaml"

OWN = """
from kfp import dsl, kubernetes

@dsl.container_component
def look():
    return dsl.ContainerSpec(image="python", command=["ls", "/data"])

@dsl.pipeline(name="look")
def first():
    kubernetes.mount_pvc(look(), pvc_name={claim!r}, mount_path="/data")
"""


@pytest.fixture
def command(tmp_path, capsys):
    made = CommandLine(tmp_path / "home", WORKER_IMAGE=WORKER)

    def run(*words, **more):
        return made("pipeline", *words, capsys=capsys, **more)

    return run


@pytest.fixture
def compiled(command, tmp_path):
    """The example, compiled with an image."""
    file = tmp_path / "risk.yaml"
    done = command("compile", RISK, "-o", file)
    assert (done.code, done.err) == (0, "")
    return file


def test_a_file_is_compiled_and_checked(command, compiled):
    assert yaml.safe_load(compiled.read_text())["pipelineInfo"]["name"] == "risk"
    done = command("check", compiled)
    assert (done.code, done.out) == (0, f"{compiled}: nothing to refuse\n")


def test_what_opens_protected_data_is_not_even_written(command, tmp_path):
    source = tmp_path / "look.py"
    source.write_text(OWN.format(claim="primum-dataset-scans"))
    done = command("compile", source, "-o", tmp_path / "look.yaml")
    assert done.code == 3
    assert "must not open protected data without a reservation; found primum-dataset" in done.err
    assert "Declare a Study" in done.err
    assert not (tmp_path / "look.yaml").exists()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", 2, "must hold one pipeline; found none"),
        (OWN.format(claim="a") + "\nsecond = first\n", 2, "found first, second. Name one of them."),
    ],
)
def test_a_file_must_hold_one_pipeline(command, tmp_path, text, code, said):
    source = tmp_path / "pipelines.py"
    source.write_text(text)
    done = command("compile", source, "-o", tmp_path / "out.yaml")
    assert done.code == code
    assert said in done.err


def test_a_pipeline_of_several_is_named(command, tmp_path):
    source = tmp_path / "pipelines.py"
    source.write_text(OWN.format(claim="a") + "\nsecond = first\n")
    assert command("compile", source, "-o", tmp_path / "o.yaml", "--function", "first").code == 0
    done = command("compile", source, "-o", tmp_path / "o.yaml", "--function", "third")
    assert (done.code, "third" in done.err) == (4, True)


def test_what_is_missing_is_not_found(command, tmp_path):
    for words in (("compile", "none.py", "-o", "x"), ("compile", "no.such.module", "-o", "x")):
        assert command(*words).code == 4
    assert command("check", tmp_path / "none.yaml").code == 4


@pytest.mark.parametrize("text", ["", "a: 1\n", "root: {}\n---\nb: 1\n", "{", "- 1\n"])
def test_what_is_no_pipeline_is_refused(command, tmp_path, text):
    file = tmp_path / "x.yaml"
    file.write_text(text)
    assert command("check", file).code == 2


def test_a_pipeline_is_submitted_to_the_cluster(command, compiled, tmp_path):
    token = tmp_path / "token"
    token.write_text("mine")
    with SimulatedKfp(tokens=("mine",)) as kfp:
        done = command(
            "submit",
            compiled,
            "-p",
            f"manifest=@{STUDY}",
            "--url",
            kfp.url,
            "-n",
            "team-a",
            "--token-file",
            token,
            "--name",
            "risk-1",
            "-o",
            "json",
        )
        (run,) = kfp.runs
    assert done.code == 0
    assert done.json() == [{"namespace": "team-a", "run": run["run_id"]}]
    assert (run["display_name"], run["namespace"]) == ("risk-1", "team-a")
    assert run["runtime_config"]["parameters"] == {"manifest": STUDY.read_text()}


def test_a_pipeline_that_was_changed_afterwards_is_refused_at_submission(command, compiled):
    text = compiled.read_text()
    compiled.write_text(
        text + "---\nplatforms:\n  kubernetes:\n    deploymentSpec:\n      executors:\n"
        "        exec-card:\n          pvcMount:\n          - constant: primum-dataset-scans\n"
        "            mountPath: /data\n"
    )
    with SimulatedKfp() as kfp:
        done = command("submit", compiled, "-p", "manifest=x", "--url", kfp.url, "-n", "team-a")
        assert kfp.runs == []
    assert done.code == 3


def test_the_placeholder_image_goes_to_no_cluster(command, tmp_path):
    file = tmp_path / "risk.yaml"
    assert command("compile", RISK, "-o", file, WORKER_IMAGE=PLACEHOLDER_IMAGE).code == 0
    with SimulatedKfp() as kfp:
        done = command("submit", file, "-p", "manifest=x", "--url", kfp.url, "-n", "team-a")
        assert kfp.runs == []
    assert (done.code, "must be your site's worker image" in done.err) == (3, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "must be given for every input; found manifest"),
        (("-p", "manifest"), "must be NAME=VALUE of manifest"),
        (("-p", "other=1"), "must be NAME=VALUE of manifest"),
    ],
)
def test_parameters_are_those_of_the_pipeline(command, compiled, words, said):
    done = command("submit", compiled, *words)
    assert done.code == 2
    assert said in done.err


def test_an_address_wants_a_namespace(command, compiled):
    done = command("submit", compiled, "-p", "manifest=x", "--url", "https://kfp.example.org")
    assert (done.code, "--namespace must be given" in done.err) == (2, True)


def test_components_are_written_with_the_sites_image(command, tmp_path):
    done = command("components", "--image", WORKER, "-o", tmp_path / "components")
    assert done.code == 0
    names = sorted(path.name for path in (tmp_path / "components").iterdir())
    assert names == ["audit.yaml", "release.yaml", "study.yaml"]
    assert all(WORKER in (tmp_path / "components" / name).read_text() for name in names)
    assert command("components", "--image", "worker:latest", "-o", tmp_path / "x").code == 2


def test_a_budgets_dataset_is_known_by_its_address(tmp_path, capsys):
    made = CommandLine(tmp_path / "home")
    made("apply", "-f", EXAMPLES / "breast-cancer" / "budget.yaml", "--no-wait", capsys=capsys)
    source = tmp_path / "reads.py"
    source.write_text(
        "from kfp import dsl\n"
        "@dsl.pipeline(name='reads')\n"
        "def reads():\n"
        "    dsl.importer(artifact_uri='sklearn://breast_cancer', artifact_class=dsl.Dataset)\n"
    )
    done = made("pipeline", "compile", source, "-o", tmp_path / "o.yaml", capsys=capsys)
    assert done.code == 3
    assert "must not name the dataset of a budget; found that of" in done.err
    assert json.dumps("wisconsin").strip('"') in done.err
