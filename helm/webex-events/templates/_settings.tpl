{{/*
What the program is told: one file of settings for all pods, and the few variables that differ between them.
*/}}

{{/* The settings that the chart makes; the rest is .Values.config. Secrets are files, so nothing here is one. */}}
{{- define "webex-events.settings" -}}
{{- $kafka := .Values.kafka -}}
bus: kafka
kafka:
  bootstrap_servers: {{ join "," $kafka.bootstrapServers | quote }}
  topic_prefix: {{ $kafka.topicPrefix | quote }}
  group: {{ $kafka.group | quote }}
  security_protocol: {{ $kafka.securityProtocol }}
  {{- if hasPrefix "SASL" $kafka.securityProtocol }}
  sasl:
    mechanism: {{ $kafka.saslMechanism }}
    password_file: /etc/webex-events/secrets/kafka/password
  {{- end }}
  {{- if $kafka.ca.existingSecret }}
  ca_file: /etc/webex-events/secrets/kafka/ca.crt
  {{- end }}
journal:
  enabled: {{ ne .Values.receiver.journal.mode "none" }}
  path: /var/lib/webex-events
  {{- with .Values.receiver.journal.maxMib }}
  max_mib: {{ . }}
  {{- end }}
receiver:
  host: 0.0.0.0
  port: 8080
admin:
  # The kubelet and Prometheus come from outside the pod; the Service of the webhooks does not have this port.
  host: 0.0.0.0
  port: 9090
webhook:
  secrets_dir: /etc/webex-events/secrets/webhook
{{- with .Values.webex.tokenKey }}
webex:
  token_file: {{ printf "/etc/webex-events/secrets/webex/%s" . | quote }}
{{- end }}
{{- if include "webex-events.policyConfigMap" . }}
policy:
  file: /etc/webex-events/policy/policy.yaml
{{- end }}
{{- end }}

{{- define "webex-events.config" -}}
{{- $made := include "webex-events.settings" . | fromYaml -}}
{{- with $made.Error }}{{ fail (printf "the settings that the chart makes are no YAML, which is a fault of the chart: %s" .) }}{{ end -}}
{{- mergeOverwrite $made (deepCopy .Values.config) | toYaml -}}
{{- end }}

{{/* "" where there is no policy. */}}
{{- define "webex-events.policyConfigMap" -}}
{{- if .Values.policy.existingConfigMap -}}
{{- .Values.policy.existingConfigMap -}}
{{- else if .Values.policy.files -}}
{{- include "webex-events.fullname" . }}-policy
{{- end -}}
{{- end }}

{{/* Takes root and secret (webhook or webex). "" where there is none. */}}
{{- define "webex-events.secretName" -}}
{{- $external := .root.Values.externalSecrets -}}
{{- if (index .root.Values .secret).existingSecret -}}
{{- (index .root.Values .secret).existingSecret -}}
{{- else if and $external.enabled (index $external .secret) -}}
{{- include "webex-events.fullname" .root }}-{{ .secret -}}
{{- end -}}
{{- end }}

{{/*
The account towards Kafka of one role, as YAML with the keys of kafka.account: what the role has of its own, else what Strimzi or
the External Secrets Operator makes, else the common one. Takes root and role.
*/}}
{{- define "webex-events.account" -}}
{{- $values := .root.Values -}}
{{- $fullname := include "webex-events.fullname" .root -}}
{{- $made := dict -}}
{{- if and (include "webex-events.strimziUsers" .root) (ne .role "topics") -}}
{{- $user := printf "%s-%s" $fullname .role -}}
{{- $made = dict "username" $user "existingSecret" $user -}}
{{- if eq $values.kafka.securityProtocol "SSL" -}}
{{- $made = merge $made (dict "certificateKey" "user.crt" "privateKeyKey" "user.key") -}}
{{- end -}}
{{- else if and $values.externalSecrets.enabled $values.externalSecrets.kafka (not $values.kafka.account.existingSecret) -}}
{{- $made = dict "existingSecret" (printf "%s-kafka" $fullname) -}}
{{- end -}}
{{- mergeOverwrite (deepCopy $values.kafka.account) $made (deepCopy (index $values.kafka.accounts .role)) | toYaml -}}
{{- end }}

{{/* Whoever needs an account: towards Kafka, and a ServiceAccount. */}}
{{- define "webex-events.accounts" -}}
{{- $needed := dict
  "operator" (and .Values.test.enabled .Values.receiver.enabled)
  "processor" .Values.processor.enabled
  "receiver" (or .Values.receiver.enabled .Values.journalDrain.claims)
  "topics" (eq .Values.topics.mode "job") }}
{{- $roles := list }}
{{- range $role, $yes := $needed }}
{{- if $yes }}
{{- $roles = append $roles $role }}
{{- end }}
{{- end }}
{{- join "," $roles }}
{{- end }}

{{- define "webex-events.strimziUsers" -}}
{{- if and (eq .Values.topics.mode "strimzi") .Values.topics.strimzi.users.enabled -}}yes{{- end -}}
{{- end }}

{{/* Takes root, role, and the role's merged `pod`. */}}
{{- define "webex-events.env" -}}
{{- $kafka := .root.Values.kafka -}}
{{- $account := include "webex-events.account" . | fromYaml -}}
- name: WEBEX_EVENTS_CONFIG
  value: /etc/webex-events/config/config.yaml
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- name: WEBEX_EVENTS_KAFKA__SASL__USERNAME
  value: {{ $account.username | quote }}
{{- end }}
{{- if and (hasSuffix "SSL" $kafka.securityProtocol) $account.certificateKey }}
- name: WEBEX_EVENTS_KAFKA__CERT_FILE
  value: /etc/webex-events/secrets/kafka/tls.crt
- name: WEBEX_EVENTS_KAFKA__KEY_FILE
  value: /etc/webex-events/secrets/kafka/tls.key
{{- end }}
{{- if eq .role "processor" }}
# A name that stays with the pod: a restart within 18 s moves no work to another one.
- name: WEBEX_EVENTS_KAFKA__INSTANCE_ID
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- end }}
{{- with .pod.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
