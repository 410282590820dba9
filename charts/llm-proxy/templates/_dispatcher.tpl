{{/* Where the dispatcher sends events; each back end has a place of its own. */}}
{{- define "llm-proxy.dispatcher.endpoint" -}}
{{- $own := dict "file" "/app/data/events.jsonl" "lunary" "https://api.lunary.ai/v1/runs/ingest" "helicone" "https://api.worker.helicone.ai/custom/v1/log" -}}
{{- .Values.dispatcher.endpoint | default (index $own .Values.dispatcher.service) -}}
{{- end -}}

{{/* Claim of the file back end; nothing: an emptyDir. */}}
{{- define "llm-proxy.dispatcher.claim" -}}
{{- if and .Values.dispatcher.enabled (eq .Values.dispatcher.service "file") .Values.dispatcher.persistence.enabled -}}
{{- .Values.dispatcher.persistence.existingClaim | default (include "llm-proxy.dispatcher.name" .) -}}
{{- end -}}
{{- end -}}
