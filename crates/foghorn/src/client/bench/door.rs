//! Publishing, as cheaply as it can be done from outside: one connection, one request at a time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use foghorn_rpc::v1::publish_result::Result as Outcome;
use foghorn_rpc::v1::publisher_client::PublisherClient;
use foghorn_rpc::v1::{PublishBatchRequest, PublishRequest};

use crate::client::http::ANSWER_BYTES_MAX;

/// How long a connection may take to be made, and a request to be answered.
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
pub(super) const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// An event to publish. Its data need no escaping in JSON.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) channel: String,
    pub(super) data: Vec<u8>,
}

/// Which events were acknowledged, in order, and the first reason why one was not.
pub(super) type Acks = (Vec<bool>, Option<String>);

/// A server's address, resolved once: what is measured is not the name service.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) authority: String,
    /// Ends with a slash.
    pub(super) path: String,
}

impl Target {
    /// Of a base URL.
    pub(super) async fn resolve(url: &Url) -> anyhow::Result<Self> {
        anyhow::ensure!(url.scheme() == "http", "the benchmark speaks http only, not {}", url.scheme());
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or(80);
        let found = tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await;
        let address = found.with_context(|| format!("can't find {host}"))?.next();
        Ok(Target {
            address: address.with_context(|| format!("{host} has no address"))?,
            authority: format!("{host}:{port}"),
            path: url.path().to_owned(),
        })
    }
}

/// Where events are published.
pub(super) enum Door {
    /// `POST /api/publish`.
    Http(HttpDoor),
    /// `Publish`, or `PublishBatch` for several.
    Grpc(Box<PublisherClient<Channel>>),
}

/// A keep-alive connection.
pub(super) struct HttpDoor {
    target: Target,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Door {
    /// By HTTP. Nothing is connected yet.
    pub(super) fn http(target: Target) -> Self {
        Door::Http(HttpDoor { target, connection: None })
    }

    /// By gRPC, on a connection of its own.
    pub(super) async fn grpc(url: &Url) -> anyhow::Result<Self> {
        Ok(Door::Grpc(Box::new(grpc_client(url).await?)))
    }

    /// Publishes events in order. An error means that none has an answer.
    pub(super) async fn publish(&mut self, events: &[Outgoing]) -> Result<Acks, String> {
        let answered = match self {
            Door::Http(door) => timeout(REQUEST_DEADLINE, door.publish(events)).await,
            Door::Grpc(client) => timeout(REQUEST_DEADLINE, grpc(client, events)).await,
        };
        let result = answered.unwrap_or_else(|_| Err(format!("no answer within {REQUEST_DEADLINE:?}")));
        if let (Err(_), Door::Http(door)) = (&result, self) {
            door.connection = None;
        }
        result
    }
}

/// Connects.
pub(super) async fn grpc_client(url: &Url) -> anyhow::Result<PublisherClient<Channel>> {
    let endpoint =
        Endpoint::from_shared(url.to_string())?.connect_timeout(CONNECT_DEADLINE).tcp_nodelay(true);
    let channel = endpoint.connect().await.with_context(|| format!("can't connect to {url}"))?;
    Ok(PublisherClient::new(channel))
}

async fn grpc(client: &mut PublisherClient<Channel>, events: &[Outgoing]) -> Result<Acks, String> {
    if let [event] = events {
        let answer = client.publish(request(event)).await;
        return answer.map(|_| (vec![true], None)).map_err(|status| status.to_string());
    }
    let batch = PublishBatchRequest { events: events.iter().map(request).collect() };
    let answer = client.publish_batch(batch).await.map_err(|status| status.to_string())?;
    let mut why = None;
    let acks = answer.into_inner().results.into_iter().map(|result| match result.result {
        Some(Outcome::Ok(_)) => true,
        Some(Outcome::Error(error)) => {
            why.get_or_insert(error.message);
            false
        }
        None => false,
    });
    Ok((acks.collect(), why))
}

/// The same event for gRPC.
pub(super) fn request(event: &Outgoing) -> PublishRequest {
    PublishRequest {
        channel: event.channel.clone(),
        data: event.data.clone().into(),
        ..PublishRequest::default()
    }
}

impl HttpDoor {
    async fn publish(&mut self, events: &[Outgoing]) -> Result<Acks, String> {
        let request = Request::post(format!("{}api/publish", self.target.path))
            .header(header::HOST, &self.target.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body(events)))
            .map_err(|error| error.to_string())?;
        let connection = self.connected().await?;
        let response = connection.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        answers(&body, events.len())
    }

    async fn connected(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        let ready = match self.connection.take() {
            Some(mut connection) => connection.ready().await.is_ok().then_some(connection),
            None => None,
        };
        let connection = match ready {
            Some(connection) => connection,
            None => connect(self.target.address).await?,
        };
        Ok(self.connection.insert(connection))
    }
}

async fn connect(address: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let connecting = async {
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())
    };
    let connected = timeout(CONNECT_DEADLINE, connecting).await;
    let (sender, connection) = connected
        .unwrap_or_else(|_| Err("timed out".into()))
        .map_err(|why| format!("can't connect to {address}: {why}"))?;
    // It ends with the sender; what goes wrong on it, the sender hears.
    tokio::spawn(async move { connection.await.is_ok() });
    Ok(sender)
}

fn body(events: &[Outgoing]) -> Bytes {
    let mut out =
        Vec::with_capacity(events.iter().map(|event| event.data.len() + event.channel.len() + 32).sum());
    for event in events {
        out.extend_from_slice(if out.is_empty() { b"[{\"channel\":\"" } else { b",{\"channel\":\"" });
        out.extend_from_slice(event.channel.as_bytes());
        out.extend_from_slice(b"\",\"data\":\"");
        out.extend_from_slice(&event.data);
        out.extend_from_slice(b"\"}");
    }
    out.push(b']');
    out.into()
}

fn answers(body: &[u8], count: usize) -> Result<Acks, String> {
    #[derive(Deserialize)]
    struct Answer {
        position: Option<IgnoredAny>,
        error: Option<serde_json::Value>,
    }
    let answers: Vec<Answer> = serde_json::from_slice(body)
        .map_err(|error| format!("the answer is not one of a Foghorn server: {error}"))?;
    if answers.len() != count {
        return Err(format!("{} answers to {count} events", answers.len()));
    }
    let why = answers.iter().find_map(|answer| answer.error.as_ref().map(ToString::to_string));
    Ok((answers.iter().map(|answer| answer.position.is_some()).collect(), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_and_answers_are_the_apis() {
        let event = |channel: &str, data: &str| Outgoing { channel: channel.into(), data: data.into() };
        let body: serde_json::Value =
            serde_json::from_slice(&body(&[event("a", "x"), event("b", "y")])).unwrap();
        assert_eq!(body, serde_json::json!([{"channel": "a", "data": "x"}, {"channel": "b", "data": "y"}]));
        let (acks, why) = answers(br#"[{"position":{},"id":null},{"error":{"detail":"full"}}]"#, 2).unwrap();
        assert_eq!(acks, [true, false]);
        assert!(why.unwrap().contains("full"));
        assert!(answers(b"[]", 1).is_err());
    }
}
