//! An event-stream service as one writes it with axum in an afternoon: a broadcast channel of tokio for each name, and
//! a task for each listener. `foghorn bench sweep` compares with it. No part of the product, and of no other use:
//! nothing is kept, nobody is asked who they are, and who lags by more than [`KEPT`] events loses some.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{Stream, StreamExt as _};

/// Events of a channel that are kept for who lags.
const KEPT: usize = 1024;

/// What is published: one, or several in an array.
#[derive(Deserialize)]
#[serde(untagged)]
enum Published {
    One(Message),
    Several(Vec<Message>),
}

#[derive(Deserialize)]
struct Message {
    channel: String,
    data: String,
}

/// By name.
#[derive(Clone, Default)]
struct Channels(Arc<Mutex<HashMap<String, broadcast::Sender<String>>>>);

impl Channels {
    fn channel(&self, name: &str) -> broadcast::Sender<String> {
        let mut channels = self.0.lock();
        channels.entry(name.to_owned()).or_insert_with(|| broadcast::channel(KEPT).0).clone()
    }
}

async fn listen(
    State(channels): State<Channels>,
    RawQuery(query): RawQuery,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let query = query.unwrap_or_default();
    let asked = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "channels");
    let name = asked.map(|(_, name)| name.into_owned()).unwrap_or_default();
    let events = BroadcastStream::new(channels.channel(&name).subscribe());
    // Who lags is told nothing.
    let events = events.filter_map(Result::ok).map(|data| Event::default().data(data));
    // What tells a listener of the benchmark that it listens.
    let live = tokio_stream::once(Event::default().event("stream-live").data("{}"));
    Sse::new(live.chain(events).map(Ok)).keep_alive(KeepAlive::default())
}

async fn publish(State(channels): State<Channels>, body: String) -> StatusCode {
    let messages = match serde_json::from_str(&body) {
        Ok(Published::One(message)) => vec![message],
        Ok(Published::Several(messages)) => messages,
        Err(_) => return StatusCode::BAD_REQUEST,
    };
    for Message { channel, data } in messages {
        // An error says that nobody listens.
        let _heard = channels.channel(&channel).send(data).is_ok();
    }
    StatusCode::NO_CONTENT
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("can't listen")?;
    let address = listener.local_addr()?;
    // As the other servers of the benchmark say it.
    eprintln!("{{\"message\":\"listening\",\"service\":\"http\",\"address\":\"{address}\"}}");
    let router = Router::new()
        .route("/api/events", get(listen))
        .route("/api/publish", post(publish))
        .with_state(Channels::default());
    Ok(axum::serve(listener, router).await?)
}
