//! The ways in.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, HeaderMap};
use foghorn_rpc::v1::publisher_client::PublisherClient;
use foghorn_rpc::v1::{Ack, PublishRequest};
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::Addresses;
use super::ledger::{At, Ledger};
use crate::http::post;

/// Longer than fan-out takes to say that it could not.
const ANSWER: Duration = Duration::from_secs(22);
/// A server goes on sending requests to a fan-out that it has lost, until it notices: another one may get the next.
const NATS_ANSWER: Duration = Duration::from_secs(8);
/// JetStream answers at once, or was not there.
const JOURNAL_ANSWER: Duration = Duration::from_secs(4);

/// What is published.
pub(super) struct Event<'a> {
    pub(super) channel: &'a str,
    pub(super) id: String,
    pub(super) data: String,
    pub(super) durable: bool,
}

/// It is stored; now, or by an earlier try of whomever's.
pub(super) struct Acked {
    pub(super) at: At,
    pub(super) durable: bool,
}

/// It is not, or nobody knows.
pub(super) enum Refusal {
    /// Worth another try.
    Later(String),
    /// The event is at fault.
    Never(String),
}

/// One of the ways in, to one replica at a time.
pub(super) enum Door {
    Http {
        urls: Vec<String>,
        turn: usize,
    },
    Grpc {
        clients: Vec<PublisherClient<Channel>>,
        turn: usize,
    },
    Nats {
        client: Client,
    },
    /// Past fan-out, as services may.
    Journal {
        client: Client,
        shard: u8,
    },
}

impl Door {
    /// The publisher's: each way in has a fourth of them.
    pub(super) async fn new(addresses: &Addresses, ledger: &Ledger, publisher: usize) -> Self {
        // So that each way in is used in each group of channels.
        let turn = publisher / 4;
        match (publisher + turn) % 4 {
            0 => Door::Http { urls: addresses.publish.clone(), turn },
            1 => {
                let client = |url: &String| {
                    let endpoint = Endpoint::from_shared(url.clone()).expect("our addresses make URLs");
                    let endpoint = endpoint.connect_timeout(Duration::from_secs(3)).timeout(ANSWER);
                    PublisherClient::new(endpoint.connect_lazy())
                };
                Door::Grpc { clients: addresses.grpc.iter().map(client).collect(), turn }
            }
            2 => Door::Nats { client: connect(addresses, NATS_ANSWER).await },
            _ => {
                let shard = ledger.shard(publisher).get();
                Door::Journal { client: connect(addresses, JOURNAL_ANSWER).await, shard }
            }
        }
    }

    /// Turns to another replica, where there is a choice.
    pub(super) fn turn(&mut self) {
        if let Door::Http { turn, .. } | Door::Grpc { turn, .. } = self {
            *turn += 1;
        }
    }

    /// One try.
    pub(super) async fn publish(&self, event: &Event<'_>) -> Result<Acked, Refusal> {
        match self {
            Door::Http { urls, turn } => http(&urls[turn % urls.len()], event).await,
            Door::Grpc { clients, turn } => grpc(clients[turn % clients.len()].clone(), event).await,
            Door::Nats { client } => nats(client, event).await,
            Door::Journal { client, shard } => journal(client, *shard, event).await,
        }
    }
}

async fn connect(addresses: &Addresses, answer: Duration) -> Client {
    let options = ConnectOptions::new()
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(2))
        .connection_timeout(Duration::from_secs(3))
        .request_timeout(Some(answer));
    options.connect(&addresses.nats[..]).await.expect("what is tried again doesn't fail")
}

async fn http(url: &str, event: &Event<'_>) -> Result<Acked, Refusal> {
    let ack = if event.durable { "durable" } else { "accepted" };
    let body = json!({ "channel": event.channel, "id": event.id, "data": event.data, "ack": ack });
    match post(url, &body).await {
        Ok(reply) if reply.status == 200 => Ok(acked(&reply.body)),
        Ok(reply) if reply.status == 503 => Err(Refusal::Later(reply.body.to_string())),
        Ok(reply) => Err(Refusal::Never(format!("{}: {}", reply.status, reply.body))),
        Err(error) => Err(Refusal::Later(format!("{error:#}"))),
    }
}

async fn grpc(mut client: PublisherClient<Channel>, event: &Event<'_>) -> Result<Acked, Refusal> {
    let request = PublishRequest {
        channel: event.channel.to_owned(),
        id: event.id.clone(),
        data: event.data.clone().into_bytes().into(),
        ack: if event.durable { Ack::Durable } else { Ack::Accepted }.into(),
        ..PublishRequest::default()
    };
    match client.publish(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let position = answer.position.expect("a good answer has a position");
            let shard = u8::try_from(position.shard).expect("shards are few");
            let at = At { shard, epoch: Some(position.epoch), seq: position.seq };
            Ok(Acked { at, durable: answer.durable })
        }
        Err(status) => match status.code() {
            Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented => {
                Err(Refusal::Never(status.to_string()))
            }
            _ => Err(Refusal::Later(status.to_string())),
        },
    }
}

async fn nats(client: &Client, event: &Event<'_>) -> Result<Acked, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert("Foghorn-Id", event.id.as_str());
    headers.insert("Foghorn-Ack", if event.durable { "durable" } else { "accepted" });
    let subject = format!("foghorn.publish.{}", event.channel);
    let reply = request(client, subject, headers, event).await?;
    match &reply["error"] {
        Value::Null => Ok(acked(&reply)),
        error if error["status"] == 503 => Err(Refusal::Later(error.to_string())),
        error => Err(Refusal::Never(error.to_string())),
    }
}

async fn journal(client: &Client, shard: u8, event: &Event<'_>) -> Result<Acked, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert("Foghorn-Id", event.id.as_str());
    headers.insert("Nats-Msg-Id", event.id.as_str());
    let subject = format!("foghorn.journal.{shard}.{}", event.channel);
    let reply = request(client, subject, headers, event).await?;
    match (&reply["error"], reply["seq"].as_u64()) {
        (Value::Null, Some(seq)) => {
            let at = At { shard, epoch: None, seq };
            Ok(Acked { at, durable: false })
        }
        // A leader that has just lost its place, is busy, or is storing another try of this very event (409).
        (error, _) if matches!(error["code"].as_u64(), Some(408 | 409 | 429 | 500..)) => {
            Err(Refusal::Later(error.to_string()))
        }
        _ => Err(Refusal::Never(reply.to_string())),
    }
}

async fn request(
    client: &Client,
    subject: String,
    headers: HeaderMap,
    event: &Event<'_>,
) -> Result<Value, Refusal> {
    let later = |error: &dyn std::fmt::Display| Refusal::Later(error.to_string());
    let reply = client.request_with_headers(subject, headers, event.data.clone().into()).await;
    let reply = reply.map_err(|error| later(&error))?;
    serde_json::from_slice(&reply.payload).map_err(|error| later(&error))
}

/// HTTP's and NATS's answer.
fn acked(answer: &Value) -> Acked {
    let part = |name: &str| answer["position"][name].as_u64().expect("a good answer has a position");
    let shard = u8::try_from(part("shard")).expect("shards are few");
    let at = At { shard, epoch: Some(part("epoch")), seq: part("seq") };
    Acked { at, durable: answer["durable"] == true }
}
