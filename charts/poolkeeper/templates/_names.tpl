{{/* In front of all names: the release's, and the chart's unless that says it already. */}}
{{- define "poolkeeper.prefix" -}}
{{- if .Values.nameOverride -}}
{{- .Values.nameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "poolkeeper.operator" -}}
{{- include "poolkeeper.prefix" . }}-operator
{{- end -}}

{{- define "poolkeeper.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "poolkeeper.operator" .) -}}
{{- else -}}
{{- required "serviceAccount.name must name an existing one where serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What the operator's Pods are selected by; a Deployment's can never be changed. */}}
{{- define "poolkeeper.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "poolkeeper.labels" -}}
{{ include "poolkeeper.selector" . }}
{{ include "poolkeeper.commonLabels" . }}
{{- end -}}

{{/* Of whatever component. */}}
{{- define "poolkeeper.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* An image by name: (list . "operator"). */}}
{{- define "poolkeeper.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- $name := printf "%s/%s" $root.Values.images.registry $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s%s@%s" $name (ternary (printf ":%s" $image.tag) "" (ne $image.tag "")) $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name ($image.tag | default $root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}
