{{/*
The line `replicas`. With an autoscaler it is the count of now: without the line Kubernetes would make it 1 when the autoscaler is
switched on, until that has looked. No line where there is no such workload yet, or no cluster to ask. Takes root, kind, name,
replicas, and scaled: whether there is an autoscaler.
*/}}
{{- define "webex-events.replicas" -}}
{{- $count := toString .replicas -}}
{{- if .scaled }}{{ $count = include "webex-events.liveReplicas" . }}{{ end -}}
{{- with $count -}}
replicas: {{ . }}
{{- end }}
{{- end }}

{{/* Takes root, kind and name. */}}
{{- define "webex-events.liveReplicas" -}}
{{- with lookup "apps/v1" .kind (include "webex-events.namespace" .root) .name -}}
{{- .spec.replicas -}}
{{- end -}}
{{- end }}
