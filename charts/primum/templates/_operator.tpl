{{- /* How the operator is told what the cluster has; one place, read by its process. */ -}}
{{- define "primum.operatorArguments" -}}
- primum_operators
{{- end }}

{{- /* How many operators run: none before there is what they need. */ -}}
{{- define "primum.operatorReplicas" -}}
{{- $served := or (ne .Values.serving.mode "PerRelease") .Values.integrations.kserve.enabled .Values.images.serving.digest }}
{{- if and .Values.images.worker.digest .Values.governed.namespaces $served }}{{ .Values.operator.replicas }}{{ else }}0{{ end }}
{{- end }}

{{- define "primum.operatorEnvironment" -}}
{{- if eq (include "primum.sharedServing" .) "true" }}
- name: PRIMUM_HOST # where what it publishes is served; it listens to nobody there itself
  value: {{ include "primum.fullname" . }}-serving.{{ .Release.Namespace }}.svc
- name: PRIMUM_SERVING_PORT
  value: "8400"
{{- end }}
- name: PRIMUM_OPERATOR_IDENTITY
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
- name: PRIMUM_OPERATOR_HOME_NAMESPACE
  value: {{ .Release.Namespace }}
- name: PRIMUM_OPERATOR_NAMESPACES
  value: {{ join "," .Values.governed.namespaces | quote }}
- name: PRIMUM_OPERATOR_PROBE_PORT
  value: "8080"
- name: PRIMUM_OPERATOR_WORKERS
  value: {{ .Values.operator.workers | quote }}
- name: PRIMUM_OPERATOR_RESYNC_SECONDS
  value: {{ .Values.operator.resyncSeconds | quote }}
- name: PRIMUM_OPERATOR_RUN_SECONDS
  value: {{ .Values.operator.runSeconds | quote }}
- name: PRIMUM_OPERATOR_JOB_IMAGE
  value: {{ include "primum.image" (dict "root" . "image" .Values.images.worker) }}
- name: PRIMUM_OPERATOR_JOB_SERVICE_ACCOUNT
  value: primum-worker
- name: PRIMUM_OPERATOR_JOB_LEDGER_URL
  value: {{ include "primum.apiUrl" . }}
{{- with include "primum.ledgerCa" . }}
- name: PRIMUM_OPERATOR_JOB_LEDGER_CA
  value: {{ . }}
{{- end }}
- name: PRIMUM_OPERATOR_JOB_ARTIFACTS_CLAIM
  value: {{ .Values.governed.artifacts.claim }}
{{- with .Values.governed.datasetClaim }}
- name: PRIMUM_OPERATOR_JOB_DATA_CLAIM
  value: {{ . }}
{{- end }}
{{- if .Values.governed.dataAccess.secret }}
- name: PRIMUM_OPERATOR_JOB_DATA_ACCESS
  value: {{ toJson .Values.governed.dataAccess | quote }}
{{- end }}
- name: PRIMUM_OPERATOR_JOB_CPU
  value: {{ .Values.runs.cpu | quote }}
- name: PRIMUM_OPERATOR_JOB_MEMORY
  value: {{ .Values.runs.memory | quote }}
- name: PRIMUM_OPERATOR_JOB_DEADLINE_SECONDS
  value: {{ .Values.runs.deadlineSeconds | int | quote }}
- name: PRIMUM_OPERATOR_JOB_KEEP_SECONDS
  value: {{ .Values.runs.keepSeconds | int | quote }}
{{- if .Values.integrations.kueue.enabled }}
- name: PRIMUM_OPERATOR_QUEUES
  value: kueue
{{- with .Values.integrations.kueue.queue }}
- name: PRIMUM_OPERATOR_JOB_QUEUE
  value: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.integrations.kfp }}
{{- if .enabled }}
- name: PRIMUM_OPERATOR_RUNNER
  value: kfp
- name: PRIMUM_OPERATOR_KFP_URL
  value: {{ .url }}
{{- if .audience }}
- name: PRIMUM_OPERATOR_KFP_TOKEN_PATH
  value: /var/run/secrets/kubeflow/pipelines/token
{{- end }}
{{- if .caConfigMap }}
- name: PRIMUM_OPERATOR_KFP_CA
  value: /etc/primum/kfp-ca/ca.crt
{{- end }}
- name: PRIMUM_OPERATOR_KFP_EXPERIMENT
  value: {{ .experiment | quote }}
- name: PRIMUM_OPERATOR_KFP_SERVICE_ACCOUNT
  value: primum-pipeline
{{- end }}
{{- end }}
{{- with .Values.integrations.kuberay }}
{{- if .enabled }}
- name: PRIMUM_OPERATOR_COMPUTE
  value: rayjob
{{- if not (kindIs "invalid" .gpus) }}
- name: PRIMUM_OPERATOR_GPUS
  value: {{ .gpus | int | quote }}
{{- end }}
{{- with .priority }}
- name: PRIMUM_OPERATOR_RAY_PRIORITY
  value: {{ . }}
{{- end }}
- name: PRIMUM_OPERATOR_RAY_HEAD_CPU
  value: {{ .head.cpu | quote }}
- name: PRIMUM_OPERATOR_RAY_HEAD_MEMORY
  value: {{ .head.memory | quote }}
- name: PRIMUM_OPERATOR_RAY_WORKER_CPU
  value: {{ .worker.cpu | quote }}
- name: PRIMUM_OPERATOR_RAY_WORKER_MEMORY
  value: {{ .worker.memory | quote }}
- name: PRIMUM_OPERATOR_RAY_SHARED_MEMORY
  value: {{ .sharedMemory | quote }}
- name: PRIMUM_OPERATOR_RAY_SCRATCH
  value: {{ .scratch | quote }}
{{- end }}
{{- end }}
{{- $kserve := .Values.integrations.kserve }}
{{- if or $kserve.enabled (and (eq .Values.serving.mode "PerRelease") .Values.images.serving.digest) }}
{{- $served := ternary $kserve .Values.serving $kserve.enabled }}
- name: PRIMUM_OPERATOR_SERVING
  value: {{ ternary "kserve" "deployments" $kserve.enabled }}
- name: PRIMUM_OPERATOR_SERVING_IMAGE
  value: {{ include "primum.image" (dict "root" . "image" .Values.images.serving) }}
- name: PRIMUM_OPERATOR_SERVING_REPLICAS
  value: {{ $served.replicas | int | quote }}
- name: PRIMUM_OPERATOR_SERVING_CPU
  value: {{ $served.cpu | quote }}
- name: PRIMUM_OPERATOR_SERVING_MEMORY
  value: {{ $served.memory | quote }}
{{- end }}
{{- end }}

{{- /* What the operator meets Kubeflow Pipelines with: a token of its own for it, and its authorities. */ -}}
{{- define "primum.kfpMounts" -}}
{{- with .Values.integrations.kfp }}
{{- if and .enabled .audience }}
- {name: kfp-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
{{- end }}
{{- if and .enabled .caConfigMap }}
- {name: kfp-ca, mountPath: /etc/primum/kfp-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "primum.kfpVolumes" -}}
{{- with .Values.integrations.kfp }}
{{- if and .enabled .audience }}
- name: kfp-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600, audience: {{ .audience }}}
{{- end }}
{{- if and .enabled .caConfigMap }}
- name: kfp-ca
  configMap:
    name: {{ .caConfigMap }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end }}
{{- end }}
