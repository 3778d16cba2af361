{{- /*
What is routed where, in two objects, because a stream and a question with an answer want different proxies. Paths are
{path, type (Exact or Prefix), component}.
*/ -}}

{{- define "foghorn.routes.streams" -}}
- {path: /api/events, type: Prefix, component: gateway}
- {path: /api/dashboard/stream, type: Exact, component: gateway}
{{- if int64 .Values.notifications.replicas }}
- {path: /api/notifications/stream, type: Exact, component: gateway}
{{- end }}
{{- end -}}

{{- define "foghorn.routes.api" -}}
- {path: /api/events/stats, type: Exact, component: gateway}
- {path: /api/channels, type: Prefix, component: gateway}
- {path: /api/admin, type: Prefix, component: gateway}
- {path: /console, type: Prefix, component: gateway}
- {path: /api/publish, type: Exact, component: fanout}
{{- if int64 .Values.notifications.replicas }}
- {path: /api/notifications, type: Prefix, component: notifications}
{{- end }}
{{- end -}}

{{- /* Most bytes of what is published, as fan-out has it. */ -}}
{{- define "foghorn.bodyBytes" -}}
{{- int64 (.Values.config.fanout.body_bytes | default 4194304) -}}
{{- end -}}

{{- /* How long fan-out may take to answer: 15 s for the journal and up to 60 s for `durable`, with some to spare. */ -}}
{{- define "foghorn.answerSeconds" -}}90{{- end -}}

{{- /* An Ingress, of dict "root" "name" "hosts" "routes" (without: no paths) "annotations" "tls". */ -}}
{{- define "foghorn.ingress" -}}
{{- $root := .root -}}
{{- $full := include "foghorn.fullname" $root -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ $full }}-{{ .name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" (dict "root" $root "component" "ingress") | nindent 4 }}
  annotations:
    {{- toYaml (merge (dict) $root.Values.ingress.annotations .annotations) | nindent 4 }}
spec:
  ingressClassName: {{ $root.Values.ingress.className | quote }}
  {{- if .tls }}
  tls:
    - hosts:
        {{- toYaml .hosts | nindent 8 }}
      {{- with $root.Values.ingress.tlsSecret }}
      secretName: {{ . | quote }}
      {{- end }}
  {{- end }}
  rules:
    {{- range $host := .hosts }}
    - host: {{ $host | quote }}
      {{- with $.routes }}
      http:
        paths:
          {{- range . }}
          - path: {{ .path }}
            pathType: {{ .type }}
            backend:
              service: {name: {{ $full }}-{{ .component }}, port: {name: http}}
          {{- end }}
      {{- end }}
    {{- end }}
{{- end -}}
