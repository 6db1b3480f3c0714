{{- define "primum.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "primum.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "primum.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "primum.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- /* Labels that never change: what selects. Takes root and component. */ -}}
{{- define "primum.selector" -}}
app.kubernetes.io/name: {{ include "primum.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "primum.labels" -}}
{{ include "primum.selector" . }}
app.kubernetes.io/part-of: primum
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- /* Everything of this release, whatever component. */ -}}
{{- define "primum.ours" -}}
app.kubernetes.io/name: {{ include "primum.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* An image reference. Takes root, and image with repository, tag and digest. */ -}}
{{- define "primum.image" -}}
{{- $name := printf "%s/%s" (trimSuffix "/" .root.Values.images.registry) .image.repository }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}
{{- else }}{{ $name }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end }}
{{- end }}

{{- define "primum.user" -}}
system:serviceaccount:{{ .root.Release.Namespace }}:{{ include "primum.fullname" .root }}-{{ .component }}
{{- end }}

{{- define "primum.databaseSecret" -}}
{{- if .Values.database.trial.enabled }}{{ include "primum.fullname" . }}-trial-database
{{- else }}{{ .Values.database.secret }}
{{- end }}
{{- end }}

{{- define "primum.databaseKey" -}}
{{- if .Values.database.trial.enabled }}url{{ else }}{{ .Values.database.key }}{{ end }}
{{- end }}

{{- /* Where the ledger API answers. */ -}}
{{- define "primum.apiUrl" -}}
{{ include "primum.apiScheme" . }}://{{ include "primum.apiHost" . }}:8399
{{- end }}

{{- define "primum.apiScheme" -}}
{{ ternary "http" "https" (eq .Values.api.tls.source "None") }}
{{- end }}

{{- define "primum.apiHost" -}}
{{ include "primum.fullname" . }}-api.{{ .Release.Namespace }}.svc
{{- end }}

{{- define "primum.apiTlsSecret" -}}
{{- if eq .Values.api.tls.source "Secret" }}{{ .Values.api.tls.secret }}
{{- else }}{{ include "primum.fullname" . }}-api-tls
{{- end }}
{{- end }}

{{- /* ConfigMap with the authority of the API's certificate; empty for those of the images. */ -}}
{{- define "primum.ledgerCa" -}}
{{- if .Values.governed.ledgerCa }}{{ .Values.governed.ledgerCa }}
{{- else if eq .Values.api.tls.source "Generated" }}{{ include "primum.fullname" . }}-ledger-ca
{{- end }}
{{- end }}

{{- /* A certificate of the chart's own, kept over upgrades, as JSON: ca, crt and key in base64.
       Takes root, name (of the Secret), and hosts. Remembered, since each call would make another. */ -}}
{{- define "primum.madeCertificate" -}}
{{- $made := index .root.Values "made" | default dict }}
{{- if not (hasKey $made .name) }}
{{- $standing := lookup "v1" "Secret" .root.Release.Namespace .name }}
{{- if and $standing (hasKey $standing.data "ca.crt") }}
{{- $_ := set $made .name (dict "ca" (index $standing.data "ca.crt") "crt" (index $standing.data "tls.crt") "key" (index $standing.data "tls.key")) }}
{{- else }}
{{- $authority := genCA .name 3650 }}
{{- $pair := genSignedCert (first .hosts) nil .hosts 3650 $authority }}
{{- $_ := set $made .name (dict "ca" ($authority.Cert | b64enc) "crt" ($pair.Cert | b64enc) "key" ($pair.Key | b64enc)) }}
{{- end }}
{{- $_ := set .root.Values "made" $made }}
{{- end }}
{{- index $made .name | toJson }}
{{- end }}

{{- define "primum.apiCertificate" -}}
{{- $host := include "primum.apiHost" . }}
{{- $hosts := concat (list $host (printf "%s.cluster.local" $host) (printf "%s-api" (include "primum.fullname" .))) .Values.api.tls.hosts }}
{{- include "primum.madeCertificate" (dict "root" . "name" (include "primum.apiTlsSecret" .) "hosts" $hosts) }}
{{- end }}

{{- define "primum.homeClaim" -}}
{{- default (printf "%s-home" (include "primum.fullname" .)) .Values.home.existingClaim }}
{{- end }}

{{- define "primum.tlsSecret" -}}
{{- if eq .Values.webhook.tls.source "Secret" }}{{ .Values.webhook.tls.secret }}
{{- else }}{{ include "primum.fullname" . }}-webhook-tls
{{- end }}
{{- end }}

{{- /* Whether one inference server serves every Release. */ -}}
{{- define "primum.sharedServing" -}}
{{- and (eq .Values.serving.mode "Shared") (not .Values.integrations.kserve.enabled) }}
{{- end }}

{{- /* User names that make pods and clusters out of what the operator made, as a JSON list. */ -}}
{{- define "primum.controllers" -}}
{{- $names := .Values.policies.controllers }}
{{- range $key := list "kuberay" "kueue" }}
{{- $item := index $.Values.integrations $key }}
{{- if $item.enabled }}
{{- $names = append $names (printf "system:serviceaccount:%s:%s" $item.namespace $item.serviceAccount) }}
{{- end }}
{{- end }}
{{- with $.Values.integrations.kfp }}
{{- if .enabled }}
{{- range $account := .serviceAccounts }}
{{- $names = append $names (printf "system:serviceaccount:%s:%s" $.Values.integrations.kfp.namespace $account) }}
{{- end }}
{{- end }}
{{- end }}
{{- $names | uniq | toJson }}
{{- end }}

{{- /* The port that Kubeflow Pipelines listens on. */ -}}
{{- define "primum.kfpPort" -}}
{{- $url := urlParse .Values.integrations.kfp.url }}
{{- if contains ":" $url.host }}{{ splitList ":" $url.host | last | int }}{{ else }}{{ ternary 443 80 (eq $url.scheme "https") }}{{ end }}
{{- end }}

{{- define "primum.operators" -}}
{{- list (include "primum.user" (dict "root" . "component" "operator")) | toJson }}
{{- end }}

{{- define "primum.queueRequired" -}}
{{- and .Values.integrations.kueue.enabled (ne .Values.integrations.kueue.queue "") }}
{{- end }}

{{- /* Refuse an integration whose API is not there. Takes root, name, api and project. */ -}}
{{- define "primum.require" -}}
{{- if not (.root.Capabilities.APIVersions.Has .api) }}
{{- fail (printf "\n\nintegrations.%s.enabled must be false where the cluster does not serve %s. Install %s first; with `helm template` say --api-versions %s." .name .api .project .api) }}
{{- end }}
{{- end }}

{{- /* Security of a pod: the restricted profile. */ -}}
{{- define "primum.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "primum.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Where a pod may run. Takes root, component, and its values. */ -}}
{{- define "primum.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.affinity }}
affinity: {{- toYaml .values.affinity | nindent 2 }}
{{- else if and .sharesHome (not .root.Values.home.existingClaim) (not (has "ReadWriteMany" .root.Values.home.accessModes)) }}
affinity: # a home that only one node can mount: everybody who needs it goes there
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels: {{- include "primum.ours" .root | nindent 12 }}
          matchExpressions:
            - {key: app.kubernetes.io/component, operator: In, values: [operator, api, serving]}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "primum.selector" . | nindent 8 }}
{{- end }}

{{- /* Settings that every process of ours reads. */ -}}
{{- define "primum.environment" -}}
{{ include "primum.plainEnvironment" . }}
- name: PRIMUM_ANCHOR
  value: /var/lib/primum/anchor/anchor.json
- name: PRIMUM_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ include "primum.databaseSecret" . }}
      key: {{ include "primum.databaseKey" . }}
{{- end }}

{{- /* The same for who only reads the database. */ -}}
{{- define "primum.readerEnvironment" -}}
{{ include "primum.plainEnvironment" . }}
- name: PRIMUM_ANCHOR
  value: /var/lib/primum/anchor/anchor.json
- name: PRIMUM_DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.database.readerSecret | default (include "primum.databaseSecret" .) }}
      key: {{ include "primum.databaseKey" . }}
{{- end }}

{{- /* Settings of a process of ours that asks the ledger API: it has neither database nor key. */ -}}
{{- define "primum.remoteEnvironment" -}}
{{ include "primum.plainEnvironment" . }}
- name: PRIMUM_LEDGER_URL
  value: {{ include "primum.apiUrl" . }}
- name: PRIMUM_TOKEN_FILE
  value: /var/run/secrets/primum/token
{{- if include "primum.ledgerCa" . }}
- name: PRIMUM_LEDGER_CA
  value: /etc/primum/ledger-ca/ca.crt
{{- end }}
{{- end }}

{{- define "primum.plainEnvironment" -}}
- name: HOME
  value: /tmp
- name: OMP_NUM_THREADS
  value: "1"
- name: PRIMUM_HOME
  value: /var/lib/primum
{{- with .Values.lineage.url }}
- name: PRIMUM_LINEAGE_URL
  value: {{ . | quote }}
{{- end }}
{{- with .Values.governed.publicData }}
- name: PRIMUM_PUBLIC_DATA
  value: {{ join "," . | quote }}
{{- end }}
{{- end }}

{{- /* The platform's files: the shared home, and the key in memory with the mode that it insists on. */ -}}
{{- define "primum.homeVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: home
  persistentVolumeClaim:
    claimName: {{ include "primum.homeClaim" . }}
- name: keys
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
- name: signing
  secret:
    secretName: {{ .Values.signing.secret }}
    defaultMode: 0440
{{- end }}

{{- /* A token for the ledger API alone, which the API server takes from nobody. */ -}}
{{- define "primum.remoteVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: home
  persistentVolumeClaim:
    claimName: {{ include "primum.homeClaim" . }}
- name: ledger-token
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken: {path: token, audience: primum-ledger, expirationSeconds: 3600}
{{- with include "primum.ledgerCa" . }}
- name: ledger-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "primum.remoteMounts" -}}
- name: tmp
  mountPath: /tmp
- name: home
  mountPath: /var/lib/primum
- name: ledger-token
  mountPath: /var/run/secrets/primum
  readOnly: true
{{- if include "primum.ledgerCa" . }}
- name: ledger-ca
  mountPath: /etc/primum/ledger-ca
  readOnly: true
{{- end }}
{{- end }}

{{- define "primum.homeMounts" -}}
- name: tmp
  mountPath: /tmp
- name: home
  mountPath: /var/lib/primum
- name: keys
  mountPath: /var/lib/primum/keys
{{- end }}

{{- /* Copies the key: a Secret's files can be read by their group, and the platform refuses that. */ -}}
{{- define "primum.keyContainer" -}}
- name: key
  image: {{ .image }}
  imagePullPolicy: {{ .root.Values.images.pullPolicy }}
  command: [install, -m, "0600", /etc/primum/signing/signing.pem, /var/lib/primum/keys/signing.pem]
  securityContext: {{- include "primum.containerSecurity" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {cpu: 100m, memory: 32Mi}
  volumeMounts:
    - name: keys
      mountPath: /var/lib/primum/keys
    - name: signing
      mountPath: /etc/primum/signing
      readOnly: true
{{- end }}
