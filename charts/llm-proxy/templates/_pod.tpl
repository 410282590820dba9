{{/* What pods have in common: security, mounts, volumes, placement. */}}

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
{{- if and .root.Values.redis.external.addr .root.Values.redis.external.tls.enabled .root.Values.redis.external.tls.caSecret }}
- {name: redis-ca, mountPath: /app/certs/redis, readOnly: true}
{{- end }}
{{- end -}}

{{/* All mounts of the proxy, (dict root job): the user's replace a built-in one at their path. */}}
{{- define "llm-proxy.mounts.proxy" -}}
{{- $taken := list -}}
{{- range .root.Values.volumeMounts -}}
{{- $taken = append $taken (.mountPath | toString | trimSuffix "/") -}}
{{- end -}}
{{- $all := list -}}
{{- range (printf "mounts:\n%s" (include "llm-proxy.mounts.builtIn" .) | fromYaml).mounts -}}
{{- if not (has .mountPath $taken) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- toYaml (concat $all .root.Values.volumeMounts) -}}
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
- name: redis-ca
  secret:
    secretName: {{ .root.Values.redis.external.tls.caSecret | quote }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end -}}

{{/* All volumes of the proxy, (dict root job): the user's replace a built-in one of their name, and a built-in one that
nothing mounts is left out. */}}
{{- define "llm-proxy.volumes.proxy" -}}
{{- $mounted := list -}}
{{- range (printf "mounts:\n%s" (include "llm-proxy.mounts.proxy" .) | fromYaml).mounts -}}
{{- $mounted = append $mounted .name -}}
{{- end -}}
{{- $own := list -}}
{{- range .root.Values.volumes -}}{{- $own = append $own .name -}}{{- end -}}
{{- $all := list -}}
{{- range (printf "volumes:\n%s" (include "llm-proxy.volumes.builtIn" .) | fromYaml).volumes -}}
{{- if and (has .name $mounted) (not (has .name $own)) -}}{{- $all = append $all . -}}{{- end -}}
{{- end -}}
{{- toYaml (concat $all .root.Values.volumes) -}}
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
  {{- with $values.extraEnvFrom }}
  envFrom:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.migrations.resources | default $values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    {{- include "llm-proxy.mounts.proxy" . | nindent 4 }}
{{- end -}}

{{/* Placement, (dict root nodeSelector tolerations affinity spread). */}}
{{- define "llm-proxy.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
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

{{/* Head of every pod of ours, (dict root podSecurityContext automount account). */}}
{{- define "llm-proxy.podHead" -}}
{{- $values := .root.Values -}}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
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
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end -}}
