//! A stream as the doctor reads it: what comes, and when.

use std::time::Duration;

use foghorn_core::sse::{Block, Decoder};
use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response, StatusCode, Version};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::client::http::{Refusal, Server};

/// How long the head of an answer, or the first block of a stream, may take. A gateway sends both at once.
pub(super) const PROMPT: Duration = Duration::from_secs(5);

/// As many bytes of a body tell who has compressed it.
pub(super) const FIRST_BYTES: usize = 11;

/// An event stream that is open.
pub(super) struct Stream {
    response: Response,
    decoder: Decoder,
    blocks: std::collections::VecDeque<Block>,
    /// When the request was sent, and when the head came.
    pub(super) asked: Instant,
    pub(super) answered: Instant,
    /// When anything came last.
    pub(super) heard: Instant,
    /// How many bytes of the body came.
    pub(super) received: usize,
    /// The first of them.
    pub(super) first: [u8; FIRST_BYTES],
}

/// Why there is no stream.
pub(super) enum NoStream {
    /// It could not be asked for, or the connection broke.
    Unreachable(String),
    /// No head of an answer in time.
    Silent,
    /// Another answer.
    Refused(Refusal),
    /// It is a success, of another type.
    Other(String),
}

/// What came next.
pub(super) enum Next {
    Block(Block),
    /// Nothing until the deadline.
    Quiet,
    /// The end, as HTTP has it.
    End,
    Broken(String),
}

/// What came of a stream in place of what was waited for.
pub(super) enum Instead {
    /// Nothing at all, in time.
    Nothing,
    /// The gateway ended it, for this reason.
    Ended(String),
    /// It ended in some other way.
    End(String),
}

impl Stream {
    /// Sends a request for one.
    pub(super) async fn open(server: &Server, request: RequestBuilder) -> Result<Self, NoStream> {
        let asked = Instant::now();
        let response = match timeout_at(asked + PROMPT, request.send()).await {
            Err(_) => return Err(NoStream::Silent),
            Ok(Err(error)) => return Err(NoStream::Unreachable(server.explain(&error))),
            Ok(Ok(response)) => response,
        };
        if response.status() != StatusCode::OK {
            return Err(NoStream::Refused(Refusal::read(response).await));
        }
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        let kind = kind.unwrap_or("nothing said of its type").to_owned();
        if !kind.starts_with("text/event-stream") {
            return Err(NoStream::Other(kind));
        }
        let answered = Instant::now();
        let (decoder, blocks) = Default::default();
        Ok(Stream {
            response,
            decoder,
            blocks,
            asked,
            answered,
            heard: answered,
            received: 0,
            first: [0; FIRST_BYTES],
        })
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(super) fn version(&self) -> Version {
        self.response.version()
    }

    /// A header's value, as far as it is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The next block, until a deadline.
    pub(super) async fn next(&mut self, deadline: Instant) -> Next {
        loop {
            if let Some(block) = self.blocks.pop_front() {
                return Next::Block(block);
            }
            match timeout_at(deadline, self.response.chunk()).await {
                Err(_) => return Next::Quiet,
                Ok(Ok(None)) => return Next::End,
                Ok(Err(error)) => return Next::Broken(error.to_string()),
                Ok(Ok(Some(chunk))) => {
                    self.heard = Instant::now();
                    let room = self.first.iter_mut().skip(self.received);
                    room.zip(&chunk).for_each(|(first, byte)| *first = *byte);
                    self.received += chunk.len();
                    let blocks = &mut self.blocks;
                    self.decoder.feed(&chunk, |block| blocks.push_back(block.clone()));
                }
            }
        }
    }

    /// Reads on to a block of this type, for at most [`PROMPT`]; gives it and those before it. Else what came instead.
    pub(super) async fn until(&mut self, event: &str) -> Result<Vec<Block>, Instead> {
        let deadline = Instant::now() + PROMPT;
        let mut before = Vec::new();
        loop {
            let block = match self.next(deadline).await {
                Next::Block(block) => block,
                Next::Quiet => return Err(Instead::Nothing),
                Next::End => return Err(Instead::End("the stream ended without a word".to_owned())),
                Next::Broken(why) => return Err(Instead::End(format!("the stream broke off ({why})"))),
            };
            let found = block.event_type() == event;
            if !found && block.event_type() == "stream-end" {
                let reason = json(&block)["reason"].as_str().unwrap_or("no reason").to_owned();
                return Err(Instead::Ended(reason));
            }
            before.push(block);
            if found {
                return Ok(before);
            }
        }
    }
}

/// A block's data, as JSON.
pub(super) fn json(block: &Block) -> Value {
    block.data.as_deref().and_then(|data| serde_json::from_str(data).ok()).unwrap_or_default()
}
