{{/* What NOTES.txt warns of. */}}
{{- define "webex-events.skipped" -}}
{{- $monitoring := .Values.monitoring }}
{{- range $kind, $enabled := dict "PodMonitor" $monitoring.podMonitor.enabled "ServiceMonitor" $monitoring.serviceMonitor.enabled "PrometheusRule" $monitoring.prometheusRule.enabled }}
{{- if and $enabled (not (include "webex-events.renders" (dict "root" $ "kind" $kind))) }}
* {{ $kind }}
{{- end }}
{{- end }}
{{- end }}

{{- define "webex-events.risks" -}}
{{- $receiver := .Values.receiver }}
{{- if $receiver.enabled }}
{{- if lt (include "webex-events.leastPods" (dict "root" . "role" "receiver") | int) 2 }}
* One receiver: while it is replaced, Webex gets no answer. It repeats for a while, and switches a webhook off that fails for long.
{{- end }}
{{- if eq $receiver.journal.mode "none" }}
* No journal: while Kafka is away, Webex gets 503.
{{- end }}
{{- if eq $receiver.journal.mode "emptyDir" }}
* The journal is an emptyDir: events that were answered 2xx while Kafka was away are lost with their pod.
{{- end }}
{{- if and $receiver.autoscaling.enabled $receiver.autoscaling.allowScaleDown (eq $receiver.journal.mode "persistent") }}
* Receivers are scaled down: watch for claims without a pod, and drain them by journalDrain.claims.
{{- end }}
{{- end }}
{{- if and .Values.processor.enabled (not (include "webex-events.policyConfigMap" .)) }}
* No policy: every registrant is held. See policy.files.
{{- end }}
{{- if and .Values.processor.enabled (gt (include "webex-events.leastPods" (dict "root" . "role" "processor") | int) 1) (include "webex-events.refreshes" .) }}
* Each processor keeps the refresh token that Webex gave it last; the one that stands by has only that of the secret. Where Webex replaces yours, use processor.replicas=1.
{{- end }}
{{- if not .Values.networkPolicy.enabled }}
* No NetworkPolicy: any pod of the cluster reaches the metrics and the receiver. See networkPolicy.
{{- end }}
{{- if eq .Values.kafka.securityProtocol "PLAINTEXT" }}
* Kafka in plain text: registrants' names and addresses are on its topics. See kafka.securityProtocol.
{{- end }}
{{- if not (or .Values.monitoring.podMonitor.enabled .Values.monitoring.serviceMonitor.enabled) }}
* No monitor: nobody would see that events are refused. See monitoring.
{{- end }}
{{- if and .Values.monitoring.prometheusRule.enabled (not (contains "webex-events" (include "webex-events.fullname" .))) }}
* The alerts about pods and autoscalers look for names that hold "webex-events"; those of this release do not.
{{- end }}
{{- if and $receiver.httpRoute.enabled $receiver.ingress.enabled }}
* HTTPRoute and Ingress both lead to the receiver; that is good for moving from one to the other, and for nothing else.
{{- end }}
{{- if not (or .Values.image.registry .Values.global.imageRegistry (contains "/" .Values.image.repository)) }}
* image.registry is empty: every node must have the image {{ include "webex-events.image" . }} already.
{{- end }}
{{- end }}
