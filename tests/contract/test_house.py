"""The house rules as tests: what the tree looks like, and how code in it is written.

Everything here reads text and syntax trees; nothing is started and nothing heavy imported.
"""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from primum import extensions
from primum.domain.errors import Conflict

ROOT = Path(__file__).parents[2]
SOURCES = ("platform", "operators", "pipelines", "policies")
TOP_LEVEL = {
    *SOURCES,
    "charts",
    "tests",
    "docs",
    "examples",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "constraints.txt",
}
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
LISTED_AS_TEXT = {
    "",
    ".cfg",
    ".ini",
    ".json",
    ".md",
    ".py",
    ".sh",
    ".toml",
    ".txt",
    ".yaml",
    ".yml",
}

# Folders whose files may hold extensions: every class there that looks like one needs a line.
EXTENSION_FOLDERS = {
    "primum.job_kinds": ("kinds/*/kind.py", {"declare", "entry", "headline"}),
    "primum.audits": ("audits/*.py", {"run"}),
    "primum.sample_filters": ("sample_filters/*.py", {"fit"}),
    "primum.datasets": ("datasets/*.py", {"describe", "locate", "load"}),
    "primum.models": ("models/*.py", {"check", "build"}),
    "primum.training_algorithms": ("optimization/*.py", {"fit"}),
}


@functools.cache
def tracked() -> tuple[Path, ...]:
    """Files of the repository: tracked ones and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what belongs to the repository cannot be told")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return tuple(path for path in (ROOT / name for name in names) if path.is_file())


@functools.cache
def modules() -> dict[Path, ast.Module]:
    """Every module of the four source roots, parsed."""
    found = sorted(path for root in SOURCES for path in (ROOT / root).rglob("*.py"))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in found}


@functools.cache
def nodes() -> dict[Path, tuple[ast.AST, ...]]:
    """Every node of every module; walked once, because a dozen tests ask."""
    return {path: tuple(ast.walk(tree)) for path, tree in modules().items()}


@functools.cache
def functions() -> tuple[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef], ...]:
    """Every function and method, with the module it is in."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return tuple(
        (path, n) for path, found in nodes().items() for n in found if isinstance(n, kinds)
    )


def shown(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


def length_without_docstring(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_top_level_holds_only_the_fixed_names() -> None:
    names = {path.relative_to(ROOT).parts[0] for path in tracked()}
    strangers = {name for name in names if not name.startswith(".")} - TOP_LEVEL
    assert strangers == set()


def test_source_roots_are_plain_folders() -> None:
    """An __init__.py in ``platform`` would shadow the standard library's module."""
    assert [root for root in SOURCES if (ROOT / root / "__init__.py").exists()] == []


def test_every_module_says_what_it_is_for() -> None:
    assert [shown(path) for path, tree in modules().items() if not ast.get_docstring(tree)] == []


def test_modules_are_short() -> None:
    long = {
        shown(path): lines
        for path in modules()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MODULE_LINES_MAX
    }
    assert long == {}


def test_functions_are_short() -> None:
    long = {
        f"{shown(path, node.lineno)} {node.name}": lines
        for path, node in functions()
        if (lines := length_without_docstring(node)) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_nothing_is_left_to_do_in_comments() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        shown(path, number)
        for path in tracked()
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".sh"} and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def test_only_the_command_line_prints() -> None:
    """Other processes log, or write what they made; a run's log and generators have their mark."""
    found = []
    for path, inside in nodes().items():
        if "/cli/" in str(path):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            shown(path, node.lineno)
            for node in inside
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "print"
            and not any("noqa: T201" in text for text in lines[node.lineno - 1 : node.end_lineno])
        ]
    assert found == []


def test_public_functions_take_no_booleans() -> None:
    """An enum says at the call what it means; the command line's options are Typer's."""
    private = {
        item
        for inside in nodes().values()
        for node in inside
        if isinstance(node, ast.ClassDef) and node.name.startswith("_")
        for item in node.body
    }
    found = []
    for path, node in functions():
        if "/cli/" in str(path) or node.name.startswith("_") or node in private:
            continue
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        found += [
            f"{shown(path, node.lineno)} {node.name}({argument.arg})"
            for argument in arguments
            if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "bool"
        ]
    assert found == []


def test_no_module_is_named_after_nothing() -> None:
    banned = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "base"}
    assert [shown(path) for path in modules() if path.stem in banned] == []


def test_annotations_are_postponed_everywhere() -> None:
    found = []
    for path, tree in modules().items():
        code = [node for node in tree.body if not isinstance(node, ast.Expr)]
        imported = {
            name.name
            for node in code
            if isinstance(node, ast.ImportFrom) and node.module == "__future__"
            for name in node.names
        }
        defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in code)
        if defines and "annotations" not in imported:
            found.append(shown(path))
    assert found == []


def test_no_file_names_a_machine_path() -> None:
    pattern = re.compile(r"(?<![\w.<])/(work|opt|root)/\w")
    found = [
        shown(path, number)
        for path in tracked()
        if path.suffix in LISTED_AS_TEXT and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def project() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def stated_dependencies() -> set[str]:
    """Names of every distribution that Primum or one of its extras asks for."""
    described = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*described["dependencies"]]
    for extra in described["optional-dependencies"].values():
        lines += extra
    return {re.split(r"[\[<>=~ ;]", line)[0] for line in lines} - {"primum"}


def declared() -> dict[str, dict[str, str]]:
    groups = project()["entry-points"]
    assert isinstance(groups, dict)
    return groups


def test_installed_entry_points_are_those_declared() -> None:
    """A line that was added after the last installation is not there yet: make setup."""
    for group, lines in declared().items():
        points = metadata.entry_points(group=group)
        ours = {p.name: p.value for p in points if p.dist is not None and p.dist.name == "primum"}
        assert ours == lines, f"{group}: run make setup"


def test_every_group_is_known() -> None:
    assert set(declared()) == set(extensions.GROUPS)


@pytest.mark.parametrize("group", sorted(declared()))
def test_entry_points_point_to_something(group: str) -> None:
    """Module and attribute exist; checked in the source, so that nothing heavy is imported."""
    for name, value in declared()[group].items():
        module, _, attribute = value.partition(":")
        candidates = [ROOT / root / (module.replace(".", "/") + ".py") for root in SOURCES]
        candidates += [ROOT / root / module.replace(".", "/") / "__init__.py" for root in SOURCES]
        existing = [path for path in candidates if path.exists()]
        assert existing, f"{group} {name}: no module {module}"
        tree = modules()[existing[0]]
        names = {
            node.name
            for node in tree.body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for node in tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else ()
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
        assert attribute in names, f"{group} {name}: no {attribute} in {module}"


@pytest.mark.parametrize("group", sorted(set(extensions.GROUPS) - {"primum.step_runtime"}))
def test_every_extension_loads(group: str) -> None:
    for name in extensions.names(group):
        loaded = extensions.load(group, name)
        assert callable(loaded)
        own = getattr(loaded, "scheme" if group == "primum.datasets" else "name", name)
        assert own == name, f"{group}: the line says {name}, the class says {own}"


def test_one_name_for_two_things_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        metadata.EntryPoint("Same", "package.first:Thing", "primum.audits"),
        metadata.EntryPoint("Same", "package.second:Thing", "primum.audits"),
    ]
    extensions._points.cache_clear()
    monkeypatch.setattr(metadata, "entry_points", lambda **_: points)
    try:
        with pytest.raises(Conflict, match="must be registered once"):
            extensions.names("primum.audits")
    finally:
        extensions._points.cache_clear()


def extension_classes(pattern: str, methods: set[str]) -> dict[str, str]:
    """Public classes with all methods of an extension, by name. A Protocol is none."""
    found = {}
    for path in (ROOT / "pipelines/primum_pipelines").glob(pattern):
        for node in modules()[path].body:
            if not isinstance(node, ast.ClassDef) or node.name.startswith("_"):
                continue
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            own = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            fields = {
                target.id
                for item in node.body
                if isinstance(item, ast.Assign)
                for target in item.targets
                if isinstance(target, ast.Name)
            }
            if "Protocol" not in bases and methods <= own and fields & {"name", "scheme"}:
                found[node.name] = shown(path, node.lineno)
    return found


@pytest.mark.parametrize("group", sorted(EXTENSION_FOLDERS))
def test_every_extension_has_its_line(group: str) -> None:
    """One file, one line: a class in an extension folder that no line names is forgotten."""
    pattern, methods = EXTENSION_FOLDERS[group]
    found = extension_classes(pattern, methods)
    assert found, f"no extension of {group} was recognized: the test looks for the wrong thing"
    lines = {value.partition(":")[2] for value in declared()[group].values()}
    assert {name: place for name, place in found.items() if name not in lines} == {}


# What a distribution is called where that differs from what it is imported as.
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "attr": "openlineage-python",  # which describes its facets with it
    "cel": "common-expression-language",
    "click": "typer",
    "dp_accounting": "dp-accounting",
    "great_expectations": "great-expectations",
    "openlineage": "openlineage-python",
    "jwt": "pyjwt",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",
    "yaml": "pyyaml",
}
# Used without an import of ours: the driver that SQLAlchemy loads by name, the data files, what
# pandas reads with, and what data scientists write pipelines for a cluster with (kfp.kubernetes).
WITHOUT_IMPORT = {"psycopg", "scikit-learn", "pyarrow", "kfp-kubernetes"}


def test_dependencies_are_those_that_are_imported() -> None:
    """A library that nobody imports is a risk for nothing; an undeclared one may be absent."""
    stated = stated_dependencies()
    imported = set()
    for inside in nodes().values():
        for node in inside:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    foreign = {n for n in imported - set(sys.stdlib_module_names) if not n.startswith("primum")}
    used = {DISTRIBUTION_OF.get(name, name) for name in foreign}
    assert used - stated == set(), "imported and not declared"
    assert stated - used - WITHOUT_IMPORT == set(), "declared and not imported"


def test_every_library_is_pinned() -> None:
    pinned = {
        line.partition("==")[0].strip().lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    }
    stated = stated_dependencies()
    assert stated - pinned == set()
