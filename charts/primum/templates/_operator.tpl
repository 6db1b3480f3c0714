{{- /* How the operator is told what the cluster has; one place, read by its process. */ -}}
{{- define "primum.operatorArguments" -}}
- primum_operators
{{- end }}

{{- /* How many operators run: none before there is what they need. */ -}}
{{- define "primum.operatorReplicas" -}}
{{- if and .Values.images.worker.digest .Values.governed.namespaces }}{{ .Values.operator.replicas }}{{ else }}0{{ end }}
{{- end }}

{{- define "primum.operatorEnvironment" -}}
{{- if .Values.serving.enabled }}
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
- name: PRIMUM_OPERATOR_JOB_SETTINGS_SECRET
  value: {{ .Values.governed.settingsSecret }}
- name: PRIMUM_OPERATOR_JOB_KEYS_SECRET
  value: {{ .Values.governed.keysSecret }}
- name: PRIMUM_OPERATOR_JOB_ARTIFACTS_CLAIM
  value: {{ .Values.governed.artifacts.claim }}
{{- with .Values.governed.datasetClaim }}
- name: PRIMUM_OPERATOR_JOB_DATA_CLAIM
  value: {{ . }}
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
{{- with .Values.integrations.kueue.queue }}
- name: PRIMUM_OPERATOR_JOB_QUEUE
  value: {{ . }}
{{- end }}
{{- end }}
{{- end }}
