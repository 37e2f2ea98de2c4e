{{/*
One pod for all roles, the Jobs and the test. What differs comes as arguments:
  root       the chart's context
  role       receiver, processor, operator (helm test) or topics: whose account it has
  component  the label, and whose secrets of Webex are mounted: the role, or the name of the Job
  args       of webex-events
  state      the volume behind /var/lib/webex-events, as YAML; "" where a volumeClaimTemplate makes it
  configMap  with the settings
  pod        the role's merged `pod`
*/}}

{{/* The role's own `pod` over the common one. Takes root and role. */}}
{{- define "webex-events.podValues" -}}
{{- $own := (index .root.Values .role | default dict).pod | default dict -}}
{{- $pod := mergeOverwrite (deepCopy .root.Values.pod) (deepCopy $own) -}}
{{- if .root.Values.openshift.enabled -}}
{{- $_ := set $pod "securityContext" (omit ($pod.securityContext | default dict) "runAsUser" "runAsGroup" "fsGroup") -}}
{{- end -}}
{{- toYaml $pod -}}
{{- end }}

{{/* A change of the settings restarts the pods: the program reads them once. Secrets and the policy it reads again. */}}
{{- define "webex-events.podMetadata" -}}
labels:
  {{- include "webex-events.selectorLabels" . | nindent 2 }}
  {{- with merge (dict) .pod.labels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/config: {{ include "webex-events.config" .root | sha256sum }}
  {{- with merge (dict) .pod.annotations .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Where a pod runs, and with what rights. */}}
{{- define "webex-events.podPlace" -}}
serviceAccountName: {{ include "webex-events.serviceAccountName" . | quote }}
automountServiceAccountToken: false
# Its variables for the Services of the namespace would begin like ours.
enableServiceLinks: false
{{- with concat .root.Values.global.imagePullSecrets .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $pod := .pod }}
{{- range $name := list "securityContext" "nodeSelector" "tolerations" "affinity" "priorityClassName" "runtimeClassName" "hostAliases" "dnsPolicy" "dnsConfig" }}
{{- with index $pod $name }}
{{- toYaml (dict $name .) | nindent 0 }}
{{- end }}
{{- end }}
{{- if kindIs "bool" $pod.hostUsers }}
hostUsers: {{ $pod.hostUsers }}
{{- end }}
{{- end }}

{{/* Each constraint is about the pods of the same role, unless it says otherwise. */}}
{{- define "webex-events.podSpread" -}}
{{- with .pod.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ toYaml . | nindent 4 | trim }}
    {{- if not .labelSelector }}
    labelSelector:
      matchLabels:
        {{- include "webex-events.selectorLabels" $ | nindent 8 }}
    {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A container of the product, without what only a server has. */}}
{{- define "webex-events.container" -}}
image: {{ include "webex-events.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- with .args }}
args: {{ toJson . }}
{{- end }}
{{- with .pod.containerSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- include "webex-events.env" . | nindent 2 }}
{{- with .pod.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml (.resources | default dict) | nindent 2 }}
volumeMounts:
  {{- include "webex-events.volumeMounts" . | nindent 2 }}
{{- end }}

{{- define "webex-events.volumeMounts" -}}
- {name: config, mountPath: /etc/webex-events/config, readOnly: true}
- {name: journal, mountPath: /var/lib/webex-events}
- {name: tmp, mountPath: /tmp}
{{- if include "webex-events.kafkaSecrets" . }}
- {name: kafka, mountPath: /etc/webex-events/secrets/kafka, readOnly: true}
{{- end }}
{{- if has .component (list "receiver" "operator") }}
- {name: webhook, mountPath: /etc/webex-events/secrets/webhook, readOnly: true}
{{- end }}
{{- if eq .role "processor" }}
- {name: webex, mountPath: /etc/webex-events/secrets/webex, readOnly: true}
{{- if include "webex-events.policyConfigMap" .root }}
- {name: policy, mountPath: /etc/webex-events/policy, readOnly: true}
{{- end }}
{{- end }}
{{- with .pod.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Folders, never single files (subPath): those would not change with their secret. */}}
{{- define "webex-events.volumes" -}}
- name: config
  configMap: {name: {{ .configMap | quote }}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with .state }}
- name: journal
  {{- . | nindent 2 }}
{{- end }}
{{- with include "webex-events.kafkaSecrets" . }}
- name: kafka
  projected:
    defaultMode: 0440
    sources:
      {{- . | nindent 6 }}
{{- end }}
{{- if has .component (list "receiver" "operator") }}
- name: webhook
  secret:
    secretName: {{ include "webex-events.secretName" (dict "root" .root "secret" "webhook") | quote }}
    defaultMode: 0440
    {{- if and (eq .component "operator") .root.Values.test.secretKey }}
    items: [{key: {{ .root.Values.test.secretKey | quote }}, path: {{ .root.Values.test.secretKey | quote }}}]
    {{- end }}
{{- end }}
{{- if eq .role "processor" }}
- name: webex
  secret:
    secretName: {{ include "webex-events.secretName" (dict "root" .root "secret" "webex") | quote }}
    defaultMode: 0440
{{- with include "webex-events.policyConfigMap" .root }}
- name: policy
  configMap: {name: {{ . | quote }}}
{{- end }}
{{- end }}
{{- with .pod.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Sources of the folder with what Kafka wants to see; "" where it wants nothing. */}}
{{- define "webex-events.kafkaSecrets" -}}
{{- $kafka := .root.Values.kafka -}}
{{- $account := include "webex-events.account" . | fromYaml -}}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- secret:
    name: {{ $account.existingSecret | quote }}
    items: [{key: {{ $account.passwordKey | quote }}, path: password}]
{{- end }}
{{- if and (hasSuffix "SSL" $kafka.securityProtocol) $account.certificateKey }}
- secret:
    name: {{ $account.existingSecret | quote }}
    items:
      - {key: {{ $account.certificateKey | quote }}, path: tls.crt}
      - {key: {{ $account.privateKeyKey | quote }}, path: tls.key}
{{- end }}
{{- if $kafka.ca.existingSecret }}
- secret:
    name: {{ $kafka.ca.existingSecret | quote }}
    items: [{key: {{ $kafka.ca.key | quote }}, path: ca.crt}]
{{- end }}
{{- end }}

{{/* The pod template of a role that serves. */}}
{{- define "webex-events.servingPod" -}}
{{- $values := index .root.Values .role -}}
metadata:
  {{- include "webex-events.podMetadata" . | nindent 2 }}
spec:
  {{- include "webex-events.podPlace" . | nindent 2 }}
  {{- include "webex-events.podSpread" . | nindent 2 }}
  terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
  {{- with .pod.extraInitContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .role }}
      {{- include "webex-events.container" . | nindent 6 }}
      ports:
        {{- if eq .role "receiver" }}
        - {name: webhooks, containerPort: 8080}
        {{- end }}
        - {name: admin, containerPort: 9090}
      {{- with $values.preStopSleepSeconds }}
      lifecycle:
        preStop: {sleep: {seconds: {{ . }}}}
      {{- end }}
      startupProbe:
        httpGet: {path: /livez, port: admin}
        {{- toYaml $values.probes.startup | nindent 8 }}
      livenessProbe:
        httpGet: {path: /livez, port: admin}
        {{- toYaml $values.probes.liveness | nindent 8 }}
      readinessProbe:
        httpGet: {path: /readyz, port: admin}
        {{- toYaml $values.probes.readiness | nindent 8 }}
    {{- with .pod.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "webex-events.volumes" . | nindent 4 }}
{{- end }}

{{/* The arguments of the pod of a role that serves. Takes root, role and state. */}}
{{- define "webex-events.serving" -}}
{{- $pod := include "webex-events.podValues" . | fromYaml -}}
{{- include "webex-events.servingPod" (merge (dict
  "component" .role
  "args" (list "serve" .role)
  "configMap" (include "webex-events.fullname" .root)
  "pod" $pod) .) -}}
{{- end }}

{{/* The pod template of a Job. Takes root, role, component, args, state, configMap and resources. */}}
{{- define "webex-events.jobPod" -}}
{{- $pod := include "webex-events.podValues" . | fromYaml -}}
{{- $arguments := merge (dict "pod" $pod) . -}}
metadata:
  {{- include "webex-events.podMetadata" $arguments | nindent 2 }}
spec:
  {{- include "webex-events.podPlace" $arguments | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: {{ .component }}
      {{- include "webex-events.container" $arguments | nindent 6 }}
  volumes:
    {{- include "webex-events.volumes" $arguments | nindent 4 }}
{{- end }}
