{{/* What works, but is seldom meant. Shown by NOTES; never a secret's value. */}}
{{- define "llm-proxy.warnings" -}}
{{- $full := include "llm-proxy.fullname" . -}}
{{- $driver := include "llm-proxy.database.driver" . -}}
{{- $most := include "llm-proxy.replicas.most" . | atoi -}}
{{- if not (include "llm-proxy.secret.source" (list . "managementToken" "MANAGEMENT_TOKEN")) }}
* There is no management token, and the proxy does not start without one. Create a Secret and name it:
    kubectl create secret generic llm-proxy-secrets --namespace {{ .Release.Namespace }} --from-literal=MANAGEMENT_TOKEN="$(openssl rand -base64 32)"
    --set secrets.managementToken.existingSecret.name=llm-proxy-secrets
  or, for development, have the chart keep it: --set secrets.create=true --set secrets.generate=true
{{- end }}
{{- if not (include "llm-proxy.secret.source" (list . "encryptionKey" "ENCRYPTION_KEY")) }}
* There is no encryption key: provider API keys are stored in clear (tokens are hashed in any case). For production:
    kubectl create secret generic llm-proxy-encryption --namespace {{ .Release.Namespace }} --from-literal=ENCRYPTION_KEY="$(openssl rand -base64 32)"
    --set secrets.encryptionKey.existingSecret.name=llm-proxy-encryption
{{- end }}
{{- $kept := include "llm-proxy.secret.rendered" . }}
{{- if contains "data" $kept }}
* secrets.create: the values of secrets.data stay readable in the release's history (helm get values). Development only.
{{- end }}
{{- if contains "generated" $kept }}
* secrets.generate: made up once and kept in the Secret {{ $full }}, also when the release is uninstalled. Not for GitOps or
  helm template, where nothing can be looked up and each rendering makes new ones. To read the management token:
    kubectl get secret {{ $full }} --namespace {{ .Release.Namespace }} -o jsonpath='{.data.MANAGEMENT_TOKEN}' | base64 -d
{{- end }}
{{- if and (gt $most 1) (has (.Values.env.LLM_PROXY_EVENT_BUS | default "in-memory") (list "in-memory" "memory")) }}
* The in-memory event bus with more than one replica: each pod has a bus of its own, and no dispatcher sees any.
  Set redis.external.addr and env.LLM_PROXY_EVENT_BUS=redis-streams.
{{- end }}
{{- if eq $driver "sqlite" }}
{{- if not .Values.persistence.enabled }}
* SQLite without persistence: every restart of the pod loses all projects and tokens. Set persistence.enabled=true.
{{- end }}
{{- if include "llm-proxy.secret.source" (list . "databaseUrl" "DATABASE_URL") }}
* secrets.databaseUrl is given but env.DB_DRIVER is sqlite: the URL is not used. Set env.DB_DRIVER.
{{- end }}
{{- $spool := include "llm-proxy.mebibytes" (.Values.env.EVENT_SPOOL_MAX_BYTES | default "256MB") | atoi }}
{{- if and .Values.persistence.enabled (gt $spool 768) }}
* EVENT_SPOOL_MAX_BYTES is {{ $spool }}MiB and lies on the claim of {{ .Values.persistence.size }} beside the database: see that both fit.
{{- end }}
{{- end }}
{{- if .Values.redis.enabled }}
* redis.enabled is reserved and deploys nothing. Set redis.external.addr to a Redis that exists.
{{- end }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}
{{- range (.paths | default (list (dict "path" "/"))) }}
{{- if eq (.path | default "/") "/" }}
* The ingress forwards every path, /manage and {{ $.Values.env.METRICS_PATH | default "/metrics" }} included. To publish the API alone, set ingress.hosts[].paths[].path=/v1.
{{- end }}
{{- end }}
{{- end }}
{{- if eq (include "llm-proxy.trustedProxies" .) "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7" }}
* X-Forwarded-* fields are believed from the private ranges (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7), where
  ingress controllers are. Set trustedProxies to your controller's network to narrow it.
{{- end }}
{{- end }}
{{- if not .Values.metrics.enabled }}
{{- if or .Values.metrics.serviceMonitor.enabled .Values.metrics.prometheusRule.enabled .Values.metrics.grafanaDashboard.enabled .Values.metrics.redisDashboard.enabled }}
* ServiceMonitor, alert rules and dashboards are only rendered with metrics.enabled=true.
{{- end }}
{{- end }}
{{- end -}}
