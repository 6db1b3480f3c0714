"""Does every driver registered in ``primum.datasets`` keep the protocol?"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

import primum_pipelines.datasets
from primum import extensions
from primum.domain.canonical import canonical_json
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.driver import GROUP

SCHEMES = extensions.names(GROUP)
HEAVY = {"nibabel", "numpy", "pandas", "PIL", "pyarrow", "pydicom", "scipy", "sklearn", "torch"}
LABELED = {"table": "labels.csv", "label": "sick"}
OPTIONS = {
    "csv": {"label": "sick", "features": {"age": ["0", "100"]}},
    "dicom": {**LABELED, "window": {"low": "-160", "high": "240"}},
    "images": LABELED,
    "nifti": {**LABELED, "window": {"low": "0", "high": "1000"}},
    "parquet": {"label": "sick", "features": {"age": ["0", "100"]}},
}
EXAMPLES = {
    "csv": "csv://patients.csv",
    "dicom": "dicom://ct",
    "images": "images://xrays",
    "medmnist": "medmnist://pneumoniamnist",
    "nifti": "nifti://mr",
    "npz": "npz://images.npz",
    "parquet": "parquet://patients.parquet",
    "sklearn": "sklearn://breast_cancer",
    "uci-heart": "uci-heart://cleveland",
}


def test_every_scheme_has_an_example():
    assert set(SCHEMES) == set(EXAMPLES)


@pytest.fixture(params=SCHEMES)
def scheme(request):
    return request.param


def test_a_driver_is_registered_under_its_scheme(scheme):
    assert extensions.load(GROUP, scheme)().scheme == scheme


def test_facts_are_public_json_and_need_no_data(scheme):
    facts = extensions.load(GROUP, scheme)().describe(EXAMPLES[scheme], OPTIONS.get(scheme, {}))
    assert json.loads(canonical_json(facts)) == facts
    assert {"classes", "positive", "inputShape", "featureNames", "split"} <= set(facts)
    assert facts["positive"] in facts["classes"]


def test_an_unknown_option_is_refused(scheme):
    options = {**OPTIONS.get(scheme, {}), "misspelled": "1"}
    with pytest.raises(InvalidValue, match="misspelled"):
        extensions.load(GROUP, scheme)().describe(EXAMPLES[scheme], options)


def test_a_missing_file_is_not_found(scheme, tmp_path):
    driver = extensions.load(GROUP, scheme)()
    if scheme == "sklearn":
        assert driver.locate(EXAMPLES[scheme], [str(tmp_path)]) == ""  # ships with the library
        return
    with pytest.raises(NotFound, match=re.escape(str(tmp_path))):
        driver.locate(EXAMPLES[scheme], [str(tmp_path)])


def test_a_site_is_no_unit_of_a_table_of_people(scheme, tmp_path):
    driver = extensions.load(GROUP, scheme)()
    if scheme in ("csv", "parquet"):
        pytest.skip("a table says by its unit column what a row is")
    options = OPTIONS.get(scheme, {})
    with pytest.raises((InvalidValue, NotFound)):
        driver.load(EXAMPLES[scheme], PrivacyUnit.SITE, options, [str(tmp_path)])


def test_drivers_are_light():
    """A plan asks drivers for public facts in a process that must not pay for numpy or torch."""
    folder = Path(primum_pipelines.datasets.__file__).parent
    for name in {extensions._points(GROUP)[scheme].module for scheme in SCHEMES}:
        source = folder / f"{name.rsplit('.', 1)[-1]}.py"
        for node in ast.parse(source.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {item.split(".")[0] for item in names} & HEAVY, source
