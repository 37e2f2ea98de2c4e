{{/*
Names and labels. Names are short enough for what Kubernetes adds: a StatefulSet's pods carry its name and a hash in a label of
63 characters.
*/}}
{{- define "webex-events.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "webex-events.fullname" -}}
{{- $name := include "webex-events.name" . -}}
{{- $made := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- .Values.fullnameOverride | default $made | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "webex-events.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end }}

{{/* Immutable in workloads, so nothing that a new version of the chart changes. Takes root and component. */}}
{{- define "webex-events.selectorLabels" -}}
app.kubernetes.io/name: {{ include "webex-events.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What every object begins with. Takes root, component, name; labels and annotations of its own are optional. */}}
{{- define "webex-events.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .namespace | default (include "webex-events.namespace" .root) | quote }}
labels:
  {{- include "webex-events.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/part-of: webex-events
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
  {{- with merge (dict) (.labels | default dict) .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "webex-events.image" -}}
{{- $image := .Values.image -}}
{{- $registry := .Values.global.imageRegistry | default $image.registry -}}
{{- with $registry }}{{ . }}/{{ end -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- with $image.digest }}@{{ . }}{{ end -}}
{{- end }}

{{/* Takes root and role. */}}
{{- define "webex-events.serviceAccountName" -}}
{{- $accounts := .root.Values.serviceAccounts -}}
{{- $made := printf "%s-%s" (include "webex-events.fullname" .root) .role -}}
{{- (index $accounts .role).name | default ($accounts.create | ternary $made "default") -}}
{{- end }}

{{/* How many pods a role has at least. Takes root and role. */}}
{{- define "webex-events.leastPods" -}}
{{- $values := index .root.Values .role -}}
{{- $scaling := (eq .role "receiver") | ternary $values.autoscaling $values.keda -}}
{{- $scaling.enabled | ternary $scaling.minReplicas $values.replicas -}}
{{- end }}
