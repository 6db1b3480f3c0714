"""Where data lies elsewhere: who logs in, by the chart's values, and who is never told how."""

from __future__ import annotations

import json
from typing import Any

import helm
import pytest

from primum.adapters.kube_manifests.data_access import data_access_from_text
from primum.entrypoints import settings as platform_settings
from primum_operators import settings as operator_settings

SECRET = "primum-dataset-login"
VALUES = (
    *("--set", "governed.namespaces={oncology}"),
    *("--set", f"images.worker.digest=sha256:{'5' * 64}"),
    *("--set", f"governed.dataAccess.secret={SECRET}"),
    *("--set", "governed.dataAccess.variables.AWS_ACCESS_KEY_ID=id"),
    *("--set", "governed.dataAccess.files.GOOGLE_APPLICATION_CREDENTIALS=gcs\\.json"),
    *("--set", "governed.publicData={/data/public,https://zenodo.org/records/}"),
)


def environment(component: str) -> dict[str, str]:
    (deployment,) = (
        item
        for item in helm.rendered(*VALUES)
        if item["kind"] == "Deployment" and item["metadata"]["name"] == f"primum-{component}"
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    told: dict[str, Any] = {item["name"]: item.get("value", "") for item in container["env"]}
    return {name: str(value) for name, value in told.items() if name.startswith("PRIMUM_")}


def test_the_operator_passes_it_on_to_runs_and_logs_in_nowhere_itself() -> None:
    found = operator_settings.from_environment(
        {k: v for k, v in environment("operator").items() if k.startswith("PRIMUM_OPERATOR_")}
    )
    access = data_access_from_text(found.cluster.jobs.data_access)
    assert access.secret == SECRET
    assert access.variables == {"AWS_ACCESS_KEY_ID": "id"}
    assert access.files == {"GOOGLE_APPLICATION_CREDENTIALS": "gcs.json"}
    mentions = [
        item["metadata"]["name"]
        for item in helm.rendered(*VALUES)
        if SECRET in json.dumps(item).replace("PRIMUM_OPERATOR_JOB_DATA_ACCESS", "")
    ]
    assert mentions == ["primum-operator"], "only the operator's settings name the Secret"
    assert "secretKeyRef" not in json.dumps(environment("operator"))


@pytest.mark.parametrize("component", ["operator", "api"])
def test_who_plans_and_who_quotes_know_the_public_places(component: str) -> None:
    told = environment(component)
    shared = {k: v for k, v in told.items() if not k.startswith("PRIMUM_OPERATOR_")}
    shared.pop("PRIMUM_TOKEN_FILE", None)
    found = platform_settings.from_environment(shared)
    assert found.public_data == ("/data/public/", "https://zenodo.org/records/")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("governed.dataAccess.secret=login,governed.dataAccess.variables.A=b", "primum-dataset-"),
        (f"governed.dataAccess.secret={SECRET}", "exactly where variables or files"),
        ("governed.dataAccess.variables.A=b", "exactly where variables or files"),
        ("governed.dataAccess.variables.a=b", "invalid propertyName 'a'"),
        ("governed.dataAccess.files.PRIMUM_HOME=b", "PRIMUM_HOME"),
        ("governed.publicData={data}", "publicData"),
    ],
)
def test_half_of_it_is_refused(values: str, said: str) -> None:
    done = helm.template("--set", values)
    assert done.returncode != 0
    assert said in done.stderr
