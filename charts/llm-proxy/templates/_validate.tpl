{{/*
Combinations that cannot work. Each fault is one line: what is set, why it cannot work, what to set. All of them are
reported at once, from the proxy's Deployment, so that the order of the templates does not matter.
*/}}
{{- define "llm-proxy.validate" -}}
{{- $faults := list -}}
{{- range list "choices" "replicas" "postgresql" "mysql" "redis" "dispatcher" "secrets" "network" "metrics" "shutdown" -}}
{{- range splitList "\n" (include (printf "llm-proxy.faults.%s" .) $) -}}
{{- if trim . -}}{{- $faults = append $faults (printf "Configuration error: %s" (trim .)) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- if $faults -}}{{- fail (printf "\n%s" (join "\n" $faults)) -}}{{- end -}}
{{- end -}}

{{/* Words that are not among the allowed ones. */}}
{{- define "llm-proxy.faults.choices" -}}
{{- $bus := .Values.env.LLM_PROXY_EVENT_BUS | default "in-memory" -}}
{{- range list (list "env.DB_DRIVER" (include "llm-proxy.database.driver" .) (list "sqlite" "postgres" "mysql")) (list "env.LLM_PROXY_EVENT_BUS" $bus (list "in-memory" "memory" "redis-streams" "redis")) (list "service.type" .Values.service.type (list "ClusterIP" "NodePort" "LoadBalancer")) (list "admin.service.type" .Values.admin.service.type (list "ClusterIP" "NodePort" "LoadBalancer")) (list "postgresql.sslMode" .Values.postgresql.sslMode (list "disable" "allow" "prefer" "require" "verify-ca" "verify-full")) (list "migrations.mode" .Values.migrations.mode (list "init" "job" "server")) }}
{{- if not (has (toString (index . 1)) (index . 2)) }}
{{ index . 0 }}={{ index . 1 }} is unknown; set one of {{ join ", " (index . 2) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Numbers of replicas. */}}
{{- define "llm-proxy.faults.replicas" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and (eq (include "llm-proxy.database.driver" .) "sqlite") (gt (include "llm-proxy.replicas.most" . | atoi) 1) }}
env.DB_DRIVER=sqlite with {{ ternary "autoscaling.maxReplicas" "replicaCount" (eq "yes" (include "llm-proxy.replicas.scaled" .)) }}={{ include "llm-proxy.replicas.most" . }}: SQLite is not supported for multi-pod deployments, as each pod would have its own database; set env.DB_DRIVER to postgres or mysql, or one replica
{{- end }}
{{- if $scaling.enabled }}
{{- if not (or $scaling.targetCPUUtilizationPercentage $scaling.targetMemoryUtilizationPercentage) }}
autoscaling.enabled=true but no target metrics are configured, so nothing would ever scale; set autoscaling.targetCPUUtilizationPercentage or autoscaling.targetMemoryUtilizationPercentage
{{- end }}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) }}
autoscaling.minReplicas={{ int $scaling.minReplicas }} is above autoscaling.maxReplicas={{ int $scaling.maxReplicas }}, which Kubernetes refuses; set minReplicas to at most maxReplicas
{{- end }}
{{- end }}
{{- end -}}

{{/* PostgreSQL: one source, with a password, and TLS that both sides have. */}}
{{- define "llm-proxy.faults.postgresql" -}}
{{- $db := .Values.postgresql -}}
{{- $driver := include "llm-proxy.database.driver" . -}}
{{- $external := include "llm-proxy.secret.source" (list . "databaseUrl" "DATABASE_URL") -}}
{{- if eq $driver "postgres" }}
{{- if and (not $db.enabled) (not $external) }}
env.DB_DRIVER=postgres but no database configuration found; set secrets.databaseUrl.existingSecret.name for an external PostgreSQL, or postgresql.enabled=true for one in the cluster
{{- end }}
{{- if and $db.enabled $external }}
postgresql.enabled=true and secrets.databaseUrl are both set: Cannot use both an in-cluster and an external PostgreSQL; set postgresql.enabled=false, or leave secrets.databaseUrl empty
{{- end }}
{{- else if $db.enabled }}
postgresql.enabled=true with env.DB_DRIVER={{ $driver }}: the proxy would not use it; set env.DB_DRIVER=postgres
{{- end }}
{{- if $db.enabled }}
{{- if not (or $db.auth.password $db.auth.existingSecret) }}
postgresql.enabled=true without a password: the database would not start; set postgresql.auth.password or postgresql.auth.existingSecret
{{- end }}
{{- if and (has $db.sslMode (list "require" "verify-ca" "verify-full")) (not $db.tls.enabled) }}
postgresql.sslMode={{ $db.sslMode }} with postgresql.tls.enabled=false: the server would have no TLS to connect by; set postgresql.tls.enabled=true, or postgresql.sslMode to disable, allow or prefer
{{- end }}
{{- if and (hasPrefix "verify-" $db.sslMode) (not $db.tls.existingSecret) }}
postgresql.sslMode={{ $db.sslMode }} without postgresql.tls.existingSecret: there is no ca.crt to verify the server with; set postgresql.tls.existingSecret, or postgresql.sslMode=require
{{- end }}
{{- end }}
{{- end -}}

{{/* MySQL: one source, with passwords, and TLS that both sides have. */}}
{{- define "llm-proxy.faults.mysql" -}}
{{- $db := .Values.mysql -}}
{{- $driver := include "llm-proxy.database.driver" . -}}
{{- $external := include "llm-proxy.secret.source" (list . "databaseUrl" "DATABASE_URL") -}}
{{- if eq $driver "mysql" }}
{{- if and (not $db.enabled) (not $external) }}
env.DB_DRIVER=mysql but no database configuration found; set secrets.databaseUrl.existingSecret.name for an external MySQL, or mysql.enabled=true for one in the cluster
{{- end }}
{{- if and $db.enabled $external }}
mysql.enabled=true and secrets.databaseUrl are both set: Cannot use both an in-cluster and an external MySQL; set mysql.enabled=false, or leave secrets.databaseUrl empty
{{- end }}
{{- else if $db.enabled }}
mysql.enabled=true with env.DB_DRIVER={{ $driver }}: the proxy would not use it; set env.DB_DRIVER=mysql
{{- end }}
{{- if $db.enabled }}
{{- if not (or $db.auth.existingSecret (and $db.auth.password $db.auth.rootPassword)) }}
mysql.enabled=true without both passwords: the database would not start; set mysql.auth.password and mysql.auth.rootPassword, or mysql.auth.existingSecret
{{- end }}
{{- if eq $db.auth.secretKeys.rootPasswordKey $db.auth.secretKeys.userPasswordKey }}
mysql.auth.secretKeys.rootPasswordKey={{ $db.auth.secretKeys.rootPasswordKey }} is the user's key, too, but they are two passwords; set mysql.auth.secretKeys.userPasswordKey to another key
{{- end }}
{{- if and $db.tls.enabled (not $db.tls.skipVerify) (not $db.tls.existingSecret) }}
mysql.tls.enabled=true without mysql.tls.existingSecret: there is no ca.crt to verify the server with; set mysql.tls.existingSecret, or mysql.tls.skipVerify=true
{{- end }}
{{- end }}
{{- end -}}

{{/* What needs Redis has one. */}}
{{- define "llm-proxy.faults.redis" -}}
{{- $env := .Values.env -}}
{{- $bus := $env.LLM_PROXY_EVENT_BUS | default "in-memory" -}}
{{- if and (has $bus (list "redis" "redis-streams")) (not .Values.redis.external.addr) }}
env.LLM_PROXY_EVENT_BUS={{ $bus }} with an empty redis.external.addr: there is no Redis to carry the events; set redis.external.addr, or env.LLM_PROXY_EVENT_BUS=in-memory
{{- end }}
{{- $cacheUrl := hasKey $env "REDIS_CACHE_URL" }}
{{- range .Values.extraEnv }}{{- if eq .name "REDIS_CACHE_URL" }}{{- $cacheUrl = true }}{{- end }}{{- end }}
{{- if not (or .Values.redis.external.addr $cacheUrl) }}
{{- if eq ($env.HTTP_CACHE_BACKEND | default "" | toString | lower) "redis" }}
env.HTTP_CACHE_BACKEND=redis with neither redis.external.addr nor REDIS_CACHE_URL: there is no Redis to cache in; set redis.external.addr
{{- end }}
{{- if eq (include "llm-proxy.boolean" $env.DISTRIBUTED_RATE_LIMIT_ENABLED) "true" }}
env.DISTRIBUTED_RATE_LIMIT_ENABLED=true with neither redis.external.addr nor REDIS_CACHE_URL: there is no Redis to count in; set redis.external.addr
{{- end }}
{{- end }}
{{- end -}}

{{/* The dispatcher has a bus, an address and a key, and is one where it has to be. */}}
{{- define "llm-proxy.faults.dispatcher" -}}
{{- $dispatcher := .Values.dispatcher -}}
{{- if $dispatcher.enabled }}
{{- range $variable, $value := dict "DISPATCHER_SERVICE" $dispatcher.service "DISPATCHER_ENDPOINT" (include "llm-proxy.dispatcher.endpoint" .) "DISPATCHER_BUFFER" $dispatcher.config.bufferSize "DISPATCHER_BATCH_SIZE" $dispatcher.config.batchSize }}
{{- if hasKey $dispatcher.env $variable }}
{{- $given := include "llm-proxy.text" (index $dispatcher.env $variable) }}
{{- $used := include "llm-proxy.text" $value }}
{{- if and $used (ne $given $used) }}
dispatcher.env.{{ $variable }}={{ $given }} has no effect, as the container's argument says {{ $used }}; set {{ index (dict "DISPATCHER_SERVICE" "dispatcher.service" "DISPATCHER_ENDPOINT" "dispatcher.endpoint" "DISPATCHER_BUFFER" "dispatcher.config.bufferSize" "DISPATCHER_BATCH_SIZE" "dispatcher.config.batchSize") $variable }}
{{- end }}
{{- end }}
{{- end }}
{{- $bus := .Values.env.LLM_PROXY_EVENT_BUS | default "in-memory" }}
{{- if not (has $bus (list "redis" "redis-streams")) }}
dispatcher.enabled=true with env.LLM_PROXY_EVENT_BUS={{ $bus }}: Dispatcher requires LLM_PROXY_EVENT_BUS to be redis-streams or redis, as another process cannot see the in-memory bus; set env.LLM_PROXY_EVENT_BUS=redis-streams
{{- end }}
{{- if not .Values.redis.external.addr }}
dispatcher.enabled=true with an empty redis.external.addr: the dispatcher has no Redis to read from; set redis.external.addr
{{- end }}
{{- if and (has $dispatcher.service (list "lunary" "helicone")) (not $dispatcher.apiKey.existingSecret.name) }}
dispatcher.service={{ $dispatcher.service }} requires an API key via existingSecret, as the service refuses events without one; set dispatcher.apiKey.existingSecret.name
{{- end }}
{{- if and (eq $dispatcher.service "file") (gt (int $dispatcher.replicaCount) 1) }}
dispatcher.replicaCount={{ int $dispatcher.replicaCount }} with dispatcher.service=file: one file has one writer; set dispatcher.replicaCount=1
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets: none in clear, none missing, none too late; one provider file. */}}
{{- define "llm-proxy.faults.secrets" -}}
{{- $secrets := .Values.secrets -}}
{{- if and $secrets.encryptionKey.required (not (include "llm-proxy.secret.source" (list . "encryptionKey" "ENCRYPTION_KEY"))) }}
secrets.encryptionKey.required=true but there is no encryption key; set secrets.encryptionKey.existingSecret.name
{{- end }}
{{- range $map, $env := dict "env" .Values.env "dispatcher.env" .Values.dispatcher.env "admin.env" .Values.admin.env }}
{{- range list "MANAGEMENT_TOKEN" "MANAGEMENT_TOKEN_PREVIOUS" "ENCRYPTION_KEY" "ENCRYPTION_KEY_PREVIOUS" "DATABASE_URL" "DATABASE_PASSWORD" "REDIS_PASSWORD" "DISTRIBUTED_RATE_LIMIT_KEY_SECRET" "LLM_PROXY_API_KEY" "ADMIN_OIDC_CLIENT_SECRET" "LLM_PROXY_MANAGEMENT_KEY" "OPENAI_API_KEY" }}
{{- if and (eq . "OPENAI_API_KEY") (index $env .) }}
{{ $map }}.{{ . }} is set in clear, and neither the proxy nor the dispatcher reads it: a provider's key belongs to a project; set it by: llm-proxy manage project create (it asks for the key)
{{- else if index $env . }}
{{ $map }}.{{ . }} is set in clear: a secret in the environment's map is readable in every manifest; set it by `secrets`, `redis.external.password`, `dispatcher.apiKey`, or by extraEnv, dispatcher.extraEnv or admin.extraEnv with a secretKeyRef
{{- end }}
{{- end }}
{{- if regexMatch "://[^/]*:[^/]+@" (index $env "REDIS_CACHE_URL" | default "" | toString) }}
{{ $map }}.REDIS_CACHE_URL is set in clear with a password in it; set REDIS_CACHE_URL by extraEnv with a secretKeyRef
{{- end }}
{{- end }}
{{- if eq .Values.migrations.mode "job" }}
{{- $late := "" }}
{{- if eq (include "llm-proxy.database.driver" .) "sqlite" }}{{- $late = "the SQLite database" }}{{- end }}
{{- if include "llm-proxy.database.inCluster" . }}{{- $late = "the in-cluster database" }}{{- end }}
{{- if include "llm-proxy.secret.rendered" . }}{{- $late = "the chart-managed Secret (secrets.create)" }}{{- end }}
{{- if $late }}
migrations.mode=job with {{ $late }}: it is not there yet when the hook runs; set migrations.mode=init
{{- end }}
{{- end }}
{{- if and $secrets.create $secrets.data.encryptionKey (not (regexMatch "^[A-Za-z0-9+/]{43}=$" ($secrets.data.encryptionKey | toString | trim))) }}
secrets.data.encryptionKey is not base64 of 32 bytes, and the proxy would not start with it; set what `openssl rand -base64 32` prints
{{- end }}
{{- if and .Values.config.apiProviders .Values.config.existingConfigMap }}
config.apiProviders and config.existingConfigMap are both set, but there is one provider file; set one of them
{{- end }}
{{- if include "llm-proxy.providerFile" . }}
{{- range concat .Values.volumeMounts .Values.extraVolumeMounts }}
{{- if eq (.mountPath | toString | trimSuffix "/") "/app/config" }}
volumeMounts has an entry at /app/config, which would hide the provider file of config.apiProviders or config.existingConfigMap; set another mountPath, or leave the provider file to your volume
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Addresses, Services, Ingresses and routes. */}}
{{- define "llm-proxy.faults.network" -}}
{{- $listen := .Values.env.LISTEN_ADDR | default "" | toString -}}
{{- if and $listen (ne (regexFind ":[0-9]+$" $listen) (printf ":%d" (int .Values.service.targetPort))) }}
env.LISTEN_ADDR={{ $listen }} is not service.targetPort={{ int .Values.service.targetPort }}, so no probe would reach the proxy; set service.targetPort alone, the address follows it
{{- else if and $listen (not (regexMatch "^(|0\\.0\\.0\\.0|\\[::\\]):[0-9]+$" $listen)) }}
env.LISTEN_ADDR={{ $listen }} is one address of the pod, so no probe would reach the proxy; set service.targetPort alone, the address follows it
{{- end }}
{{- range $name, $service := dict "service" .Values.service "admin.service" .Values.admin.service }}
{{- if eq $service.type "ClusterIP" }}
{{- range list "nodePort" "externalTrafficPolicy" }}
{{- if index $service . }}
{{ $name }}.{{ . }} is set, but {{ $name }}.type=ClusterIP has none; set {{ $name }}.type=NodePort or {{ $name }}.type=LoadBalancer
{{- end }}
{{- end }}
{{- end }}
{{- if ne $service.type "LoadBalancer" }}
{{- range list "loadBalancerIP" "loadBalancerClass" "loadBalancerSourceRanges" }}
{{- if index $service . }}
{{ $name }}.{{ . }} is set, but {{ $name }}.type={{ $service.type }} has no load balancer; set {{ $name }}.type=LoadBalancer
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $route := dict "httpRoute" .Values.httpRoute "admin.httpRoute" .Values.admin.httpRoute }}
{{- if and $route.enabled (not $route.parentRefs) (or (ne $name "admin.httpRoute") $.Values.admin.enabled) }}
{{ $name }}.enabled=true with no Gateway in {{ $name }}.parentRefs: it would be attached to nothing; set {{ $name }}.parentRefs[0].name
{{- end }}
{{- end }}
{{- if and .Values.caBundle.existingSecret .Values.caBundle.existingConfigMap }}
caBundle.existingSecret and caBundle.existingConfigMap are both set, but there is one bundle; set one of them
{{- end }}
{{- if .Values.dispatcher.enabled }}
{{- $health := index .Values.dispatcher.env "DISPATCHER_HEALTH_ADDR" | default "" | toString }}
{{- if and (hasKey .Values.dispatcher.env "DISPATCHER_HEALTH_ADDR") (ne (regexFind ":[0-9]+$" $health) (printf ":%d" (int .Values.dispatcher.health.port))) }}
dispatcher.env.DISPATCHER_HEALTH_ADDR={{ $health }} is not dispatcher.health.port={{ int .Values.dispatcher.health.port }}, so no probe would reach the dispatcher; set dispatcher.health.port alone, the address follows it
{{- end }}
{{- end }}
{{- if .Values.admin.enabled }}
{{- range $value, $variable := dict "listenAddr" "ADMIN_UI_LISTEN_ADDR" "apiBaseUrl" "ADMIN_UI_API_BASE_URL" }}
{{- $given := include "llm-proxy.text" (index $.Values.admin.env $variable | default "") }}
{{- if and (hasKey $.Values.admin.env $variable) (ne $given (index $.Values.admin $value)) }}
admin.env.{{ $variable }}={{ $given }} has no effect, as the container's argument says otherwise; set admin.{{ $value }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $ingress := dict "ingress" .Values.ingress "admin.ingress" .Values.admin.ingress }}
{{- if and $ingress.enabled (or (ne $name "admin.ingress") $.Values.admin.enabled) }}
{{- $nameless := not $ingress.hosts }}
{{- range $ingress.hosts }}{{- if not .host }}{{- $nameless = true }}{{- end }}{{- end }}
{{- if $nameless }}
{{ $name }}.enabled=true with no host in {{ $name }}.hosts: it would take every request of the cluster's ingress or none; set {{ $name }}.hosts[0].host
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What is scraped is there. */}}
{{- define "llm-proxy.faults.metrics" -}}
{{- $metrics := .Values.metrics -}}
{{- if $metrics.enabled }}
{{- if eq (include "llm-proxy.boolean" .Values.env.ENABLE_METRICS) "false" }}
metrics.enabled=true with env.ENABLE_METRICS={{ .Values.env.ENABLE_METRICS }}: there is no endpoint to scrape; set env.ENABLE_METRICS="true"
{{- end }}
{{- $path := printf "%s/prometheus" (.Values.env.METRICS_PATH | default "/metrics" | trimSuffix "/") }}
{{- if ne $metrics.path $path }}
metrics.path={{ $metrics.path }} is not where the endpoint is; set metrics.path={{ $path }}, or env.METRICS_PATH to match
{{- end }}
{{- if ne $metrics.portName "http" }}
metrics.portName={{ $metrics.portName }} is no port of the Service, so nothing would be scraped; set metrics.portName=http
{{- end }}
{{- $interval := include "llm-proxy.seconds" $metrics.serviceMonitor.interval }}
{{- $timeout := include "llm-proxy.seconds" $metrics.serviceMonitor.scrapeTimeout }}
{{- if and $interval $timeout }}
{{- if gt (atoi $timeout) (atoi $interval) }}
metrics.serviceMonitor.scrapeTimeout={{ $metrics.serviceMonitor.scrapeTimeout }} is above metrics.serviceMonitor.interval={{ $metrics.serviceMonitor.interval }}, which Prometheus refuses; set scrapeTimeout to at most the interval
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The drain fits the grace period. */}}
{{- define "llm-proxy.faults.shutdown" -}}
{{- $total := int .Values.terminationGracePeriodSeconds -}}
{{- $sleep := int .Values.lifecycle.preStopSleepSeconds -}}
{{- if lt $total (add $sleep 25 | int) }}
terminationGracePeriodSeconds={{ $total }} with lifecycle.preStopSleepSeconds={{ $sleep }} leaves no time for a drain; set terminationGracePeriodSeconds to at least {{ add $sleep 25 }}
{{- end }}
{{- $needed := $sleep }}
{{- range $name := list "SHUTDOWN_GRACE" "DRAIN_TIMEOUT" }}
{{- $value := index $.Values.env $name }}
{{- if $value }}
{{- $seconds := include "llm-proxy.seconds" $value }}
{{- if $seconds }}
{{- $needed = add $needed (atoi $seconds) | int }}
{{- else }}
env.{{ $name }}={{ $value }} cannot be compared with terminationGracePeriodSeconds; set it in whole units such as 90s or 2m
{{- end }}
{{- end }}
{{- end }}
{{- if gt (add $needed 15 | int) $total }}
env.DRAIN_TIMEOUT and env.SHUTDOWN_GRACE with lifecycle.preStopSleepSeconds={{ $sleep }} and 15 s to flush need {{ add $needed 15 }} s, but terminationGracePeriodSeconds={{ $total }}; set terminationGracePeriodSeconds to at least {{ add $needed 15 }}
{{- end }}
{{- end -}}
