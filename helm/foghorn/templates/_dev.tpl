{{- /* What the trial's two servers have alike: dict "root" "component" "image" "port" "user" "data" "container". */ -}}
{{- define "foghorn.devServer" -}}
{{- $root := .root -}}
{{- $name := printf "%s-%s" (include "foghorn.fullname" $root) .component -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
spec:
  clusterIP: None
  selector:
    {{- include "foghorn.selector" . | nindent 4 }}
  ports:
    - {name: server, port: {{ .port }}, targetPort: server}
---
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
spec:
  replicas: 1
  serviceName: {{ $name }}
  selector:
    matchLabels:
      {{- include "foghorn.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "foghorn.selector" . | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext:
        runAsNonRoot: true
        runAsUser: {{ .user }}
        runAsGroup: {{ .user }}
        fsGroup: {{ .user }}
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: {{ .component }}
          image: {{ .image | quote }}
          ports:
            - {name: server, containerPort: {{ .port }}}
          resources:
            {{- toYaml $root.Values.dev.resources | nindent 12 }}
          securityContext:
            {{- include "foghorn.containerSecurity" $root | nindent 12 }}
          {{- toYaml .container | nindent 10 }}
      volumes:
        {{- toYaml .volumes | nindent 8 }}
        {{- if not $root.Values.dev.storage }}
        - {name: data, emptyDir: {}}
        {{- end }}
  {{- with $root.Values.dev.storage }}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: {{ . }}}}
  {{- end }}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "foghorn.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports:
        - {port: server}
      from:
        {{- range .clients }}
        - podSelector:
            matchLabels:
              {{- include "foghorn.selector" (dict "root" $root "component" .) | nindent 14 }}
        {{- end }}
{{- end }}
{{- end -}}
