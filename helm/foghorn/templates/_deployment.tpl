{{- /* What the services have alike: each is a Deployment of one container without state. */ -}}

{{- define "foghorn.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "foghorn.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* An environment variable from a Secret: dict "variable" "name" "key". */ -}}
{{- define "foghorn.fromSecret" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
{{- end -}}

{{- define "foghorn.postgresEnv" -}}
{{- $secret := include "foghorn.postgresSecret" . | fromYaml -}}
{{- include "foghorn.fromSecret" (dict "variable" "FOGHORN_POSTGRES_URL" "name" $secret.name "key" $secret.key) }}
{{- if .Values.postgres.tls.caSecret }}
{{ include "foghorn.postgresTlsEnv" . }}
{{- end }}
{{- end -}}

{{- define "foghorn.postgresTlsEnv" -}}
- {name: PGSSLMODE, value: verify-full}
- {name: PGSSLROOTCERT, value: /etc/foghorn/postgres-ca/ca.crt}
{{- end -}}

{{- /* Of one of outbox.databases. */ -}}
{{- define "foghorn.outboxEnv" -}}
{{- include "foghorn.fromSecret" (dict "variable" "FOGHORN_OUTBOX_POSTGRES" "name" .secret.name "key" (.secret.key | default "url")) }}
{{- if dig "tls" "caSecret" "" . }}
{{ include "foghorn.postgresTlsEnv" . }}
{{- end }}
{{- end -}}

{{- /* Of dict "root" "component". */ -}}
{{- define "foghorn.natsEnv" -}}
{{- $kind := .root.Values.nats.auth.kind -}}
{{- $secret := include "foghorn.natsSecret" . -}}
{{- if eq $kind "user" }}
{{ include "foghorn.fromSecret" (dict "variable" "FOGHORN_NATS_USER" "name" $secret "key" "user") }}
{{ include "foghorn.fromSecret" (dict "variable" "FOGHORN_NATS_PASSWORD" "name" $secret "key" "password") }}
{{- else if eq $kind "token" }}
{{ include "foghorn.fromSecret" (dict "variable" "FOGHORN_NATS_TOKEN" "name" $secret "key" "token") }}
{{- end }}
{{- end -}}

{{- define "foghorn.webhookEnv" -}}
{{- with .Values.auth.webhookSecret }}
{{- if .name }}
{{ include "foghorn.fromSecret" (dict "variable" "FOGHORN_AUTH_WEBHOOK_SECRET" "name" .name "key" .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "foghorn.tracesEnv" -}}
{{- with .Values.traces.headersSecret }}
{{- if and .name $.Values.config.telemetry.traces.endpoint }}
{{ include "foghorn.fromSecret" (dict "variable" "FOGHORN_TELEMETRY_TRACES_HEADERS" "name" .name "key" .key) }}
{{- end }}
{{- end }}
{{- end -}}

{{- /*
What is mounted below /etc/foghorn, for dict "root" "component": a list of {name, folder, secret, files}. Whole folders,
never single files: those would keep what they had at the start.
*/ -}}
{{- define "foghorn.secretFolders" -}}
{{- $v := .root.Values -}}
{{- if eq $v.nats.auth.kind "credentials" }}
- {name: nats, secret: {{ include "foghorn.natsSecret" . | quote }}, files: [credentials]}
{{- end }}
{{- if $v.nats.tls.caSecret }}
- {name: nats-ca, secret: {{ $v.nats.tls.caSecret | quote }}, files: [ca.crt]}
{{- end }}
{{- with include "foghorn.natsCertificate" . }}
- {name: nats-tls, secret: {{ . | quote }}, files: [tls.crt, tls.key]}
{{- end }}
{{- if and (has .component (list "eventlog" "notifications")) $v.postgres.tls.caSecret }}
- {name: postgres-ca, secret: {{ $v.postgres.tls.caSecret | quote }}, files: [ca.crt]}
{{- end }}
{{- with dig "outbox" "tls" "caSecret" "" . }}
- {name: postgres-ca, secret: {{ . | quote }}, files: [ca.crt]}
{{- end }}
{{- if and (has .component (list "gateway" "fanout" "notifications")) $v.tls.secret }}
- {name: tls, secret: {{ $v.tls.secret | quote }}, files: [tls.crt, tls.key]}
{{- end }}
{{- if and (not (has .component (list "eventlog" "operator" "outbox"))) $v.config.telemetry.traces.endpoint $v.traces.caSecret }}
- {name: traces-ca, secret: {{ $v.traces.caSecret | quote }}, files: [ca.crt]}
{{- end }}
{{- if and (ne .component "operator") $v.mtls.secret }}
- {name: mtls, secret: {{ $v.mtls.secret | quote }}, files: [ca.crt, tls.crt, tls.key]}
{{- end }}
{{- end -}}

{{- /* A volume with some keys of a Secret, for one of the list above. 288 is 0440: the group is the pod's. */ -}}
{{- define "foghorn.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret | quote }}
    defaultMode: 288
    items:
      {{- range .files }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end -}}

{{- /*
dict "root" "component" "ports" (a map of names to numbers) "minReadySeconds" "graceSeconds" "maxSurge" "sleeps"
(whether the pod has to be kept going until everybody has noticed, as its process doesn't do that by itself); of an
outbox, "outbox" is its database.
*/ -}}
{{- define "foghorn.deployment" -}}
{{- $root := .root -}}
{{- $own := index $root.Values .component -}}
{{- $name := include "foghorn.processName" . -}}
{{- $selector := include "foghorn.selector" . -}}
{{- $folders := include "foghorn.secretFolders" . | fromYamlArray -}}
{{- $keys := ternary $root.Values.auth.keys list (has .component (list "gateway" "fanout" "notifications")) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
spec:
  {{- if not .scaled }}
  replicas: {{ int64 $own.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  minReadySeconds: {{ .minReadySeconds }}
  progressDeadlineSeconds: {{ add .minReadySeconds 600 }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: {{ .maxSurge | default 1 | toJson }}, maxUnavailable: 0}
  selector:
    matchLabels:
      {{- $selector | nindent 6 }}
  template:
    metadata:
      labels:
        {{- $selector | nindent 8 }}
        {{- with $own.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # What is configured is read at the start, but for what is logged.
        checksum/config: {{ regexReplaceAll "(?m)^filter = .*$" (include "foghorn.config" .) "" | sha256sum }}
        {{- with $own.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      # Only the operator asks the API server for anything.
      automountServiceAccountToken: {{ eq .component "operator" }}
      # FOGHORN_… variables about Services would be taken for configuration.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .graceSeconds }}
      securityContext:
        {{- include "foghorn.podSecurity" $root | nindent 8 }}
      {{- with $root.Values.image.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . | quote }}
        {{- end }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "foghorn.image" $root | quote }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [{{ .component }}, --config, /etc/foghorn/config/foghorn.toml]
          {{- $env := include "foghorn.natsEnv" . }}
          {{- if has .component (list "eventlog" "notifications") }}
          {{- $env = printf "%s\n%s" (include "foghorn.postgresEnv" $root) $env }}
          {{- else if eq .component "outbox" }}
          {{- $env = printf "%s\n%s" (include "foghorn.outboxEnv" .outbox) $env }}
          {{- end }}
          {{- if not (has .component (list "eventlog" "operator" "outbox")) }}
          {{- $env = printf "%s\n%s\n%s" (trim (include "foghorn.webhookEnv" $root)) (trim (include "foghorn.tracesEnv" $root)) (trim $env) }}
          {{- end }}
          {{- with trim $env }}
          env:
            {{- . | nindent 12 }}
          {{- end }}
          ports:
            {{- range $name, $number := .ports }}
            - {name: {{ $name }}, containerPort: {{ $number }}}
            {{- end }}
          # Only whether the process is alive: it waits for NATS and PostgreSQL by itself, and a restart would help
          # neither. The admin port is there from the start.
          livenessProbe:
            httpGet: {path: /healthz, port: admin}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          # Whether it can be sent work. It doesn't flap: a process says so only after 15 s without what it needs.
          readinessProbe:
            httpGet: {path: /readyz, port: admin}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 2
          {{- if .sleeps }}
          # The process refuses connections from the signal on, so the signal waits until nobody comes any more.
          lifecycle:
            preStop:
              sleep: {seconds: {{ int64 $root.Values.endpointDelaySeconds }}}
          {{- end }}
          resources:
            {{- toYaml $own.resources | nindent 12 }}
          securityContext:
            {{- include "foghorn.containerSecurity" $root | nindent 12 }}
          volumeMounts:
            - {name: config, mountPath: /etc/foghorn/config, readOnly: true}
            {{- range $folders }}
            - {name: {{ .name }}, mountPath: /etc/foghorn/{{ .name }}, readOnly: true}
            {{- end }}
            {{- if $keys }}
            - {name: keys, mountPath: /etc/foghorn/keys, readOnly: true}
            {{- end }}
      volumes:
        - name: config
          configMap: {name: {{ $name }}}
        {{- range $folders }}
        {{- include "foghorn.secretVolume" . | nindent 8 }}
        {{- end }}
        {{- if $keys }}
        - name: keys
          projected:
            defaultMode: 288
            sources:
              {{- range $i, $key := $keys }}
              - secret:
                  name: {{ $key.secret.name | quote }}
                  items: [{key: {{ $key.secret.key | quote }}, path: "{{ $i }}"}]
              {{- end }}
        {{- end }}
      topologySpreadConstraints:
        {{- if $own.topologySpreadConstraints }}
        {{- toYaml $own.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
          # The pods of one revision among themselves, or a rollout would leave the new ones anywhere.
          matchLabelKeys: [pod-template-hash]
        {{- end }}
        {{- end }}
      {{- with $own.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $own.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
{{- end -}}

{{- /* What goes with each Deployment: its ServiceAccount, its configuration, and how many may be taken away. */ -}}
{{- define "foghorn.companions" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "foghorn.processName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "foghorn.processName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
data:
  foghorn.toml: |
    {{- include "foghorn.config" . | nindent 4 | replace "    \n" "\n" }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "foghorn.processName" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "foghorn.labels" . | nindent 4 }}
spec:
  # Not minAvailable, which would keep a node with the only replica from ever being drained.
  maxUnavailable: 1
  # One that isn't ready holds nobody's streams.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "foghorn.selector" . | nindent 6 }}
{{- end -}}
