"""``primum pipeline``: data scientists' own pipelines, compiled, checked, submitted.

What opens protected data is refused before it is submitted; a Study does that, through the
component ``study``. Must not reserve, and must not hold rules of its own: the guard has them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from primum.entrypoints.cli.exits import Exit
from primum.entrypoints.cli.rendering import Output

UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        envvar="KF_PIPELINES_ENDPOINT",
        help="Kubeflow Pipelines' address; without one the pipeline runs on this machine.",
    ),
]
TokenOption = Annotated[
    str,
    typer.Option("--token-file", envvar="KF_PIPELINES_SA_TOKEN_PATH", help="Your bearer token."),
]
ParameterOption = Annotated[
    list[str], typer.Option("--parameter", "-p", help="NAME=VALUE, or NAME=@FILE.")
]


_DOCUMENTS_MAX = 2


class Format(enum.StrEnum):
    """How an argument is read."""

    STRING = "STRING"
    NUMBER_INTEGER = "NUMBER_INTEGER"
    NUMBER_DOUBLE = "NUMBER_DOUBLE"
    BOOLEAN = "BOOLEAN"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Your own Kubeflow pipelines.", no_args_is_help=True)
    group.command(name="compile")(compile_source)
    group.command()(check)
    group.command()(submit)
    group.command()(components)
    app.add_typer(group, name="pipeline")


def compile_source(
    source: Annotated[str, typer.Argument(help="A Python file, or a module of a package.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The IR file to write.")],
    function: Annotated[
        str, typer.Option("--function", help="The pipeline, where there are several.")
    ] = "",
) -> None:
    """Compile a pipeline to IR YAML, and check it; what the guard refuses is not written.

    Example: primum pipeline compile examples/pipelines/risk.py -o risk.yaml
    """
    from primum import extensions

    text = extensions.load("primum.step_runtime", "compile_own")(source, function=function)
    _guard(_documents(text, str(output)), arguments={})
    output.write_text(text, encoding="utf-8")
    print(f"{output} written")


def check(
    file: Annotated[Path, typer.Argument(help="A compiled pipeline.")],
) -> None:
    """Say what a compiled pipeline must not hold; exit 3 if there is any.

    Example: primum pipeline check risk.yaml
    """
    _guard(_read(file), arguments={})
    print(f"{file}: nothing to refuse")


def submit(
    file: Annotated[Path, typer.Argument(help="A compiled pipeline.")],
    parameter: ParameterOption = [],  # noqa: B006 - Typer copies it
    url: UrlOption = "",
    token_file: TokenOption = "",
    ca_file: Annotated[
        str, typer.Option("--ca-file", help="PEM file that its certificate is checked with.")
    ] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Yours in the cluster.")] = "",
    experiment: Annotated[str, typer.Option("--experiment", help="Its experiment.")] = "Default",
    service_account: Annotated[
        str, typer.Option("--service-account", help="What its pods run under.")
    ] = "default-editor",
    name: Annotated[str, typer.Option("--name", help="What the run is called.")] = "",
    output: Annotated[
        Output, typer.Option("--output", "-o", help="table, json or yaml.")
    ] = Output.TABLE,
) -> None:
    """Check a compiled pipeline and run it: in a cluster, or on this machine.

    Example: primum pipeline submit risk.yaml -p manifest=@study.yaml --url https://... -n team-a
    """
    documents = _read(file)
    arguments = _arguments(documents[0], parameter)
    _guard(documents, arguments=arguments)
    if not url:
        raise typer.Exit(_run_here(file, arguments))
    from primum.adapters.kube_manifests.pipeline_guard import for_cluster
    from primum.domain.errors import InvalidValue

    _refuse(for_cluster(documents[0]))
    if not namespace:
        raise InvalidValue("--namespace", "must be given with an address", "none")
    run = _create(
        documents,
        arguments,
        where=(url, token_file, ca_file),
        namespace=namespace,
        run={"name": name or file.stem, "experiment": experiment, "account": service_account},
    )
    from primum.entrypoints.cli.rendering import structured

    if output is Output.TABLE:
        print(f"run {run} created in {namespace}")
    else:
        structured([{"run": run, "namespace": namespace}], output)


def components(
    image: Annotated[str, typer.Option("--image", help="Your site's worker image, by digest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")],
) -> None:
    """Write the published components as files, for kfp's load_component_from_file.

    Example: primum pipeline components --image registry/worker@sha256:... -o components
    """
    from primum import extensions

    files = extensions.load("primum.step_runtime", "component_files")(image)
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, encoding="utf-8")
        print(f"{output / name} written")


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from primum.domain.errors import NotFound

    if not file.is_file():
        raise NotFound(f"{file} must be a compiled pipeline; found no such file.")
    return _documents(file.read_text(encoding="utf-8"), str(file))


def _documents(text: str, source: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Pipeline and platform document; the second one is empty where there is none."""
    import yaml

    from primum.domain.errors import InvalidValue

    try:
        found = [item for item in yaml.safe_load_all(text) if item is not None]
    except yaml.YAMLError as error:
        raise InvalidValue(source, "must be YAML", type(error).__name__) from None
    pipeline = found[0] if found and isinstance(found[0], dict) else {}
    platform = found[1] if len(found) > 1 and isinstance(found[1], dict) else {}
    whole = "root" in pipeline and set(platform) == ({"platforms"} if len(found) > 1 else set())
    if not whole or len(found) > _DOCUMENTS_MAX:
        raise InvalidValue(
            source,
            "must be one compiled pipeline: its own document, and at most one of its platform",
            f"{len(found)} documents",
            "Compile it with `primum pipeline compile`.",
        )
    return pipeline, platform


def _guard(
    documents: tuple[dict[str, Any], dict[str, Any]], *, arguments: Mapping[str, Any]
) -> None:
    """Refuse what the guard finds, all of it at once."""
    from primum.adapters.kube_manifests.pipeline_guard import findings

    _refuse(findings(*documents, datasets=_datasets(), arguments=arguments))


def _refuse(found: Sequence[Any]) -> None:
    from primum.domain.errors import Refused

    if found:
        raise Refused("\n".join(str(item) for item in found))


def _datasets() -> dict[str, str]:
    """Protected datasets that can be seen from here: address to the budget's name.

    Those of this machine's platform, and of the cluster that a kubeconfig names. What cannot be
    seen is kept apart at the cluster's door all the same.
    """
    import os
    import sys

    from primum.domain.errors import PrimumError
    from primum.entrypoints.cli import session

    found = {}
    try:
        budgets = session.open_stores(session.existing()).resources.list("PrivacyBudget")
        found = {str(item.spec["dataset"]["uri"]): str(item.key) for item in budgets}
    except PrimumError:
        pass  # No platform on this machine.
    if not os.environ.get("KUBECONFIG"):
        return found
    try:
        from primum.adapters.kube.api import KubeApi
        from primum.adapters.kube.objects import collection, key_of

        for item in KubeApi(os.environ["KUBECONFIG"]).list(collection("PrivacyBudget")):
            item.setdefault("kind", "PrivacyBudget")
            found[str(item["spec"]["dataset"]["uri"])] = str(key_of(item))
    except (PrimumError, ModuleNotFoundError) as error:
        said = "the cluster's budgets could not be read, and no address was compared with theirs"
        print(f"{said}: {error}", file=sys.stderr)
    return found


def _arguments(pipeline: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """Parameters by name, read by the pipeline's own types."""
    from primum.domain.errors import InvalidValue, NotFound

    inputs = pipeline.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    found: dict[str, Any] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or name not in inputs:
            listed = ", ".join(inputs) or "no parameter"
            raise InvalidValue("--parameter", f"must be NAME=VALUE of {listed}", item)
        if value.startswith("@"):
            path = Path(value[1:])
            if not path.is_file():
                raise NotFound(f"{path} must be a file for parameter {name}; found none.")
            value = path.read_text(encoding="utf-8")
        found[name] = _typed(name, value, str(inputs[name].get("parameterType")))
    missing = [n for n, item in inputs.items() if n not in found and not item.get("isOptional")]
    if missing:
        raise InvalidValue("--parameter", "must be given for every input", ", ".join(missing))
    return found


def _typed(name: str, value: str, kind: str) -> Any:
    import json

    from primum.domain.errors import InvalidValue

    if kind == Format.STRING:
        return value
    try:
        read = json.loads(value)
    except ValueError:
        raise InvalidValue(f"parameter {name}", f"must be a {kind}", value) from None
    wanted = {Format.NUMBER_INTEGER: int, Format.NUMBER_DOUBLE: (int, float), Format.BOOLEAN: bool}
    shape = wanted.get(Format(kind)) if kind in set(Format) else None
    wrong = shape is not None and not isinstance(read, shape)  # type: ignore[arg-type]
    if wrong or (isinstance(read, bool) and kind != Format.BOOLEAN):
        raise InvalidValue(f"parameter {name}", f"must be a {kind}", value)
    return read


def _create(
    documents: tuple[dict[str, Any], dict[str, Any]],
    arguments: Mapping[str, Any],
    *,
    where: tuple[str, str, str],
    namespace: str,
    run: Mapping[str, str],
) -> str:
    from primum.adapters.kfp_api import ApiSettings, KfpApi

    url, token_file, ca_file = where
    api = KfpApi(ApiSettings(url, token_path=token_file, ca_path=ca_file))
    pipeline, platform = documents
    body = {
        "display_name": run["name"],
        "experiment_id": api.experiment(namespace, run["experiment"]),
        "pipeline_spec": {"pipeline_spec": pipeline}
        | ({"platform_spec": platform} if platform else {}),
        "runtime_config": {"parameters": dict(arguments)},
        "service_account": run["account"],
    }
    return api.create_run(body).run_id


def _run_here(file: Path, arguments: Mapping[str, Any]) -> Exit:
    import os
    import tempfile

    from primum.adapters.kfp import run_pipeline
    from primum.entrypoints.cli import session

    settings = session.existing(create=True)
    os.environ.update(settings.environment())  # Tasks meet this machine's platform.
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_pipeline(file, folder=Path(folder), arguments=arguments)
        except Exception as error:  # noqa: BLE001 - kfp raises what it likes; its log says what
            print(f"the run failed: {type(error).__name__}")
            return Exit.REFUSED
    print("the run succeeded")
    return Exit.DONE
