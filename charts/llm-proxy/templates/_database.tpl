{{/* The database: driver, where it is, how it is reached. No password is ever part of a URL (DATABASE_PASSWORD). */}}

{{- define "llm-proxy.database.driver" -}}
{{- $driver := include "llm-proxy.text" .Values.env.DB_DRIVER | lower | trim | default "sqlite" -}}
{{- if eq $driver "postgresql" -}}postgres
{{- else if eq $driver "mariadb" -}}mysql
{{- else -}}{{ $driver }}{{- end -}}
{{- end -}}

{{/* "postgresql" or "mysql" where the database runs in this release, else nothing. */}}
{{- define "llm-proxy.database.inCluster" -}}
{{- $driver := include "llm-proxy.database.driver" . -}}
{{- if and (eq $driver "postgres") .Values.postgresql.enabled -}}postgresql
{{- else if and (eq $driver "mysql") .Values.mysql.enabled -}}mysql{{- end -}}
{{- end -}}

{{- define "llm-proxy.postgresql.secretName" -}}
{{- .Values.postgresql.auth.existingSecret | default (include "llm-proxy.postgresql.name" .) -}}
{{- end -}}
{{- define "llm-proxy.postgresql.tlsSecretName" -}}
{{- .Values.postgresql.tls.existingSecret | default (include "llm-proxy.suffixed" (list . "postgresql-tls" 63)) -}}
{{- end -}}
{{- define "llm-proxy.mysql.secretName" -}}
{{- .Values.mysql.auth.existingSecret | default (include "llm-proxy.mysql.name" .) -}}
{{- end -}}

{{/* Secret whose ca.crt the proxy verifies the in-cluster database with; nothing where it does not verify. */}}
{{- define "llm-proxy.database.caSecret" -}}
{{- $where := include "llm-proxy.database.inCluster" . -}}
{{- if and (eq $where "postgresql") (hasPrefix "verify-" .Values.postgresql.sslMode) -}}
{{- .Values.postgresql.tls.existingSecret -}}
{{- else if and (eq $where "mysql") .Values.mysql.tls.enabled (not .Values.mysql.tls.skipVerify) -}}
{{- .Values.mysql.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "llm-proxy.percentEncoded" -}}{{ . | toString | urlquery | replace "+" "%20" }}{{- end -}}

{{/* URL or DSN of the in-cluster database, without its password. */}}
{{- define "llm-proxy.database.url" -}}
{{- $where := include "llm-proxy.database.inCluster" . -}}
{{- if eq $where "postgresql" -}}
{{- $auth := .Values.postgresql.auth -}}
postgres://{{ include "llm-proxy.percentEncoded" $auth.username }}@{{ include "llm-proxy.postgresql.name" . }}:5432/{{ include "llm-proxy.percentEncoded" $auth.database }}?sslmode={{ .Values.postgresql.sslMode }}
{{- if include "llm-proxy.database.caSecret" . -}}&sslrootcert=/app/certs/database/ca.crt{{- end -}}
{{- else if eq $where "mysql" -}}
{{- $auth := .Values.mysql.auth -}}
{{ $auth.username }}@tcp({{ include "llm-proxy.mysql.name" . }}:3306)/{{ $auth.database }}?parseTime=true
{{- if and .Values.mysql.tls.enabled .Values.mysql.tls.skipVerify -}}&tls=skip-verify
{{- else if .Values.mysql.tls.enabled -}}&tls=true{{- end -}}
{{- end -}}
{{- end -}}

{{/* `name` and `key` of the in-cluster database's password. */}}
{{- define "llm-proxy.database.passwordSource" -}}
{{- if eq (include "llm-proxy.database.inCluster" .) "postgresql" -}}
name: {{ include "llm-proxy.postgresql.secretName" . | quote }}
key: {{ .Values.postgresql.auth.secretKeys.userPasswordKey | quote }}
{{- else -}}
name: {{ include "llm-proxy.mysql.secretName" . | quote }}
key: {{ .Values.mysql.auth.secretKeys.userPasswordKey | quote }}
{{- end -}}
{{- end -}}

{{/* Hash of what the chart was given for the in-cluster database; nothing where it holds none. Without its password: that
is fixed by the first installation, and a reader of pods could try weak ones. */}}
{{- define "llm-proxy.database.checksum" -}}
{{- $where := include "llm-proxy.database.inCluster" . -}}
{{- if $where -}}
{{- $auth := (index .Values $where).auth -}}
{{- if not $auth.existingSecret -}}{{ list $auth.username $auth.database | toJson | sha256sum }}{{- end -}}
{{- end -}}
{{- end -}}
