//! What is wrong across keys, or with values that their types allow. Every error begins with the key, and
//! says what to write.

use std::net::SocketAddr;
use std::path::Path;

use foghorn_auth::keys::Keys;
use foghorn_core::event::FRAME_BYTES_MAX;
use foghorn_core::policy::{Access, Policy};

use super::{Config, EventLog, GrpcTls, Http, Nats, urls};
use crate::{jwks, webhook};

/// The least that a journal can work with.
const JOURNAL_BYTES_MIN: u64 = 64 * 1024;

impl Config {
    /// The first thing that is wrong, if anything is. Looks at nothing but the values: whether a server is
    /// there turns out at start, whether a file is, [`check_files`](Self::check_files) says.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.shard_count()?;
        self.checked_policies()?;
        self.gateway.check()?;
        self.dashboard.check()?;
        self.canary.check()?;
        self.fanout.check()?;
        self.notifications.check()?;
        self.http.check(self.gateway.connections)?;
        self.auth.check()?;
        self.nats.check()?;
        self.eventlog.check()?;
        self.grpc.tls.check()?;
        self.operator.check()?;
        urls::postgres(&self.postgres.url).map_err(|what| format!("postgres.url: {what}"))?;
        if self.outbox.is_configured() {
            urls::postgres(&self.outbox.postgres).map_err(|what| format!("outbox.postgres: {what}"))?;
        }
        if self.postgres.connections == 0 {
            return Err("postgres.connections must be at least 1".to_owned());
        }
        if !self.standalone.ephemeral && is_empty(&self.standalone.data) {
            return Err("standalone.data is empty: name a folder, such as \"foghorn-data\", or write \
                        standalone.ephemeral = true to keep events in memory alone"
                .to_owned());
        }
        let traces = &self.telemetry.traces;
        traces.check().map_err(|error| format!("telemetry.traces.{error}"))?;
        self.check_sizes()?;
        tracing_subscriber::EnvFilter::try_new(&self.log.filter)
            .map_err(|error| format!("log.filter: {error}"))?;
        Ok(())
    }

    /// The first file that can't be read, or holds no key where one should be.
    pub(crate) fn check_files(&self) -> Result<(), String> {
        Keys::load(&self.auth)?;
        jwks::check(&self.auth)?;
        webhook::of(&self.auth)?;
        self.http.tls.load()?;
        self.grpc.tls.load()?;
        self.eventlog.tls().map(|files| files.config()).transpose()?;
        let authority = self.telemetry.traces.authority();
        authority.map_err(|error| format!("telemetry.traces.{error}"))?;
        self.check_nats_files()
    }

    /// The first file of NATS that can't be read: it would else be waited for, as servers are.
    pub(crate) fn check_nats_files(&self) -> Result<(), String> {
        let nats = &self.nats;
        let files = [
            ("ca", &nats.ca),
            ("certificate", &nats.certificate),
            ("key", &nats.key),
            ("credentials", &nats.credentials),
        ];
        files.into_iter().filter(|(_, path)| !is_empty(path)).try_for_each(|(key, path)| {
            // Read, because a folder can be opened too.
            let read = std::fs::read(path).map(|_| ());
            read.map_err(|error| format!("nats.{key}: {} can't be read: {error}", path.display()))
        })
    }

    /// Whether a webhook is there that policies speak of. An event log has policies, and asks nobody.
    pub(crate) fn check_webhook(&self, policies: &[Policy]) -> Result<(), String> {
        let asks = |policy: &&Policy| policy.access == Some(Access::Webhook);
        match policies.iter().find(asks) {
            Some(policy) if !self.auth.webhook.is_configured() => Err(format!(
                "policy {}: access = \"webhook\" needs one to ask: give auth.webhook.url",
                policy.pattern
            )),
            _ => Ok(()),
        }
    }

    fn check_sizes(&self) -> Result<(), String> {
        let most = self.limits.event_bytes;
        if !(1024..=FRAME_BYTES_MAX).contains(&most) {
            return Err(format!("limits.event_bytes must be between 1024 and {FRAME_BYTES_MAX}, not {most}"));
        }
        self.check_policy_sizes(&self.policies)
    }

    /// Whether no policy allows more than the cluster does.
    pub(crate) fn check_policy_sizes(&self, policies: &[Policy]) -> Result<(), String> {
        let most = self.limits.event_bytes;
        match policies.iter().find(|policy| policy.event_bytes.is_some_and(|bytes| bytes > most)) {
            Some(policy) => {
                Err(format!("policy {}: event_bytes is above limits.event_bytes ({most})", policy.pattern))
            }
            None => Ok(()),
        }
    }

    /// Refuses to listen where others can reach it while nobody has to say who they are.
    pub(crate) fn check_exposure(&self, addresses: &[SocketAddr]) -> Result<(), String> {
        match addresses.iter().find(|address| !address.ip().is_loopback()) {
            Some(open) if !self.allow_anonymous && !self.auth.is_configured() => Err(format!(
                "{open} can be reached from other machines and no authentication is configured; configure \
                 auth.keys, auth.jwks or auth.webhook, listen on 127.0.0.1, or say --allow-anonymous if anybody may publish and listen"
            )),
            _ => Ok(()),
        }
    }

    /// The same for an event log, which asks nobody for a credential: gateways and fan-outs do.
    pub(crate) fn check_log_exposure(&self) -> Result<(), String> {
        let open = self.listen.grpc;
        let asked = !is_empty(&self.grpc.tls.client_ca);
        if open.ip().is_loopback() || asked || self.allow_anonymous {
            return Ok(());
        }
        Err(format!(
            "{open} can be reached from other machines, and whoever reaches an event log reads every event; \
             ask for certificates (grpc.tls.client_ca), listen on 127.0.0.1, or say --allow-anonymous if only gateways \
             and fan-outs can"
        ))
    }

    /// The same for every address there is, for those who don't know yet which of them will be used.
    pub(crate) fn check_all_exposure(&self) -> Result<(), String> {
        let listen = &self.listen;
        [("http", listen.http), ("grpc", listen.grpc), ("admin", listen.admin)].into_iter().try_for_each(
            |(key, address)| {
                self.check_exposure(&[address])
                    .map_err(|what| format!("listen.{key}: {what} (in the file: allow_anonymous = true)"))
            },
        )
    }
}

impl Http {
    fn check(&self, streams: usize) -> Result<(), String> {
        for host in &self.hosts {
            urls::host(host).map_err(|what| format!("http.hosts: {host:?} {what}"))?;
        }
        for origin in &self.origins {
            urls::origin(origin).map_err(|what| format!("http.origins: {origin:?} {what}"))?;
        }
        self.proxies()?;
        self.proxied()?;
        together("http.tls", &self.tls.certificate, &self.tls.key)?;
        if self.connections <= streams {
            return Err(format!(
                "http.connections must be above gateway.connections ({streams}), not {}: a gateway that is full \
                 needs a connection to say so",
                self.connections
            ));
        }
        Ok(())
    }
}

impl GrpcTls {
    fn check(&self) -> Result<(), String> {
        together("grpc.tls", &self.certificate, &self.key)?;
        if !is_empty(&self.client_ca) && is_empty(&self.certificate) {
            return Err("grpc.tls.client_ca is given without grpc.tls.certificate and grpc.tls.key: only over TLS do \
                        clients show certificates"
                .to_owned());
        }
        Ok(())
    }
}

impl EventLog {
    fn check(&self) -> Result<(), String> {
        together("eventlog", &self.certificate, &self.key)?;
        if !is_empty(&self.certificate) && is_empty(&self.ca) {
            return Err(
                "eventlog.certificate is given without eventlog.ca: say by which authority event logs are"
                    .to_owned(),
            );
        }
        urls::eventlog(&self.url, self.tls().is_some()).map_err(|what| format!("eventlog.url: {what}"))
    }
}

impl Nats {
    fn check(&self) -> Result<(), String> {
        urls::nats(&self.url).map_err(|what| format!("nats.url: {what}"))?;
        if !self.password.is_empty() && self.user.is_empty() {
            return Err("nats.password is given without nats.user: give both, or neither".to_owned());
        }
        together("nats", &self.certificate, &self.key)?;
        if !(1..=5).contains(&self.replicas) {
            return Err(format!("nats.replicas must be between 1 and 5, not {}", self.replicas));
        }
        if !(JOURNAL_BYTES_MIN..=i64::MAX.unsigned_abs()).contains(&self.journal_bytes) {
            return Err(format!(
                "nats.journal_bytes must be at least {JOURNAL_BYTES_MIN}, not {}",
                self.journal_bytes
            ));
        }
        Ok(())
    }
}

/// Whether both files of a certificate are given, or none.
fn together(table: &str, certificate: &Path, key: &Path) -> Result<(), String> {
    if is_empty(certificate) != is_empty(key) {
        return Err(format!(
            "{table}.certificate and {table}.key go together: give both PEM files, or neither"
        ));
    }
    Ok(())
}

fn is_empty(path: &Path) -> bool {
    path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::super::Tls;
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        toml::from_str::<Config>(text).unwrap().check()
    }

    #[test]
    fn what_cannot_work_is_named_with_its_key_and_what_to_write() {
        for (text, key, hint) in [
            ("nats.url = \"nats://u:hunter2@bad host:1\"", "nats.url", "nats://host:4222"),
            ("nats.url = \"\"", "nats.url", "nats://host:4222"),
            ("nats.replicas = 0", "nats.replicas", "between 1 and 5"),
            ("nats.replicas = 6", "nats.replicas", "between 1 and 5"),
            ("nats.journal_bytes = 0", "nats.journal_bytes", "at least 65536"),
            ("nats.password = \"hunter2\"", "nats.password", "nats.user"),
            ("nats.key = \"key.pem\"", "nats.certificate", "nats.key"),
            ("postgres.url = \"hunter2\"", "postgres.url", "postgres://user:password@host/database"),
            ("postgres.connections = 0", "postgres.connections", "at least 1"),
            ("eventlog.url = \"eventlog:50052\"", "eventlog.url", "http://host:50052"),
            ("http.origins = [\"app.example.com\"]", "http.origins", "https://app.example.com"),
            ("http.hosts = [\"http://a:80\"]", "http.hosts", "app.example.com"),
            ("http.connections = 100000", "http.connections", "gateway.connections (100000)"),
            ("standalone.data = \"\"", "standalone.data", "ephemeral = true"),
            ("limits.event_bytes = 1", "limits.event_bytes", "1024"),
            ("http.trusted_proxies = [\"10.0.0.0/33\"]", "http.trusted_proxies", "10.0.0.0/8"),
            ("http.proxy_protocol = [\"lb.internal\"]", "http.proxy_protocol", "10.0.0.0/8"),
            ("gateway.address_burst = 0", "gateway.address_burst", "between 1 and 1000000"),
            ("fanout.subject_per_second = 9000000", "fanout.subject_per_second", "at most 1000000"),
            ("http.tls.key = \"tls.key\"", "http.tls.certificate", "go together"),
            ("grpc.tls.key = \"tls.key\"", "grpc.tls.certificate", "go together"),
            ("grpc.tls.client_ca = \"ca.pem\"", "grpc.tls.client_ca", "only over TLS"),
            ("eventlog.url = \"https://log:50052\"", "eventlog.url", "https:// needs eventlog.ca"),
            ("eventlog.ca = \"ca.pem\"", "eventlog.url", "must be https"),
            ("eventlog.certificate = \"tls.crt\"", "eventlog.certificate", "go together"),
            (
                "eventlog = { url = \"https://log:1\", certificate = \"tls.crt\", key = \"tls.key\" }",
                "eventlog.certificate",
                "eventlog.ca",
            ),
            ("log.filter = \"foghorn=loud\"", "log.filter", ""),
            ("auth.keys = [{ algorithm = \"HS256\", secret = \"hunter2\" }]", "auth.keys", "at least 32"),
            ("auth.keys = [{ algorithm = \"ES256\" }]", "auth.keys", "public key in PEM"),
            ("auth.leeway = \"1h\"", "auth.leeway", "at most 5m"),
            ("auth.webhook.url = \"http://app.example.com/\"", "auth.webhook.url", "https://"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.starts_with(key) && error.contains(hint), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_policy_that_speaks_of_a_webhook_needs_one() {
        let policy = "policy = [{ pattern = \"a\", access = \"webhook\" }]\n";
        let alone: Config = toml::from_str(policy).unwrap();
        let error = alone.check_webhook(&alone.policies).unwrap_err();
        assert!(error.starts_with("policy a: ") && error.contains("auth.webhook.url"), "{error}");
        assert_eq!(alone.check(), Ok(()), "an event log asks nobody");
        let url = "auth.webhook.url = \"https://app.example.com/authorise\"";
        let both: Config = toml::from_str(&format!("{policy}{url}")).unwrap();
        assert_eq!(both.check_webhook(&both.policies), Ok(()));
    }

    #[test]
    fn what_can_work_passes() {
        assert_eq!(Config::default().check(), Ok(()));
        for text in [
            "standalone = { data = \"\", ephemeral = true }",
            "http.tls = { certificate = \"tls.crt\", key = \"tls.key\" }",
            "grpc.tls = { certificate = \"tls.crt\", key = \"tls.key\", client_ca = \"ca.pem\" }",
            "eventlog = { url = \"https://log:1\", ca = \"ca.pem\", certificate = \"tls.crt\", key = \"tls.key\" }",
            "nats = { url = \"tls://a:4222\", ca = \"ca.pem\", certificate = \"c.pem\", key = \"k.pem\" }",
            "http = { connections = 11 }\ngateway = { connections = 10 }",
            "http = { hosts = [\"*\", \"events.example.com\"], origins = [\"https://app.example.com\"] }",
        ] {
            assert_eq!(checked(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn files_that_are_named_have_to_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("ca.pem");
        std::fs::write(&there, "").unwrap();
        let mut config = Config::default();
        assert_eq!(config.check_files(), Ok(()));
        config.nats.ca = there;
        assert_eq!(config.check_files(), Ok(()));
        config.nats.credentials = folder.path().to_owned();
        assert!(config.check_files().unwrap_err().starts_with("nats.credentials: "), "a folder");
        config.auth.keys = vec![foghorn_auth::config::Key {
            algorithm: foghorn_auth::config::Algorithm::ES256,
            file: "/nonexistent.pem".into(),
            ..Default::default()
        }];
        assert!(
            config.check_files().unwrap_err().starts_with("auth.keys: the key without an id: /nonexistent")
        );
        config.auth.keys.clear();
        config.http.tls.certificate = "/nonexistent.crt".into();
        let error = config.check_files().unwrap_err();
        assert!(error.starts_with("http.tls.certificate: /nonexistent.crt can't be read"), "{error}");
        config.http.tls = Tls::default();
        config.nats.ca = "/nonexistent.pem".into();
        let error = config.check_files().unwrap_err();
        assert!(error.starts_with("nats.ca: /nonexistent.pem can't be read"), "{error}");
    }

    #[test]
    fn listening_beyond_loopback_needs_a_word() {
        let mut config = Config::default();
        let open = ["0.0.0.0:8080".parse().unwrap()];
        assert!(config.check_exposure(&["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]).is_ok());
        assert!(config.check_exposure(&open).unwrap_err().contains("--allow-anonymous"));
        assert_eq!(config.check_all_exposure(), Ok(()));
        config.listen.grpc = open[0];
        let error = config.check_all_exposure().unwrap_err();
        assert!(error.starts_with("listen.grpc") && error.contains("allow_anonymous = true"), "{error}");
        assert!(config.check_log_exposure().is_err());
        config.auth.keys.push(foghorn_auth::config::Key::default());
        assert!(config.check_exposure(&open).is_ok() && config.check_all_exposure().is_ok());
        assert!(config.check_log_exposure().is_err(), "an event log asks nobody");
        config.grpc.tls.client_ca = "ca.pem".into();
        assert!(config.check_log_exposure().is_ok(), "now it does");
        config.grpc.tls.client_ca = "".into();
        config.allow_anonymous = true;
        assert!(config.check_log_exposure().is_ok());
        config.auth.keys.clear();
        assert!(config.check_exposure(&open).is_ok() && config.check_all_exposure().is_ok());
    }
}
