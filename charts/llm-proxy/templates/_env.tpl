{{/* The environment of each container. Lists are made as entries; of entries with one name the last one stays. */}}

{{- define "llm-proxy.env.unique" -}}
{{- $last := dict -}}
{{- range $index, $entry := . -}}{{- $_ := set $last $entry.name $index -}}{{- end -}}
{{- range $index, $entry := . }}
{{- if eq $index (index $last $entry.name) }}
- name: {{ $entry.name | quote }}
{{- if hasKey $entry "valueFrom" }}
  valueFrom:
    {{- toYaml $entry.valueFrom | nindent 4 }}
{{- else }}
  value: {{ include "llm-proxy.text" $entry.value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Entries of the Redis connection, as YAML; none without an address. */}}
{{- define "llm-proxy.env.redis" -}}
{{- $redis := .Values.redis.external -}}
{{- if $redis.addr }}
- {name: REDIS_ADDR, value: {{ $redis.addr | quote }}}
- {name: REDIS_DB, value: {{ include "llm-proxy.text" $redis.db | default "0" | quote }}}
{{- with $redis.username }}
- {name: REDIS_USERNAME, value: {{ . | quote }}}
{{- end }}
{{- if $redis.password.existingSecret.name }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ $redis.password.existingSecret.name | quote }}
      key: {{ $redis.password.existingSecret.key | default "REDIS_PASSWORD" | quote }}
{{- end }}
{{- if $redis.tls.enabled }}
- {name: REDIS_TLS, value: "true"}
{{- if $redis.tls.caSecret }}
- {name: REDIS_TLS_CA, value: /app/certs/redis/ca.crt}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Entries by which a container trusts further certificate authorities; the image's entrypoint writes the bundle. */}}
{{- define "llm-proxy.env.ca" -}}
{{- if include "llm-proxy.caBundle" . }}
- {name: EXTRA_CA_CERTS, value: /app/certs/extra/ca.crt}
- {name: REQUESTS_CA_BUNDLE, value: /tmp/llm-proxy.ca.pem}
- {name: SSL_CERT_FILE, value: /tmp/llm-proxy.ca.pem}
{{- end }}
{{- end -}}

{{/* An entry that takes a secret from (list variable source), as YAML; none where the source is nothing. */}}
{{- define "llm-proxy.env.secret" -}}
{{- with index . 1 }}
- name: {{ index $ 0 }}
  valueFrom:
    secretKeyRef:
      {{- . | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Networks that the proxy believes, joined by commas; nothing: the variable is left to `env`. */}}
{{- define "llm-proxy.trustedProxies" -}}
{{- if .Values.trustedProxies -}}
{{- join "," .Values.trustedProxies -}}
{{- else if and (or .Values.ingress.enabled .Values.httpRoute.enabled) (not (hasKey .Values.env "TRUSTED_PROXIES")) -}}
10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7
{{- end -}}
{{- end -}}

{{/* Seconds that a drain may take: what the grace period leaves beside preStop, the grace after SIGTERM and 15 s. */}}
{{- define "llm-proxy.drainSeconds" -}}
{{- $grace := include "llm-proxy.seconds" (.Values.env.SHUTDOWN_GRACE | default 0) | default "0" | atoi -}}
{{- sub (int .Values.terminationGracePeriodSeconds) (add (int .Values.lifecycle.preStopSleepSeconds) $grace 15) -}}
{{- end -}}

{{/* Variables of a serving proxy alone: the migrate container has none of them. */}}
{{- define "llm-proxy.env.servingOnly" -}}
MANAGEMENT_TOKEN MANAGEMENT_TOKEN_PREVIOUS ADMIN_OIDC_CLIENT_SECRET LISTEN_ADDR WEB_CONCURRENCY AUTO_MIGRATE EVENT_SPOOL_DIR LEDGER_DIR DRAIN_TIMEOUT MAX_HELD_BODIES
{{- end -}}

{{/* Computed entries of the proxy, as YAML. */}}
{{- define "llm-proxy.env.computed" -}}
{{- $env := .Values.env -}}
{{- include "llm-proxy.env.secret" (list "MANAGEMENT_TOKEN" (include "llm-proxy.secret.source" (list . "managementToken" "MANAGEMENT_TOKEN"))) }}
{{- include "llm-proxy.env.secret" (list "MANAGEMENT_TOKEN_PREVIOUS" (include "llm-proxy.secret.source" (list . "managementTokenPrevious" "MANAGEMENT_TOKEN_PREVIOUS"))) }}
{{- include "llm-proxy.env.secret" (list "ENCRYPTION_KEY" (include "llm-proxy.secret.source" (list . "encryptionKey" "ENCRYPTION_KEY"))) }}
{{- include "llm-proxy.env.secret" (list "ENCRYPTION_KEY_PREVIOUS" (include "llm-proxy.secret.source" (list . "encryptionKeyPrevious" "ENCRYPTION_KEY_PREVIOUS"))) }}
{{- include "llm-proxy.env.secret" (list "ADMIN_OIDC_CLIENT_SECRET" (include "llm-proxy.secret.source" (list . "adminOidcClientSecret" "ADMIN_OIDC_CLIENT_SECRET"))) }}
{{- if .Values.secrets.encryptionKey.required }}
- {name: REQUIRE_ENCRYPTION_KEY, value: "true"}
{{- end }}
{{- if include "llm-proxy.database.inCluster" . }}
- {name: DATABASE_URL, value: {{ include "llm-proxy.database.url" . | quote }}}
{{- include "llm-proxy.env.secret" (list "DATABASE_PASSWORD" (include "llm-proxy.database.passwordSource" .)) }}
{{- if and .Values.mysql.enabled (include "llm-proxy.database.caSecret" .) }}
- {name: DATABASE_TLS_CA, value: /app/certs/database/ca.crt}
{{- end }}
{{- else if ne (include "llm-proxy.database.driver" .) "sqlite" }}
{{- include "llm-proxy.env.secret" (list "DATABASE_URL" (include "llm-proxy.secret.source" (list . "databaseUrl" "DATABASE_URL"))) }}
{{- end }}
{{- include "llm-proxy.env.redis" . }}
{{- include "llm-proxy.env.ca" . }}
- {name: LISTEN_ADDR, value: {{ $env.LISTEN_ADDR | default (printf ":%d" (int .Values.service.targetPort)) | quote }}}
{{- if ne .Values.migrations.mode "server" }}
- {name: AUTO_MIGRATE, value: "false"}
{{- end }}
{{- if not (hasKey $env "EVENT_SPOOL_DIR") }}
- {name: EVENT_SPOOL_DIR, value: /app/data/spool}
{{- end }}
{{- if not (hasKey $env "LEDGER_DIR") }}
- {name: LEDGER_DIR, value: /app/data/ledger}
{{- end }}
{{- if not (hasKey $env "DRAIN_TIMEOUT") }}
- {name: DRAIN_TIMEOUT, value: {{ include "llm-proxy.drainSeconds" . | printf "%ss" | quote }}}
{{- end }}
{{- if not (hasKey $env "MAX_HELD_BODIES") }}
- {name: MAX_HELD_BODIES, value: 256MB}
{{- end }}
{{- with include "llm-proxy.trustedProxies" . }}
- {name: TRUSTED_PROXIES, value: {{ . | quote }}}
{{- end }}
{{- if and (include "llm-proxy.providerFile" .) (not (hasKey $env "API_CONFIG_PATH")) }}
- {name: API_CONFIG_PATH, value: /app/config/api_providers.yaml}
{{- end }}
{{- end -}}

{{/* Environment of the proxy, (dict root migrate): `env`, then what is computed, then `extraEnv`; for a migration its own
`extraEnv` at the end. */}}
{{- define "llm-proxy.env.proxy" -}}
{{- $migrate := .migrate -}}
{{- $all := list -}}
{{- range $name, $value := .root.Values.env -}}
{{- $all = append $all (dict "name" $name "value" $value) -}}
{{- end -}}
{{- $computed := printf "entries:\n%s" (include "llm-proxy.env.computed" .root) | fromYaml -}}
{{- $all = concat $all ($computed.entries | default list) .root.Values.extraEnv (ternary .root.Values.migrations.extraEnv list $migrate) -}}
{{- $left := list -}}
{{- $servingOnly := include "llm-proxy.env.servingOnly" .root | splitList " " -}}
{{- range $all -}}
{{- if not (and $migrate (has .name $servingOnly)) -}}{{- $left = append $left . -}}{{- end -}}
{{- end -}}
{{- include "llm-proxy.env.unique" $left -}}
{{- end -}}

{{/* Environment of the dispatcher: never the management token, the database or the encryption key. */}}
{{- define "llm-proxy.env.dispatcher" -}}
{{- $all := list (dict "name" "LLM_PROXY_EVENT_BUS" "value" (.Values.env.LLM_PROXY_EVENT_BUS | default "in-memory")) -}}
{{- range $name, $value := .Values.env -}}
{{- if regexMatch "^(REDIS_STREAM_.*|REDIS_CONSUMER_GROUP|REDIS_LIST_KEY|LOG_LEVEL|LOG_FORMAT|LLM_PROXY_DISPATCHER_VERBOSE)$" $name -}}
{{- $all = append $all (dict "name" $name "value" $value) -}}
{{- end -}}
{{- end -}}
{{- $computed := printf "entries:\n%s%s" (include "llm-proxy.env.redis" .) (include "llm-proxy.env.ca" .) | fromYaml -}}
{{- $all = concat $all ($computed.entries | default list) -}}
{{- with .Values.dispatcher.apiKey.existingSecret -}}
{{- if .name -}}
{{- $ref := dict "name" .name "key" (.key | default "DISPATCHER_API_KEY") -}}
{{- $all = append $all (dict "name" "LLM_PROXY_API_KEY" "valueFrom" (dict "secretKeyRef" $ref)) -}}
{{- end -}}
{{- end -}}
{{- $all = append $all (dict "name" "REDIS_CONSUMER_NAME" "valueFrom" (dict "fieldRef" (dict "fieldPath" "metadata.name"))) -}}
{{- $all = append $all (dict "name" "DISPATCHER_HEALTH_ADDR" "value" (printf ":%d" (int .Values.dispatcher.health.port))) -}}
{{- range $name, $value := .Values.dispatcher.env -}}
{{- $all = append $all (dict "name" $name "value" $value) -}}
{{- end -}}
{{- include "llm-proxy.env.unique" (concat $all .Values.dispatcher.extraEnv) -}}
{{- end -}}

{{/* Environment of the admin UI: neither the database nor the encryption key. */}}
{{- define "llm-proxy.env.admin" -}}
{{- $all := list -}}
{{- range $name, $value := .Values.env -}}
{{- if regexMatch "^(LOG_|AUDIT_|ADMIN_|TRUSTED_PROXIES$)" $name -}}
{{- $all = append $all (dict "name" $name "value" $value) -}}
{{- end -}}
{{- end -}}
{{- with .Values.trustedProxies -}}
{{- $all = append $all (dict "name" "TRUSTED_PROXIES" "value" (join "," .)) -}}
{{- end -}}
{{- with include "llm-proxy.secret.source" (list . "managementToken" "MANAGEMENT_TOKEN") | fromYaml -}}
{{- $all = append $all (dict "name" "MANAGEMENT_TOKEN" "valueFrom" (dict "secretKeyRef" .)) -}}
{{- end -}}
{{- with include "llm-proxy.secret.source" (list . "adminOidcClientSecret" "ADMIN_OIDC_CLIENT_SECRET") | fromYaml -}}
{{- $all = append $all (dict "name" "ADMIN_OIDC_CLIENT_SECRET" "valueFrom" (dict "secretKeyRef" .)) -}}
{{- end -}}
{{- $ca := printf "entries:\n%s" (include "llm-proxy.env.ca" .) | fromYaml -}}
{{- $all = concat $all ($ca.entries | default list) -}}
{{- range $name, $value := .Values.admin.env -}}
{{- $all = append $all (dict "name" $name "value" $value) -}}
{{- end -}}
{{- include "llm-proxy.env.unique" (concat $all .Values.admin.extraEnv) -}}
{{- end -}}

{{/* Environment of the test. */}}
{{- define "llm-proxy.env.test" -}}
{{- $ca := printf "entries:\n%s" (include "llm-proxy.env.ca" .) | fromYaml -}}
{{- include "llm-proxy.env.unique" (concat ($ca.entries | default list) .Values.tests.extraEnv) -}}
{{- end -}}
