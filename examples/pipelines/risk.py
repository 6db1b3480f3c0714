"""A pipeline of one's own: declare a Study, wait for its Release, go on with what was released.

    primum pipeline compile examples/pipelines/risk.py -o risk.yaml
    primum pipeline submit risk.yaml -p manifest=@examples/breast-cancer/study.yaml

It opens no patient data: the Study does, in a run of the platform's own. Set WORKER_IMAGE to
your site's worker image, by digest, before you compile for a cluster.
"""

import os

from kfp import dsl

from primum_pipelines.components import PLACEHOLDER_IMAGE, load

IMAGE = os.environ.get("WORKER_IMAGE", PLACEHOLDER_IMAGE)
primum = load(image=IMAGE)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def card(name: str, claim: str, artifact: str, digest: str) -> str:
    """What people are told about the model; any code of yours that needs no patient data."""
    return f"{name}: {artifact} ({digest}), {claim}"


@dsl.pipeline(name="risk")
def risk(manifest: str) -> str:
    """Declare, wait, describe."""
    study = primum.study(manifest=manifest)
    study.set_caching_options(enable_caching=False)
    where = study.outputs["namespace"]
    release = primum.release(name=study.outputs["release"], namespace=where)
    release.set_caching_options(enable_caching=False)
    told = card(
        name=study.outputs["name"],
        claim=release.outputs["claim"],
        artifact=release.outputs["artifact"],
        digest=release.outputs["digest"],
    )
    return told.output
