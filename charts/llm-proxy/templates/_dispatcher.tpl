{{/* Where the dispatcher sends events; nothing: the back end's own default. */}}
{{- define "llm-proxy.dispatcher.endpoint" -}}
{{- $own := dict "file" "/app/data/events.jsonl" "lunary" "https://api.lunary.ai/v1/runs/ingest" "helicone" "https://api.worker.helicone.ai/custom/v1/log" -}}
{{- .Values.dispatcher.endpoint | default (index $own .Values.dispatcher.service | default "") -}}
{{- end -}}

{{/* Claim of the file back end; nothing: an emptyDir. */}}
{{- define "llm-proxy.dispatcher.claim" -}}
{{- if and .Values.dispatcher.enabled (eq .Values.dispatcher.service "file") .Values.dispatcher.persistence.enabled -}}
{{- .Values.dispatcher.persistence.existingClaim | default (include "llm-proxy.dispatcher.name" .) -}}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.dispatcher.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: data, mountPath: /app/data}
- {name: logs, mountPath: /app/logs}
{{- include "llm-proxy.mounts.redis" . }}
{{- include "llm-proxy.mounts.ca" . }}
{{- end -}}

{{- define "llm-proxy.dispatcher.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: data
{{- if include "llm-proxy.dispatcher.claim" . }}
  persistentVolumeClaim:
    claimName: {{ include "llm-proxy.dispatcher.claim" . | quote }}
{{- else }}
  emptyDir: {sizeLimit: 1Gi}
{{- end }}
- name: logs
  emptyDir: {sizeLimit: 512Mi}
{{- include "llm-proxy.volumes.redis" . }}
{{- include "llm-proxy.volumes.ca" . }}
{{- end -}}
