{{/* Every topic, without its prefix. */}}
{{- define "webex-events.topics" -}}
meetings,registrants,participants,recordings,transcripts,service-apps,quarantine,work,commands,outcomes,restricted,dead-letters,ledger
{{- end }}

{{/* Of every topic. */}}
{{- define "webex-events.partitions" -}}
{{- ((.Values.config.kafka | default dict).topics | default dict).partitions | default 6 | int -}}
{{- end }}

{{/* The name of a KafkaTopic: Kafka takes names that Kubernetes does not. Takes root and topic. */}}
{{- define "webex-events.kafkaTopic" -}}
{{- printf "%s%s" .root.Values.kafka.topicPrefix .topic | lower | replace "_" "-" -}}
{{- end }}

{{/* Strimzi's operators look in the cluster's namespace, for the cluster's label. */}}
{{- define "webex-events.strimziPlace" -}}
namespace: {{ .Values.topics.strimzi.namespace | default (include "webex-events.namespace" .) }}
labels:
  strimzi.io/cluster: {{ .Values.topics.strimzi.cluster }}
{{- end }}
