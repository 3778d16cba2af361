//! JetStream's API as requests with JSON. By hand rather than through the client library: its errors
//! keep the server's codes, and reads go to the leader.

use std::fmt;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use tokio::time::timeout;

use foghorn_core::time::Timestamp;

use super::link::Link;

/// How long a request may take, the wait for room in the client's queue included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub(super) struct Api {
    link: Link,
}

/// Why a request to JetStream failed.
#[derive(Debug, Clone)]
pub(super) enum ApiError {
    /// No answer, or none that can be read.
    Unreachable(String),
    /// The server's own error.
    Refused(Refusal),
}

/// An error as JetStream puts it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// Like HTTP's.
    pub(super) code: u16,
    /// Which one.
    pub(super) err_code: u32,
    /// In words.
    pub(super) description: String,
}

/// The server's numbers for errors that we tell apart.
mod err_code {
    pub(super) const NO_PEERS: u32 = 10005;
    pub(super) const STREAM_NOT_FOUND: u32 = 10059;
    pub(super) const NO_MESSAGE: u32 = 10037;
    pub(super) const STREAM_NAME_IN_USE: u32 = 10058;
    /// A stream has as many messages or bytes as it may.
    pub(super) const NO_ROOM: u32 = 10077;
    pub(super) const WRONG_LAST_SEQUENCE: u32 = 10071;
    pub(super) const WRONG_LAST_SEQUENCE_CONSTANT: u32 = 10164;
}

impl Refusal {
    /// Whether the same request may succeed later: the server is busy, starting, or without a leader.
    pub(super) fn may_pass(&self) -> bool {
        // 409 is what a cluster says while another try of the same message is on its way; that there are too few
        // servers for all copies, whoever leads says until it has heard of the others.
        matches!(self.code, 408 | 409 | 429 | 500..) || self.err_code == err_code::NO_PEERS
    }

    /// Whether there is no room for another message.
    pub(super) fn is_full(&self) -> bool {
        self.err_code == err_code::NO_ROOM
    }

    /// Whether a compare-and-set lost. With replicas also to another that is on its way and may be lost yet.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.err_code, err_code::WRONG_LAST_SEQUENCE | err_code::WRONG_LAST_SEQUENCE_CONSTANT)
    }

    /// Whether it lost for good, to one that is stored.
    pub(super) fn is_lost(&self) -> bool {
        self.err_code == err_code::WRONG_LAST_SEQUENCE
    }
}

impl ApiError {
    pub(super) fn may_pass(&self) -> bool {
        match self {
            ApiError::Unreachable(_) => true,
            ApiError::Refused(refusal) => refusal.may_pass(),
        }
    }

    pub(super) fn is_no_stream(&self) -> bool {
        matches!(self, ApiError::Refused(refusal) if refusal.err_code == err_code::STREAM_NOT_FOUND)
    }

    fn is_no_message(&self) -> bool {
        matches!(self, ApiError::Refused(refusal) if refusal.err_code == err_code::NO_MESSAGE)
    }

    pub(super) fn is_name_in_use(&self) -> bool {
        matches!(self, ApiError::Refused(refusal) if refusal.err_code == err_code::STREAM_NAME_IN_USE)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiError::Unreachable(why) => f.write_str(why),
            ApiError::Refused(Refusal { code, err_code, description }) => {
                write!(f, "{description} (JetStream error {err_code}, {code})")
            }
        }
    }
}

/// A message as `STREAM.MSG.GET` answers it.
#[derive(Debug, Deserialize)]
pub(super) struct StoredMessage {
    pub(super) subject: String,
    pub(super) seq: u64,
    #[serde(default, deserialize_with = "base64_bytes")]
    pub(super) hdrs: Vec<u8>,
    #[serde(default, deserialize_with = "base64_bytes")]
    pub(super) data: Vec<u8>,
    time: String,
}

impl StoredMessage {
    /// When the stream took it.
    pub(super) fn time(&self) -> Result<Timestamp, ApiError> {
        self.time.parse().map_err(|_| ApiError::Unreachable(format!("unreadable time {:?}", self.time)))
    }
}

/// What to get from a stream, as `STREAM.MSG.GET` and `DIRECT.GET` understand it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Get {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) start_time: Option<String>,
    #[serde(rename = "next_by_subj", skip_serializing_if = "Option::is_none")]
    pub(super) next_by_subject: Option<&'static str>,
    #[serde(rename = "last_by_subj", skip_serializing_if = "Option::is_none")]
    pub(super) last_by_subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) batch: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_bytes: Option<usize>,
}

impl Api {
    pub(super) fn new(link: Link) -> Self {
        Api { link }
    }

    /// `$JS.API.<call>`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        call: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| ApiError::Unreachable(error.to_string()))?;
        let answer = self.request(format!("$JS.API.{call}"), Request::new().payload(body.into())).await?;
        read_answer(&answer)
    }

    /// The message that is asked for, from the leader; none if there is none.
    pub(super) async fn get(&self, stream: &str, get: &Get) -> Result<Option<StoredMessage>, ApiError> {
        #[derive(Deserialize)]
        struct Answer {
            message: StoredMessage,
        }
        match self.call::<Answer>(&format!("STREAM.MSG.GET.{stream}"), get).await {
            Ok(answer) => Ok(Some(answer.message)),
            Err(error) if error.is_no_message() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A request whose answer is the payload. Not sent into a broken connection: it would only be sent
    /// when that comes back, long after its sender gave it up.
    pub(super) async fn request(&self, subject: String, request: Request) -> Result<Bytes, ApiError> {
        let Some(client) = self.link.connected_client() else {
            return Err(ApiError::Unreachable("no connection to NATS".to_owned()));
        };
        let request = client.send_request(subject, request.timeout(None));
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer.payload),
            Ok(Err(error)) => Err(ApiError::Unreachable(match error.kind() {
                RequestErrorKind::NoResponders => "nobody answers: no JetStream, or no leader".to_owned(),
                _ => error.to_string(),
            })),
            Err(_) => Err(ApiError::Unreachable("no answer in time".to_owned())),
        }
    }
}

/// An answer's content, or the error in it.
pub(super) fn read_answer<T: DeserializeOwned>(answer: &[u8]) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Outcome {
        error: Option<Refusal>,
    }
    let unreadable = |error: serde_json::Error| ApiError::Unreachable(format!("unreadable answer: {error}"));
    let outcome: Outcome = serde_json::from_slice(answer).map_err(unreadable)?;
    match outcome.error {
        Some(refusal) => Err(ApiError::Refused(refusal)),
        None => serde_json::from_slice(answer).map_err(unreadable),
    }
}

/// The seq at which a message was stored.
pub(super) fn read_ack(answer: &[u8]) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
    }
    read_answer::<Ack>(answer).map(|ack| ack.seq)
}

fn base64_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(serde::de::Error::custom)
}
