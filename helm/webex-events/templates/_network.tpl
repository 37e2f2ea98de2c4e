{{/* The names under which Webex calls, as YAML; "[]" where none is told. */}}
{{- define "webex-events.publicNames" -}}
{{- $route := .Values.receiver.httpRoute.enabled | ternary .Values.receiver.httpRoute.hostnames list -}}
{{- $ingress := .Values.receiver.ingress.enabled | ternary .Values.receiver.ingress.hosts list -}}
{{- concat $route $ingress | uniq | sortAlpha | toYaml -}}
{{- end }}

{{/* One egress rule. Takes peers and ports. */}}
{{- define "webex-events.egress" -}}
- to:
    {{- toYaml .peers | nindent 4 }}
  ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "webex-events.commonEgress" -}}
{{- $policy := .Values.networkPolicy -}}
- to:
    {{- toYaml $policy.dns.peers | nindent 4 }}
  ports:
    {{- range $policy.dns.ports }}
    - {protocol: UDP, port: {{ . }}}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{ include "webex-events.egress" $policy.kafka }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "webex-events.metricsFrom" -}}
{{- with .Values.networkPolicy.metricsFrom -}}
- from:
    {{- toYaml . | nindent 4 }}
  ports: [{protocol: TCP, port: admin}]
{{- end }}
{{- end }}
