{{/* Folders of the admin UI. */}}
{{- define "llm-proxy.admin.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: data, mountPath: /app/data}
- {name: logs, mountPath: /app/logs}
{{- include "llm-proxy.mounts.ca" . }}
{{- end -}}

{{- define "llm-proxy.admin.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
- name: data
  emptyDir: {sizeLimit: 512Mi}
- name: logs
  emptyDir: {sizeLimit: 512Mi}
{{- include "llm-proxy.volumes.ca" . }}
{{- end -}}
