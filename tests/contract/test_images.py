"""The images' recipes, read as text: there is no builder where the tests run.

What is checked is what goes wrong quietly: a tag that moves, root, a download while building, an
extra that an image lacks, a file that the ignore list keeps from the builder.
"""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from primum.adapters.kube_manifests.parts import USER_ID

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "operators" / "images"
IMAGES = ("operator", "api", "worker", "serving")
KNOWN = {
    *("ARG", "FROM", "COPY", "RUN", "LABEL", "ENV", "USER", "WORKDIR", "ENTRYPOINT", "CMD"),
}


class Instruction(NamedTuple):
    """One instruction, its continuation lines joined."""

    word: str
    rest: str


def parsed(name: str) -> list[Instruction]:
    """Instructions of a Dockerfile.

    Raises:
        ValueError: If a line is no instruction.
    """
    text = (FOLDER / f"{name}.Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = []
    for line in joined.splitlines():
        word, _, rest = line.partition(" ")
        if word not in KNOWN:
            raise ValueError(f"{name}: {line}")
        found.append(Instruction(word, rest.strip()))
    return found


def stages(name: str) -> list[list[Instruction]]:
    """Instructions by stage, without the arguments before the first."""
    found: list[list[Instruction]] = []
    for item in parsed(name):
        if item.word == "FROM":
            found.append([])
        if found:
            found[-1].append(item)
    return found


def makefile(name: str) -> str:
    """The value of a variable of the Makefile."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(rf"^{name} :?\??= (.*)$", text, re.MULTILINE)
    assert found is not None, name
    return found[1]


def test_every_image_has_its_recipe_and_every_recipe_is_built() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.Dockerfile" for name in IMAGES}
    assert makefile("IMAGES").split() == list(IMAGES)


@pytest.mark.parametrize("name", IMAGES)
def test_base_is_pinned_by_tag_and_can_be_pinned_by_digest(name: str) -> None:
    arguments = dict(item.rest.partition("=")[::2] for item in parsed(name) if item.word == "ARG")
    assert re.fullmatch(r"3\.\d+\.\d+-slim-[a-z]+", arguments["PYTHON_TAG"])
    assert arguments["PYTHON_DIGEST"] == ""
    bases = [item.rest.partition(" ")[0] for item in parsed(name) if item.word == "FROM"]
    expected = "docker.io/library/python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}"
    assert bases == [expected, expected], "both stages on the same interpreter"
    assert "latest" not in str(parsed(name))


def test_interpreter_is_one_that_primum_runs_on_and_the_same_everywhere() -> None:
    tags = {item.rest for name in IMAGES for item in parsed(name) if "PYTHON_TAG=" in item.rest}
    assert len(tags) == 1
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    major, minor = re.findall(r"=(\d+)\.(\d+)", next(iter(tags)))[0]
    assert wanted == f">={major}.{minor}"


@pytest.mark.parametrize("name", IMAGES)
def test_nothing_is_fetched_while_it_is_built(name: str) -> None:
    runs = [item.rest for item in parsed(name) if item.word == "RUN"]
    assert len(runs) == 1
    (run,) = runs
    assert "--no-index" in run
    assert "--constraint /constraints.txt" in run
    assert not re.search(r"curl|wget|apt|git |https?:|\bsh\b|--trusted-host|--extra-index", run)
    for item in parsed(name):
        assert item.word != "ADD"
        assert "http" not in item.rest


@pytest.mark.parametrize("name", IMAGES)
def test_runs_as_nobody_in_a_stage_without_wheels(name: str) -> None:
    build, final = stages(name)
    assert build[0].rest.endswith("AS build")
    words = [item.word for item in final]
    user = next(item.rest for item in final if item.word == "USER")
    assert user == f"{USER_ID}:{USER_ID}"
    assert words.index("USER") > words.index("COPY"), "what it runs, it must not be able to change"
    assert words.index("USER") < words.index("CMD")
    copies = [item.rest for item in final if item.word == "COPY"]
    assert copies == ["--from=build /install /usr/local"]
    secrets = re.compile(r"password|token|secret|key", re.IGNORECASE)
    assert not any(secrets.search(item.rest) for item in final if item.word in ("ENV", "LABEL"))


@pytest.mark.parametrize("name", IMAGES)
def test_extras_exist_and_are_those_whose_wheels_are_collected(name: str) -> None:
    (run,) = [item.rest for item in parsed(name) if item.word == "RUN"]
    installed = re.search(r'"primum\[([a-z,]+)\]"', run)
    assert installed is not None
    assert installed[1] == makefile(f"EXTRAS_{name}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(installed[1].split(",")) <= set(project["optional-dependencies"])


def test_images_hold_what_their_role_needs_and_no_more() -> None:
    """kfp caps the Kubernetes client; torch is most of the size of an image."""
    assert "operator" in makefile("EXTRAS_operator").split(",")
    for light in ("operator", "api"):
        assert not {"train", "ray", "pipelines"} & set(makefile(f"EXTRAS_{light}").split(","))
    assert makefile("EXTRAS_serving") == "train"


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_started_is_a_module_of_ours(name: str) -> None:
    final = stages(name)[-1]
    words = [
        word
        for item in final
        if item.word in ("ENTRYPOINT", "CMD")
        for word in re.findall(r'"([^"]+)"', item.rest)
    ]
    assert words[:2] == ["python", "-m"]
    path = Path(words[2].replace(".", "/"))
    roots = ("platform", "operators", "pipelines")
    candidates = [ROOT / root / path for root in roots]
    assert any(
        each.with_suffix(".py").is_file() or (each / "__main__.py").is_file() for each in candidates
    ), words[2]


def test_builder_gets_wheels_and_constraints_and_nothing_else() -> None:
    """The last pattern that matches decides, as Docker reads the file."""
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]

    def sent(path: str) -> bool:
        kept = True
        parts = path.split("/")
        prefixes = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        for pattern in patterns:
            wanted = pattern.removeprefix("!")
            if any(
                fnmatch.fnmatch(prefix, wanted) and prefix.count("/") == wanted.count("/")
                for prefix in prefixes
            ):
                kept = pattern.startswith("!")
        return kept

    assert sent("constraints.txt")
    assert sent("dist/wheels/api/primum-0.1.0-py3-none-any.whl")
    for private in (".primum/keys/signing.pem", "dist/install.yaml", ".git/config", "Makefile"):
        assert not sent(private), private
    for name in IMAGES:
        for item in stages(name)[0]:
            if item.word == "COPY":
                assert sent(
                    f"{item.rest.split()[0]}/x" if "wheels" in item.rest else "constraints.txt"
                )
