//! The replicas behind one or more URLs: which there are, which to ask next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use foghorn_bus::backoff::Backoff;
use foghorn_http::tls::ClientFiles;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::MESSAGE_BYTES_MAX;
use crate::tls::TlsConnector;
use crate::v1::event_log_client::EventLogClient;

/// How often names are looked up again: replicas come and go.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);
/// How long a look-up may take.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);
/// Most replicas, over all URLs.
const REPLICAS_MAX: usize = 64;
/// How long connecting to a replica may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How often a connection is asked whether it is alive, and how long it may take to answer. Together
/// this is how soon a replica that vanished without a word is noticed.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_DEADLINE: Duration = Duration::from_secs(2);

/// A URL list that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "event log URL {url:?}: {what}; give http://host:port, or https:// with eventlog.ca, or several with commas between"
)]
pub struct UrlError {
    /// The one that is wrong.
    pub url: String,
    what: String,
}

/// All replicas.
pub(crate) struct Pool {
    urls: Vec<(Uri, String, u16)>,
    tls: Option<Arc<ClientFiles>>,
    known: Mutex<Known>,
    /// Held while looking up, so that it is done once.
    resolving: tokio::sync::Mutex<()>,
    turn: AtomicUsize,
}

struct Known {
    replicas: Arc<[Arc<Replica>]>,
    resolved: Option<Instant>,
}

/// One process that serves the event log.
pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    uri: Uri,
    channel: Channel,
    rest: Mutex<Rest>,
}

/// A replica that couldn't be reached is asked last for a while.
struct Rest {
    until: Option<Instant>,
    backoff: Backoff,
}

impl Pool {
    /// `urls`: `http://host:port`, or with `tls` `https://host:port`; several with commas between.
    pub(crate) fn new(urls: &str, tls: Option<ClientFiles>) -> Result<Self, UrlError> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let urls = urls.split(',').map(|url| parse(url.trim(), scheme)).collect::<Result<Vec<_>, _>>()?;
        Ok(Pool {
            urls,
            tls: tls.map(Arc::new),
            known: Mutex::new(Known { replicas: Arc::new([]), resolved: None }),
            resolving: tokio::sync::Mutex::new(()),
            turn: AtomicUsize::new(rand::random_range(0..REPLICAS_MAX)),
        })
    }

    /// The replicas in the order to be asked: in turn, those that rest last. An error when no URL leads
    /// anywhere.
    pub(crate) async fn in_turn(&self) -> Result<Vec<Arc<Replica>>, String> {
        let replicas = self.replicas().await?;
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % replicas.len();
        let now = Instant::now();
        let mut order: Vec<_> = replicas[start..].iter().chain(&replicas[..start]).cloned().collect();
        order.sort_by_key(|replica| replica.rests(now));
        Ok(order)
    }

    async fn replicas(&self) -> Result<Arc<[Arc<Replica>]>, String> {
        let fresh = |known: &Known| known.resolved.is_some_and(|at| at.elapsed() < RESOLVE_EVERY);
        let known = |stale_too: bool| {
            let known = self.known.lock();
            ((stale_too || fresh(&known)) && !known.replicas.is_empty()).then(|| known.replicas.clone())
        };
        if let Some(replicas) = known(false) {
            return Ok(replicas);
        }
        // One looks up; whoever has stale addresses meanwhile uses them.
        let _one = match (self.resolving.try_lock(), known(true)) {
            (Ok(guard), _) => guard,
            (Err(_), Some(replicas)) => return Ok(replicas),
            (Err(_), None) => self.resolving.lock().await,
        };
        if let Some(replicas) = known(false) {
            return Ok(replicas);
        }
        let found = self.resolve().await;
        let mut known = self.known.lock();
        known.resolved = Some(Instant::now());
        match found {
            Ok(found) => known.replicas = merge(&known.replicas, found, self.tls.as_ref()),
            Err(error) if known.replicas.is_empty() => return Err(error),
            // What was known is likelier right than nothing.
            Err(error) => tracing::warn!(error, "could not look up the event log; using what was known"),
        }
        Ok(known.replicas.clone())
    }

    async fn resolve(&self) -> Result<Vec<(SocketAddr, Uri)>, String> {
        let mut found: Vec<(SocketAddr, Uri)> = Vec::new();
        let mut failed = Vec::new();
        for (uri, host, port) in &self.urls {
            let lookup = tokio::net::lookup_host((host.as_str(), *port));
            match tokio::time::timeout(RESOLVE_DEADLINE, lookup).await {
                Ok(Ok(addresses)) => {
                    found.extend(addresses.map(|address| (address, uri.clone())));
                }
                Ok(Err(error)) => failed.push(format!("{host}: {error}")),
                Err(_) => failed.push(format!("{host}: no answer within {RESOLVE_DEADLINE:?}")),
            }
        }
        found.truncate(REPLICAS_MAX);
        if found.is_empty() {
            return Err(format!("no address found ({})", failed.join("; ")));
        }
        Ok(found)
    }
}

/// Replicas that stay keep their connections.
fn merge(
    known: &[Arc<Replica>],
    found: Vec<(SocketAddr, Uri)>,
    tls: Option<&Arc<ClientFiles>>,
) -> Arc<[Arc<Replica>]> {
    let mut replicas: Vec<Arc<Replica>> = Vec::with_capacity(found.len());
    for (address, uri) in found {
        if replicas.iter().any(|r| r.address == address) {
            continue;
        }
        let kept = known.iter().find(|r| r.address == address && r.uri == uri).cloned();
        match kept.map_or_else(|| Replica::new(address, uri, tls).map(Arc::new), Ok) {
            Ok(replica) => replicas.push(replica),
            Err(error) => tracing::warn!(%address, %error, "event log address can't be used"),
        }
    }
    replicas.into()
}

impl Replica {
    /// Connects when it is first asked, and again whenever the connection was lost.
    fn new(address: SocketAddr, uri: Uri, tls: Option<&Arc<ClientFiles>>) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| error.to_string())?
            .origin(uri.clone())
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_DEADLINE)
            .keep_alive_while_idle(true);
        let channel = match tls {
            None => endpoint.connect_lazy(),
            Some(files) => endpoint.connect_with_connector_lazy(TlsConnector::new(address, &uri, files)?),
        };
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5));
        Ok(Replica { address, uri, channel, rest: Mutex::new(Rest { until: None, backoff }) })
    }

    pub(crate) fn client(&self) -> EventLogClient<Channel> {
        EventLogClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn rests(&self, now: Instant) -> bool {
        self.rest.lock().until.is_some_and(|until| now < until)
    }

    /// It answered.
    pub(crate) fn reached(&self) {
        let mut rest = self.rest.lock();
        if rest.until.take().is_some() {
            rest.backoff.reset();
        }
    }

    /// It couldn't be reached.
    pub(crate) fn unreachable(&self) {
        let mut rest = self.rest.lock();
        let wait = rest.backoff.next_wait();
        rest.until = Some(Instant::now() + wait);
    }
}

fn parse(url: &str, scheme: &str) -> Result<(Uri, String, u16), UrlError> {
    let wrong = |what: String| UrlError { url: url.to_owned(), what };
    let uri: Uri = url.parse().map_err(|error| wrong(format!("{error}")))?;
    if uri.scheme_str() != Some(scheme) {
        return Err(wrong(format!("it doesn't begin with {scheme}://")));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("it has a path".to_owned()));
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("no host".to_owned()))?;
    let port = uri.port_u16().ok_or_else(|| wrong("no port".to_owned()))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((uri, host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_at_the_start() {
        for good in ["http://a:1", "http://a:1,http://b:2/", " http://127.0.0.1:1 , http://[::1]:2"] {
            assert!(Pool::new(good, None).is_ok(), "{good}");
        }
        for (bad, hint) in [
            ("", "can't"),
            ("a:1", "begin with http://"),
            ("https://a:1", "begin with http://"),
            ("http://a", "no port"),
            ("http://a:1/x", "has a path"),
            ("http://a:1,,http://b:2", ""),
        ] {
            let error = Pool::new(bad, None).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("give http://host:port"), "{bad}: {error}");
            assert!(error.contains(hint) || bad.is_empty(), "{bad}: {error}");
        }
        let files = || ClientFiles { table: "eventlog", authority: "ca.pem".into(), identity: None };
        assert!(Pool::new("https://a:1,https://[::1]:2", Some(files())).is_ok());
        assert!(
            Pool::new("https://a:1,http://b:2", Some(files())).is_err(),
            "never without, once it is meant"
        );
    }

    #[tokio::test]
    async fn replicas_take_turns_and_the_unreachable_come_last() {
        let pool = Pool::new("http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:2", None).unwrap();
        let first = pool.in_turn().await.unwrap();
        let second = pool.in_turn().await.unwrap();
        assert_eq!(first.len(), 2, "one replica per address");
        assert_ne!(first[0].address, second[0].address);
        first[0].rest.lock().until = Some(Instant::now() + Duration::from_secs(60));
        for _ in 0..2 {
            assert_eq!(pool.in_turn().await.unwrap()[0].address, first[1].address);
        }
        first[0].reached();
        let starts: Vec<_> = [pool.in_turn().await.unwrap(), pool.in_turn().await.unwrap()]
            .iter()
            .map(|o| o[0].address)
            .collect();
        assert_ne!(starts[0], starts[1]);
    }
}
