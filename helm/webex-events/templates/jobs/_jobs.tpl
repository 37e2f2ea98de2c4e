{{/* What makes an object a hook that is gone when it has done its work. */}}
{{- define "webex-events.hook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
