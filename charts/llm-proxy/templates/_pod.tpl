{{/*
What pods have in common: security, mounts, volumes, placement, annotations. Placement, annotations and labels that a
workload does not set are the proxy's; variables and volumes are each workload's own.
*/}}

{{/* A setting of a workload, else the proxy's, as YAML, (list root workload name); nothing for none. */}}
{{- define "llm-proxy.ownOrProxys" -}}
{{- with index (index . 1) (index . 2) | default (index (index . 0).Values (index . 2)) -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* Annotations of a workload's pods, (list root workload further). */}}
{{- define "llm-proxy.podAnnotations" -}}
{{- $values := (index . 0).Values -}}
{{- include "llm-proxy.map" (list $values.commonAnnotations (index . 2) ((index . 1).podAnnotations | default $values.podAnnotations)) -}}
{{- end -}}

{{/* Volumes of the values, (list workload …), as YAML: of several with one name the first stays. */}}
{{- define "llm-proxy.volumes.own" -}}
{{- $names := list -}}
{{- $all := list -}}
{{- range . -}}
{{- range concat (.volumes | default list) (.extraVolumes | default list) -}}
{{- if not (has .name $names) -}}{{- $all = append $all . -}}{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- if $all -}}{{ toYaml $all }}{{- end -}}
{{- end -}}

{{/* Mounts of a container, (list builtIn workload …): those of the values replace a built-in one at their path. */}}
{{- define "llm-proxy.mounts" -}}
{{- $own := list -}}
{{- range rest . -}}
{{- $own = concat $own (.volumeMounts | default list) (.extraVolumeMounts | default list) -}}
{{- end -}}
{{- $taken := list -}}
{{- range $own -}}{{- $taken = append $taken (.mountPath | toString | trimSuffix "/") -}}{{- end -}}
{{- $all := list -}}
{{- range (printf "mounts:\n%s" (first .) | fromYaml).mounts -}}
{{- if not (has .mountPath $taken) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- with concat $all $own -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* Volumes of a pod, (list builtIn mounts workload …): those of the values replace a built-in one of their name, and a
built-in one that nothing mounts is left out. */}}
{{- define "llm-proxy.volumes" -}}
{{- $mounted := list -}}
{{- range (printf "mounts:\n%s" (index . 1) | fromYaml).mounts -}}{{- $mounted = append $mounted .name -}}{{- end -}}
{{- $own := (printf "volumes:\n%s" (include "llm-proxy.volumes.own" (rest . | rest)) | fromYaml).volumes | default list -}}
{{- $names := list -}}
{{- range $own -}}{{- $names = append $names .name -}}{{- end -}}
{{- $all := list -}}
{{- range (printf "volumes:\n%s" (first .) | fromYaml).volumes -}}
{{- if and (has .name $mounted) (not (has .name $names)) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- with concat $all $own -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* Whether pods get further certificate authorities. */}}
{{- define "llm-proxy.caBundle" -}}
{{- .Values.caBundle.existingSecret | default .Values.caBundle.existingConfigMap -}}
{{- end -}}

{{- define "llm-proxy.mounts.ca" -}}
{{- if include "llm-proxy.caBundle" . }}
- {name: ca-bundle, mountPath: /app/certs/extra, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llm-proxy.volumes.ca" }}
- name: ca-bundle
{{- if .Values.caBundle.existingSecret }}
  secret:
    secretName: {{ .Values.caBundle.existingSecret | quote }}
{{- else }}
  configMap:
    name: {{ .Values.caBundle.existingConfigMap | quote }}
{{- end }}
    items: [{key: {{ .Values.caBundle.key | quote }}, path: ca.crt}]
{{- end -}}

{{- define "llm-proxy.mounts.redis" -}}
{{- $redis := .Values.redis.external -}}
{{- if and $redis.addr $redis.tls.enabled $redis.tls.caSecret }}
- {name: redis-ca, mountPath: /app/certs/redis, readOnly: true}
{{- end }}
{{- end -}}

{{- define "llm-proxy.volumes.redis" }}
- name: redis-ca
  secret:
    secretName: {{ .Values.redis.external.tls.caSecret | quote }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end -}}

{{/* ConfigMap that holds the provider file; nothing: the packaged file. */}}
{{- define "llm-proxy.providerFile" -}}
{{- if .Values.config.existingConfigMap -}}{{ .Values.config.existingConfigMap }}
{{- else if .Values.config.apiProviders -}}{{ include "llm-proxy.suffixed" (list . "config" 63) }}{{- end -}}
{{- end -}}

{{/* Security contexts with the proxy's as default, (list own proxys). */}}
{{- define "llm-proxy.securityContext" -}}
{{- with index . 0 | default (index . 1) -}}{{ toYaml . }}{{- end -}}
{{- end -}}

{{/* Built-in mounts of the proxy, (dict root job). */}}
{{- define "llm-proxy.mounts.builtIn" -}}
- {name: tmp, mountPath: /tmp}
- {name: data, mountPath: /app/data}
- {name: logs, mountPath: /app/logs}
{{- if and (include "llm-proxy.providerFile" .root) (not .job) }}
- {name: provider-file, mountPath: /app/config, readOnly: true}
{{- end }}
{{- if include "llm-proxy.database.caSecret" .root }}
- {name: database-ca, mountPath: /app/certs/database, readOnly: true}
{{- end }}
{{- include "llm-proxy.mounts.redis" .root }}
{{- include "llm-proxy.mounts.ca" .root }}
{{- end -}}

{{/* All mounts of the proxy, (dict root job), and of the container that migrates, (dict root job migrate). */}}
{{- define "llm-proxy.mounts.proxy" -}}
{{- $values := .root.Values -}}
{{- include "llm-proxy.mounts" (list (include "llm-proxy.mounts.builtIn" .) $values (ternary $values.migrations dict (.migrate | default false))) -}}
{{- end -}}

{{/* Room of /app/data without a claim: the spool and 256Mi, and the database where it lies there. */}}
{{- define "llm-proxy.dataSizeLimit" -}}
{{- $spool := include "llm-proxy.mebibytes" (.Values.env.EVENT_SPOOL_MAX_BYTES | default "256MB") | atoi -}}
{{- $database := ternary 1024 0 (eq (include "llm-proxy.database.driver" .) "sqlite") -}}
{{- printf "%dMi" (add $spool 256 $database) -}}
{{- end -}}

{{/* Claim that holds SQLite's data; nothing: an emptyDir. */}}
{{- define "llm-proxy.dataClaim" -}}
{{- if and (eq (include "llm-proxy.database.driver" .) "sqlite") .Values.persistence.enabled -}}
{{- .Values.persistence.existingClaim | default (include "llm-proxy.suffixed" (list . "data" 63)) -}}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.volumes.builtIn" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: data
{{- if include "llm-proxy.dataClaim" .root }}
  persistentVolumeClaim:
    claimName: {{ include "llm-proxy.dataClaim" .root | quote }}
{{- else }}
  emptyDir: {sizeLimit: {{ include "llm-proxy.dataSizeLimit" .root }}}
{{- end }}
- name: logs
  emptyDir: {sizeLimit: 512Mi}
- name: provider-file
  configMap:
    name: {{ include "llm-proxy.providerFile" .root | quote }}
- name: database-ca
  secret:
    secretName: {{ include "llm-proxy.database.caSecret" .root | quote }}
    items: [{key: ca.crt, path: ca.crt}]
{{- include "llm-proxy.volumes.redis" .root }}
{{- include "llm-proxy.volumes.ca" .root }}
{{- end -}}

{{/* All volumes of the proxy's pod, (dict root job), with those of the migration where it runs there. */}}
{{- define "llm-proxy.volumes.proxy" -}}
{{- $values := .root.Values -}}
{{- $migration := ternary $values.migrations dict (or .job (eq $values.migrations.mode "init")) -}}
{{- $mounts := include "llm-proxy.mounts.proxy" (dict "root" .root "job" .job "migrate" .job) -}}
{{- include "llm-proxy.volumes" (list (include "llm-proxy.volumes.builtIn" .) $mounts $values $migration) -}}
{{- end -}}

{{/* Whether the chart's own data volume is in use: else its claim is not needed. */}}
{{- define "llm-proxy.dataInUse" -}}
{{- range (printf "volumes:\n%s" (include "llm-proxy.volumes.proxy" (dict "root" . "job" false)) | fromYaml).volumes -}}
{{- if eq .name "data" -}}{{- if hasKey . "persistentVolumeClaim" -}}yes{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* The container that migrates, (dict root job). */}}
{{- define "llm-proxy.migrateContainer" -}}
{{- $values := .root.Values -}}
- name: migrate
  image: {{ include "llm-proxy.image" .root | quote }}
  imagePullPolicy: {{ $values.image.pullPolicy }}
  args: ["migrate", "up"]
  {{- with include "llm-proxy.securityContext" (list dict $values.securityContext) }}
  securityContext:
    {{- . | nindent 4 }}
  {{- end }}
  env:
    {{- include "llm-proxy.env.proxy" (dict "root" .root "migrate" true) | trim | nindent 4 }}
  {{- with concat $values.extraEnvFrom $values.migrations.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.migrations.resources | default $values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "llm-proxy.mounts.proxy" (dict "root" .root "job" .job "migrate" true) | nindent 4 }}
{{- end -}}

{{/* Placement of a workload's pods, (list root workload). */}}
{{- define "llm-proxy.placement" -}}
{{- $root := index . 0 -}}
{{- $workload := index . 1 -}}
{{- range list "nodeSelector" "affinity" "tolerations" }}
{{- $name := . }}
{{- with include "llm-proxy.ownOrProxys" (list $root $workload $name) }}
{{ $name }}:
  {{- . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Spread over hosts and zones: the user's, else a soft one where there are pods to spread. */}}
{{- define "llm-proxy.spread" -}}
{{- if .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
{{- else if and (not .Values.affinity) (ge (include "llm-proxy.replicas.most" . | atoi) 2) }}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "llm-proxy.selectorLabels" (list $ "proxy") | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Head of every pod of the chart, (dict root podSecurityContext automount account). */}}
{{- define "llm-proxy.podHead" -}}
{{- $values := .root.Values -}}
{{- $pull := list }}
{{- range concat ($values.global.imagePullSecrets | default list) $values.imagePullSecrets }}
{{- $pull = append $pull (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- with $pull }}
imagePullSecrets:
  {{- toYaml (uniq .) | nindent 2 }}
{{- end }}
{{- with .account }}
serviceAccountName: {{ . | quote }}
{{- end }}
automountServiceAccountToken: {{ .automount | default false }}
enableServiceLinks: false
{{- with include "llm-proxy.securityContext" (list (.podSecurityContext | default dict) $values.podSecurityContext) }}
securityContext:
  {{- . | nindent 2 }}
{{- end }}
{{- range list "priorityClassName" "runtimeClassName" "schedulerName" "dnsPolicy" }}
{{- if index $values . }}
{{ . }}: {{ index $values . | quote }}
{{- end }}
{{- end }}
{{- range list "hostAliases" "dnsConfig" }}
{{- if index $values . }}
{{ . }}:
  {{- toYaml (index $values .) | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}
