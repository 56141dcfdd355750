{{- define "tidemark.name" -}}
{{ printf "%s-operator" (trunc 54 .Release.Name) }}
{{- end }}

{{- /* What is not in a namespace is named after one, so that two releases do not share it. */}}
{{- define "tidemark.globalName" -}}
{{ printf "%s:%s" .Release.Namespace (include "tidemark.name" .) }}
{{- end }}

{{- define "tidemark.selector" -}}
app.kubernetes.io/name: tidemark-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "tidemark.labels" -}}
{{ include "tidemark.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tidemark
{{- end }}

{{- define "tidemark.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* The namespace that is watched, or * for all. */}}
{{- define "tidemark.watched" -}}
{{ .Values.watch.namespaces | first | default .Release.Namespace }}
{{- end }}

{{- define "tidemark.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "tidemark.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What the operator does in the namespaces that it watches. */}}
{{- define "tidemark.rules" -}}
- apiGroups: [tidemark.dev]
  resources: [clusters, topics, consumergroups]
  verbs: [get, list, watch, patch, update]
- apiGroups: [tidemark.dev]
  resources: [clusters/status, topics/status, consumergroups/status, clusters/finalizers, topics/finalizers]
  verbs: [get, patch, update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch, update]
- apiGroups: [""]
  resources: [services, serviceaccounts, configmaps, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, update, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# The authority and the certificates of each cluster, and those that a Cluster names.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
- apiGroups: [cert-manager.io]
  resources: [certificates]
  verbs: [get, list, create, patch, delete]
# Why one is not issued.
- apiGroups: [cert-manager.io]
  resources: [certificaterequests]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
