{{- /* foghorn.toml, as docs/configuration.md has it. */ -}}

{{- /* A value. JSON's text is TOML's; numbers come as floats, and most are none. */ -}}
{{- define "foghorn.toml.value" -}}
{{- if kindIs "string" . -}}
{{ toJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
[{{ range $i, $item := . }}{{ if $i }}, {{ end }}{{ include "foghorn.toml.value" $item }}{{ end }}]
{{- else if kindIs "map" . -}}
{ {{ range $i, $key := keys . | sortAlpha }}{{ if $i }}, {{ end }}{{ $key }} = {{ include "foghorn.toml.value" (get $ $key) }}{{ end }} }
{{- else if eq (float64 (int64 .)) (float64 .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{- /* A table's keys, a line each. */ -}}
{{- define "foghorn.toml.keys" -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "foghorn.toml.value" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Of dict "root" "component". */ -}}
{{- define "foghorn.config" -}}
{{- $v := .root.Values -}}
{{- $c := $v.config -}}
{{- $full := include "foghorn.fullname" .root -}}
{{- $is := dict .component true -}}
{{- $address := $v.listenAddress -}}
shards = {{ int64 $c.shards }}
{{- if $is.eventlog }}
# An event log knows no tokens; who may reach it is up to the network policy, and to mtls.secret.
allow_anonymous = true
{{- else if $is.operator }}
# Nobody asks an operator for anything.
allow_anonymous = true
{{- else if $is.outbox }}
# Nobody asks an outbox publisher for anything.
allow_anonymous = true
{{- else }}
allow_anonymous = {{ include "foghorn.open" .root }}
{{- end }}

[log]
{{- include "foghorn.toml.keys" $c.log }}

{{- if and $c.telemetry.traces.endpoint (not (or $is.eventlog $is.operator $is.outbox)) }}

[telemetry.traces]
{{- include "foghorn.toml.keys" $c.telemetry.traces }}
{{- if $v.traces.caSecret }}
ca = "/etc/foghorn/traces-ca/ca.crt"
{{- end }}
{{- end }}

[listen]
admin = "{{ $address }}:9090"
{{- if or $is.gateway $is.fanout $is.notifications }}
http = "{{ $address }}:8080"
{{- end }}
{{- if $is.fanout }}
grpc = "{{ $address }}:50051"
{{- else if $is.eventlog }}
grpc = "{{ $address }}:50052"
{{- end }}

[limits]
{{- include "foghorn.toml.keys" $c.limits }}

[nats]
{{- if $v.dev.enabled }}
url = "nats://{{ $full }}-dev-nats.{{ .root.Release.Namespace }}.svc:4222"
{{- include "foghorn.toml.keys" (merge (dict "replicas" 1) $c.nats) }}
{{- else }}
url = {{ toJson $v.nats.url }}
{{- include "foghorn.toml.keys" $c.nats }}
{{- end }}
{{- if eq $v.nats.auth.kind "credentials" }}
credentials = "/etc/foghorn/nats/credentials"
{{- end }}
{{- if $v.nats.tls.caSecret }}
ca = "/etc/foghorn/nats-ca/ca.crt"
{{- end }}
{{- if include "foghorn.natsCertificate" . }}
certificate = "/etc/foghorn/nats-tls/tls.crt"
key = "/etc/foghorn/nats-tls/tls.key"
{{- end }}
{{- if or $is.eventlog $is.notifications }}

[postgres]
{{- include "foghorn.toml.keys" $c.postgres }}
{{- end }}
{{- if $is.eventlog }}
{{- if $v.mtls.secret }}

[grpc.tls]
certificate = "/etc/foghorn/mtls/tls.crt"
key = "/etc/foghorn/mtls/tls.key"
client_ca = "/etc/foghorn/mtls/ca.crt"
{{- end }}
{{- else if $is.operator }}

[operator]
lease = "{{ $full }}-operator"
fleet = "{{ $full }}-gateway"
{{- else }}

[eventlog]
url = "{{ if $v.mtls.secret }}https{{ else }}http{{ end }}://{{ $full }}-eventlog.{{ .root.Release.Namespace }}.svc:50052"
{{- if $v.mtls.secret }}
ca = "/etc/foghorn/mtls/ca.crt"
certificate = "/etc/foghorn/mtls/tls.crt"
key = "/etc/foghorn/mtls/tls.key"
{{- end }}
{{- if not $is.outbox }}

[http]
{{- $service := printf "%s-%s" $full .component }}
{{- $services := list $service }}
{{- range list "%s.%s" "%s.%s.svc" "%s.%s.svc.cluster.local" }}
{{- $services = append $services (printf . $service $.root.Release.Namespace) }}
{{- end }}
hosts = {{ include "foghorn.toml.value" (concat $v.ingress.hosts ($c.http.hosts | default list) $services | uniq) }}
{{- include "foghorn.toml.keys" (omit $c.http "hosts") }}
{{- if $is.gateway }}
# Above gateway.connections: one that is full needs a connection to say so.
connections = {{ add (int64 $v.gateway.connections) 1000 }}
{{- end }}
{{- if $v.tls.secret }}

[http.tls]
certificate = "/etc/foghorn/tls/tls.crt"
key = "/etc/foghorn/tls/tls.key"
{{- end }}

[auth]
{{- include "foghorn.toml.keys" $c.auth }}
{{- range $i, $key := $v.auth.keys }}

[[auth.keys]]
{{- include "foghorn.toml.keys" (omit $key "secret") }}
file = "/etc/foghorn/keys/{{ $i }}"
{{- end }}
{{- end }}
{{- end }}
{{- if $is.gateway }}

[gateway]
connections = {{ int64 $v.gateway.connections }}
drain_delay = "{{ int64 $v.endpointDelaySeconds }}s"
drain_window = "{{ include "foghorn.drainWindow" .root }}s"
{{- if $v.operator.enabled }}
drain_wait = "{{ int64 $v.gateway.drain.waitSeconds }}s"
{{- end }}
{{- include "foghorn.toml.keys" $c.gateway }}
{{- with $c.canary }}

[canary]
{{- include "foghorn.toml.keys" . }}
{{- end }}
{{- range ($c.dashboard | default dict).alerts }}

[[dashboard.alerts]]
{{- include "foghorn.toml.keys" . }}
{{- end }}
{{- else if $is.fanout }}

[fanout]
{{- include "foghorn.toml.keys" $c.fanout }}
{{- else if $is.notifications }}

[notifications]
{{- include "foghorn.toml.keys" $c.notifications }}
{{- end }}
{{- range ternary list $c.policy (eq .component "operator") }}

[[policy]]
{{- include "foghorn.toml.keys" . }}
{{- end }}
{{- end -}}
