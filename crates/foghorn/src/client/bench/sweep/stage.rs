//! A server of a turn, and what its listeners need to reach it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, anyhow, ensure};
use foghorn_http::tls::ClientFiles;

use super::asks::Asks;
use super::cluster::Cluster;
use super::publisher::Publisher;
use super::server::{Kind, Server};
use super::variant::{Variant, Whose};
use crate::client::bench::folder::Folder;
use crate::client::bench::tokens;

/// A server, which is fresh, and what to ask it for.
pub(super) struct Stage {
    // Before its files: it is to end first.
    pub(super) server: Server,
    pub(super) asks: Asks,
    /// The publisher's.
    pub(super) token: Option<String>,
    _folder: Folder,
}

impl Stage {
    /// Of `listeners` that want this variant.
    pub(super) fn set(
        kind: Kind,
        core: usize,
        variant: &Variant,
        listeners: usize,
        axum: Option<&Path>,
        cluster: &Cluster,
    ) -> anyhow::Result<Self> {
        let folder = Folder::make("sweep")?;
        if let (Kind::Axum, Some(program)) = (kind, axum) {
            let server = Server::run(kind, program, core, &[], 0)?;
            let asks = Asks { variant: variant.plain(), ..Asks::default() };
            return Ok(Stage { server, asks, token: None, _folder: folder });
        }
        if kind != Kind::Foghorn {
            let server = Server::start(kind, core)?;
            let asks = Asks { variant: variant.plain(), ..Asks::default() };
            return Ok(Stage { server, asks, token: None, _folder: folder });
        }
        let mut asks = Asks { variant: variant.clone(), ..Asks::default() };
        // Nobody is slowed down.
        let mut configuration =
            "[gateway]\naddress_per_minute = 0\nsubject_per_minute = 0\nstreams_per_second = 0\n".to_owned();
        if variant.tls {
            let (certificate, key) = certificate(&folder)?;
            write!(configuration, "[http.tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")?;
            let files = ClientFiles { table: "bench", authority: certificate.into(), identity: None };
            let mut tls = Arc::unwrap_or_clone(files.config().map_err(|error| anyhow!(error))?);
            if variant.h2.is_none() {
                tls.alpn_protocols = Vec::new();
            }
            asks.tls = Some(Arc::new(tls));
        }
        let token = variant.token.map(|_| tokens::token("publisher", &[">"])).transpose()?;
        if let Some(whose) = variant.token {
            configuration.push_str(&tokens::configuration());
            let subjects = if whose == Whose::One { 1 } else { listeners };
            let made = (0..subjects).map(|subject| tokens::token(&format!("user-{subject}"), &[]));
            asks.tokens = made.collect::<Result<_, _>>()?;
        }
        let configuration = folder.write("foghorn.toml", &configuration)?;
        let shards = variant.shards.to_string();
        let arguments = ["--config", &configuration, "--shards", &shards];
        let program = std::env::current_exe().context("this program can't find itself")?;
        let server = match cluster.gateway(&program, core, &arguments, variant.shards)? {
            Some(gateway) => gateway,
            None => Server::start_with(kind, core, &arguments)?,
        };
        Ok(Stage { server, asks, token, _folder: folder })
    }

    /// Who publishes to it events of so many bytes, on what channels is yet to be said.
    pub(super) fn publisher(&self, size: usize, began: Instant) -> anyhow::Result<Publisher> {
        let publisher = Publisher::connect(&self.server, size, began)?;
        publisher.typed(self.asks.variant.types).known_by(self.token.clone()).over(self.asks.tls.as_ref())
    }

    /// Whether it is a Foghorn that writes to its listeners' sockets by itself: over TLS and HTTP/2 it doesn't.
    pub(super) fn has_reactors(&self) -> bool {
        self.asks.tls.is_none() && self.asks.variant.h2.is_none()
    }
}

/// A certificate for `localhost`, which is its own authority, and its key: two files.
fn certificate(folder: &Folder) -> anyhow::Result<(String, String)> {
    let (certificate, key) = (folder.path("tls.crt")?, folder.path("tls.key")?);
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.args(["-keyout", &key, "-out", &certificate]).stdin(Stdio::null());
    let made = openssl.output().context("--tls needs the program openssl, to make a certificate")?;
    ensure!(made.status.success(), "openssl made no certificate: {}", String::from_utf8_lossy(&made.stderr));
    Ok((certificate, key))
}
