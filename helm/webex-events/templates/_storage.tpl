{{/*
The folder /var/lib/webex-events: the receiver's journal and what it keeps of refused requests; the processor's refreshed tokens.
*/}}

{{/* Nothing where the claim template of the StatefulSet makes it. */}}
{{- define "webex-events.receiverState" -}}
{{- $journal := .Values.receiver.journal -}}
{{- if eq $journal.mode "emptyDir" -}}
emptyDir: {sizeLimit: {{ include "webex-events.emptyDirMib" . }}Mi}
{{- else if eq $journal.mode "none" -}}
emptyDir: {sizeLimit: 64Mi}
{{- end -}}
{{- end }}

{{/* Room for the journal, and for the copy that is made where it has to be mended. */}}
{{- define "webex-events.emptyDirMib" -}}
{{- add (mul 2 (.Values.receiver.journal.maxMib | int)) 64 -}}
{{- end }}

{{/* What is in an emptyDir counts as ephemeral storage: a limit below would evict the pod, with its journal. */}}
{{- define "webex-events.receiverResources" -}}
{{- $resources := deepCopy (.Values.receiver.resources | default dict) -}}
{{- if eq .Values.receiver.journal.mode "emptyDir" -}}
{{- $size := include "webex-events.emptyDirMib" . | int -}}
{{- $storage := dict "limits" (dict "ephemeral-storage" (printf "%dMi" (add $size 256))) "requests" (dict "ephemeral-storage" (printf "%dMi" $size)) -}}
{{- $resources = mergeOverwrite $resources $storage -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end }}

{{/* One volumeClaimTemplate. Immutable, so it has no label that changes. Takes root, component and volume. */}}
{{- define "webex-events.claim" -}}
- metadata:
    name: journal
    labels:
      {{- include "webex-events.selectorLabels" . | nindent 6 }}
    {{- with .volume.annotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .volume.storageClassName }}
    storageClassName: {{ . | quote }}
    {{- end }}
    resources:
      requests: {storage: {{ .volume.size | quote }}}
{{- end }}
