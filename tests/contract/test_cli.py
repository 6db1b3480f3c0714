"""The command line's promises: one sentence for every mistake, the right exit code, nothing moved.

Commands run in this process against a home folder with a registered budget. What would start Ray
or a pipeline run is switched off: nothing here comes that far.
"""

from __future__ import annotations

import json
import os
import re

import pytest
from command_line import EXAMPLES, CommandLine, copied

STUDY = (EXAMPLES / "breast-cancer" / "study.yaml").read_text()
BUDGET = (EXAMPLES / "breast-cancer" / "budget.yaml").read_text()
CSV_OPTIONS = """
    options:
      label: sick
      classes: ["no", "yes"]
      features:
        - {name: age, low: "0", high: "100"}
        - {name: bmi, low: "0", high: "80"}"""
ROWS = [f"{20 + i % 60},{18 + i % 20},{'yes' if i % 3 == 0 else 'no'}" for i in range(200)]

# error: <name> must <rule>; found <what>. [remedy]
SENTENCE = re.compile(r"must .+; found .+", re.DOTALL)


def study(name="other", *changes):
    """The example's Study under another name, with changes."""
    return changed(
        STUDY,
        ("name: malignancy", f"name: {name}"),
        ("endpoint: malignancy", f"endpoint: {name}"),
        *changes,
    )


def budget(name, *changes):
    """The example's budget under another name, with changes."""
    return changed(BUDGET, ("name: wisconsin", f"name: {name}"), *changes)


def table(name, uri):
    """A budget over a CSV file."""
    unit = "    unit: Patient"
    return budget(name, ("sklearn://breast_cancer", uri), (unit, unit + CSV_OPTIONS))


def changed(text, *changes):
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


@pytest.fixture(autouse=True)
def no_processes(monkeypatch):
    """Neither Ray nor a pipeline run is ever started."""
    from primum.adapters.kfp import LocalKfpRunner
    from primum.adapters.ray.compute import RayCompute

    monkeypatch.setattr(RayCompute, "warm", lambda self: None)
    monkeypatch.setattr(LocalKfpRunner, "launch", lambda self, run_id, **how: None)


@pytest.fixture(scope="module")
def registered(tmp_path_factory):
    """A home folder whose budget `wisconsin` is registered; never changed."""
    from unittest import mock

    from primum.adapters.ray.compute import RayCompute

    folder = tmp_path_factory.mktemp("registered")
    (folder / "data").mkdir()
    command = CommandLine(folder / "home")
    file = EXAMPLES / "breast-cancer" / "budget.yaml"

    class Unread:
        @staticmethod
        def readouterr():
            return type("Said", (), {"out": "", "err": ""})

    with mock.patch.object(RayCompute, "warm", return_value=None):
        assert command("apply", "-f", file, capsys=Unread).code == 0
    return folder / "home"


@pytest.fixture
def primum(registered, tmp_path, capsys):
    """`primum` in a copy of the registered home."""
    (tmp_path / "data").mkdir()
    command = CommandLine(copied(registered, tmp_path / "home"))
    return lambda *words, **more: command(*words, capsys=capsys, **more)


@pytest.fixture
def apply(primum, tmp_path):
    """Applies a text, and says whether the ledger moved and which resources there are."""

    def run(text, *words, **more):
        file = tmp_path / "applied.yaml"
        file.write_text(text)
        return primum("apply", "-f", file, "--timeout", "30", *words, **more)

    return run


def state(primum):
    """What must not move: every ledger entry, and every resource without the one just asked for."""
    entries = primum("ledger", "entries", "-o", "json").json()
    resources = [
        (item["kind"], item["metadata"]["name"], item["spec"])
        for kind in ("budgets", "studies", "policies", "releases", "auditruns")
        for item in primum("get", kind, "-o", "json").json()["items"]
    ]
    return entries, resources


REFUSED_DOCUMENTS = {
    "unknown field": (
        study("a", ("batchSize", "batchsize")),
        "spec.job.train.batchsize must be one of the fields",
        "found batchsize. Did you mean batchSize?",
    ),
    "wrong type": (
        study("a", ("epochs: 20", "epochs: many")),
        "spec.job.train.epochs must be a whole number",
        "found many.",
    ),
    "unquoted decimal": (
        study("a", ('epsilon: "3.0"', "epsilon: 3.0")),
        "spec.privacy.epsilon must be a quoted decimal",
        'found 3.0. Write epsilon: "3.0".',
    ),
    "epsilon zero": (
        study("a", ('epsilon: "3.0"', 'epsilon: "0"')),
        "spec.privacy.epsilon must be above 0",
        "found 0.",
    ),
    "epsilon below zero": (
        study("a", ('epsilon: "3.0"', 'epsilon: "-1"')),
        "spec.privacy.epsilon must be above 0",
        "found -1.",
    ),
    "epsilon of a budget": (
        budget("b", ('"8.0"', '"0"')),
        "spec.guarantee.epsilon must be above 0",
        "found 0.",
    ),
    "epsilon is not a number": (
        study("a", ('epsilon: "3.0"', 'epsilon: "nan"')),
        "spec.privacy.epsilon must be a quoted decimal",
        "found nan.",
    ),
    "not YAML": (changed(STUDY, ("spec:", "spec: [")), "applied.yaml:9 must be YAML", "Check"),
    "nothing in it": ("# nothing\n", "must hold at least one resource", "found none."),
    "a list": ("- a\n", "applied.yaml:1 must be a resource with apiVersion", "found a list."),
    "a YAML tag": ("a: !!python/object:os.system x\n", "must not use YAML tags", "os.system"),
    "wrong kind": (
        changed(STUDY, ("kind: Study", "kind: Stduy")),
        "kind must be one of PrivacyBudget, Study",
        "found Stduy. Did you mean Study?",
    ),
    "wrong version": (
        changed(STUDY, ("primum.dev/v1alpha1", "primum.dev/v9")),
        "apiVersion must be primum.dev/v1alpha1",
        "found primum.dev/v9.",
    ),
    "bad name": (study("Not_OK"), "metadata.name must be a DNS label", "found Not_OK."),
    "a patient's name too long": (study("a" * 64), "metadata.name must be a DNS label", "a" * 64),
    "the same twice": (
        study("a") + "---\n" + study("a"),
        "Study oncology/a must be declared once",
        "found another one at",
    ),
    "a raised promise": (
        changed(BUDGET, ('"8.0"', '"9.0"')),
        "spec.guarantee.epsilon must be at most 8.0",
        "found 9.0.",
    ),
    "another unit": (
        changed(BUDGET, ("unit: Patient", "unit: Image")),
        "spec.dataset.unit must stay as declared",
        "found a change from Patient to Image.",
    ),
    "a new Release": (
        """
apiVersion: primum.dev/v1alpha1
kind: Release
metadata: {name: forged, namespace: oncology}
spec:
  kind: Endpoint
  endpoint: forged
  artifact: {kind: Model, uri: "file:///x", digest: "DIGEST"}
  certificate: {uri: "file:///y", digest: "DIGEST"}
  claim: {standing: Valid, epsilon: "1", delta: "1e-5", unit: Patient, neighbors: AddOrRemoveOne}
  study: {name: forged, uid: 6f2d6f60-1111-4111-8111-111111111111, generation: 1}
""".replace("DIGEST", "sha256:" + "a" * 64),
        "Release oncology/forged must be written by the platform",
        "Apply a Study that releases it.",
    ),
    "an unknown attack by hand": (
        """
apiVersion: primum.dev/v1alpha1
kind: AuditRun
metadata: {name: again, namespace: oncology}
spec:
  study: anything
  audit: {kind: Membership, attack: Lira}
""",
        "spec.audit.attack must be one of Copies, DOMIAS, DiffusionPrior, GeneratorLoss",
        "found Lira. Did you mean LiRA?",
    ),
}


@pytest.mark.parametrize("case", REFUSED_DOCUMENTS)
def test_a_wrong_document_is_refused_with_one_sentence_and_nothing_is_stored(apply, primum, case):
    text, *words = REFUSED_DOCUMENTS[case]
    before = state(primum)
    done = apply(text)
    assert done.code in (2, 3), done
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert SENTENCE.search(done.err) or done.code == 3
    for word in words:
        assert word in done.err
    assert state(primum) == before


REFUSED_AT_PLAN = {
    "unknown model": (
        study("a", ("model: Logistic", "model: Logistik")),
        2,
        "InvalidSpec",
        "SmallViT, SmoothNet, TanhCNN, UNet; found Logistik. Did you mean Logistic?",
    ),
    "unknown attack": (
        study("a", ("attack: OneRunCanary", "attack: OneRunCanaries")),
        2,
        "InvalidSpec",
        "found OneRunCanaries. Did you mean OneRunCanary?",
    ),
    "batch above units": (
        study("a", ("batchSize: 128", "batchSize: 5000")),
        2,
        "InvalidSpec",
        "spec.job.train.batchSize must be at most 463, the training units of budget wisconsin; "
        "found 5000.",
    ),
    "delta above the budget's": (
        study("a", ('delta: "1e-5"', 'delta: "1e-3"')),
        2,
        "InvalidSpec",
        "spec.privacy.delta must be at most 0.00001, the delta of budget wisconsin; found 0.001.",
    ),
    "no mechanism": (
        (EXAMPLES / "breast-cancer" / "non-private.yaml").read_text(),
        3,
        "NoMechanism",
        "spec.privacy must",
    ),
    "no such budget": (
        study("a", ("budget: wisconsin", "budget: helsinki")),
        4,
        "BudgetNotFound",
        "spec.data must name a PrivacyBudget of namespace oncology; found helsinki, which does "
        "not exist. Apply it, and the Study goes on.",
    ),
    "no such policy": (
        study("a", ("policy: clinical-default", "policy: clinical")),
        4,
        "PolicyNotFound",
        "spec.policy must name a GatePolicy of namespace oncology or a built-in bundle; found "
        "clinical",
    ),
    "no such release": (
        study("a", ("role: Private\n      budget: wisconsin", "role: Synthetic\n      release: x")),
        4,
        "ReleaseNotFound",
        "spec.data must name a Release of namespace oncology; found x",
    ),
    "more than is left": (
        (EXAMPLES / "breast-cancer" / "too-greedy.yaml").read_text(),
        3,
        "Denied",
        "left, the plan needs 9.40",
    ),
}


@pytest.mark.parametrize("case", REFUSED_AT_PLAN)
def test_a_study_that_cannot_run_says_why_and_costs_nothing(apply, primum, case):
    text, code, reason, sentence = REFUSED_AT_PLAN[case]
    entries, resources = state(primum)
    done = apply(text)
    assert done.code == code, done
    assert sentence in done.out
    assert done.err == ""
    after, stored = state(primum)
    if reason == "Denied":  # The ledger remembers who was refused; nothing is held or spent.
        assert [entry["kind"] for entry in after[len(entries) :]] == ["Denied"]
    else:
        assert after == entries
    assert len(stored) == len(resources) + 1
    study_document = primum("get", "studies", "-o", "json").json()["items"][0]
    conditions = {c["type"]: c for c in study_document["status"]["conditions"]}
    shown = [c for c in conditions.values() if c["reason"] == reason]
    assert shown, conditions
    assert any(sentence in c["message"] for c in shown)
    accounts = primum("ledger", "accounts", "-o", "json").json()
    assert [account["spentOrHeld"] for account in accounts] == ["0"]


UNUSABLE_DATA = {
    "absent file": (None, 4, "DatasetUnreadable", "dataset file absent-file.csv must exist"),
    "NaN": (
        ["age,bmi,sick", *ROWS[:50], "nan,20,no", *ROWS[50:]],
        2,
        "InvalidSpec",
        "dataset column age must have no missing value; found NaN",
    ),
    "empty cell": (
        ["age,bmi,sick", *ROWS[:50], "33,,no", *ROWS[50:]],
        2,
        "InvalidSpec",
        "dataset column bmi must have no missing value",
    ),
    "text for a number": (
        ["age,bmi,sick", *ROWS[:50], "jane-doe,20,no", *ROWS[50:]],
        2,
        "InvalidSpec",
        "dataset column age must hold numbers; found a text.",
    ),
    "absent label column": (
        ["age,bmi", *(row.rsplit(",", 1)[0] for row in ROWS)],
        2,
        "InvalidSpec",
        "dataset column sick must be in the file; found columns age, bmi.",
    ),
    "unknown label": (
        ["age,bmi,sick", *ROWS[:50], "33,20,maybe", *ROWS[50:]],
        2,
        "InvalidSpec",
        "dataset column sick must hold one of no, yes; found another label or none.",
    ),
    "not text": (b"age,bmi,sick\n\xff\xfe,20,no\n", 2, "InvalidSpec", "must be readable as text"),
    "empty file": ([], 2, "InvalidSpec", "dataset file must have a header line"),
}


@pytest.mark.parametrize("case", UNUSABLE_DATA)
def test_a_dataset_that_cannot_be_used_leaves_the_ledger_as_it_was(apply, primum, tmp_path, case):
    lines, code, reason, sentence = UNUSABLE_DATA[case]
    name = case.replace(" ", "-").lower()
    path = tmp_path / "data" / f"{name}.csv"
    if isinstance(lines, bytes):
        path.write_bytes(lines)
    elif lines is not None:
        path.write_text("".join(line + "\n" for line in lines))
    entries, _ = state(primum)
    done = apply(table(name, f"csv://{name}.csv"))
    assert done.code == code, done
    assert sentence in done.out
    assert "jane-doe" not in done.out  # No cell of the data is ever shown.
    assert state(primum)[0] == entries
    ready = primum("get", f"budget/{name}", "-o", "json").json()["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", reason)
    assert sentence in ready["message"]


def test_a_dataset_put_right_is_registered_by_the_same_command(apply, tmp_path):
    text = table("late", "csv://late.csv")
    assert apply(text).code == 4
    (tmp_path / "data" / "late.csv").write_text("\n".join(["age,bmi,sick", *ROWS]) + "\n")
    done = apply(text)
    assert (done.code, done.err) == (0, ""), done
    assert "Ready" in done.out


def test_delta_must_be_below_one_over_the_units(apply, primum):
    entries, _ = state(primum)
    done = apply(budget("b", ('"1e-5"', '"0.01"')))
    assert done.code == 2
    rule = "spec.guarantee.delta must be below 1/569, one over the number of units; found 0.01."
    assert rule in done.out
    assert entries[-1]["kind"] == state(primum)[0][-1]["kind"]


PENDING = ("policy: clinical-default", "policy: not-yet-written")  # Keeps a Study at Plan.


@pytest.mark.parametrize("where", ["here", "in another namespace"])
@pytest.mark.parametrize("names", [("one", "two"), ("two", "one")], ids="-then-".join)
def test_one_endpoint_serves_one_study_whoever_came_first(apply, primum, names, where):
    one, two = (study(name, (f"endpoint: {name}", "endpoint: shared")) for name in names)
    one = changed(one, PENDING)
    if where != "here":
        one = one.replace("namespace: oncology", "namespace: elsewhere")
    assert apply(one, "--no-wait").code == 0
    done = apply(two)
    assert done.code == 5, done
    assert "spec.release.endpoint must be free; found shared taken by Study" in done.out
    assert "Choose another name." in done.out
    kinds = [entry["kind"] for entry in primum("ledger", "entries", "-o", "json").json()]
    assert "Reserved" not in kinds


def test_a_dataset_release_and_an_endpoint_do_not_share_a_name(apply):
    assert apply(study("one", PENDING), "--no-wait").code == 0
    made = changed(
        (EXAMPLES / "breast-cancer" / "laundered.yaml").read_text().split("---")[1],
        ("dataset: void-biopsies", "dataset: one"),
        ("policy: lab-void", "policy: research"),
    )
    done = apply(made)
    assert done.code == 5, done
    assert "spec.release.dataset must be free; found one taken by Study oncology/one." in done.out


CHANGED_STUDIES = {
    "epochs: 20": ("epochs: 21", "spec.job.train.epochs", "a change from 20 to 21"),
    "canaries: 100": ("canaries: 200", "spec.audits[0].canaries", "a change from 100 to 200"),
    "    - kind: Reconstruction\n      attack: GradientInversion\n": (
        "",
        "spec.audits",
        "a change from 2 items to 1 item",
    ),
    '      max: "50"': ('      max: "60"', "spec.expectations[0].max", "a change from 50 to 60"),
}


@pytest.mark.parametrize("before", CHANGED_STUDIES)
def test_a_declared_study_stays_as_it_is(apply, primum, before):
    after, field, found = CHANGED_STUDIES[before]
    text = study("a", PENDING)
    assert apply(text, "--no-wait").code == 0
    kept = state(primum)
    done = apply(changed(text, (before, after)))
    assert done.code == 2
    expected = f"error: Study oncology/a: {field} must stay as declared; found {found}."
    assert done.err.startswith(expected), done.err
    assert "Delete the Study and declare it again" in done.err
    assert state(primum) == kept


def test_all_documents_are_checked_before_one_is_stored(apply, primum):
    before = state(primum)
    done = apply(study("fine") + "---\n" + study("wrong", ("epochs: 20", "epochs: 0")))
    assert done.code == 2
    assert "spec.job.train.epochs must be at least 1; found 0." in done.err
    assert state(primum) == before


WRONG_COMMANDS = {
    ("get", "studys"): (2, "kind must be one of", "Did you mean study?"),
    ("get", "study/none"): (4, "Study none does not exist"),
    ("get", "studies", "-o", "xml"): (2, "Invalid value for '--output'", "Try `primum get --help`"),
    ("describe", "study"): (2, "name must be given", "study/NAME"),
    ("describe", "budget/none"): (4, "PrivacyBudget none does not exist"),
    ("logs", "nobody"): (4, "Study nobody does not exist"),
    ("delete", "study", "nobody"): (4, "Study nobody does not exist"),
    ("wait", "study/nobody"): (4, "Study nobody does not exist"),
    ("apply", "-f", "/nowhere.yaml"): (4, "/nowhere.yaml does not exist"),
    ("apply",): (2, "Missing option '--filename'", "Try `primum apply --help`"),
    ("quote", "-f", "/nowhere.yaml"): (4, "/nowhere.yaml does not exist"),
    ("certificate", "verify", "/nowhere.json"): (4, "certificate /nowhere.json does not exist"),
    ("certificate", "show", "/"): (2, "certificate / must be readable"),
    ("audit", "run", "nobody", "--attack", "LiRA"): (4, "Study nobody does not exist"),
    ("audit", "run", "nobody", "--attack", "Lira"): (2, "--attack must be one of", "mean LiRA?"),
    ("bounds", "eval", "--quantity", "nope"): (2, "quantity must be a name", "found nope"),
    ("bounds", "eval"): (2, "must have exactly one of --quantity and --batch"),
    ("ledger", "thaw", "none", "--reason", "x"): (4, "PrivacyBudget none does not exist"),
    ("frobnicate",): (2, "No such command 'frobnicate'", "Try `primum --help`"),
    ("--nonsense",): (2, "No such option '--nonsense'"),
}


@pytest.mark.parametrize("words", WRONG_COMMANDS, ids=" ".join)
def test_a_wrong_command_is_one_sentence_and_an_exit_code(primum, words):
    code, *said = WRONG_COMMANDS[words]
    before = state(primum)
    done = primum(*words)
    assert done.code == code, done
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert "Traceback" not in done.out + done.err
    for part in said:
        assert part in done.err
    assert state(primum) == before


WRONG_SETTINGS = {
    "PRIMUM_API_PORT": ("many", "must be a whole number"),
    "PRIMUM_SERVING_PORT": ("70000", "must be at most 65535"),
    "PRIMUM_LEASE_SECONDS": ("-1", "must be above 0"),
    "PRIMUM_POLL_SECONDS": ("nan", "must be a finite number"),
    "PRIMUM_WORKERS": ("1.5", "must be a whole number"),
    "PRIMUM_DATABASE_URL": ("mysql://x", "must begin with sqlite:/// or postgresql://"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_a_wrong_setting_is_named(primum, name):
    value, rule = WRONG_SETTINGS[name]
    done = primum("get", "studies", **{name: value})
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert rule in done.err
    assert name in done.err
    assert SENTENCE.search(done.err)


def test_a_misspelt_setting_is_named(primum):
    done = primum("get", "studies", PRIMUM_API_PROT="8000")
    assert done.code == 2
    assert "PRIMUM_API_PROT must be one of the settings" in done.err
    assert "Did you mean PRIMUM_API_PORT?" in done.err


def test_a_home_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = CommandLine(tmp_path / "file" / "home")
    done = command("apply", "-f", EXAMPLES / "breast-cancer" / "budget.yaml", capsys=capsys)
    assert done.code == 2
    assert "PRIMUM_HOME must be a folder that can be written" in done.err


def test_without_a_home_a_reader_says_how_to_begin(tmp_path, capsys):
    done = CommandLine(tmp_path / "home")("get", "studies", capsys=capsys)
    assert done.code == 4
    assert "Run `primum up`, or apply a resource first." in done.err
    assert not (tmp_path / "home").exists()


def test_a_taken_port_is_named(registered, tmp_path, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = CommandLine(copied(registered, tmp_path / "home"), PRIMUM_API_PORT=str(port))
        done = command("up", capsys=capsys)
    assert done.code == 5, done
    assert f"PRIMUM_API_PORT must be a free port; found {port} taken" in done.err
    assert not (tmp_path / "home" / "up.json").exists()


def commands():
    """Every command's words."""
    import typer

    from primum.entrypoints.cli import app

    def walk(command, words):
        found = getattr(command, "commands", None)
        if found is None:
            yield words
            return
        for name, child in found.items():
            yield from walk(child, (*words, name))

    return sorted(walk(typer.main.get_command(app), ()))


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_helps_with_an_example(primum, words):
    done = primum(*words, "--help")
    assert done.code == 0
    assert f"Example: primum {' '.join(words)}" in " ".join(done.out.split())
    assert "\\" not in done.out


PROMISED = "up down apply get describe wait delete logs quote ledger audit certificate bounds"


def test_the_commands_that_the_readme_promises(primum):
    shown = primum("--help").out
    for name in PROMISED.split():
        assert re.search(rf"^  {name}\b", shown, re.MULTILINE)


@pytest.mark.parametrize("kind", ["budgets", "studies", "policies", "releases", "auditruns"])
def test_lists_come_as_table_json_and_yaml(primum, kind):
    import yaml

    as_json = primum("get", kind, "-o", "json").json()
    as_yaml = yaml.safe_load(primum("get", kind, "-o", "yaml").out)
    assert as_json == as_yaml
    assert set(as_json) == {"items"}
    rows = primum("get", kind).out.strip().splitlines()
    assert len(rows) == len(as_json["items"]) + 1 if as_json["items"] else rows == ["nothing found"]


def test_apply_prints_json_alone_where_it_is_asked_for(apply, primum):
    done = apply(study("a", ("budget: wisconsin", "budget: helsinki")), "-o", "json")
    assert done.code == 4
    assert json.loads(done.out)[0]["metadata"]["name"] == "a"
    quoted = primum("ledger", "verify", "-o", "json").json()
    assert quoted["contradictions"] == []


def test_a_quote_spends_nothing(apply, primum, tmp_path):
    before = state(primum)
    done = primum("quote", "-f", EXAMPLES / "breast-cancer" / "study.yaml", "-o", "json")
    assert done.code == 0, done
    answer = done.json()[0]
    assert answer["fits"].endswith("times")
    assert 0 < float(answer["epsilon"]) <= 3.0
    greedy = primum("quote", "-f", EXAMPLES / "breast-cancer" / "too-greedy.yaml")
    assert greedy.code == 3
    assert "alternatives" in greedy.out
    assert state(primum) == before


def test_a_quote_says_how_long_individual_filters_let_a_training_run(apply, primum, tmp_path):
    file = tmp_path / "filtered.yaml"
    clip = 'maxGradNorm: "1.0"'
    file.write_text(study("x", (clip, f"individualFilter: {{epochs: 60}}\n      {clip}")))
    done = primum("quote", "-f", file)
    assert done.code == 0, done
    assert "20 epochs (individual filters, run for 60)" in " ".join(done.out.split())


def test_a_quote_shows_a_search_beside_one_training_and_as_many_in_full(apply, primum):
    before = state(primum)
    done = primum("quote", "-f", EXAMPLES / "breast-cancer" / "searched.yaml")
    assert done.code == 0, done
    said = " ".join(done.out.split())
    assert "search with random stopping, 6.35 trials expected (one training: epsilon" in said
    assert "as many in full:" in said
    assert state(primum) == before


def test_a_plan_says_what_it_means_for_a_patient_and_spends_nothing(apply, primum, tmp_path):
    before = state(primum)
    picture = tmp_path / "corridor.svg"
    study_file = EXAMPLES / "breast-cancer" / "study.yaml"
    done = primum("bounds", "plan", "-f", study_file, "--picture", picture, "-o", "json")
    assert done.code == 0, done
    told = done.json()[0]["budgets"]["wisconsin"]
    assert told["exact"] == "yes"
    assert told["curve"] == "LossDistribution"
    assert 0.5 < float(told["membership"]["bestGuessRight"]) < 0.953
    named = [float(told["identification"][count]) for count in ("2", "10", "100", "1000")]
    assert named == sorted(named, reverse=True)
    assert named[2] > 0.01
    assert told["fromScratch"]["dimension"] == 30
    assert "in the data? The best possible test is right at most" in told["sentences"][0]
    assert "patient" in told["sentences"][0]
    assert picture.read_text().startswith("<?xml")
    said = primum("bounds", "plan", "-f", study_file, "--prior", "0.1")
    assert "10 percent sure that a patient was in the data" in said.out
    assert "exact, for all that the plan charges to it" in said.out
    assert state(primum) == before


BAD_PLANS = {
    ("--prior", "1"): (2, "--prior must be above 0 and below 1; found 1."),
    ("--picture", "corridor.pdf"): (2, "--picture must end in .svg or .png; found corridor.pdf."),
}


@pytest.mark.parametrize(("words", "expected"), BAD_PLANS.items())
def test_a_meaning_that_was_asked_for_wrongly(primum, words, expected):
    done = primum("bounds", "plan", "-f", EXAMPLES / "breast-cancer" / "study.yaml", *words)
    assert (done.code, expected[1] in done.err) == (expected[0], True), done


def test_a_study_without_a_mechanism_means_nothing(primum):
    done = primum("bounds", "plan", "-f", EXAMPLES / "breast-cancer" / "non-private.yaml")
    assert done.code == 3
    assert "NoMechanism" in done.err


def test_a_quote_needs_a_study(primum):
    done = primum("quote", "-f", EXAMPLES / "breast-cancer" / "budget.yaml")
    assert done.code == 2
    assert "budget.yaml must hold at least one Study; found none." in done.err


def test_a_damaged_home_is_named(primum, registered, tmp_path):
    home = tmp_path / "home"
    (home / "tokens.json").write_text("{")
    done = primum("ledger", "thaw", "wisconsin", "--reason", "x")
    assert (done.code, "tokens.json must list who holds which role" in done.err) == (6, True), done
    (home / "keys" / "signing.pem").chmod(0o644)
    done = primum("apply", "-f", EXAMPLES / "breast-cancer" / "budget.yaml")
    assert (done.code, "must be readable by its owner only" in done.err) == (3, True), done
    for path in home.glob("primum.db*"):
        path.write_bytes(b"not a database" * 500)
    done = primum("get", "studies")
    assert (done.code, done.err) == (
        6,
        "error: The database must be readable; file is not a database.\n",
    )


def test_a_deleted_budget_leaves_its_account(apply, primum):
    account = primum("ledger", "accounts", "-o", "json").json()
    done = primum("delete", "budget", "wisconsin")
    assert done.code == 0, done
    assert "the ledger keeps what was spent" in done.out
    assert primum("get", "budgets").out.strip() == "nothing found"
    assert apply(BUDGET).code == 0
    assert primum("ledger", "accounts", "-o", "json").json() == account


def test_a_study_that_opened_nothing_gives_everything_back(apply, primum):
    assert apply(study("a", PENDING), "--no-wait").code == 0
    waiting = primum("wait", "study/a", "--timeout", "10")
    assert waiting.code == 4  # It waits for a policy.
    text = (
        "apiVersion: primum.dev/v1alpha1\nkind: GatePolicy\n"
        "metadata: {name: not-yet-written, namespace: oncology}\n"
        "spec: {extends: clinical-default}\n"
    )
    assert apply(text).code == 0
    assert primum("wait", "study/a", "--timeout", "2").code == 8  # Reserved; the run never starts.
    held = primum("ledger", "accounts", "-o", "json").json()[0]
    assert float(held["spentOrHeld"]) > 2.5
    assert held["spent"] == "0"
    done = primum("delete", "study", "a")
    assert done.code == 0, done
    after = primum("ledger", "accounts", "-o", "json").json()[0]
    assert after["spentOrHeld"] == "0"
    kinds = [entry["kind"] for entry in primum("ledger", "entries", "-o", "json").json()]
    assert kinds[-2:] == ["Reserved", "Returned"]
    assert primum("ledger", "verify").code == 0


def test_restricted_figures_need_a_role(primum):
    done = primum("ledger", "thaw", "wisconsin", "--reason", "because", PRIMUM_TOKEN="nobody")
    assert done.code == 3
    assert "needs the role steward" in done.err


def test_a_pipe_that_closes_is_no_fault(registered, tmp_path):
    import subprocess
    import sys

    home = copied(registered, tmp_path / "home")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        f"{sys.executable} -m primum bounds list | head -1",
        shell=True,
        env=environment | {"PRIMUM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


READERS_MUST_NOT_IMPORT = (
    "numpy", "pydantic", "dp_accounting", "structlog", "fastapi", "alembic", "kfp", "ray", "scipy",
    "primum.application.planning", "primum.domain.budget.ledger", "cryptography",
)  # fmt: skip


@pytest.mark.parametrize("words", [("get", "studies"), ("--help",)], ids=" ".join)
def test_quick_commands_import_little(registered, tmp_path, words):
    import subprocess
    import sys

    home = copied(registered, tmp_path / "home")
    code = (
        "import atexit, sys\n"
        "def show(): print(*sorted(sys.modules), file=sys.stderr)\n"
        "atexit.register(show)\n"
        f"sys.argv = ['primum', *{list(words)!r}]\n"
        "from primum.entrypoints.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PRIMUM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stderr.split())
    assert "primum.entrypoints.cli" in loaded
    assert not loaded & set(READERS_MUST_NOT_IMPORT)
    assert ("sqlalchemy" in loaded) == (words[0] == "get")
