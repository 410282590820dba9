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

{{/* spec of a Service in front of one workload, (list values selectorLabels). Its port is named http. */}}
{{- define "llm-proxy.service.spec" -}}
{{- $service := index . 0 -}}
type: {{ $service.type }}
{{- range list "loadBalancerIP" "loadBalancerClass" "externalTrafficPolicy" "internalTrafficPolicy" "ipFamilyPolicy" "sessionAffinity" }}
{{- if index $service . }}
{{ . }}: {{ index $service . | quote }}
{{- end }}
{{- end }}
{{- range list "loadBalancerSourceRanges" "ipFamilies" }}
{{- if index $service . }}
{{ . }}:
  {{- toYaml (index $service .) | nindent 2 }}
{{- end }}
{{- end }}
selector:
  {{- index . 1 | nindent 2 }}
ports:
  - name: http
    port: {{ int $service.port }}
    targetPort: http
    protocol: TCP
    {{- with $service.nodePort }}
    nodePort: {{ int . }}
    {{- end }}
{{- end -}}

{{/* spec of an HTTPRoute, (list values serviceName port). */}}
{{- define "llm-proxy.httpRoute.spec" -}}
{{- $route := index . 0 -}}
parentRefs:
  {{- toYaml $route.parentRefs | nindent 2 }}
{{- with $route.hostnames }}
hostnames:
  {{- toYaml . | nindent 2 }}
{{- end }}
rules:
  - matches:
      {{- toYaml $route.matches | nindent 6 }}
    {{- with $route.filters }}
    filters:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $route.timeouts }}
    timeouts:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    backendRefs:
      - name: {{ index . 1 | quote }}
        port: {{ int (index . 2) }}
{{- with $route.additionalRules }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}
