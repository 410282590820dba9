{{/* What works, but is seldom meant. Shown by NOTES; never a secret's value. */}}
{{- define "llm-proxy.warnings" -}}
{{- $full := include "llm-proxy.fullname" . -}}
{{- $driver := include "llm-proxy.database.driver" . -}}
{{- $most := include "llm-proxy.replicas.most" . | atoi -}}
{{- if not (include "llm-proxy.registryOf" (include "llm-proxy.repository" (list . .Values.image.repository))) }}
* The image {{ include "llm-proxy.image" . }} has no registry, so that nodes look for it on Docker Hub. Unless the nodes
  have it already (kind load, a mirror), the pods stay in ImagePullBackOff. Set
    --set image.repository=ghcr.io/sofatutor/llm-proxy
{{- end }}
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
* The in-memory event bus with more than one replica: each pod has its own bus, and no dispatcher sees any.
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
{{- if and .Values.dispatcher.enabled (eq .Values.dispatcher.service "otlp") (not .Values.dispatcher.endpoint) }}
* dispatcher.service=otlp without dispatcher.endpoint sends to http://localhost:4318/v1/traces, which only a collector in
  the same pod (dispatcher.sidecars) receives. Set dispatcher.endpoint to your collector's.
{{- end }}
{{- if .Values.redis.enabled }}
* redis.enabled is reserved and deploys nothing. Set redis.external.addr to a Redis that exists.
{{- end }}
{{- range $name, $hosts := dict "ingress" (ternary (.Values.ingress.hosts | default list) list .Values.ingress.enabled) "admin.ingress" (ternary (.Values.admin.ingress.hosts | default list) list (and .Values.admin.enabled .Values.admin.ingress.enabled)) }}
{{- range $hosts }}
{{- if hasSuffix "chart-example.local" (.host | default "") }}
* {{ $name }}.hosts[].host={{ .host }} is the sample's host, which no name server knows. Set {{ $name }}.hosts[0].host.
{{- end }}
{{- end }}
{{- end }}
{{- $paths := list }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}
{{- range (.paths | default (list (dict "path" "/"))) }}
{{- $paths = append $paths (list (.path | default "/") "ingress" "ingress.hosts[].paths[].path") }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- range .Values.httpRoute.matches }}
{{- $paths = append $paths (list ((.path | default dict).value | default "/") "HTTPRoute" "httpRoute.matches[].path.value") }}
{{- end }}
{{- end }}
{{- range $paths }}
{{- if eq (index . 0) "/" }}
* The {{ index . 1 }} forwards every path, /manage and {{ $.Values.env.METRICS_PATH | default "/metrics" }} included. To publish the API alone, set {{ index . 2 }}=/v1.
{{- end }}
{{- end }}
{{- if eq (include "llm-proxy.trustedProxies" .) "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7" }}
* X-Forwarded-* fields are believed from the private ranges (10/8, 172.16/12, 192.168/16, 100.64/10, fc00::/7), where
  ingress controllers are, and so from every pod. Set trustedProxies to your controller's network to narrow it.
{{- end }}
{{- if not .Values.metrics.enabled }}
{{- if or .Values.metrics.serviceMonitor.enabled .Values.metrics.podMonitor.enabled .Values.metrics.prometheusRule.enabled .Values.metrics.grafanaDashboard.enabled .Values.metrics.redisDashboard.enabled }}
* ServiceMonitor, alert rules and dashboards are only rendered with metrics.enabled=true.
{{- end }}
{{- end }}
{{- end -}}
