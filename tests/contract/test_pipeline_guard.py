"""The guard: a pipeline that would open protected data is refused before anything is submitted."""

import copy  # Annotations stay what they are here: kfp reads them.

import pytest
import yaml

from primum.adapters.kube_manifests.pipeline_guard import findings, for_cluster
from primum_pipelines.compile import compile_own, compile_pipeline, compiled, component_files

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
IMAGE = "registry.example.org/team/python@sha256:" + "a" * 64
WORKER = "registry.example.org/primum/worker@sha256:" + "b" * 64


def build(*changes, components=WORKER, cached=False):
    """A compiled pipeline of a Study and one task of the team's own, changed by functions of it."""

    def make():
        from kfp import dsl

        from primum_pipelines.components import load

        primum = load(image=components)

        @dsl.container_component
        def own():
            return dsl.ContainerSpec(image=IMAGE, command=["python", "report.py"])

        @dsl.pipeline(name="team")
        def pipeline(claim: str = "scratch"):
            study = primum.study(manifest="")
            study.set_caching_options(enable_caching=cached)
            task = own()
            for change in changes:
                change(task, claim)

        return pipeline

    documents = list(yaml.safe_load_all(compiled(make)))
    return documents[0], documents[1] if len(documents) > 1 else {}


def refused(*changes, datasets=None, arguments=None, **options):
    found = findings(
        *build(*changes, **options), datasets=datasets or {}, arguments=arguments or {}
    )
    return [str(item) for item in found]


def mount(name):
    from kfp import kubernetes

    return lambda task, _: kubernetes.mount_pvc(task, pvc_name=name, mount_path="/data")


def secret(name):
    from kfp import kubernetes

    return lambda task, _: kubernetes.use_secret_as_volume(task, name, "/secret")


def variable(name):
    from kfp import kubernetes

    return lambda task, _: kubernetes.use_secret_as_env(task, name, {"key": "KEY"})


def label(key):
    from kfp import kubernetes

    return lambda task, _: kubernetes.add_pod_label(task, key, "5d1c7f0e")


def test_a_pipeline_of_our_components_and_public_work_is_let_pass():
    from kfp import kubernetes

    def usual(task, _):
        kubernetes.mount_pvc(task, pvc_name="team-scratch", mount_path="/scratch")
        kubernetes.use_secret_as_env(task, "team-bucket", {"key": "KEY"})
        kubernetes.add_pod_label(task, "team", "a")
        kubernetes.empty_dir_mount(task, "tmp", "/tmp", medium="Memory")
        kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)

    assert refused(usual) == []


def test_the_example_is_let_pass_with_an_image(monkeypatch):
    monkeypatch.setenv("WORKER_IMAGE", WORKER)
    document = yaml.safe_load(compile_own("examples/pipelines/risk.py"))
    assert findings(document, {}, datasets={}, arguments={}) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (mount("primum-dataset-scans"), "must not open protected data without a reservation"),
        (mount("primum-artifacts"), "must not begin with primum-"),
        (secret("primum-dataset-key"), "must not open protected data without a reservation"),
        (secret("primum-5d1c7f0e-0000-5000-8000-000000000001"), "must not begin with primum-"),
        (variable("primum-keys"), "must not begin with primum-"),
        (label("primum.dev/reservation"), "must not be those of the platform"),
        (label("primum.dev/run"), "must not be those of the platform"),
        (label("pipeline/runid"), "must not be those of the platform"),
    ],
)
def test_what_opens_protected_data_is_refused(change, said):
    (found,) = {text for text in refused(change) if said in text}
    assert "; found " in found
    assert found.endswith(".")


def test_a_name_that_is_known_only_at_run_time_is_refused():
    from kfp import kubernetes

    def late(task, claim):
        kubernetes.mount_pvc(task, pvc_name=claim, mount_path="/data")

    assert any("must be named in the pipeline itself" in text for text in refused(late))


def test_a_claim_of_the_pipelines_own_may_be_made_and_mounted():
    from kfp import kubernetes

    def fresh(task, _):
        made = kubernetes.CreatePVC(
            pvc_name_suffix="-scratch",
            access_modes=["ReadWriteOnce"],
            size="1Gi",
            storage_class_name="standard",
        )
        kubernetes.mount_pvc(task, pvc_name=made.outputs["name"], mount_path="/scratch")
        kubernetes.DeletePVC(pvc_name=made.outputs["name"]).after(task)

    assert refused(fresh) == []


def test_a_claim_over_anothers_volume_is_refused():
    from kfp import kubernetes

    def bound(task, _):
        kubernetes.CreatePVC(
            pvc_name="mine",
            access_modes=["ReadWriteOnce"],
            size="1Gi",
            storage_class_name="standard",
            volume_name="pv-of-the-scans",
        )

    assert any("volume_name must not be given" in text for text in refused(bound))


def test_deleting_protected_data_is_refused():
    from kfp import kubernetes

    def gone(task, _):
        kubernetes.DeletePVC(pvc_name="primum-dataset-scans")

    assert any("primum-dataset-scans" in text for text in refused(gone))


def test_a_claim_that_only_seems_to_be_the_pipelines_own_is_refused():
    """A task may be called like the one that makes a claim, and give another name."""
    pipeline, platform = build(mount("team"))
    given = {"taskOutputParameter": {"producerTask": "own", "outputParameterKey": "name"}}
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    pods["exec-own"]["pvcMount"] = [{"mountPath": "/data", "pvcNameParameter": given}]
    found = findings(pipeline, platform, datasets={}, arguments={})
    assert any("known only at run time" in str(item) for item in found)


def test_a_workspace_over_anothers_claim_is_refused():
    pipeline, platform = build(mount("team"))
    patch = {"dataSource": {"kind": "PersistentVolumeClaim", "name": "scans"}}
    workspace = {"workspace": {"size": "1Gi", "kubernetes": {"pvcSpecPatch": patch}}}
    platform["platforms"]["kubernetes"]["pipelineConfig"] = workspace
    found = findings(pipeline, platform, datasets={}, arguments={})
    assert [item.name for item in found] == ["workspace: dataSource"]


def leaves(found, path=()):
    """Where every text of a document stands."""
    if isinstance(found, str):
        yield path
    items = (
        found.items()
        if isinstance(found, dict)
        else enumerate(found if isinstance(found, list) else ())
    )
    for key, value in items:
        yield from leaves(value, (*path, key))


def test_protected_data_is_found_wherever_the_platforms_document_names_it():
    pipeline, platform = build(mount("team"), secret("team"), variable("team"), label("team"))
    for path in leaves(platform):
        changed = copy.deepcopy(platform)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "primum-dataset-scans"
        assert findings(pipeline, changed, datasets={}, arguments={}), path


def test_both_ways_of_naming_a_mount_are_read():
    pipeline, platform = build(secret("team"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    hidden = copy.deepcopy(platform)
    mounted = pods["exec-own"]["secretAsVolume"][0]
    mounted["secretName"] = "primum-keys"
    assert findings(pipeline, platform, datasets={}, arguments={})
    other = hidden["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-own"]
    other["secretAsVolume"][0]["secretNameParameter"]["runtimeValue"]["constant"] = "primum-keys"
    assert findings(pipeline, hidden, datasets={}, arguments={})


@pytest.mark.parametrize("where", ["platform", "pipeline"])
def test_another_spelling_does_not_get_by(where):
    """Protobuf reads deployment_spec as it reads deploymentSpec."""
    pipeline, platform = build(mount("primum-dataset-scans"))
    kubernetes = platform["platforms"]["kubernetes"]
    if where == "platform":
        kubernetes["deployment_spec"] = kubernetes.pop("deploymentSpec")
    else:
        pipeline["deployment_spec"] = pipeline.pop("deploymentSpec")
    found = findings(pipeline, platform, datasets={}, arguments={})
    assert any("must be spelled" in str(item) for item in found)


def test_a_setting_that_the_guard_does_not_know_is_refused():
    pipeline, platform = build(mount("team"))
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    pods["exec-own"]["initContainers"] = [{"name": "x", "image": IMAGE}]
    found = findings(pipeline, platform, datasets={}, arguments={})
    assert [item.name for item in found] == ["exec-own: initContainers"]


def test_another_platform_is_refused():
    pipeline, _ = build()
    found = findings(pipeline, {"platforms": {"other": {}}}, datasets={}, arguments={})
    assert [item.name for item in found] == ["platform other"]


def test_the_address_of_a_protected_dataset_is_refused_wherever_it_stands():
    datasets = {"csv:///data/scans.csv": "PrivacyBudget oncology/scans"}

    def importer(_task, _claim):
        from kfp import dsl

        dsl.importer(artifact_uri="csv:///data/scans.csv", artifact_class=dsl.Dataset)

    assert any(
        "that of PrivacyBudget oncology/scans" in t for t in refused(importer, datasets=datasets)
    )
    told = refused(datasets=datasets, arguments={"source": "csv:///data/scans.csv"})
    assert any(text.startswith("arguments.source must not name") for text in told)
    assert refused(datasets=datasets) == []


def test_the_steps_of_a_study_are_no_components_of_a_pipeline():
    document = yaml.safe_load(compile_pipeline(("validate", "job"), image=WORKER))
    found = findings(document, {}, datasets={}, arguments={})
    assert {item.rule for item in found} == {"must not run a step of a Study"}


def test_a_study_must_not_be_cached():
    assert any("must not be cached" in text for text in refused(cached=True))


def test_in_a_cluster_our_components_run_the_sites_image():
    placeholder = "registry.example.org/primum/worker@sha256:" + "0" * 64
    (found,) = for_cluster(build(components=placeholder)[0])
    assert "must be your site's worker image" in str(found)
    assert for_cluster(build()[0]) == ()
    assert refused(components=placeholder) == []  # On one machine nothing pulls it.


def test_components_from_files_are_those_of_the_package():
    from kfp.components import load_component_from_text

    for name, text in component_files(WORKER).items():
        loaded = load_component_from_text(text)
        assert loaded.name == name.removesuffix(".yaml")
        assert loaded.description
        assert WORKER in text
        assert "pip install" not in text
