{{- /* Names, labels, and what follows from several values. */ -}}

{{- define "foghorn.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 48 | trimSuffix "-" -}}
{{- end -}}

{{- /* A StatefulSet has 52 characters, as its revisions are labels, and the longest ending is `-dev-postgres`. */ -}}
{{- define "foghorn.fullname" -}}
{{- $name := include "foghorn.name" . -}}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $default | trunc 39 | trimSuffix "-" -}}
{{- end -}}

{{- /* What runs, as a list. */ -}}
{{- define "foghorn.components" -}}
- gateway
- fanout
- eventlog
{{- if int64 .Values.notifications.replicas }}
- notifications
{{- end }}
{{- if .Values.outbox.enabled }}
- outbox
{{- end }}
{{- if .Values.operator.enabled }}
- operator
{{- end }}
{{- end -}}

{{- /* What a Deployment is called, and what goes with it: dict "root" "component", and of an outbox "outbox". */ -}}
{{- define "foghorn.processName" -}}
{{ include "foghorn.fullname" .root }}-{{ .component }}{{ with .outbox }}-{{ .name }}{{ end }}
{{- end -}}

{{- /* Of dict "root" "component", and "outbox" of one of several. What never changes, because Deployments can't change it. */ -}}
{{- define "foghorn.selector" -}}
app.kubernetes.io/name: {{ include "foghorn.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .outbox }}
foghorn.dev/outbox: {{ .name | quote }}
{{- end }}
{{- end -}}

{{- define "foghorn.labels" -}}
{{ include "foghorn.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: foghorn
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "foghorn.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whether nobody has to say who they are. A trial without keys is open. */ -}}
{{- define "foghorn.open" -}}
{{- or .Values.allowAnonymous (and .Values.dev.enabled (not .Values.auth.keys) (not .Values.config.auth.jwks) (not .Values.config.auth.webhook)) -}}
{{- end -}}

{{- /* The Secrets by which a component is known to NATS: dict "root" "component". Empty for none. */ -}}
{{- define "foghorn.natsSecret" -}}
{{- with .root.Values.nats.auth -}}
{{- index .secrets $.component | default .secret -}}
{{- end -}}
{{- end -}}

{{- define "foghorn.natsCertificate" -}}
{{- with .root.Values.nats.tls -}}
{{- index .certificateSecrets $.component | default .certificateSecret -}}
{{- end -}}
{{- end -}}

{{- define "foghorn.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.secret "") -}}
{{- end -}}

{{- /* The Secret with the database's URL: {name, key}. */ -}}
{{- define "foghorn.postgresSecret" -}}
{{- if .Values.dev.enabled -}}
name: {{ include "foghorn.fullname" . }}-dev-postgres
key: url
{{- else -}}
{{ toYaml .Values.postgres.secret }}
{{- end -}}
{{- end -}}

{{- /*
How long a gateway takes to let go of all its streams, in seconds: as many as it may have, over the pace at which the
others may be asked to take them.
*/ -}}
{{- define "foghorn.drainWindow" -}}
{{- $pace := int64 .Values.gateway.drain.reconnectsPerSecond -}}
{{- $seconds := div (add (int64 .Values.gateway.connections) (sub $pace 1)) $pace -}}
{{- if gt $seconds 3600 -}}
{{- fail (printf "gateway.connections / gateway.drain.reconnectsPerSecond is %d s, and a gateway drains for an hour at most: raise the pace, or have more gateways with fewer connections each" $seconds) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}

{{- /* From the signal to the last stream. */ -}}
{{- define "foghorn.drainSeconds" -}}
{{- add (int64 .Values.endpointDelaySeconds) (int64 (include "foghorn.drainWindow" .)) -}}
{{- end -}}

{{- /* What the schema can't say so that it is understood. Included once, by the first template. */ -}}
{{- define "foghorn.validate" -}}
{{- $v := .Values -}}
{{- if not $v.dev.enabled -}}
  {{- if not $v.nats.url -}}
    {{- fail "nats.url is needed, such as nats://nats.nats.svc:4222 (or dev.enabled=true for a trial)" -}}
  {{- end -}}
  {{- if not $v.postgres.secret.name -}}
    {{- fail "postgres.secret.name is needed: the Secret whose key postgres.secret.key holds postgres://user:password@host/database (or dev.enabled=true for a trial)" -}}
  {{- end -}}
  {{- if not (or $v.auth.keys $v.config.auth.jwks $v.config.auth.webhook $v.allowAnonymous) -}}
    {{- fail "nobody could publish: give auth.keys or config.auth.jwks to verify tokens with, or say allowAnonymous=true if anybody may publish and listen" -}}
  {{- end -}}
{{- else if or $v.nats.url $v.nats.auth.kind $v.nats.tls.caSecret $v.nats.tls.certificateSecret (compact (values $v.nats.tls.certificateSecrets)) (compact (values $v.nats.auth.secrets)) $v.postgres.secret.name $v.postgres.tls.caSecret -}}
  {{- fail "dev.enabled brings its own NATS and PostgreSQL: leave out what nats and postgres say of others, or dev.enabled" -}}
{{- end -}}
{{- if contains "@" $v.nats.url -}}
  {{- fail "nats.url holds a user, password or token, which belong into a Secret: nats.auth.kind and nats.auth.secret" -}}
{{- end -}}
{{- range include "foghorn.components" . | fromYamlArray -}}
  {{- $secret := include "foghorn.natsSecret" (dict "root" $ "component" .) -}}
  {{- if and $v.nats.auth.kind (not $secret) -}}
    {{- fail (printf "nats.auth.kind and nats.auth.secret go together: name a Secret there for all, or in nats.auth.secrets.%s" .) -}}
  {{- else if and $secret (not $v.nats.auth.kind) -}}
    {{- fail "nats.auth.kind and nats.auth.secret go together: credentials, user or token is what the Secret holds" -}}
  {{- end -}}
{{- end -}}
{{- if and $v.outbox.enabled (not $v.outbox.databases) -}}
  {{- fail "outbox.databases is needed for outbox.enabled: the databases of applications that have an outbox, such as [{name: shop, secret: {name: shop-outbox}}]" -}}
{{- end -}}
{{- $names := list -}}
{{- range $v.outbox.databases -}}
  {{- if has .name $names -}}
    {{- fail (printf "outbox.databases has the name %s twice" .name) -}}
  {{- end -}}
  {{- $names = append $names .name -}}
{{- end -}}
{{- if and (eq $v.gateway.autoscaling.kind "keda") (not $v.gateway.autoscaling.prometheus) -}}
  {{- fail "gateway.autoscaling.prometheus is needed for keda: the URL of the Prometheus to ask" -}}
{{- end -}}
{{- if gt (int64 $v.gateway.autoscaling.minReplicas) (int64 $v.gateway.autoscaling.maxReplicas) -}}
  {{- fail "gateway.autoscaling.minReplicas is above maxReplicas" -}}
{{- end -}}
{{- if and $v.metrics.serviceMonitor.enabled $v.networkPolicy.enabled (not $v.networkPolicy.scrapers) -}}
  {{- fail "metrics.serviceMonitor has a Prometheus scrape what the network policies let nobody reach: name it in networkPolicy.scrapers" -}}
{{- end -}}
{{- if and (eq $v.ingress.flavor "gateway-api") $v.ingress.hosts -}}
  {{- if not $v.ingress.parentRefs -}}
    {{- fail "ingress.parentRefs is needed for gateway-api: the Gateways to attach to, such as [{name: public, namespace: gateways}]" -}}
  {{- end -}}
  {{- if $v.tls.secret -}}
    {{- fail "tls.secret can't be combined with ingress.flavor=gateway-api: an HTTPRoute can't say that its backends speak TLS" -}}
  {{- end -}}
{{- end -}}
{{- end -}}
