{{/* How a ServiceMonitor's endpoint is scraped. */}}
{{- define "llm-proxy.scrape" }}
interval: {{ .interval | quote }}
scrapeTimeout: {{ .scrapeTimeout | quote }}
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
