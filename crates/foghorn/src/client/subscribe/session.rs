//! One listener: streams one after the other, and the cursor that joins them.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use reqwest::header::{self, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use serde_json::{Value, json};
use tokio::time::timeout;

use foghorn_core::pattern::Pattern;
use foghorn_core::sse::{Block, Decoder};

use super::Args;
use super::output::Output;
use super::retry::Retry;
use crate::client::http::{Refusal, Server, is_final};

/// How long a server may take to begin its answer.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

/// Listens.
pub(super) struct Session<O, E> {
    server: Server,
    url: Url,
    what: String,
    cursor: Option<String>,
    retry: Retry,
    output: Output<O, E>,
    /// How many more events are wanted.
    left: Option<u64>,
    idle_timeout: Duration,
    reconnect: bool,
}

/// Why nothing more is listened to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// As many events as were wanted.
    Enough,
    /// The server said to stay away (204).
    SentAway,
    /// The stream ended, and it was asked not to come back.
    Closed,
    /// The same, but the stream did not end as streams should.
    Broken(String),
    /// Refused for good.
    Refused(String),
    /// Whoever read what is printed has gone.
    NobodyReads,
    /// A signal.
    Interrupted,
}

/// How one stream ended.
enum StreamEnded {
    /// There is no use in another.
    End(End),
    /// The server ended it, in good order.
    Closed,
    /// Anything else.
    Broken(String),
}

impl<O: Write, E: Write> Session<O, E> {
    /// Nothing is connected yet.
    pub(super) fn new(args: Args, output: Output<O, E>) -> anyhow::Result<Self> {
        let server = Server::new(&args.server)?;
        let what = list(args.patterns.iter().map(Pattern::as_str));
        let mut url = server.at("api/events");
        let mut query = url.query_pairs_mut();
        query.append_pair("channels", &what);
        if !args.events.is_empty() {
            query.append_pair("events", &list(args.events.iter().map(String::as_str)));
        }
        if output.wants_envelope() {
            query.append_pair("envelope", "1");
        }
        if let Some(since) = &args.since {
            query.append_pair("since", since);
        }
        if let Some(last) = args.last {
            query.append_pair("last", &last.to_string());
        }
        drop(query);
        Ok(Session {
            server,
            url,
            what,
            cursor: args.cursor,
            retry: Retry::default(),
            output,
            left: args.exit_after,
            idle_timeout: args.idle_timeout,
            reconnect: !args.no_reconnect,
        })
    }

    /// Listens, and comes back, until there is a reason not to. May be dropped at any await: the cursor
    /// then is that of the last event printed.
    pub(super) async fn listen(&mut self) -> anyhow::Result<End> {
        loop {
            let ended = match self.stream().await {
                Ok(ended) => ended,
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(End::NobodyReads),
                Err(error) => return Err(anyhow::Error::new(error).context("can't print")),
            };
            let why = match ended {
                StreamEnded::End(end) => return Ok(end),
                StreamEnded::Closed if !self.reconnect => return Ok(End::Closed),
                StreamEnded::Broken(why) if !self.reconnect => return Ok(End::Broken(why)),
                StreamEnded::Closed => "the stream ended".to_owned(),
                StreamEnded::Broken(why) => why,
            };
            let wait = self.retry.next_wait(rand::random());
            let object =
                json!({ "why": why, "afterMs": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) });
            let words = format!("{why}; connecting again in {:.1} s", wait.as_secs_f64());
            self.output.control("reconnect", object, &words)?;
            tokio::time::sleep(wait).await;
        }
    }

    /// Says how to go on from here, and how it ended.
    pub(super) fn farewell(mut self, end: &End) -> anyhow::Result<ExitCode> {
        if *end == End::NobodyReads {
            return Ok(ExitCode::SUCCESS);
        }
        let (word, why, code) = match end {
            End::Enough => ("enough", "", ExitCode::SUCCESS),
            End::Interrupted => ("interrupted", "", ExitCode::SUCCESS),
            End::Closed => ("closed", "the stream ended", ExitCode::SUCCESS),
            End::SentAway => (
                "sent-away",
                "the server has nothing more to send and says not to come back (204)",
                ExitCode::SUCCESS,
            ),
            End::Broken(why) => ("broken", why.as_str(), ExitCode::FAILURE),
            End::Refused(why) => ("refused", why.as_str(), ExitCode::FAILURE),
            End::NobodyReads => return Ok(ExitCode::SUCCESS),
        };
        let resume = self.cursor.as_ref().map(|cursor| format!("go on from here with --cursor {cursor}"));
        let words: Vec<&str> =
            [Some(why), resume.as_deref()].into_iter().flatten().filter(|w| !w.is_empty()).collect();
        let why = (!why.is_empty()).then_some(why);
        let object = json!({ "reason": word, "why": why, "cursor": self.cursor });
        if !words.is_empty() {
            self.output.control("exit", object, &words.join("; "))?;
        }
        Ok(code)
    }

    /// One stream, from the request to its end.
    async fn stream(&mut self) -> io::Result<StreamEnded> {
        let mut request =
            self.server.client.get(self.url.clone()).header(header::ACCEPT, "text/event-stream");
        if let Some(cursor) = &self.cursor {
            match HeaderValue::from_bytes(cursor.as_bytes()) {
                Ok(value) => request = request.header("last-event-id", value),
                Err(_) => {
                    let why = format!("the server's id {cursor:?} can't be sent back to it");
                    return Ok(StreamEnded::End(End::Refused(why)));
                }
            }
        }
        let mut response = match timeout(HEAD_DEADLINE, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let why = self.server.explain(&error);
                return Ok(if is_final(&error) {
                    StreamEnded::End(End::Refused(why))
                } else {
                    StreamEnded::Broken(why)
                });
            }
            Err(_) => {
                let seconds = HEAD_DEADLINE.as_secs();
                return Ok(StreamEnded::Broken(format!(
                    "{} gave no answer within {seconds} s",
                    self.server_name()
                )));
            }
        };
        if let Some(ended) = not_a_stream(&response) {
            return Ok(match ended {
                NotAStream::SentAway => StreamEnded::End(End::SentAway),
                NotAStream::Refusal => self.refused(Refusal::read(response).await),
                NotAStream::Other(why) => StreamEnded::End(End::Refused(why)),
            });
        }
        let mut decoder = Decoder::default();
        let mut blocks = Vec::new();
        loop {
            let bytes = match timeout(self.idle_timeout, response.chunk()).await {
                Ok(Ok(Some(bytes))) => bytes,
                Ok(Ok(None)) => return Ok(StreamEnded::Closed),
                Ok(Err(error)) => return Ok(StreamEnded::Broken(self.server.explain(&error))),
                Err(_) => {
                    let idle = humantime::format_duration(self.idle_timeout);
                    return Ok(StreamEnded::Broken(format!(
                        "nothing heard for {idle}, the connection is dead"
                    )));
                }
            };
            decoder.feed(&bytes, |block| blocks.push(block.clone()));
            if let Some(milliseconds) = decoder.retry_ms() {
                self.retry.told(milliseconds);
            }
            for block in blocks.drain(..) {
                self.take(block)?;
                if self.left == Some(0) {
                    self.output.flush()?;
                    return Ok(StreamEnded::End(End::Enough));
                }
            }
            self.output.flush()?;
        }
    }

    fn refused(&mut self, refusal: Refusal) -> StreamEnded {
        if !refusal.passes {
            return StreamEnded::End(End::Refused(refusal.text));
        }
        if let Some(after) = refusal.retry_after {
            self.retry.told(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        }
        StreamEnded::Broken(refusal.text)
    }

    /// One block: prints what it says, then moves the cursor, so that nothing printed is asked for again
    /// and nothing unprinted is passed.
    fn take(&mut self, block: Block) -> io::Result<()> {
        // Without data it is no event: a keep-alive that moves the cursor.
        if let Some(data) = &block.data {
            match block.event_type() {
                "heartbeat" => {}
                ours if ours == "connected" || ours.starts_with("stream-") => self.control(ours, data)?,
                _ => {
                    self.retry.succeeded();
                    self.output.event(&block, data)?;
                    self.left = self.left.map(|left| left.saturating_sub(1));
                }
            }
        }
        if let Some(id) = block.id {
            self.cursor = Some(id).filter(|id| !id.is_empty());
        }
        Ok(())
    }

    fn control(&mut self, kind: &str, data: &str) -> io::Result<()> {
        let object: Value = serde_json::from_str(data).unwrap_or_default();
        let text = |key| object.get(key).and_then(Value::as_str).unwrap_or("not said");
        let words = match kind {
            "connected" => {
                self.retry.succeeded();
                let resumed = object.get("recovered") == Some(&Value::Bool(true));
                let how = if resumed { "connected again, nothing missed" } else { "listening" };
                format!("{how}: {} at {}", self.what, self.server_name())
            }
            "stream-reset" => {
                format!(
                    "RESET: part of what was asked for is gone (reason: {}); going on with what there is",
                    text("reason")
                )
            }
            "stream-stale" => "the server has lost touch: events may be late, none will be lost".to_owned(),
            "stream-live" => match object.get("replayed").and_then(Value::as_u64) {
                Some(replayed) if replayed > 0 => format!("live, after {replayed} earlier events"),
                _ => "live".to_owned(),
            },
            "stream-end" => format!("the server ends the stream (reason: {})", text("reason")),
            other => format!("{other} {data}"),
        };
        // What was printed so far came before.
        self.output.flush()?;
        self.output.control(kind, object, &words)
    }

    fn server_name(&self) -> String {
        self.url.origin().ascii_serialization()
    }
}

enum NotAStream {
    SentAway,
    Refusal,
    Other(String),
}

fn not_a_stream(response: &Response) -> Option<NotAStream> {
    if response.status() == StatusCode::NO_CONTENT {
        return Some(NotAStream::SentAway);
    }
    if response.status() != StatusCode::OK {
        return Some(NotAStream::Refusal);
    }
    let media_type =
        response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("text/event-stream") {
        return None;
    }
    Some(NotAStream::Other(format!("the answer is {media_type:?} and not an event stream; is --url right?")))
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    items.collect::<Vec<_>>().join(",")
}
