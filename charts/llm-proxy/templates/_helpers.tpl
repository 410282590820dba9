{{/*
Names, labels, images, and the forms of values. Nothing here is newer than Helm 3.1, nor relies on `and`/`or` stopping
early (templates did not before Go 1.18).
*/}}

{{/* Give every value that is absent its default. Each template calls it first; a second call changes nothing.
`--reuse-values` from an older chart and `--set x=null` both leave values out. The table is flat, parents first: Helm 3.0
refuses a template that includes itself. */}}
{{- define "llm-proxy.prepare" -}}
{{- if not (hasKey .Values "_prepared") -}}
{{- $_ := set .Values "_prepared" true -}}
{{- range (include "llm-proxy.defaults" . | fromYaml).entries -}}
{{- $map := $.Values -}}
{{- range index . 0 -}}{{- $map = index $map . -}}{{- end -}}
{{- $name := index . 1 -}}
{{- $isAbsent := not (hasKey $map $name) -}}
{{- if not $isAbsent -}}{{- $isAbsent = kindIs "invalid" (index $map $name) -}}{{- end -}}
{{- if $isAbsent -}}{{- $_ := set $map $name (index . 2) -}}{{- end -}}
{{- end -}}
{{- range list .Values.env .Values.dispatcher.env .Values.admin.env -}}
{{- $env := . -}}
{{- range $name, $value := $env -}}
{{- if kindIs "invalid" $value -}}{{- $_ := unset $env $name -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A value as text: whole numbers without exponent, nothing for null. */}}
{{- define "llm-proxy.text" -}}
{{- if kindIs "invalid" . -}}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Seconds of a duration in whole units (130, 120s, 2m, 1h30m, 500ms), rounded up; nothing for any other text. */}}
{{- define "llm-proxy.seconds" -}}
{{- $text := include "llm-proxy.text" . | trim -}}
{{- if regexMatch "^[0-9]+$" $text -}}{{ atoi $text }}
{{- else if regexMatch "^([0-9]+(d|h|ms|m|s))+$" $text -}}
{{- $units := dict "d" 86400000 "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- $ms := 0 -}}
{{- range regexFindAll "[0-9]+[a-z]+" $text -1 -}}
{{- $ms = add $ms (mul (regexFind "^[0-9]+" . | atoi) (index $units (regexFind "[a-z]+$" .))) -}}
{{- end -}}
{{ div (add $ms 999) 1000 }}
{{- end -}}
{{- end -}}

{{/* MiB of a size (268435456, 256MB, 1GiB), rounded up; 256 for any other text. */}}
{{- define "llm-proxy.mebibytes" -}}
{{- $text := include "llm-proxy.text" . | nospace | upper -}}
{{- if regexMatch "^[0-9]+[KMG]?(I?B)?$" $text -}}
{{- $number := regexFind "^[0-9]+" $text | atoi -}}
{{- $unit := regexFind "[KMG]" $text -}}
{{- if eq $unit "G" -}}{{ mul $number 1024 }}
{{- else if eq $unit "M" -}}{{ $number }}
{{- else if eq $unit "K" -}}{{ div (add $number 1023) 1024 }}
{{- else -}}{{ div (add $number 1048575) 1048576 }}{{- end -}}
{{- else -}}256{{- end -}}
{{- end -}}

{{/* "true" for the forms of a boolean that the application takes as true, "false" for those of false, else the text. */}}
{{- define "llm-proxy.boolean" -}}
{{- $text := include "llm-proxy.text" . | lower | trim -}}
{{- if has $text (list "1" "t" "true" "y" "yes" "on") -}}true
{{- else if has $text (list "0" "f" "false" "n" "no" "off") -}}false
{{- else -}}{{ $text }}{{- end -}}
{{- end -}}

{{- define "llm-proxy.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 63 characters and a name that a Service may have: no dot, no digit in front. */}}
{{- define "llm-proxy.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- $full := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if not (contains $name .Release.Name) -}}
{{- $full = printf "%s-%s" .Release.Name $name -}}
{{- if regexMatch "^[0-9]" $full -}}{{- $full = printf "%s-%s" .Chart.Name .Release.Name -}}{{- end -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $full -}}{{- $full = printf "%s-%s" .Chart.Name $full -}}{{- end -}}
{{- $full | replace "." "-" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* The full name with a suffix, (list root suffix limit): cut in front of the suffix, and told apart by a hash where
something had to go. */}}
{{- define "llm-proxy.suffixed" -}}
{{- $full := include "llm-proxy.fullname" (index . 0) -}}
{{- $suffix := index . 1 -}}
{{- $room := sub (index . 2) (add (len $suffix) 1) | int -}}
{{- if gt (len $full) $room -}}
{{- $full = printf "%s-%s" ($full | trunc (sub $room 9 | int) | trimSuffix "-") ($full | sha256sum | trunc 8) -}}
{{- end -}}
{{- printf "%s-%s" $full $suffix -}}
{{- end -}}

{{- define "llm-proxy.dispatcher.name" -}}{{ include "llm-proxy.suffixed" (list . "dispatcher" 63) }}{{- end -}}
{{- define "llm-proxy.admin.name" -}}{{ include "llm-proxy.suffixed" (list . "admin" 63) }}{{- end -}}
{{/* A StatefulSet's name and a hash are a label of its pods: 52 characters. Its Service has the same name. */}}
{{- define "llm-proxy.postgresql.name" -}}{{ include "llm-proxy.suffixed" (list . "postgresql" 52) }}{{- end -}}
{{- define "llm-proxy.mysql.name" -}}{{ include "llm-proxy.suffixed" (list . "mysql" 52) }}{{- end -}}

{{- define "llm-proxy.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "llm-proxy.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Selector labels, (list root component). They never change: no version, no values but nameOverride. */}}
{{- define "llm-proxy.selectorLabels" -}}
{{- $root := index . 0 -}}
{{- $name := include "llm-proxy.name" $root -}}
{{- if ne (index . 1) "proxy" -}}
{{- $name = printf "%s-%s" ($name | trunc 52 | trimSuffix "-") (index . 1) -}}
{{- end -}}
app.kubernetes.io/name: {{ $name | quote }}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
{{- end -}}

{{/* Labels of an object, (list root component). */}}
{{- define "llm-proxy.labels" -}}
{{- $root := index . 0 -}}
{{- $own := include "llm-proxy.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") -}}
{{- $_ := set $own "app.kubernetes.io/version" $root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) -}}
{{- $_ := set $own "app.kubernetes.io/part-of" $root.Chart.Name -}}
{{- include "llm-proxy.map" (list $root.Values.commonLabels $own) -}}
{{- end -}}

{{/* Labels of a pod, (list root component extra): the selector's win over what the user adds. */}}
{{- define "llm-proxy.podLabels" -}}
{{- $root := index . 0 -}}
{{- $own := include "llm-proxy.selectorLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/component" (index . 1) -}}
{{- $_ := set $own "app.kubernetes.io/part-of" $root.Chart.Name -}}
{{- include "llm-proxy.map" (list $root.Values.commonLabels (index . 2) $own) -}}
{{- end -}}

{{/* Maps of texts laid over each other, the later one wins, as YAML with every value quoted; nothing for none. */}}
{{- define "llm-proxy.map" -}}
{{- $all := dict -}}
{{- range . -}}
{{- range $key, $value := . -}}
{{- $_ := set $all $key (include "llm-proxy.text" $value) -}}
{{- end -}}
{{- end -}}
{{- if $all -}}{{ toYaml $all }}{{- end -}}
{{- end -}}

{{/* metadata of an object, (dict root component name annotations labels), in the block below `metadata:`. */}}
{{- define "llm-proxy.metadata" -}}
{{- $root := .root -}}
name: {{ .name | quote }}
namespace: {{ .namespace | default $root.Release.Namespace | quote }}
labels:
{{- $labels := include "llm-proxy.labels" (list $root .component) | fromYaml }}
  {{- include "llm-proxy.map" (list (.labels | default dict) $labels) | nindent 2 }}
{{- with include "llm-proxy.map" (list $root.Values.commonAnnotations (.annotations | default dict)) }}
annotations:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Registry in a repository's name; nothing where it has none, which means Docker Hub. */}}
{{- define "llm-proxy.registryOf" -}}
{{- $first := splitList "/" . | first -}}
{{- if and (contains "/" .) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}{{ $first }}{{- end -}}
{{- end -}}

{{/* A repository with its registry, (list root repository): global.imageRegistry replaces the one in the name. */}}
{{- define "llm-proxy.repository" -}}
{{- $repository := index . 1 -}}
{{- with (index . 0).Values.global.imageRegistry -}}
{{- $own := include "llm-proxy.registryOf" $repository -}}
{{- if $own -}}{{- $repository = trimPrefix (printf "%s/" $own) $repository -}}{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- $repository -}}
{{- end -}}

{{- define "llm-proxy.image" -}}
{{- $repository := include "llm-proxy.repository" (list . .Values.image.repository) -}}
{{- $tag := include "llm-proxy.text" .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{/* Image of an in-cluster database, (list root values). */}}
{{- define "llm-proxy.databaseImage" -}}
{{- $image := (index . 1).image -}}
{{- printf "%s:%s" (include "llm-proxy.repository" (list (index . 0) $image.repository)) (include "llm-proxy.text" $image.tag) -}}
{{- end -}}

{{- define "llm-proxy.kubeVersion" -}}
{{- .Values.kubeVersionOverride | default .Capabilities.KubeVersion.Version -}}
{{- end -}}

{{- define "llm-proxy.hpa.apiVersion" -}}
{{- ternary "autoscaling/v2" "autoscaling/v2beta2" (semverCompare ">=1.23-0" (include "llm-proxy.kubeVersion" .)) -}}
{{- end -}}

{{- define "llm-proxy.pdb.apiVersion" -}}
{{- ternary "policy/v1" "policy/v1beta1" (semverCompare ">=1.21-0" (include "llm-proxy.kubeVersion" .)) -}}
{{- end -}}

{{/* Whether the number of proxy pods is left to an autoscaler. */}}
{{- define "llm-proxy.replicas.scaled" -}}
{{- if or .Values.autoscaling.enabled .Values.autoscaling.external -}}yes{{- end -}}
{{- end -}}

{{/* Most and fewest proxy pods. */}}
{{- define "llm-proxy.replicas.most" -}}
{{- if include "llm-proxy.replicas.scaled" . -}}{{ int .Values.autoscaling.maxReplicas }}{{- else -}}{{ int .Values.replicaCount }}{{- end -}}
{{- end -}}
{{- define "llm-proxy.replicas.fewest" -}}
{{- if include "llm-proxy.replicas.scaled" . -}}{{ int .Values.autoscaling.minReplicas }}{{- else -}}{{ int .Values.replicaCount }}{{- end -}}
{{- end -}}

{{/* storageClassName of a claim, given the value: "-" is the empty class, empty leaves the line out. */}}
{{- define "llm-proxy.storageClass" -}}
{{- if eq (. | toString) "-" }}
storageClassName: ""
{{- else if . }}
storageClassName: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* spec of a claim, given its values. */}}
{{- define "llm-proxy.claim.spec" -}}
accessModes:
  - {{ .accessMode }}
{{- include "llm-proxy.storageClass" .storageClass }}
{{- with .volumeName }}
volumeName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size | quote }}
{{- end -}}

{{/* Annotations of a claim, given its values, as a map. */}}
{{- define "llm-proxy.claim.annotations" -}}
{{- $kept := ternary (dict "helm.sh/resource-policy" "keep") dict (.retain | default false) -}}
{{- include "llm-proxy.map" (list (.annotations | default dict) $kept) -}}
{{- end -}}

{{/* Rules of an Ingress, (list hosts serviceName): a host without paths gets "/". */}}
{{- define "llm-proxy.ingress.rules" -}}
{{- $service := index . 1 -}}
{{- range index . 0 }}
- host: {{ .host | quote }}
  http:
    paths:
    {{- range (.paths | default (list (dict "path" "/"))) }}
      - path: {{ .path | default "/" | quote }}
        pathType: {{ .pathType | default "Prefix" }}
        backend:
          service:
            name: {{ $service | quote }}
            port:
              name: http
    {{- end }}
{{- end }}
{{- end -}}

{{- define "llm-proxy.ingress.spec" -}}
{{- $ingress := index . 0 -}}
{{- with $ingress.className }}
ingressClassName: {{ . | quote }}
{{- end }}
{{- with $ingress.tls }}
tls:
{{- range . }}
  - hosts:
      {{- toYaml (.hosts | default list) | nindent 6 }}
    {{- with .secretName }}
    secretName: {{ . | quote }}
    {{- end }}
{{- end }}
{{- end }}
rules:
  {{- include "llm-proxy.ingress.rules" (list $ingress.hosts (index . 1)) | nindent 2 }}
{{- end -}}
