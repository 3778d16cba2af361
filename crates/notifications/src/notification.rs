//! Notifications, as producers give them and as users are told.

use foghorn_core::channel::{Channel, ChannelError};
use foghorn_core::event::{Event, EventError, EventId, EventType};
use foghorn_core::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::link;

/// Most bytes of a title.
pub const TITLE_BYTES_MAX: usize = 256;
/// Most bytes of a message.
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// The SSE event type of a notification.
pub const NOTIFICATION: &str = "notification";
/// That of how many are unread.
pub const COUNT: &str = "notification-count";

/// Whom notifications are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    id: String,
    channel: Channel,
}

/// Of what kind a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something to know.
    Info,
    /// Something to look at.
    Warning,
    /// Something went wrong.
    Error,
    /// Something is done.
    Success,
}

/// What a producer says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    /// The producer's id, by which a retry is known; none: one is made.
    pub id: Option<String>,
    /// Of what kind.
    pub kind: Kind,
    /// One line, 1 to 256 bytes.
    pub title: String,
    /// 1 to 4,096 bytes.
    pub message: String,
    /// Where to read more: http(s), or relative.
    pub link: Option<String>,
}

/// What a user is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The producer's, or one made. The user's own: another's may be the same.
    pub id: String,
    /// Of what kind.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// One line.
    pub title: String,
    /// The text.
    pub message: String,
    /// Where to read more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whether the user has read it.
    pub read: bool,
    /// When it was stored.
    #[serde(serialize_with = "rfc_3339")]
    pub created_at: Timestamp,
    /// The user's own numbering, newest highest: what pages go by.
    #[serde(skip)]
    pub serial: u64,
}

/// The body of a request to notify somebody.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Said {
    user_id: String,
    id: Option<String>,
    r#type: Kind,
    title: String,
    message: String,
    link: Option<String>,
}

/// What is wrong with a notification: the JSON key, where it is one's, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Malformed {
    /// The key.
    pub key: Option<&'static str>,
    /// What is wrong there.
    pub what: String,
}

impl User {
    /// The user of this id, the `sub` of their tokens. An error when it is empty, or longer than a channel's name has
    /// room for.
    pub fn new(id: impl Into<String>) -> Result<Self, ChannelError> {
        let id = id.into();
        Ok(User { channel: Channel::user(&id)?, id })
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What all the user's connections hear.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The event that tells of a notification.
    pub(crate) fn told(&self, notification: &Notification) -> Result<Event, EventError> {
        // Strings, a boolean and a time: nothing that could fail.
        self.event(NOTIFICATION, serde_json::to_string(notification).unwrap_or_default())
    }

    /// The event that tells how many are unread.
    pub(crate) fn counted(&self, unread: u64) -> Result<Event, EventError> {
        self.event(COUNT, count(unread))
    }

    fn event(&self, event_type: &'static str, data: String) -> Result<Event, EventError> {
        Ok(Event {
            event_type: Some(EventType::parse(event_type)?),
            ..Event::new(self.channel.clone(), data)
        })
    }
}

impl Notification {
    /// What a new one becomes, as far as its size goes.
    pub(crate) fn would_be(new: &New, now: Timestamp) -> Self {
        let id = new.id.clone().unwrap_or_else(|| "0".repeat(32));
        Notification {
            id,
            kind: new.kind,
            title: new.title.clone(),
            message: new.message.clone(),
            link: new.link.clone(),
            read: false,
            created_at: now,
            serial: 0,
        }
    }
}

/// The data of [`COUNT`].
pub fn count(unread: u64) -> String {
    serde_json::json!({ "unread": unread }).to_string()
}

impl Kind {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Info => "info",
            Kind::Warning => "warning",
            Kind::Error => "error",
            Kind::Success => "success",
        }
    }

    /// What that word means.
    pub fn parse(word: &str) -> Option<Self> {
        [Kind::Info, Kind::Warning, Kind::Error, Kind::Success].into_iter().find(|kind| kind.as_str() == word)
    }
}

impl New {
    /// Reads the body of a request: whom to notify, and of what.
    pub fn read(body: &[u8]) -> Result<(User, Self), Malformed> {
        // An array would be taken for one by the order of the fields.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Malformed { key: None, what: "is no JSON object".to_owned() });
        }
        let said: Said =
            serde_json::from_slice(body).map_err(|error| Malformed { key: None, what: error.to_string() })?;
        let Said { user_id, id, r#type: kind, title, message, link } = said;
        let wrong = |key: &'static str| {
            move |what: String| Malformed { key: Some(key), what: format!("{key}: {what}") }
        };
        if user_id.is_empty() {
            return Err(wrong("userId")("can't be empty".to_owned()));
        }
        let user = User::new(user_id).map_err(|error| wrong("userId")(error.to_string()))?;
        if let Some(id) = &id {
            EventId::parse(id.as_str())
                .map_err(|error| Malformed { key: Some("id"), what: error.to_string() })?;
            check_text(id, 256, &[]).map_err(wrong("id"))?;
            if [".", ".."].contains(&id.as_str()) {
                return Err(wrong("id")("is taken for a folder in paths".to_owned()));
            }
        }
        check_text(&title, TITLE_BYTES_MAX, &[]).map_err(wrong("title"))?;
        check_text(&message, MESSAGE_BYTES_MAX, &['\n', '\r', '\t']).map_err(wrong("message"))?;
        link.as_deref().map_or(Ok(()), link::check).map_err(wrong("link"))?;
        Ok((user, New { id, kind, title, message, link }))
    }
}

/// Neither empty nor too long, and no control characters but these: databases take no NUL, and nobody sees the others.
fn check_text(text: &str, most: usize, allowed: &[char]) -> Result<(), String> {
    if text.is_empty() || text.len() > most {
        return Err(format!("has {} bytes; it has 1 to {most}", text.len()));
    }
    if text.trim().is_empty() {
        return Err("has nothing in it to read".to_owned());
    }
    let breaks_lines = |c: char| matches!(c, '\u{2028}' | '\u{2029}') && !allowed.contains(&'\n');
    match text.chars().find(|c| c.is_control() && !allowed.contains(c) || breaks_lines(*c)) {
        Some(bad) => Err(format!("has the control character {bad:?} in it")),
        None => Ok(()),
    }
}

fn rfc_3339<S: serde::Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(time)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(changes: &serde_json::Value) -> Result<(User, New), Malformed> {
        let mut said =
            json!({ "userId": "ann", "type": "info", "title": "Shipped", "message": "It is on its way." });
        for (key, value) in changes.as_object().unwrap() {
            said[key] = value.clone();
        }
        New::read(said.to_string().as_bytes())
    }

    #[test]
    fn what_is_wrong_is_said_by_its_key() {
        assert!(read(&json!({ "link": "/orders/1", "id": "order-1" })).is_ok());
        for (changes, key) in [
            (json!({ "userId": "" }), Some("userId")),
            (json!({ "userId": "x".repeat(300) }), Some("userId")),
            (json!({ "id": "" }), Some("id")),
            (json!({ "id": "a\nb" }), Some("id")),
            (json!({ "id": ".." }), Some("id")),
            (json!({ "title": "" }), Some("title")),
            (json!({ "title": "x".repeat(257) }), Some("title")),
            (json!({ "title": "two\nlines" }), Some("title")),
            (json!({ "title": "two\u{2028}lines" }), Some("title")),
            (json!({ "title": "  " }), Some("title")),
            (json!({ "message": "" }), Some("message")),
            (json!({ "message": "x".repeat(4097) }), Some("message")),
            (json!({ "message": "a\u{0}" }), Some("message")),
            (json!({ "link": "javascript:alert(1)" }), Some("link")),
            (json!({ "type": "fatal" }), None),
            (json!({ "titel": "x" }), None),
            (json!({ "title": 1 }), None),
        ] {
            assert_eq!(read(&changes).unwrap_err().key, key, "{changes}");
        }
    }

    #[test]
    fn a_list_is_no_notification_whatever_is_in_it() {
        let listed = r#"["ann", "order-1", "info", "Shipped", "It is on its way.", null]"#;
        for body in [listed, "[]", "null", ""] {
            assert_eq!(New::read(body.as_bytes()).unwrap_err().key, None, "{body}");
        }
    }

    #[test]
    fn users_are_told_by_the_shape_that_is_documented() {
        let notification = Notification {
            id: "order-1".to_owned(),
            kind: Kind::Success,
            title: "Shipped".to_owned(),
            message: "…".to_owned(),
            link: None,
            read: false,
            created_at: Timestamp::from_micros(1_700_000_000_000_000),
            serial: 7,
        };
        let event = User::new("ann@x").unwrap().told(&notification).unwrap();
        assert_eq!(event.channel.as_str(), Channel::user("ann@x").unwrap().as_str());
        assert_eq!(event.event_type.unwrap().as_str(), "notification");
        let told: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        assert_eq!(
            told,
            json!({
                "id": "order-1", "type": "success", "title": "Shipped", "message": "…", "read": false,
                "createdAt": "2023-11-14T22:13:20Z",
            })
        );
        assert_eq!(&*User::new("ann").unwrap().counted(3).unwrap().data, r#"{"unread":3}"#);
    }
}
