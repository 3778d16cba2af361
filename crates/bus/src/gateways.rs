//! How gateways reach each other: one asks another by its name, and all are told something at once.
//!
//! A question is sent once, and its answer is waited for within a bound. Where none comes, what was asked for may
//! have been done or not. What all are told may reach some and not others.

use std::fmt;

use bytes::Bytes;

use foghorn_core::secret::Secret;
use serde::{Deserialize, Serialize};

use crate::Future;

/// What a gateway is called while it runs: 48 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayName(u64);

impl GatewayName {
    /// How many bits of a number count.
    pub const BITS: u32 = 48;

    /// The name that is the lowest bits of a number.
    pub const fn new(number: u64) -> Self {
        GatewayName(number & ((1 << Self::BITS) - 1))
    }

    /// One that no other has, in all likelihood.
    pub fn random() -> Self {
        GatewayName::new(rand::random())
    }

    /// As a number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl std::str::FromStr for GatewayName {
    type Err = NotAName;

    /// Reads what is shown of one, and nothing else.
    fn from_str(text: &str) -> Result<Self, NotAName> {
        let plain = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(text, 16).ok().filter(|_| plain).map(GatewayName::new).ok_or(NotAName)
    }
}

impl TryFrom<String> for GatewayName {
    type Error = NotAName;

    fn try_from(text: String) -> Result<Self, NotAName> {
        text.parse()
    }
}

impl From<GatewayName> for String {
    fn from(name: GatewayName) -> String {
        name.to_string()
    }
}

/// A text is no gateway's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a gateway's name is 12 hexadecimal digits")]
pub struct NotAName;

/// 12 hexadecimal digits.
impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// What a question is about, and so who answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A change of a stream.
    Stream,
    /// What gateways have to agree on about users.
    Users,
    /// Who listens to a channel.
    Presence,
    /// Who has come and gone, where listeners are told.
    Listeners,
    /// What operators want to know of streams.
    Survey,
}

impl About {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            About::Stream => "stream",
            About::Users => "users",
            About::Presence => "presence",
            About::Listeners => "listeners",
            About::Survey => "survey",
        }
    }

    /// What that word means; none: it is of another version.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [About::Stream, About::Users, About::Presence, About::Listeners, About::Survey];
        all.into_iter().find(|about| about.as_str() == word)
    }
}

/// What one gateway asks another.
#[derive(Debug, Clone)]
pub struct Question {
    /// What it is about.
    pub about: About,
    /// The token of whoever wants to know; the gateway that is asked verifies it itself.
    pub token: Option<Secret>,
    /// What a webhook authoriser is to be told of their request, if there is one.
    pub context: Option<Secret>,
    /// What they said.
    pub body: Bytes,
}

/// The other gateways of the cluster.
pub trait Gateways: Send + Sync + 'static {
    /// Asks the gateway of this name.
    fn ask(&self, gateway: GatewayName, question: Question) -> Future<'_, Result<Bytes, AskError>>;

    /// What is asked of the gateway of this name from now on.
    fn listen(&self, name: GatewayName) -> Future<'_, Result<Box<dyn Questions>, AskError>>;

    /// Tells all gateways something, this one too.
    fn tell_all(&self, notice: Bytes) -> Future<'_, Result<(), AskError>>;

    /// What all gateways are told from now on.
    fn hear_all(&self) -> Future<'_, Result<Box<dyn Notices>, AskError>>;
}

/// What all gateways are told.
pub trait Notices: Send {
    /// The next one; `None` when there will be none any more. Cancel-safe.
    fn next(&mut self) -> Future<'_, Option<Bytes>>;
}

/// What a gateway is asked.
pub trait Questions: Send {
    /// The next question; `None` when there will be none any more. Cancel-safe.
    fn next(&mut self) -> Future<'_, Option<Asked>>;
}

/// A question, and how it is answered.
pub struct Asked {
    /// What is asked.
    pub question: Question,
    answer: Box<dyn FnOnce(Bytes) -> Future<'static, ()> + Send>,
}

impl Asked {
    /// One whose answer is taken so.
    pub fn new(
        question: Question,
        answer: impl FnOnce(Bytes) -> Future<'static, ()> + Send + 'static,
    ) -> Self {
        Asked { question, answer: Box::new(answer) }
    }

    /// Answers. At most once, like the question: who hears nothing gives up.
    pub async fn answer(self, answer: Bytes) {
        (self.answer)(answer).await;
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("question", &self.question).finish_non_exhaustive()
    }
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no gateway of this name.
    #[error("there is no such gateway")]
    Nobody,
    /// It didn't answer in time, or can't be reached.
    #[error("{0}")]
    Unavailable(String),
}
