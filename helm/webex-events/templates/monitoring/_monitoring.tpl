{{/* "yes" where objects of this kind are to be rendered. Takes root and kind. */}}
{{- define "webex-events.renders" -}}
{{- $mode := .root.Values.monitoring.renderMode -}}
{{- $known := .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}
{{- if or $known (eq $mode "alwaysRender") -}}
yes
{{- else if eq $mode "failIfMissing" -}}
{{- fail (printf "The cluster does not know %s of monitoring.coreos.com/v1, and monitoring.renderMode is failIfMissing: install the Prometheus operator, or choose skipIfMissing." .kind) -}}
{{- end -}}
{{- end }}

{{/* How Prometheus reads the pods. Takes the monitor's values. */}}
{{- define "webex-events.endpoint" -}}
- port: admin
  path: /metrics
  interval: {{ .interval }}
  scrapeTimeout: {{ .scrapeTimeout }}
  {{- with .relabelings }}
  relabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .metricRelabelings }}
  metricRelabelings:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "webex-events.monitored" -}}
namespaceSelector:
  matchNames: [{{ include "webex-events.namespace" . }}]
selector:
  matchLabels:
    app.kubernetes.io/name: {{ include "webex-events.name" . | quote }}
    app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}
