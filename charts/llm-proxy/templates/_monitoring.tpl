{{/* How an endpoint of a ServiceMonitor or PodMonitor is scraped. */}}
{{- define "llm-proxy.scrape" }}
interval: {{ .interval | quote }}
scrapeTimeout: {{ .scrapeTimeout | quote }}
{{- with .scheme }}
scheme: {{ . }}
{{- end }}
{{- with .tlsConfig }}
tlsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if kindIs "bool" .honorLabels }}
honorLabels: {{ .honorLabels }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What the spec of a monitor begins with, (list root component values). */}}
{{- define "llm-proxy.monitor.head" -}}
{{- $monitor := index . 2 -}}
{{- with $monitor.jobLabel }}
jobLabel: {{ . | quote }}
{{- end }}
namespaceSelector:
  matchNames:
    - {{ (index . 0).Release.Namespace | quote }}
selector:
  matchLabels:
    {{- include "llm-proxy.selectorLabels" (list (index . 0) (index . 1)) | nindent 4 }}
{{- end -}}
