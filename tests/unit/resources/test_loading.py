"""Every mistake in a file becomes one sentence: name, rule, found, remedy."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from primum.domain.errors import InvalidValue, NotFound
from primum.resources.loading import checked_resource, load_files, load_text

BUDGET = """\
apiVersion: primum.dev/v1alpha1
kind: PrivacyBudget
metadata: {name: wisconsin, namespace: oncology}
spec:
  dataset: {uri: "sklearn://breast_cancer", unit: Patient}
  guarantee: {epsilon: "8.0", delta: "1e-5"}
"""
STUDY = """\
apiVersion: primum.dev/v1alpha1
kind: Study
metadata: {name: x, namespace: oncology}
spec:
  purpose: Try it
  data: [{role: Private, budget: wisconsin}]
  privacy: {epsilon: "3.0", delta: "1e-5"}
  job: {kind: Train, train: {model: Logistic, epochs: 20, batchSize: 128, maxGradNorm: "1.0"}}
"""
POLICY = """\
apiVersion: primum.dev/v1alpha1
kind: GatePolicy
metadata: {name: house, namespace: oncology}
spec:
  rules: [{name: a, stage: Release, expression: "true", message: No.}]
"""

# What is written instead of what, and the sentence that must come out.
STUDY_MISTAKES = [
    (
        'epsilon: "3.0"',
        "epsilon: 3.0",
        "file.yaml: Study oncology/x: spec.privacy.epsilon must be a quoted decimal; found 3.0. "
        'Write epsilon: "3.0".',
    ),
    (
        'delta: "1e-5"',
        "delta: 1e-5",
        "file.yaml: Study oncology/x: spec.privacy.delta must be a quoted decimal; found 1e-5. "
        'Write delta: "1e-5".',
    ),
    (
        'epsilon: "3.0"',
        "epsilon: 3",
        "file.yaml: Study oncology/x: spec.privacy.epsilon must be a quoted decimal; found 3. "
        'Write epsilon: "3".',
    ),
    (
        'epsilon: "3.0"',
        'epsilon: "0"',
        "file.yaml: Study oncology/x: spec.privacy.epsilon must be above 0 and at most 1000000; "
        "found 0.",
    ),
    (
        'epsilon: "3.0"',
        'epsilon: "-1"',
        "file.yaml: Study oncology/x: spec.privacy.epsilon must be above 0 and at most 1000000; "
        "found -1.",
    ),
    (
        'epsilon: "3.0"',
        'epsilon: "inf"',
        "file.yaml: Study oncology/x: spec.privacy.epsilon must be a quoted decimal such as "
        '"3.0" or "1e-5"; found inf.',
    ),
    (
        'delta: "1e-5"',
        'delta: "1"',
        "file.yaml: Study oncology/x: spec.privacy.delta must be above 0 and below 1; found 1.",
    ),
    (
        "epsilon:",
        "epsilom:",
        "file.yaml: Study oncology/x: spec.privacy.epsilom must be one of the fields epsilon, "
        "delta; found epsilom. Did you mean epsilon?",
    ),
    (
        "batchSize",
        "batch_size",
        "file.yaml: Study oncology/x: spec.job.train.batch_size must be one of the fields model, "
        "modelParameters, epochs, batchSize, maxGradNorm, learningRate, momentum, optimizer, "
        "algorithm, noiseMultiplier, individualFilter, clipping, gradients, schedule, warmUp, "
        "averaging, or one of 14 more; found batch_size. Did you mean batchSize?",
    ),
    (
        'maxGradNorm: "1.0"',
        'maxGradNorm: "1.0", individualFilter: {epochs: 20}',
        "file.yaml: Study oncology/x: spec.job.train must have individualFilter.epochs above "
        "epochs (20); found 20. Give more, or leave individualFilter out.",
    ),
    (
        'maxGradNorm: "1.0"',
        'maxGradNorm: "1.0", individualFilter: {}',
        "file.yaml: Study oncology/x: spec.job.train.individualFilter.epochs must be given; found "
        "nothing.",
    ),
    (
        ", epochs: 20",
        "",
        "file.yaml: Study oncology/x: spec.job.train.epochs must be given; found nothing.",
    ),
    (
        "epochs: 20",
        "epochs: 20.5",
        "file.yaml: Study oncology/x: spec.job.train.epochs must be a whole number; found 20.5.",
    ),
    (
        "epochs: 20",
        'epochs: "20"',
        "file.yaml: Study oncology/x: spec.job.train.epochs must be a whole number; found 20.",
    ),
    (
        "epochs: 20",
        "epochs: true",
        "file.yaml: Study oncology/x: spec.job.train.epochs must be a whole number; found True.",
    ),
    (
        "epochs: 20",
        "epochs: 0",
        "file.yaml: Study oncology/x: spec.job.train.epochs must be at least 1; found 0.",
    ),
    (
        "role: Private",
        "role: Privat",
        "file.yaml: Study oncology/x: spec.data[0].role must be one of Private, Public, "
        "Synthetic; found Privat. Did you mean Private?",
    ),
    (
        "purpose: Try it",
        "purpose: yes",
        "file.yaml: Study oncology/x: spec.purpose must be text; found True. Quote it.",
    ),
    (
        "purpose: Try it",
        "purpose: ''",
        "file.yaml: Study oncology/x: spec.purpose must have 1 to 1024 characters; "
        "found an empty text.",
    ),
    (
        "[{role: Private, budget: wisconsin}]",
        "{role: Private, budget: wisconsin}",
        "file.yaml: Study oncology/x: spec.data must be a list; found a mapping.",
    ),
    (
        "[{role: Private, budget: wisconsin}]",
        "[]",
        "file.yaml: Study oncology/x: spec.data must have at least 1 item; found 0.",
    ),
    (
        "budget: wisconsin",
        "uri: s3://bucket/x",
        "file.yaml: Study oncology/x: spec.data[0] must have budget and no other reference, "
        "because its role is Private; found none.",
    ),
    (
        "[{role: Private, budget: wisconsin}]",
        "[{role: Private, budget: a}, {role: Private, budget: a}]",
        "file.yaml: Study oncology/x: spec must list each budget once under data; found a.",
    ),
    (
        "kind: Train,",
        "kind: Trian,",
        "file.yaml: Study oncology/x: spec.job must have the block of its kind Trian, "
        "and no other; found train. Write kind: Train, or remove train.",
    ),
    (
        "kind: Train,",
        "kind: Federate,",
        "file.yaml: Study oncology/x: spec.job must have the block of its kind Federate, "
        "and no other; found train. Write kind: Train, or remove train.",
    ),
    (
        "name: x,",
        "name: Ward_7,",
        "file.yaml: Study oncology/Ward_7: metadata.name must be a DNS label "
        "(a-z, 0-9, '-', at most 63 characters); found Ward_7.",
    ),
    (
        "name: x, ",
        "",
        "file.yaml: Study: metadata.name must be given; found nothing.",
    ),
    (
        "kind: Study",
        "kind: Studdy",
        "file.yaml: kind must be one of PrivacyBudget, Study, GatePolicy, Release, AuditRun; "
        "found Studdy. Did you mean Study?",
    ),
    (
        "primum.dev/v1alpha1",
        "primum.dev/v1",
        "file.yaml: Study oncology/x: apiVersion must be primum.dev/v1alpha1; found "
        "primum.dev/v1. Write apiVersion: primum.dev/v1alpha1.",
    ),
    (
        "spec:\n",
        "spec:\n  color: blue\n",
        "file.yaml: Study oncology/x: spec.color must be one of the fields purpose, data, "
        "privacy, job, expectations, audits, policy, release; found color.",
    ),
]


@pytest.mark.parametrize(("right", "wrong", "sentence"), STUDY_MISTAKES)
def test_a_mistake_in_a_study_is_one_sentence(right: str, wrong: str, sentence: str) -> None:
    assert right in STUDY
    with pytest.raises(InvalidValue) as caught:
        load_text(STUDY.replace(right, wrong, 1), source="file.yaml")
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("right", "wrong", "part"),
    [
        ("sklearn://breast_cancer", "breast_cancer", "spec.dataset.uri must be scheme://path"),
        ("sklearn://", "sql://me:secret@", "without spaces and credentials"),
        ("unit: Patient", "unit: Person", "spec.dataset.unit must be one of Patient, ImagingStudy"),
        ("unit: Patient", "unit: Patient, units: 0", "spec.dataset.units must be at least 1"),
        ("unit: Patient", "unit: Patient, options: {labell: y}", "Did you mean label?"),
        (
            'delta: "1e-5"}',
            'delta: "1e-5"}\n  disclosures: [Utility, Utility]',
            "spec.disclosures must list each disclosure once; found Utility.",
        ),
        (
            'delta: "1e-5"}',
            'delta: "1e-5"}\n  accounting: {policy: rdp}',
            "spec.accounting.policy must be one of RDP, GDP, Basic; found rdp. Did you mean RDP?",
        ),
    ],
)
def test_a_mistake_in_a_budget_is_one_sentence(right: str, wrong: str, part: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        load_text(BUDGET.replace(right, wrong, 1), source="file.yaml")
    assert part in str(caught.value)
    assert str(caught.value).startswith("file.yaml: PrivacyBudget oncology/wisconsin: ")


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ("  rules: []\n", "must have rules, or extends with the name of a bundle; found neither."),
        (
            "  rules:\n" + "  - {name: a, stage: Data, expression: x, message: m}\n" * 2,
            "spec.rules must name each rule once; found a.",
        ),
        (
            "  extends: strict\n  allowedPlugins: [LeakySGD, LeakySGD]\n",
            "spec.allowedPlugins must name each plug-in once; found LeakySGD.",
        ),
        (
            "  rules: [{name: a, stage: Sometime, expression: x, message: m}]\n",
            "spec.rules[0].stage must be one of Admission, Data, Samples, Promotion, Release",
        ),
    ],
)
def test_a_mistake_in_a_policy_is_one_sentence(wrong: str, part: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        load_text(POLICY.split("spec:\n", maxsplit=1)[0] + "spec:\n" + wrong, source="file.yaml")
    assert part in str(caught.value)


def test_a_release_names_what_a_void_claim_lacks() -> None:
    digest = "sha256:" + "0" * 64
    release = {
        "apiVersion": "primum.dev/v1alpha1",
        "kind": "Release",
        "metadata": {"name": "r"},
        "spec": {
            "kind": "Dataset",
            "artifact": {"kind": "Dataset", "uri": "file:///x", "digest": digest},
            "certificate": {"uri": "file:///c", "digest": digest},
            "claim": {"standing": "Void"},
            "study": {"name": "s", "uid": "u", "generation": 1},
        },
    }
    with pytest.raises(InvalidValue, match="must name voidEdges exactly when standing is Void"):
        checked_resource(release)


def test_documents_without_content_are_skipped_and_namespaces_default() -> None:
    text = "# nothing\n---\n" + BUDGET.replace(", namespace: oncology", "") + "---\n\n"
    (found,) = load_text(text, source="file.yaml")
    assert str(found.key) == "PrivacyBudget default/wisconsin"
    (found,) = load_text(text, source="file.yaml", namespace="ward")
    assert str(found.key) == "PrivacyBudget ward/wisconsin"


def test_what_servers_set_is_ignored_so_that_an_export_can_be_applied_again() -> None:
    exported = STUDY.replace(
        "namespace: oncology}",
        "namespace: oncology, uid: u, generation: 2, resourceVersion: '7', creationTimestamp: t}",
    )
    (found,) = load_text(exported + "status: {stage: Plan, anything: [1]}\n", source="file.yaml")
    assert found.resource == load_text(STUDY, source="file.yaml")[0].resource


def test_defaults_are_filled_in_and_decimals_stay_as_written() -> None:
    (found,) = load_text(STUDY.replace('"3.0"', '"3.00"'), source="file.yaml")
    spec = found.spec_mapping()
    assert spec["privacy"] == {"epsilon": "3.00", "delta": "1e-5"}
    assert spec["policy"] == "clinical-default"
    assert spec["job"]["resources"] == {"workers": 1, "gpusPerWorker": 0}
    assert "release" not in spec


def test_disclosures_and_privacy_are_never_defaulted() -> None:
    (budget,) = load_text(BUDGET, source="file.yaml")
    assert budget.spec_mapping()["disclosures"] == []
    without = STUDY.replace('  privacy: {epsilon: "3.0", delta: "1e-5"}\n', "")
    (study,) = load_text(without, source="file.yaml")
    assert "privacy" not in study.spec_mapping()


def test_a_folder_is_read_by_name_and_only_its_yaml(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(STUDY)
    (tmp_path / "a.yml").write_text(BUDGET)
    (tmp_path / "request.json").write_text("not a resource")
    assert [item.key.kind for item in load_files([tmp_path])] == ["PrivacyBudget", "Study"]


def test_the_same_resource_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(STUDY)
    (tmp_path / "b.yaml").write_text(BUDGET + "---\n" + STUDY)
    with pytest.raises(InvalidValue) as caught:
        load_files([tmp_path])
    assert str(caught.value) == (
        f"{tmp_path / 'b.yaml'}:8: Study oncology/x must be declared once; "
        f"found another one at {tmp_path / 'a.yaml'}:1. Remove one, or rename it."
    )


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(BUDGET))
    (found,) = load_files(["-"])
    assert found.source == "standard input"


def test_a_missing_file_is_not_found_and_says_from_where(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"absent\.yaml does not exist; looked from "):
        load_files([tmp_path / "absent.yaml"])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\xff\xfe\x00", "must be UTF-8 text; found another byte at 0"),
        (b"# only a comment\n", "must hold at least one resource; found none"),
        (
            b"- a\n- b\n",
            "must be a resource with apiVersion, kind, metadata, and spec; found a list",
        ),
        (b"just words\n", "must be a resource"),
    ],
)
def test_a_file_that_is_no_resource_says_so(tmp_path: Path, content: bytes, part: str) -> None:
    file = tmp_path / "file.yaml"
    file.write_bytes(content)
    with pytest.raises(InvalidValue) as caught:
        load_files([file])
    assert part in str(caught.value)


def test_an_empty_folder_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"must hold a file ending in \.yaml or \.yml"):
        load_files([tmp_path])


def test_a_file_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(BUDGET)

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InvalidValue) as caught:
        load_files([file])
    assert str(caught.value) == f"{file} must be readable; found Permission denied."


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ('{classes: ["0", "0"]}', "spec.dataset.options.classes must name each class once"),
        (
            '{features: [{name: a, low: "0", high: "1"}, {name: a, low: "0", high: "1"}]}',
            "spec.dataset.options.features must name each column once; found a.",
        ),
        ("{features: [{name: a, low: 0, high: 1}]}", "features[0].low must be a quoted decimal"),
    ],
)
def test_a_mistake_in_dataset_options_is_one_sentence(options: str, part: str) -> None:
    text = BUDGET.replace("unit: Patient", f"unit: Patient, options: {options}")
    with pytest.raises(InvalidValue) as caught:
        load_text(text, source="file.yaml")
    assert part in str(caught.value)


def test_an_attack_parameter_with_a_field_of_its_own_belongs_there() -> None:
    audits = "  audits: [{kind: Membership, attack: LiRA, parameters: {shadows: '64'}}]\n"
    with pytest.raises(InvalidValue, match="must give shadows as a field, not under parameters"):
        load_text(STUDY + audits, source="file.yaml")
