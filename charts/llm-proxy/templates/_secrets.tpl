{{/* Where each secret comes from. An existing Secret always wins, and the key's name belongs to the chosen source. */}}

{{/* Whether the chart's Secret holds something, (list root valueName): "data", "generated" or nothing. */}}
{{- define "llm-proxy.secret.kept" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $secrets := $root.Values.secrets -}}
{{- if and $secrets.create (not (index $secrets $name).existingSecret.name) -}}
{{- if index $secrets.data $name -}}data
{{- else if and $secrets.generate (has $name (list "managementToken" "encryptionKey")) -}}generated
{{- end -}}
{{- end -}}
{{- end -}}

{{/* `name` and `key` of a secret's source as YAML, (list root valueName variable); nothing where there is none. */}}
{{- define "llm-proxy.secret.source" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $variable := index . 2 -}}
{{- $existing := (index $root.Values.secrets $name).existingSecret -}}
{{- if $existing.name -}}
name: {{ $existing.name | quote }}
key: {{ $existing.key | default $variable | quote }}
{{- else if include "llm-proxy.secret.kept" (list $root $name) -}}
name: {{ include "llm-proxy.fullname" $root | quote }}
key: {{ $variable | quote }}
{{- end -}}
{{- end -}}

{{/* What a Secret in the cluster holds under a key, in base64, (list root secretName key); nothing without a cluster.
`lookup` came with Helm 3.1, and an unknown function is a parse error: it is only met where this is called. */}}
{{- define "llm-proxy.secret.stored" -}}
{{- $root := index . 0 -}}
{{- $text := `{{- $secret := lookup "v1" "Secret" .namespace .name -}}{{- if $secret -}}{{- index ($secret.data | default dict) .key | default "" -}}{{- end -}}` -}}
{{- tpl $text (dict "namespace" $root.Release.Namespace "name" (index . 1) "key" (index . 2) "Template" $root.Template) -}}
{{- end -}}

{{/* 32 random bytes in base64: 43 characters, the last of which holds four bits and is fixed. */}}
{{- define "llm-proxy.secret.random" -}}{{ randAlphaNum 42 }}A={{- end -}}

{{/* `data:` of the chart's own Secret; nothing where it would be empty. */}}
{{- define "llm-proxy.secret.data" -}}
{{- $root := . -}}
{{- range list (list "managementToken" "MANAGEMENT_TOKEN") (list "databaseUrl" "DATABASE_URL") (list "encryptionKey" "ENCRYPTION_KEY") }}
{{- $kept := include "llm-proxy.secret.kept" (list $root (index . 0)) }}
{{- if eq $kept "data" }}
{{ index . 1 }}: {{ index $root.Values.secrets.data (index . 0) | toString | b64enc | quote }}
{{- else if eq $kept "generated" }}
{{- $stored := include "llm-proxy.secret.stored" (list $root (include "llm-proxy.fullname" $root) (index . 1)) }}
{{ index . 1 }}: {{ $stored | default (include "llm-proxy.secret.random" $root | b64enc) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Text that changes with the given values and tells nothing of them, (list root values): by scrypt, so that a reader of
pods cannot try weak secrets in numbers. */}}
{{- define "llm-proxy.secret.checksum" -}}
{{- derivePassword 1 "long" (index . 1 | toJson) (index . 0).Release.Name (index . 0).Release.Namespace | sha256sum -}}
{{- end -}}

{{/* Whether the chart's Secret is rendered at all. */}}
{{- define "llm-proxy.secret.rendered" -}}
{{- range list "managementToken" "databaseUrl" "encryptionKey" -}}
{{- include "llm-proxy.secret.kept" (list $ .) -}}
{{- end -}}
{{- end -}}

{{/* A password that the database was initialised with: what is stored wins over what is given (list root name key given). */}}
{{- define "llm-proxy.secret.password" -}}
{{- $given := index . 3 -}}
{{- include "llm-proxy.secret.stored" (list (index . 0) (index . 1) (index . 2)) | default ($given | toString | b64enc) | quote -}}
{{- end -}}
