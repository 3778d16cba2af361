//! A client of Server-Sent Events that shows everything: what an EventSource would swallow as well.

mod parse;

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::write::GzDecoder;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

pub use self::parse::{Block, Parser};
use crate::{PATIENCE, net};

/// A stream that was asked for.
#[derive(Debug)]
pub struct SseClient {
    status: u16,
    headers: HeaderMap,
    body: Incoming,
    /// Bytes of the body so far.
    received: usize,
    /// Where it comes compressed.
    gzip: Option<GzDecoder<Vec<u8>>>,
    parser: Parser,
    /// Parsed and not yet given, the next one last.
    ready: Vec<Block>,
    last_event_id: String,
}

/// Why there is no next block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoBlock {
    /// The stream is open, and silent.
    Quiet,
    /// The server ended it between two blocks, as HTTP has it.
    End,
    /// It broke off: inside a block, or without the end that HTTP wants.
    Broken(String),
}

impl fmt::Display for NoBlock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quiet => out.write_str("nothing came in time"),
            Self::End => out.write_str("the stream ended"),
            Self::Broken(how) => write!(out, "the stream broke off: {how}"),
        }
    }
}

impl SseClient {
    /// Asks for `url`; whatever the status of the answer is.
    pub async fn connect(url: &str, headers: &[(&str, &str)]) -> Result<Self> {
        let mut request = Request::get(url).header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).with_context(|| format!("a request to {url}"))?;
        Ok(Self::of(net::send(request).await?, headers))
    }

    /// The stream that is the answer to a request with these headers.
    pub(crate) fn of(response: Response<Incoming>, headers: &[(&str, &str)]) -> Self {
        let (head, body) = response.into_parts();
        let (parser, ready) = Default::default();
        let asked_after = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("last-event-id"));
        let last_event_id = asked_after.map(|(_, id)| (*id).to_owned()).unwrap_or_default();
        let gzip = head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
        Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            received: 0,
            gzip: gzip.then(|| GzDecoder::new(Vec::new())),
            parser,
            ready,
            last_event_id,
        }
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The header fields.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// A header field, if it is there.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How many bytes of its body came.
    #[must_use]
    pub fn received(&self) -> usize {
        self.received
    }

    /// What a browser would send as `Last-Event-ID`: the last `id` that came, in whatever block; before there is
    /// one, what this stream was asked for with.
    #[must_use]
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The next block. Panics when none comes within [`PATIENCE`].
    pub async fn next(&mut self) -> Block {
        self.next_within(PATIENCE).await.unwrap_or_else(|why| panic!("no next block of the stream: {why}"))
    }

    /// The next block, or why there is none.
    pub async fn next_within(&mut self, limit: Duration) -> Result<Block, NoBlock> {
        self.next_before(Instant::now() + limit).await
    }

    /// The blocks up to and with the first one that is `last`. Panics, and shows what came, when that does not come
    /// within `limit`.
    pub async fn collect_until(
        &mut self,
        limit: Duration,
        mut last: impl FnMut(&Block) -> bool,
    ) -> Vec<Block> {
        let deadline = Instant::now() + limit;
        let mut blocks = Vec::new();
        loop {
            match self.next_before(deadline).await {
                Ok(block) => blocks.push(block),
                Err(why) => panic!("{} blocks of the stream, then {why}: {blocks:#?}", blocks.len()),
            }
            if blocks.last().is_some_and(&mut last) {
                return blocks;
            }
        }
    }

    /// The blocks up to the end of the stream, and how it ended. Panics when it does not end within `limit`.
    pub async fn collect_to_end(&mut self, limit: Duration) -> (Vec<Block>, NoBlock) {
        let deadline = Instant::now() + limit;
        let mut blocks = Vec::new();
        loop {
            match self.next_before(deadline).await {
                Ok(block) => blocks.push(block),
                Err(NoBlock::Quiet) => panic!("the stream did not end within {limit:?}: {blocks:#?}"),
                Err(end) => return (blocks, end),
            }
        }
    }

    /// The body of an answer that is no stream.
    pub async fn text(self) -> Result<String> {
        let body = tokio::time::timeout(PATIENCE, self.body.collect()).await;
        let body = body.with_context(|| format!("the body did not end within {PATIENCE:?}"))??;
        Ok(String::from_utf8(body.to_bytes().into())?)
    }

    async fn next_before(&mut self, deadline: Instant) -> Result<Block, NoBlock> {
        loop {
            if let Some(block) = self.ready.pop() {
                if let Some(id) = &block.id {
                    self.last_event_id.clone_from(id);
                }
                return Ok(block);
            }
            let frame = timeout_at(deadline, self.body.frame()).await.map_err(|_| NoBlock::Quiet)?;
            match frame {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.received += bytes.len();
                    let text = self.text_of(bytes).map_err(NoBlock::Broken)?;
                    self.ready = self.parser.feed(&text);
                    self.ready.reverse();
                }
                Some(Err(error)) => return Err(NoBlock::Broken(format!("{error:?}"))),
                None if self.parser.inside_a_block() => {
                    return Err(NoBlock::Broken("inside a block".to_owned()));
                }
                None => {
                    // Its trailer has to be there, and right.
                    let ended = self.gzip.as_mut().map_or(Ok(()), GzDecoder::try_finish);
                    return Err(
                        ended.map_or_else(|error| NoBlock::Broken(error.to_string()), |()| NoBlock::End)
                    );
                }
            }
        }
    }

    /// What a piece of the body says, as far as it does already.
    fn text_of(&mut self, bytes: Bytes) -> Result<Bytes, String> {
        let Some(gzip) = &mut self.gzip else { return Ok(bytes) };
        gzip.write_all(&bytes).and_then(|()| gzip.flush()).map_err(|error| error.to_string())?;
        Ok(std::mem::take(gzip.get_mut()).into())
    }
}
