{{/* Egress rules that workloads have in common. */}}
{{- define "llm-proxy.egress.dns" }}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- end -}}

{{/* DNS, Redis, the providers and back ends, and what the user adds. */}}
{{- define "llm-proxy.egress.common" -}}
{{- include "llm-proxy.egress.dns" . }}
{{- if .Values.redis.external.addr }}
- ports:
    - {port: {{ regexFind ":[0-9]+(/[0-9]*)?$" .Values.redis.external.addr | regexFind "[0-9]+" | default "6379" }}, protocol: TCP}
{{- end }}
{{- if .Values.networkPolicy.allowExternalEgress }}
- ports:
    - {port: 443, protocol: TCP}
{{- end }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}
