"""The admission policies, once.

Where a rule reads an object that someone else's controller must be able to let go, it does not look
at objects that are being deleted. Must not name a site: who the operator is arrives as a setting.
"""

from __future__ import annotations

from primum.adapters.kube_manifests import names
from primum.resources.kinds import KINDS
from primum.resources.metadata import GROUP
from primum_operators.admission.launchers import (
    BY_LAUNCHER,
    LAUNCHER_PODS,
    LAUNCHER_TOKENS,
    runs_as_launcher,
)
from primum_operators.admission.requesters import REQUESTERS
from primum_operators.admission.rules import (
    Doubling,
    Lookup,
    Match,
    Named,
    Operation,
    Permission,
    Policy,
    Reach,
    Rule,
    Setting,
)
from primum_operators.admission.workflows import WORKFLOWS

_CREATE = (Operation.CREATE,)
_UPDATE = (Operation.UPDATE,)
_WRITE = (Operation.CREATE, Operation.UPDATE)
_V1 = ("v1",)
_ANY = ("*",)

_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_SHA256 = "^sha256:[0-9a-f]{64}$"
_PINNED = "@sha256:[0-9a-f]{64}$"

_BY_OPERATOR = "request.userInfo.username in variables.operators"
_BY_CONTROLLER = "request.userInfo.username in variables.controllers"
_BY_TRUSTED = "request.userInfo.username in variables.trusted"
_ALIVE = Named("alive", "!has(object.metadata.deletionTimestamp)")
_LABELS = Named("labels", "has(object.metadata.labels) ? object.metadata.labels : {}")
_ANNOTATIONS = Named(
    "annotations", "has(object.metadata.annotations) ? object.metadata.annotations : {}"
)
_GOVERNED = Named(
    "governed",
    f"has(namespaceObject.metadata.labels) && '{names.GOVERNED}' in namespaceObject.metadata.labels"
    f" && namespaceObject.metadata.labels['{names.GOVERNED}'] == 'true'",
)


def _protected(name: str) -> str:
    return f"{name}.startsWith('{names.DATASET_PREFIX}')"


def _named(label: str) -> str:
    """A label of the pod that holds an id: ``labels`` is composed before."""
    return f"('{label}' in variables.labels && variables.labels['{label}'].matches('{_UUID}'))"


_MOUNTED_CLAIM = (
    "(has(v.persistentVolumeClaim) && "
    f"{_protected('v.persistentVolumeClaim.claimName')})"
    " || (has(v.ephemeral) && has(v.ephemeral.volumeClaimTemplate.spec.dataSource) && "
    f"{_protected('v.ephemeral.volumeClaimTemplate.spec.dataSource.name')})"
    " || (has(v.ephemeral) && has(v.ephemeral.volumeClaimTemplate.spec.dataSourceRef) && "
    f"{_protected('v.ephemeral.volumeClaimTemplate.spec.dataSourceRef.name')})"
)
_MOUNTED_SECRET = (
    f"(has(v.secret) && {_protected('v.secret.secretName')})"
    " || (has(v.csi) && has(v.csi.nodePublishSecretRef) && "
    f"{_protected('v.csi.nodePublishSecretRef.name')})"
    " || (has(v.projected) && v.projected.sources.exists(s, has(s.secret) && "
    f"{_protected('s.secret.name')}))"
)
_SECRET_IN_ENVIRONMENT = (
    "(has(c.env) && c.env.exists(e, has(e.valueFrom) && has(e.valueFrom.secretKeyRef) && "
    f"{_protected('e.valueFrom.secretKeyRef.name')}))"
    " || (has(c.envFrom) && c.envFrom.exists(f, has(f.secretRef) && "
    f"{_protected('f.secretRef.name')}))"
)
_CONTAINERS = Named(
    "containers",
    "object.spec.containers + (has(object.spec.initContainers) ? object.spec.initContainers : [])",
)

DATASET_MOUNTS = Policy(
    name="dataset-mounts",
    purpose="No pod opens a protected dataset but under a reservation, or to audit in the zone.",
    matches=(Match("", _V1, ("pods",), _CREATE),),
    variables=(
        _LABELS,
        _CONTAINERS,
        Named("volumes", "has(object.spec.volumes) ? object.spec.volumes : []"),
        Named(
            "mounted",
            f"variables.volumes.exists(v, {_MOUNTED_CLAIM})"
            f" || variables.volumes.exists(v, {_MOUNTED_SECRET})"
            f" || variables.containers.exists(c, {_SECRET_IN_ENVIRONMENT})",
        ),
    ),
    rules=(
        Rule(
            f"!variables.mounted || {_named(names.RESERVATION)} || {_named(names.INSPECTION)}",
            "a pod that opens a protected dataset must carry the id of its reservation in the "
            f"label {names.RESERVATION}; declare a Study, whose pods the operator labels",
        ),
        Rule(
            f"!variables.mounted || {_BY_OPERATOR} || {_BY_CONTROLLER}",
            "a pod that opens a protected dataset must be made by the operator, or by a controller "
            "from what the operator made; declare a Study instead",
        ),
    ),
    settings=(Setting.OPERATORS, Setting.CONTROLLERS),
    lookup=Lookup.RESERVATION,
)

_CARRIES = (
    "(has(t.metadata) && has(t.metadata.labels) && "
    f"('{names.RESERVATION}' in t.metadata.labels || '{names.INSPECTION}' in t.metadata.labels))"
    f" || (has(t.spec) && ({runs_as_launcher('t.spec')}))"
)
_UNCHANGED = "(request.operation == 'UPDATE' && object.spec == oldObject.spec)"
_MAINTAINED = f"(request.operation == 'UPDATE' && {_BY_CONTROLLER})"
_MESSAGE_CARRIED = (
    f"only the operator may put {names.RESERVATION} or {names.INSPECTION} on a pod template, have "
    f"it run as {names.LAUNCHER_ACCOUNT}, or change a workload that does; declare a Study instead"
)

JOB_RESERVATIONS = Policy(
    name="job-reservations",
    purpose="Only the operator gives a reservation or an inspection to a Job.",
    matches=(Match("batch", _V1, ("jobs",), _WRITE),),
    conditions=(_ALIVE,),
    variables=(Named("carried", f"[object.spec.template].exists(t, {_CARRIES})"),),
    rules=(
        Rule(
            f"!variables.carried || {_BY_OPERATOR} || {_UNCHANGED} || {_MAINTAINED}",
            _MESSAGE_CARRIED,
        ),
    ),
    settings=(Setting.OPERATORS, Setting.CONTROLLERS),
)

RAY_RESERVATIONS = Policy(
    name="ray-reservations",
    purpose="Only steps and the operator give RayJobs a reservation, and KubeRay to their cluster.",
    matches=(Match("ray.io", _ANY, ("rayjobs", "rayclusters", "rayservices"), _WRITE),),
    conditions=(_ALIVE,),
    variables=(
        Named(
            "cluster",
            "object.kind == 'RayCluster' ? object.spec : "
            "(has(object.spec.rayClusterSpec) ? object.spec.rayClusterSpec : "
            "(has(object.spec.rayClusterConfig) ? object.spec.rayClusterConfig : {}))",
        ),
        Named(
            "templates",
            "(has(variables.cluster.headGroupSpec) ? [variables.cluster.headGroupSpec.template] "
            ": []) + (has(variables.cluster.workerGroupSpecs) ? "
            "variables.cluster.workerGroupSpecs.map(g, g.template) : []) + "
            "(has(object.spec.submitterPodTemplate) ? [object.spec.submitterPodTemplate] : [])",
        ),
        Named("carried", f"variables.templates.exists(t, {_CARRIES})"),
    ),
    rules=(
        Rule(
            f"!variables.carried || {_BY_OPERATOR} || {_UNCHANGED} || {_MAINTAINED} || "
            f"(object.kind == 'RayCluster' && {_BY_CONTROLLER}) || "
            f"(request.operation == 'CREATE' && object.kind == 'RayJob' && {BY_LAUNCHER})",
            _MESSAGE_CARRIED,
        ),
    ),
    settings=(Setting.OPERATORS, Setting.CONTROLLERS),
)

IMAGES_BY_DIGEST = Policy(
    name="images-by-digest",
    purpose="Pods of the platform run images that nobody can exchange.",
    matches=(Match("", _V1, ("pods",), _WRITE),),
    reach=Reach.GOVERNED,
    conditions=(
        _ALIVE,
        Named(
            "ours",
            f"has(object.metadata.labels) && ('{names.RESERVATION}' in object.metadata.labels || "
            f"('{names.PART_OF}' in object.metadata.labels && "
            f"object.metadata.labels['{names.PART_OF}'] == '{names.PLATFORM}'))",
        ),
    ),
    variables=(_CONTAINERS,),
    rules=(
        Rule(
            f"variables.containers.all(c, c.image.matches('{_PINNED}'))",
            "every image of a pod of the platform must be named by digest; "
            "write name@sha256:<64 hex digits>",
        ),
    ),
)

_MESSAGE_NAMED = (
    f"the label {names.DATASET} and a name that begins with {names.DATASET_PREFIX} go together; "
    "set both, or neither"
)
_MESSAGE_GOVERNED = (
    f'protected data must lie in a namespace labelled {names.GOVERNED}: "true"; '
    "label the namespace first"
)
_IS_PROTECTED = Named("protected", _protected("object.metadata.name"))
_TOGETHER = Rule(f"variables.protected == ('{names.DATASET}' in variables.labels)", _MESSAGE_NAMED)
_IN_ZONE = Rule("!variables.protected || variables.governed", _MESSAGE_GOVERNED)

DATASET_CLAIMS = Policy(
    name="dataset-claims",
    purpose="A claim with private bytes shows it in its name, and so does every copy of it.",
    matches=(Match("", _V1, ("persistentvolumeclaims",), _WRITE),),
    conditions=(_ALIVE,),
    variables=(_LABELS, _GOVERNED, _IS_PROTECTED),
    rules=(
        _TOGETHER,
        _IN_ZONE,
        Rule(
            "variables.protected || ((!has(object.spec.dataSource) || "
            f"!{_protected('object.spec.dataSource.name')}) && "
            f"(!has(object.spec.dataSourceRef) || "
            f"!{_protected('object.spec.dataSourceRef.name')}))",
            "a copy of protected data must be protected itself; "
            f"name it {names.DATASET_PREFIX}... and label it {names.DATASET}",
        ),
    ),
)

DATASET_SECRETS = Policy(
    name="dataset-secrets",
    purpose="A Secret with private bytes shows it in its name.",
    matches=(Match("", _V1, ("secrets",), _WRITE),),
    conditions=(_ALIVE,),
    variables=(_LABELS, _GOVERNED, _IS_PROTECTED),
    rules=(_TOGETHER, _IN_ZONE),
    doubling=Doubling.NOWHERE,
)

DATASET_SNAPSHOTS = Policy(
    name="dataset-snapshots",
    purpose="Only trusted users take snapshots of protected claims.",
    matches=(Match("snapshot.storage.k8s.io", _ANY, ("volumesnapshots",), _CREATE),),
    rules=(
        Rule(
            "!has(object.spec.source.persistentVolumeClaimName) || "
            f"!{_protected('object.spec.source.persistentVolumeClaimName')} || {_BY_TRUSTED}",
            "a snapshot of protected data must be taken by a trusted user such as the backup "
            "software; ask the platform engineer",
        ),
    ),
    settings=(Setting.TRUSTED,),
)

NO_SHELLS = Policy(
    name="no-shells",
    purpose="Nobody looks into pods of governed namespaces, where private data may be open.",
    matches=(
        Match(
            "",
            _V1,
            ("pods/exec", "pods/attach", "pods/portforward", "pods/proxy", "services/proxy"),
            (Operation.CONNECT,),
        ),
        Match("", _V1, ("pods/ephemeralcontainers",), _UPDATE),
    ),
    reach=Reach.GOVERNED,
    rules=(
        Rule(
            f"request.subResource == '' || {_BY_TRUSTED}",
            "pods of a governed namespace must not be entered; read their logs, or ask a trusted "
            "user",
        ),
    ),
    settings=(Setting.TRUSTED,),
)

BUDGETS = Policy(
    name="budgets",
    purpose="A promise is made where pods are governed, and never taken back.",
    doubling=Doubling.EVERYWHERE,
    matches=(Match(GROUP, _ANY, ("privacybudgets",), _WRITE),),
    variables=(_GOVERNED,),
    rules=(
        Rule(
            "request.operation == 'UPDATE' || variables.governed",
            f'a PrivacyBudget must lie in a namespace labelled {names.GOVERNED}: "true"; label '
            "the namespace first",
        ),
        *(
            Rule(
                "request.operation == 'CREATE' || "
                f"double(object.spec.guarantee.{part}) <= double(oldObject.spec.guarantee.{part})",
                f"guarantee.{part} can only be lowered; a promise is not taken back",
            )
            for part in ("epsilon", "delta")
        ),
    ),
)

STATUS = Policy(
    name="status-by-operator",
    purpose="Status is what the operator observed, and nobody else's word.",
    doubling=Doubling.EVERYWHERE,
    matches=(
        Match(GROUP, _ANY, tuple(f"{kind.plural}/status" for kind in KINDS.values()), _UPDATE),
    ),
    rules=(
        Rule(
            f"request.subResource == 'status' && {_BY_OPERATOR}",
            "status must be written by the operator; it is rebuilt from ledger and evidence",
        ),
    ),
    settings=(Setting.OPERATORS,),
)

STUDY_BUDGETS = Policy(
    name="study-budgets",
    purpose="Whoever declares a Study may use every budget it spends.",
    doubling=Doubling.EVERYWHERE,
    matches=(Match(GROUP, _ANY, ("studies",), _CREATE),),
    permissions=(
        Permission(
            verb="use",
            group=GROUP,
            resource="privacybudgets",
            names="object.spec.data.filter(d, has(d.budget)).map(d, d.budget)",
            message="whoever declares a Study must have the verb use on each of its "
            "privacybudgets; ask the data steward",
        ),
    ),
)

_SERVED = (names.ARTIFACT_DIGEST, names.CERTIFICATE_DIGEST)

ENDPOINTS = Policy(
    name="endpoints",
    purpose="Nothing is served but what a Release stands for.",
    matches=(Match("serving.kserve.io", _ANY, ("inferenceservices",), _WRITE),),
    reach=Reach.GOVERNED,
    conditions=(_ALIVE,),
    variables=(
        _LABELS,
        _ANNOTATIONS,
        Named(
            "containers",
            "has(object.spec.predictor.containers) ? object.spec.predictor.containers : []",
        ),
    ),
    rules=(
        Rule(
            f"{_BY_OPERATOR} || {_UNCHANGED}",
            "an InferenceService of a governed namespace must be written by the operator; "
            "declare a Study with a release",
        ),
        Rule(
            f"'{names.RELEASE}' in variables.labels && "
            + " && ".join(
                f"'{key}' in variables.annotations && "
                f"variables.annotations['{key}'].matches('{_SHA256}')"
                for key in _SERVED
            ),
            f"an InferenceService must name its Release in the label {names.RELEASE}, and its "
            f"digests in the annotations {' and '.join(_SERVED)}",
        ),
        Rule(
            "variables.containers.size() == 1 && "
            f"variables.containers.all(c, c.image.matches('{_PINNED}'))",
            "an InferenceService must run one container, by digest; only the platform's "
            "inference server checks certificates",
        ),
        Rule(
            "!has(object.spec.predictor.logger) && !has(object.spec.transformer) && "
            "!has(object.spec.explainer) && !has(object.spec.canary)",
            "an InferenceService must have no logger, transformer, explainer or canary: they see "
            "patients' inputs",
        ),
    ),
    settings=(Setting.OPERATORS,),
    lookup=Lookup.RELEASE,
)

RAY_JOBS = Policy(
    name="ray-jobs",
    purpose="A Ray job owns its cluster, runs once, and waits in the queue.",
    matches=(Match("ray.io", _ANY, ("rayjobs",), _WRITE),),
    reach=Reach.GOVERNED,
    conditions=(_ALIVE,),
    variables=(_LABELS,),
    rules=(
        Rule(
            "!has(object.spec.clusterSelector)",
            "a RayJob must bring its own cluster; one that selects another's runs past queue and "
            "ledger",
        ),
        Rule(
            "!has(object.spec.backoffLimit) || object.spec.backoffLimit == 0",
            "backoffLimit must be 0: a retry would touch the data a second time",
        ),
        Rule(
            "!has(object.spec.submissionMode) || object.spec.submissionMode != 'InteractiveMode'",
            "submissionMode must not be InteractiveMode: what would be run is not known before",
        ),
        Rule(
            f"!variables.queueRequired || '{names.QUEUE}' in variables.labels",
            f"a RayJob must name its queue in the label {names.QUEUE}",
        ),
    ),
    settings=(Setting.QUEUE_REQUIRED,),
)

NAMESPACES = Policy(
    name="governed-namespaces",
    purpose="A governed namespace enforces the restricted Pod Security Standard and stays so.",
    matches=(Match("", _V1, ("namespaces",), _WRITE),),
    conditions=(_ALIVE,),
    variables=(
        _LABELS,
        Named(
            "governed",
            f"'{names.GOVERNED}' in variables.labels && "
            f"variables.labels['{names.GOVERNED}'] == 'true'",
        ),
        Named(
            "wasGoverned",
            "request.operation == 'UPDATE' && has(oldObject.metadata.labels) && "
            f"'{names.GOVERNED}' in oldObject.metadata.labels && "
            f"oldObject.metadata.labels['{names.GOVERNED}'] == 'true'",
        ),
    ),
    rules=(
        Rule(
            f"!variables.governed || ('{names.POD_SECURITY}' in variables.labels && "
            f"variables.labels['{names.POD_SECURITY}'] == 'restricted')",
            f"a governed namespace must have the label {names.POD_SECURITY}: restricted",
        ),
        Rule(
            f"variables.governed || !variables.wasGoverned || {_BY_TRUSTED}",
            f"the label {names.GOVERNED} must stay: protected data may lie here; "
            "ask a trusted user",
        ),
    ),
    settings=(Setting.TRUSTED,),
    doubling=Doubling.NOWHERE,
)

POLICIES = (
    DATASET_MOUNTS,
    JOB_RESERVATIONS,
    RAY_RESERVATIONS,
    LAUNCHER_PODS,
    LAUNCHER_TOKENS,
    IMAGES_BY_DIGEST,
    DATASET_CLAIMS,
    DATASET_SECRETS,
    DATASET_SNAPSHOTS,
    NO_SHELLS,
    BUDGETS,
    STATUS,
    STUDY_BUDGETS,
    REQUESTERS,
    ENDPOINTS,
    RAY_JOBS,
    WORKFLOWS,
    NAMESPACES,
)
