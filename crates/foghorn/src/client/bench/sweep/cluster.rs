//! A gateway of a cluster that runs already, measured in place of standalone: the process that writes to listeners alone,
//! without what publishing costs.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use anyhow::Context as _;

use super::server::{Kind, Server};

/// Where the rest of the cluster is.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "cluster", requires_all = ["nats", "eventlog", "publish"])]
pub(super) struct Cluster {
    /// Measure a gateway of the cluster on this NATS server, in place of standalone
    #[arg(long, value_name = "URL", conflicts_with_all = ["token", "tls", "types", "gzip", "h2"])]
    nats: Option<String>,
    /// Its event log
    #[arg(long, value_name = "URL")]
    eventlog: Option<String>,
    /// Where one of its fan-outs takes events, such as 127.0.0.1:8081; without tokens
    #[arg(long, value_name = "ADDRESS")]
    publish: Option<String>,
}

impl Cluster {
    /// A gateway of it on one core, fresh; none where standalone is to be measured.
    pub(super) fn gateway(
        &self,
        program: &Path,
        core: usize,
        more: &[&str],
        shards: u8,
    ) -> anyhow::Result<Option<Server>> {
        let Cluster { nats: Some(nats), eventlog: Some(eventlog), publish: Some(publish) } = self else {
            return Ok(None);
        };
        let own = ["gateway", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"];
        let cluster = ["--allow-anonymous", "--nats", nats, "--eventlog", eventlog];
        let arguments = [&own[..], &cluster, more].concat();
        let mut server = Server::run(Kind::Foghorn, program, core, &arguments, shards)?;
        server.publish_to = address(publish)?;
        Ok(Some(server))
    }
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| format!("--publish {text}"))?;
    found.next().with_context(|| format!("--publish {text}: no such host"))
}
