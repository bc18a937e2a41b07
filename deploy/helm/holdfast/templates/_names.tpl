{{/* Name of the Deployment and everything beside it: the release's. */}}
{{- define "holdfast.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of objects without a namespace: with the release's namespace, so that two releases do not share one. */}}
{{- define "holdfast.clusterWideName" -}}
{{- printf "%s:%s" .Release.Namespace (include "holdfast.name" .) -}}
{{- end -}}

{{- define "holdfast.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "holdfast.name" .) -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: holdfast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "holdfast.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "\n\nimage.repository is not set, and there is no published image yet.\nBuild one with `make image`, push it where your nodes can pull it, and name it:\n  --set image.repository=registry.example.com/holdfast --set image.tag=0.1.0\n" -}}
{{- end -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "holdfast.clusterName" -}}
{{- if not .Values.clusterName -}}
{{- fail "\n\nclusterName is not set.\nIt becomes the first part of every repository's directory in the bucket and cannot be changed later. Choose a name for this cluster, different from all other clusters that use the same bucket:\n  --set clusterName=production-eu\n" -}}
{{- end -}}
{{- .Values.clusterName -}}
{{- end -}}
