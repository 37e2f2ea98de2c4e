{{/* Every topic, without its prefix. */}}
{{- define "webex-events.topics" -}}
meetings,registrants,participants,recordings,transcripts,service-apps,quarantine,work,commands,outcomes,restricted,dead-letters,ledger
{{- end }}

{{/* Strimzi's operators look in the cluster's namespace, for the cluster's label. */}}
{{- define "webex-events.strimziPlace" -}}
namespace: {{ .Values.topics.strimzi.namespace | default (include "webex-events.namespace" .) }}
labels:
  strimzi.io/cluster: {{ .Values.topics.strimzi.cluster }}
{{- end }}
