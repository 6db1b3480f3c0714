"""The CRDs say what the models say, keep the API conventions, and are committed as generated.

The real API server is asked in its own suite; here its rules are checked one by one on the schemas,
and the CEL rules are evaluated with the engine that the gates use.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import jsonschema
import pytest
import yaml

from primum.domain.errors import InvalidValue
from primum.domain.names import ResourceKey
from primum.resources.conversion import check_transition, spec_mapping
from primum.resources.kinds import KINDS
from primum.resources.loading import checked_resource, load_files
from primum_operators import schema

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/*.yaml"))
BUNDLES = sorted((ROOT / "policies" / "primum_policies" / "bundles").glob("*.yaml"))
NAMES = tuple(KINDS)
CAMEL_CASE = re.compile(r"^[a-z][a-zA-Z0-9]*$")
ENUM_WORD = re.compile(r"^[A-Z][A-Za-z0-9]*$")

Node = tuple[str, dict[str, Any]]


@functools.cache
def definition(name: str) -> dict[str, Any]:
    return schema.crd(KINDS[name])


def object_schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = definition(name)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(path: str, node: dict[str, Any]) -> Iterator[Node]:
    """Every schema node below and including one, without metadata, which is the API server's."""
    yield path, node
    for name, item in node.get("properties", {}).items():
        if f"{path}.{name}" != ".metadata":
            yield from nodes(f"{path}.{name}", item)
    if "items" in node:
        yield from nodes(f"{path}[]", node["items"])
    if "additionalProperties" in node:
        yield from nodes(f"{path}{{}}", node["additionalProperties"])


def own_nodes(name: str) -> list[Node]:
    """The nodes of spec and status, which are ours."""
    return [
        (path, node)
        for path, node in nodes("", object_schema(name))
        if path.startswith((".spec", ".status"))
    ]


def test_committed_files_are_what_the_models_generate() -> None:
    outdated = [str(path) for path in schema.outdated(ROOT)]
    assert outdated == [], "run python -m primum_operators.schema --write"


def test_check_and_write_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema.main(["--check", "--root", str(tmp_path)]) == 1
    assert schema.main(["--write", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    assert schema.main(["--check", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    text = (tmp_path / schema.CRD_FOLDER / "studies.yaml").read_text()
    assert yaml.safe_load(text) == definition("Study")
    assert "{{" not in text, "Helm would take it for a template"


@pytest.mark.parametrize("name", NAMES)
def test_names_scope_and_versions(name: str) -> None:
    spec = definition(name)["spec"]
    assert spec["group"] == "primum.dev"
    assert spec["scope"] == "Namespaced"
    assert spec["names"]["categories"] == ["privacy"]
    assert spec["names"]["kind"] == name
    assert definition(name)["metadata"]["name"] == f"{spec['names']['plural']}.primum.dev"
    assert [v["name"] for v in spec["versions"] if v["storage"]] == ["v1alpha1"]
    assert spec["versions"][0]["subresources"] == {"status": {}}


def test_short_names_are_distinct() -> None:
    short = [definition(name)["spec"]["names"]["shortNames"][0] for name in NAMES]
    assert short == ["pb", "st", "gp", "rel", "ar"]


@pytest.mark.parametrize("name", NAMES)
def test_columns_show_the_summary_condition_first_and_age_last(name: str) -> None:
    columns = definition(name)["spec"]["versions"][0]["additionalPrinterColumns"]
    assert columns[0]["name"] == KINDS[name].summary
    assert columns[1]["name"] == "Reason"
    assert columns[-1] == {
        "name": "Age",
        "type": "date",
        "jsonPath": ".metadata.creationTimestamp",
    }
    assert sum(1 for column in columns if not column.get("priority")) <= 6
    for column in columns:
        plain = re.sub(r"\[\?.*?\]", "[]", column["jsonPath"])
        known = {path for path, _ in nodes("", object_schema(name))}
        assert plain in known or plain.startswith(".metadata."), column


@pytest.mark.parametrize("name", NAMES)
def test_only_spec_and_status_at_top_level(name: str) -> None:
    whole = object_schema(name)
    assert set(whole["properties"]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert whole["required"] == ["spec"]
    # The API server refuses a CRD that says more than this about metadata.
    assert whole["properties"]["metadata"] == {"type": "object"}


@pytest.mark.parametrize("name", NAMES)
def test_schemas_are_structural(name: str) -> None:
    allowed = set(schema._KEPT_KEYS) | {"required", "properties", "items", "additionalProperties"}
    for path, node in own_nodes(name):
        assert set(node) <= allowed, path
        assert node["type"] in ("object", "array", "string", "integer"), path
        assert not ("properties" in node and "additionalProperties" in node), path
        assert node.get("additionalProperties", {}) is not False, path


@pytest.mark.parametrize("name", NAMES)
def test_no_floats_no_booleans_no_maps_of_objects(name: str) -> None:
    for path, node in own_nodes(name):
        assert node["type"] not in ("number", "boolean"), path
        if "additionalProperties" in node:
            assert node["additionalProperties"]["type"] == "string", path


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_bounded(name: str) -> None:
    for path, node in own_nodes(name):
        if node["type"] == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node["type"] == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node["type"] == "integer":
            assert "minimum" in node, path
            assert "maximum" in node, path
            assert node["format"] in ("int32", "int64"), path


@pytest.mark.parametrize("name", NAMES)
def test_descriptions_open_with_the_name_and_agree_with_required(name: str) -> None:
    for path, node in own_nodes(name):
        for field, item in node.get("properties", {}).items():
            here = f"{path}.{field}"
            assert CAMEL_CASE.fullmatch(field), here
            assert item["description"].startswith(f"{field} "), here
            says_required = bool(re.search(r"\bRequired\b", item["description"]))
            says_optional = bool(re.search(r"\b[Oo]ptional\b", item["description"]))
            assert says_required or says_optional, here
            if field in node.get("required", ()):
                assert says_required, here
            else:
                assert says_optional, here


@pytest.mark.parametrize("name", NAMES)
def test_enums_are_camel_case_and_defaults_are_allowed_values(name: str) -> None:
    for path, node in own_nodes(name):
        for word in node.get("enum", ()):
            assert ENUM_WORD.fullmatch(word), path
        if "default" in node:
            jsonschema.validate(defaulted(node, copy.deepcopy(node["default"])), strict(node))


@pytest.mark.parametrize("name", NAMES)
def test_patterns_are_anchored_and_plain_enough_for_every_engine(name: str) -> None:
    """RE2 (API server), Rust (pydantic) and Python read them alike: nothing fancy."""
    for path, node in own_nodes(name):
        pattern = node.get("pattern")
        if pattern is not None:
            assert pattern.startswith("^"), path
            assert pattern.endswith("$"), path
            assert not re.search(r"\(\?|\\[1-9]", pattern), path
            assert all(int(n) <= 1000 for n in re.findall(r"[{,](\d+)}", pattern)), path


@pytest.mark.parametrize("name", NAMES)
def test_decimals_are_text_with_a_pattern(name: str) -> None:
    decimals = {"epsilon", "delta", "maxGradNorm", "learningRate", "momentum", "noiseMultiplier"}
    for path, node in own_nodes(name):
        if path.startswith(".spec") and path.rsplit(".", 1)[-1] in decimals:
            assert node["type"] == "string", path
            assert "[eE]" in node["pattern"], path
            assert "x-kubernetes-validations" in node, path


@pytest.mark.parametrize("name", NAMES)
def test_conditions_are_a_map_by_type(name: str) -> None:
    status = object_schema(name)["properties"]["status"]["properties"]
    conditions = status["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert set(conditions["items"]["required"]) == {
        "type",
        "status",
        "reason",
        "message",
        "lastTransitionTime",
    }
    assert conditions["items"]["properties"]["status"]["enum"] == ["True", "False", "Unknown"]
    assert "observedGeneration" in status
    assert "phase" not in status


@pytest.mark.parametrize("name", NAMES)
def test_cel_rules_compile_and_have_messages(name: str) -> None:
    for path, node in nodes("", object_schema(name)):
        for rule in node.get("x-kubernetes-validations", ()):
            cel.compile(rule["rule"])
            assert rule["message"], path
            assert not rule["message"].endswith("."), path


@pytest.mark.parametrize("name", NAMES)
def test_transition_rules_stand_where_the_server_can_find_the_old_value(name: str) -> None:
    for path, node in nodes("", object_schema(name)):
        if "[]" in path or "{}" in path:
            for rule in node.get("x-kubernetes-validations", ()):
                assert "oldSelf" not in rule["rule"], path


def strict(node: Mapping[str, Any]) -> dict[str, Any]:
    """A structural schema as a JSON Schema that refuses unknown fields, as strict decoding does."""
    found = {key: item for key, item in node.items() if not key.startswith("x-kubernetes")}
    if "properties" in node:
        found["properties"] = {name: strict(item) for name, item in node["properties"].items()}
        found["additionalProperties"] = False
    if "items" in node:
        found["items"] = strict(node["items"])
    return found


def strict_object(name: str) -> dict[str, Any]:
    found = strict(object_schema(name))
    found["properties"]["metadata"] = {"type": "object"}
    return found


def defaulted(node: Mapping[str, Any], value: Any) -> Any:
    """What the API server makes of a value: structural defaults, from the outside in."""
    if isinstance(value, dict) and "properties" in node:
        for name, item in node["properties"].items():
            if name not in value and "default" in item:
                value[name] = copy.deepcopy(item["default"])
            if name in value:
                value[name] = defaulted(item, value[name])
    if isinstance(value, list) and "items" in node:
        return [defaulted(node["items"], item) for item in value]
    return value


def broken_rules(node: Mapping[str, Any], new: Any, old: Any = None) -> list[str]:
    """Messages of the CEL rules that do not hold; transition rules only with an old value."""
    messages = []
    for rule in node.get("x-kubernetes-validations", ()):
        if "oldSelf" in rule["rule"] and old is None:
            continue
        if cel.evaluate(rule["rule"], {"self": new, "oldSelf": old}) is not True:
            messages.append(rule["message"])
    if isinstance(new, dict):
        for name, item in node.get("properties", {}).items():
            if name in new:
                before = old.get(name) if isinstance(old, dict) else None
                messages += broken_rules(item, new[name], before)
    if isinstance(new, list):
        for value in new:
            messages += broken_rules(node.get("items", {}), value)
    return messages


def documents(paths: list[Path]) -> list[Any]:
    return [
        pytest.param(document, id=f"{path.stem}-{document['metadata']['name']}")
        for path in paths
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.mark.parametrize("document", documents([*EXAMPLES, *BUNDLES]))
def test_every_example_passes_models_schema_and_cel(document: dict[str, Any]) -> None:
    name = document["kind"]
    resource = checked_resource(document)
    jsonschema.validate(document, strict_object(name))
    stored = defaulted(object_schema(name), copy.deepcopy(document))
    assert broken_rules(object_schema(name), stored) == []
    assert broken_rules(object_schema(name), stored, stored) == []
    assert stored["spec"] == spec_mapping(resource), "server and models must default alike"


def test_every_folder_of_examples_loads_as_it_is_applied() -> None:
    folders = {path.parent for path in EXAMPLES}
    assert {folder.name for folder in folders} >= {
        "breast-cancer",
        "heart-disease",
        "pneumonia",
        "synthesis",
    }
    for folder in folders:
        assert load_files([folder])


def base(name: str) -> dict[str, Any]:
    (found,) = [
        document
        for path in EXAMPLES
        if path.parent.name == "breast-cancer" and path.stem in ("budget", "study")
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == name
    ]
    return defaulted(object_schema(name), copy.deepcopy(found))


def put(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    found = copy.deepcopy(document)
    *parents, last = path.split(".")
    node = found
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]  # type: ignore[index]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return found


MONTHS = {"by": "Time", "column": "admitted", "period": "Month", "start": "2026-01-01"}
WARDS = {"by": "Cohort", "column": "ward", "values": ["icu", "surgery"]}
ENDING = {**MONTHS, "end": "2026-07-01"}
ROUNDS = {"rule": "Rounds", "days": "30", "rounds": 12}

RATES = {"parameter": "learningRate", "values": ["0.1", "1"]}
TRIALS = {"space": [RATES], "trials": 4, "score": "Public"}
RANDOM = {"space": [RATES], "randomStopping": {"distribution": "Poisson", "mean": "5"}}
GEOMETRIC = {"distribution": "TruncatedNegativeBinomial", "shape": "1", "gamma": "0.1"}

WRONG = [
    ("PrivacyBudget", "metadata.name", "Ward.7"),
    ("PrivacyBudget", "spec.guarantee.epsilon", "0"),
    ("PrivacyBudget", "spec.guarantee.epsilon", "1000001"),
    ("PrivacyBudget", "spec.guarantee.epsilon", 3.0),
    ("PrivacyBudget", "spec.guarantee.epsilon", "three"),
    ("PrivacyBudget", "spec.guarantee.delta", "1"),
    ("PrivacyBudget", "spec.guarantee.delta", None),
    ("PrivacyBudget", "spec.guarantee.rho", "1"),
    ("PrivacyBudget", "spec.dataset.uri", "no-scheme"),
    ("PrivacyBudget", "spec.dataset.uri", "sql://me:secret@host/table"),
    ("PrivacyBudget", "spec.dataset.unit", "Person"),
    ("PrivacyBudget", "spec.disclosures", ["Names"]),
    ("PrivacyBudget", "spec.accounting.policy", "PLD"),
    ("PrivacyBudget", "spec.blocks", {"by": "Time", "column": "admitted"}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "period": None}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "period": "Hour"}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "values": ["a"]}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "start": "2026-1-1"}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "start": "1500-01-01"}),
    ("PrivacyBudget", "spec.blocks", {**MONTHS, "end": "2026-01-01"}),
    ("PrivacyBudget", "spec.blocks", {**WARDS, "values": []}),
    ("PrivacyBudget", "spec.blocks", {**WARDS, "values": ["whole"]}),
    ("PrivacyBudget", "spec.blocks", {**WARDS, "values": [" icu"]}),
    ("PrivacyBudget", "spec.blocks", {**WARDS, "values": ["x" * 65]}),
    ("PrivacyBudget", "spec.blocks", {**WARDS, "end": "2026-01-01"}),
    ("PrivacyBudget", "spec.blocks", {"by": "Cohort", "values": ["icu"]}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerClaim"}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerClaim", "claims": 0}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerTime", "days": "0"}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerTime", "days": 30}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerTime", "days": "40000"}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerTime", "days": "30", "claims": 5}),
    ("PrivacyBudget", "spec.unlocking", {**ROUNDS, "rounds": 3}),
    ("PrivacyBudget", "spec.unlocking", {**ROUNDS, "slack": "1.5"}),
    ("PrivacyBudget", "spec.unlocking", {**ROUNDS, "slack": "0.1234567"}),
    ("PrivacyBudget", "spec.unlocking", {**ROUNDS, "slack": 0.5}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "Immediate", "slack": "0.5"}),
    ("PrivacyBudget", "spec.scheduling", {"scheduler": "LastComeFirstServed"}),
    ("PrivacyBudget", "spec.scheduling", {"scheduler": "DPF", "efficiency": "0.5"}),
    ("PrivacyBudget", "spec.scheduling", {"waitDays": "-1"}),
    ("PrivacyBudget", "spec.scheduling", {"waitDays": "40000"}),
    ("PrivacyBudget", "spec.quotas", [{"per": "Requester"}]),
    ("PrivacyBudget", "spec.quotas", [{"per": "Hospital", "epsilon": "1"}]),
    ("PrivacyBudget", "spec.quotas", [{"per": "Group", "epsilon": "-1"}]),
    ("PrivacyBudget", "spec.quotas", [{"per": "Group", "epsilon": "1"}] * 2),
    ("PrivacyBudget", "spec.quotas", [{"per": "Group", "name": "a", "epsilon": "1"}] * 2),
    ("Study", "spec.data.0.blocks", {}),
    ("Study", "spec.data.0.blocks", {"values": []}),
    ("Study", "spec.data.0.blocks", {"values": ["a"], "from": "2026-01-01"}),
    ("Study", "spec.data.0.blocks", {"from": "2026-07-01", "until": "2026-01-01"}),
    ("Study", "spec.data.0.blocks", {"since": "2026-07-01"}),
    ("Study", "spec.data", [{"role": "Public", "uri": "s3://a", "blocks": {"values": ["a"]}}]),
    ("Study", "spec.purpose", ""),
    ("Study", "spec.purpose", "x" * 1025),
    ("Study", "spec.data", []),
    ("Study", "spec.data", [{"role": "Private", "budget": "a"}] * 2),
    ("Study", "spec.data", [{"role": "Private"}]),
    ("Study", "spec.data", [{"role": "Synthetic", "budget": "a"}]),
    ("Study", "spec.data", [{"role": "Public", "uri": "s3://a", "budget": "a"}]),
    ("Study", "spec.privacy.epsilon", "-1"),
    ("Study", "spec.job.kind", "Federate"),
    ("Study", "spec.job.kind", "Trian"),
    ("Study", "spec.job.train", None),
    ("Study", "spec.job.synthesize", {"samples": 1}),
    ("Study", "spec.job.privateFeatures", {"model": "MLP"}),  # beside kind: Train
    ("Study", "spec.job.parameters", {"a": "b"}),
    ("Study", "spec.job.train.epochs", 0),
    ("Study", "spec.job.train.epochs", "20"),
    ("Study", "spec.job.train.individualFilter", {"epochs": 20}),
    ("Study", "spec.job.train.individualFilter", {}),
    ("Study", "spec.job.train.individualFilter", {"epochs": 30, "rate": 1}),
    ("Study", "spec.job.train.search", {}),
    ("Study", "spec.job.train.search", {"space": [], "trials": 4, "score": "Public"}),
    ("Study", "spec.job.train.search", {**TRIALS, "trials": 1}),
    ("Study", "spec.job.train.search", {**TRIALS, "trials": 201}),
    ("Study", "spec.job.train.search", {**TRIALS, "seed": 1}),
    ("Study", "spec.job.train.search", {**TRIALS, "score": "HeldOut"}),
    ("Study", "spec.job.train.search", {**TRIALS, "noiseMultiplier": "5"}),
    ("Study", "spec.job.train.search", {**TRIALS, "randomStopping": GEOMETRIC}),
    ("Study", "spec.job.train.search", {**RANDOM, "score": "Training"}),
    ("Study", "spec.job.train.search", {**TRIALS, "space": [{"parameter": "learningRate"}]}),
    ("Study", "spec.job.train.search", {**TRIALS, "space": [{**RATES, "low": "1", "high": "2"}]}),
    ("Study", "spec.job.train.search", {**TRIALS, "space": [{**RATES, "parameter": "seed"}]}),
    ("Study", "spec.job.train.search", {**TRIALS, "space": [{**RATES, "scale": "Log"}]}),
    (
        "Study",
        "spec.job.train.search",
        {**TRIALS, "space": [{"parameter": "epochs", "low": "9", "high": "3"}]},
    ),
    *(
        ("Study", "spec.job.train.search", {**RANDOM, "score": "Public", "randomStopping": law})
        for law in (
            {"distribution": "Geometric"},
            {"distribution": "Poisson"},
            {"distribution": "Poisson", "mean": "0"},
            {**GEOMETRIC, "mean": "5"},
            {**GEOMETRIC, "gamma": "1.5"},
            {**GEOMETRIC, "shape": None},
        )
    ),
    ("Study", "spec.job.train.loss", "BatchDice"),
    ("Study", "spec.job.train.answers", {"abstainBelow": "0.9"}),
    ("Study", "spec.job.train.answers", {"temperature": "Private"}),
    ("Study", "spec.job.train.maxGradNorm", "0"),
    ("Study", "spec.job.train.momentum", "1"),
    ("Study", "spec.job.train.optimizer", "LBFGS"),
    ("Study", "spec.job.resources.workers", 0),
    ("Study", "spec.audits.0.canaries", 0),
    ("Study", "spec.expectations.0.mostly", "1.5"),
    ("Study", "spec.expectations.0.min", 0),
    ("Study", "spec.release", {}),
    ("Study", "spec.release", {"endpoint": "a", "dataset": "b"}),
    ("Study", "spec.release.auditSchedule", "every sunday"),
    ("Study", "spec.policy", "Not A Name"),
]


@pytest.mark.parametrize(("name", "path", "value"), WRONG)
def test_models_and_crd_refuse_the_same(name: str, path: str, value: Any) -> None:
    document = put(base(name), path, value)
    with pytest.raises(InvalidValue):
        checked_resource(document)
    try:
        jsonschema.validate(document, strict_object(name))
    except jsonschema.ValidationError:
        return
    assert broken_rules(object_schema(name), document), "the API server would let it pass"


TRANSITIONS = [
    ("PrivacyBudget", "guarantee.epsilon", "7.99", "may"),
    ("PrivacyBudget", "guarantee.epsilon", "8.01", "may not"),
    ("PrivacyBudget", "guarantee.epsilon", "10", "may not"),
    ("PrivacyBudget", "guarantee.delta", "1e-6", "may"),
    ("PrivacyBudget", "guarantee.delta", "1e-4", "may not"),
    ("PrivacyBudget", "dataset.uri", "sklearn://digits", "may not"),
    ("PrivacyBudget", "dataset.unit", "Image", "may not"),
    ("PrivacyBudget", "neighbors", "ReplaceOne", "may not"),
    ("PrivacyBudget", "accounting.policy", "Basic", "may not"),
    ("PrivacyBudget", "disclosures", [], "may"),
    ("Study", "purpose", "Another one", "may not"),
    ("Study", "privacy.epsilon", "1.0", "may not"),
    ("Study", "privacy", None, "may not"),
    ("Study", "job.train.epochs", 21, "may not"),
    ("Study", "audits", [], "may not"),
    ("Study", "release", None, "may not"),
]


@pytest.mark.parametrize(("name", "path", "value", "verdict"), TRANSITIONS)
def test_models_and_crd_allow_the_same_changes(
    name: str, path: str, value: Any, verdict: str
) -> None:
    old = base(name)
    new = put(old, f"spec.{path}", value)
    key = ResourceKey(name, "oncology", "x")
    try:
        check_transition(key, old["spec"], new["spec"])
        allowed = "may"
    except InvalidValue:
        allowed = "may not"
    by_cel = "may not" if broken_rules(object_schema(name), new, old) else "may"
    assert (allowed, by_cel) == (verdict, verdict)


RIGHT = [
    ("PrivacyBudget", "spec.blocks", MONTHS),
    ("PrivacyBudget", "spec.blocks", ENDING),
    ("PrivacyBudget", "spec.blocks", WARDS),
    ("PrivacyBudget", "spec.unlocking", {"rule": "Immediate"}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerClaim", "claims": 100}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "PerTime", "days": "365"}),
    ("PrivacyBudget", "spec.unlocking", {"rule": "Hybrid", "claims": 100, "days": "365"}),
    ("PrivacyBudget", "spec.unlocking", {**ROUNDS, "slack": "1"}),
    ("PrivacyBudget", "spec.scheduling", {"scheduler": "DPF"}),
    ("PrivacyBudget", "spec.scheduling", {"scheduler": "DualPrices", "efficiency": "0"}),
    ("PrivacyBudget", "spec.scheduling", {"waitDays": "0.5"}),
    ("PrivacyBudget", "spec.quotas", [{"per": "Requester", "epsilon": "0"}]),
    (
        "PrivacyBudget",
        "spec.quotas",
        [{"per": "Group", "epsilon": "1"}, {"per": "Group", "name": "a", "epsilon": "2"}],
    ),
    ("Study", "spec.data.0.blocks", {"values": ["icu"]}),
    ("Study", "spec.data.0.blocks", {"from": "2026-01-01"}),
    ("Study", "spec.data.0.blocks", {"from": "2026-01-01", "until": "2026-07-01"}),
]


@pytest.mark.parametrize(("name", "path", "value"), RIGHT)
def test_blocks_and_rules_pass_models_schema_and_cel(name: str, path: str, value: Any) -> None:
    document = put(base(name), path, value)
    checked_resource(document)
    jsonschema.validate(document, strict_object(name))
    stored = defaulted(object_schema(name), copy.deepcopy(document))
    assert broken_rules(object_schema(name), stored, stored) == []
    assert stored["spec"] == spec_mapping(checked_resource(document))


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (WARDS, {**WARDS, "values": ["surgery", "emergency", "icu"]}, "may"),
        (WARDS, {**WARDS, "values": ["icu"]}, "may not"),
        (WARDS, {**WARDS, "column": "site"}, "may not"),
        (WARDS, {**WARDS, "by": "Site"}, "may not"),
        (WARDS, MONTHS, "may not"),
        (WARDS, None, "may not"),
        (None, WARDS, "may not"),
        (MONTHS, ENDING, "may"),
        (ENDING, {**MONTHS, "end": "2026-08-01"}, "may"),
        (ENDING, {**MONTHS, "end": "2026-06-01"}, "may not"),
        (ENDING, MONTHS, "may not"),
        (MONTHS, {**MONTHS, "period": "Week"}, "may not"),
        (MONTHS, {**MONTHS, "start": "2025-01-01"}, "may not"),
    ],
)
def test_blocks_may_only_be_added_to(
    before: dict[str, Any] | None, after: dict[str, Any] | None, verdict: str
) -> None:
    whole = base("PrivacyBudget")
    old, new = (put(whole, "spec.blocks", b) if b else whole for b in (before, after))
    key = ResourceKey("PrivacyBudget", "oncology", "x")
    try:
        check_transition(key, old["spec"], new["spec"])
        allowed = "may"
    except InvalidValue:
        allowed = "may not"
    by_cel = "may not" if broken_rules(object_schema("PrivacyBudget"), new, old) else "may"
    assert (allowed, by_cel) == (verdict, verdict)


def test_a_divided_dataset_is_counted_and_not_declared() -> None:
    document = put(put(base("PrivacyBudget"), "spec.blocks", WARDS), "spec.dataset.units", 569)
    with pytest.raises(InvalidValue, match=r"must have no dataset\.units beside blocks"):
        checked_resource(document)
    assert broken_rules(object_schema("PrivacyBudget"), document)


def test_blocks_need_neighbors_that_differ_in_one_block() -> None:
    divided = put(base("PrivacyBudget"), "spec.blocks", WARDS)
    document = put(divided, "spec.neighbors", "ReplaceOne")
    with pytest.raises(InvalidValue, match="must have neighbors AddOrRemoveOne beside blocks"):
        checked_resource(document)
    assert broken_rules(object_schema("PrivacyBudget"), document)


def test_rules_of_sharing_may_change_at_any_time() -> None:
    old = put(base("PrivacyBudget"), "spec.unlocking", ROUNDS)
    new = put(base("PrivacyBudget"), "spec.quotas", [{"per": "Study", "epsilon": "1"}])
    check_transition(ResourceKey("PrivacyBudget", "oncology", "x"), old["spec"], new["spec"])
    assert broken_rules(object_schema("PrivacyBudget"), new, old) == []


DIGEST = "sha256:" + "a" * 64
RELEASE = {
    "apiVersion": "primum.dev/v1alpha1",
    "kind": "Release",
    "metadata": {"name": "malignancy"},
    "spec": {
        "kind": "Endpoint",
        "artifact": {"kind": "Model", "uri": "file:///m", "digest": DIGEST},
        "certificate": {"uri": "file:///c", "digest": DIGEST},
        "claim": {
            "standing": "Valid",
            "epsilon": "3.0",
            "delta": "1e-5",
            "unit": "Patient",
            "neighbors": "AddOrRemoveOne",
            "voidEdges": [],
        },
        "study": {"name": "malignancy", "uid": "u", "generation": 1},
        "endpoint": "malignancy",
    },
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("endpoint", None),
        ("kind", "Dataset"),
        ("claim.voidEdges", ["an edge"]),
        ("claim.standing", "Void"),
        ("claim.epsilon", None),
        ("artifact.digest", "md5:1"),
        ("study.generation", 0),
    ],
)
def test_a_wrong_release_is_refused_by_both(path: str, value: Any) -> None:
    checked_resource(RELEASE)
    assert broken_rules(object_schema("Release"), RELEASE, RELEASE) == []
    document = put(RELEASE, f"spec.{path}", value)
    with pytest.raises(InvalidValue):
        checked_resource(document)
    try:
        jsonschema.validate(document, strict_object("Release"))
    except jsonschema.ValidationError:
        return
    assert broken_rules(object_schema("Release"), document)


def test_a_revocation_is_final_for_both() -> None:
    key = ResourceKey("Release", "oncology", "malignancy")
    revoked = put(RELEASE, "spec.revocation", {"reason": "incident"})
    check_transition(key, RELEASE["spec"], revoked["spec"])  # type: ignore[arg-type]
    assert broken_rules(object_schema("Release"), revoked, RELEASE) == []
    assert broken_rules(object_schema("Release"), RELEASE, revoked) == ["revocation is final"]
    with pytest.raises(InvalidValue):
        check_transition(key, revoked["spec"], RELEASE["spec"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "fits"),
    [
        ({"release": "a"}, True),
        ({"study": "a"}, True),
        ({}, False),
        ({"release": "a", "study": "a"}, False),
    ],
)
def test_an_audit_run_names_one_subject(spec: dict[str, Any], fits: bool) -> None:
    audit = {"kind": "Membership", "attack": "LiRA", "shadows": 64}
    document = {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "AuditRun",
        "metadata": {"name": "weekly"},
        "spec": {**spec, "audit": audit},
    }
    assert (broken_rules(object_schema("AuditRun"), document) == []) is fits
    if fits:
        checked_resource(document)
    else:
        with pytest.raises(InvalidValue, match="must name exactly one of release and study"):
            checked_resource(document)


def test_the_lint_itself_catches_what_it_forbids() -> None:
    """The evaluator must be able to say no: a rule that fails and one that raises both count."""
    node = {"x-kubernetes-validations": [{"rule": "self.a == 1", "message": "a must be 1"}]}
    assert broken_rules(node, {"a": 1}) == []
    assert broken_rules(node, {"a": 2}) == ["a must be 1"]
    with pytest.raises(KeyError):
        broken_rules(node, {"b": 2})
