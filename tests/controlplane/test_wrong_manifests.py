"""Every wrong manifest of ``tests/fixtures/wrong`` is refused, or explained in a condition.

Each says in its annotation ``expect`` what has to happen: ``refused: words`` by the API server, or
``explained: Type Status Reason: words`` by the operator, which goes on with its work meanwhile.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import pathlib
from typing import ClassVar

import pytest
import yaml
from clinic import Clinic
from manifests import manifest, path

from primum import extensions

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures" / "wrong"
# Connections of the operator that ended are closed by nobody.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def listed(word):
    """What is expected to be refused, or explained: manifest and the rest of the expectation."""
    for file in sorted(FIXTURES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text(encoding="utf-8")):
            found, _, rest = document["metadata"]["annotations"]["expect"].partition(": ")
            assert found in ("refused", "explained"), document["metadata"]["name"]
            if found == word:
                title = f"{document['kind']}-{document['metadata']['name']}"
                yield pytest.param(document, rest, id=title)


@pytest.mark.parametrize(("document", "words"), list(listed("refused")))
def test_the_api_server_refuses_it_and_names_the_field(api, namespace, document, words):
    where = path(document["kind"], namespace) + "?fieldValidation=Strict"
    code, answer = api.request("POST", where, document)
    assert code in (400, 422), answer.get("message")
    assert words in answer["message"]


class Hospital(Clinic):
    """A clinic that knows the real kinds of jobs beside the simulated one."""

    budgets: ClassVar = {**Clinic.budgets, "wisconsin": ("sklearn://breast_cancer", "RDP", "3.0")}

    def _platform(self):
        platform = super()._platform()
        simulated = platform.kinds()
        kinds = {**extensions.load_all("primum.job_kinds"), **simulated}
        return dataclasses.replace(platform, kinds=lambda: kinds)


def wisconsin():
    """A budget of real data, which real kinds of jobs can plan for."""
    guarantee = {"epsilon": "3.0", "delta": "1e-5"}
    dataset = {"uri": "sklearn://breast_cancer", "unit": "Patient"}
    spec = {"dataset": dataset, "guarantee": guarantee, "disclosures": ["Utility"]}
    return manifest("PrivacyBudget", "wisconsin", spec)


def unlike(clinic, document, expected):
    """What a resource says instead of what is expected; nothing where it says that."""
    condition, status, reason, words = expected.split(" ", 3)
    found = clinic.get(document["kind"], document["metadata"]["name"]) or {}
    said = {c["type"]: c for c in found.get("status", {}).get("conditions", ())}
    shown = said.get(condition, {"status": "", "reason": "", "message": ""})
    if (shown["status"], shown["reason"]) == (status, reason.rstrip(":")):
        return "" if words in shown["message"] else shown["message"]
    return str([f"{c['type']} {c['status']} {c['reason']}: {c['message']}" for c in said.values()])


@pytest.mark.timeout(600)
def test_the_operator_explains_it_and_goes_on(control_plane, namespace):
    clinic = Hospital(control_plane, namespace)
    told = [parameters.values for parameters in listed("explained")]
    left = {}

    def explained():
        found = {f"{d['kind']}/{d['metadata']['name']}": unlike(clinic, d, e) for d, e in told}
        left.clear()
        left.update({name: said for name, said in found.items() if said})
        return not left

    with clinic.working() as (operator,):
        clinic.api.post(path("PrivacyBudget", namespace), wisconsin())
        for document, _ in told:
            clinic.api.post(path(document["kind"], namespace), copy.deepcopy(document))
        clinic.budget()
        clinic.study("good")
        clinic.wait_ended("good", seconds=240)
        with contextlib.suppress(AssertionError):
            clinic.wait(explained, seconds=240)
        assert left == {}
        metrics = operator._metrics.exposition().decode()
        assert 'result="fault"' not in metrics
    assert clinic.shown("Study", "good", "Succeeded") == "True Done"
    clinic.audit_everything()
