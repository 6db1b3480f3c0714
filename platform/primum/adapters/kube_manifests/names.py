"""Labels, annotations and names that the platform puts on objects of a cluster and looks for.

They are readable by everybody who may view a namespace: ids and digests only, never a value from
data.
"""

from __future__ import annotations

PART_OF = "app.kubernetes.io/part-of"
MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
PLATFORM = "primum"

GOVERNED = "primum.dev/governed"  # on a namespace: "true"
DATASET = "primum.dev/dataset"  # on a claim or Secret with private bytes: any value
RESERVATION = "primum.dev/reservation"  # on a pod: the id of the reservation it runs under
INSPECTION = "primum.dev/inspection"  # on a pod that only looks, inside the zone: its run's id
STUDY = "primum.dev/study"
STEP = "primum.dev/step"
RUN = "primum.dev/run"
OWNER = "primum.dev/owner"  # Uid of the Study or AuditRun: stays where references are removed.
GENERATION = "primum.dev/generation"
STOPPED = "primum.dev/stopped"  # annotation: when the platform asked the run to end
RELEASE = "primum.dev/release"  # on what serves a Release: its name
ARTIFACT_DIGEST = "primum.dev/artifact-digest"  # annotation: a label cannot hold "sha256:..."
CERTIFICATE_DIGEST = "primum.dev/certificate-digest"
SPEC_DIGEST = "primum.dev/spec-digest"  # annotation: what was asked for, to adopt or to refuse

DATASET_PREFIX = "primum-dataset-"
"""Names of claims and Secrets with private bytes begin so, and no others.

A pod names what it mounts and shows no labels of it; so the name has to say what it is.
"""

QUEUE = "kueue.x-k8s.io/queue-name"
PRIORITY = "kueue.x-k8s.io/priority-class"
LAUNCHER_ACCOUNT = "primum-launcher"
LAUNCHERS = (LAUNCHER_ACCOUNT, "primum-pipeline")
"""Service accounts of a governed namespace under which steps make RayJobs; for pods of runs alone.

Policy at the door goes by these names: what they make may open protected data. The second one is
that of pods of Kubeflow Pipelines.
"""

RESERVATIONS = "primum.dev/reservations"  # annotation: every reservation, separated by commas
POD_SECURITY = "pod-security.kubernetes.io/enforce"
