//! Looking at all streams of a gateway at once, for operators: which are a user's and where they are, and how many hear a
//! channel.
//!
//! Nothing is kept of a stream for that. Whoever serves streams looks at its own when there is a survey, between two
//! blocks; a stream whose task waits for something else, or whose socket takes nothing, may not be looked at in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

use foghorn_core::channel::Channel;
use foghorn_core::time::Timestamp;

use crate::client_id::ClientId;
use crate::connection::Course;
use crate::hub::Hub;
use crate::seat::Seat;
use crate::subscription::Subscription;

/// How long streams may take to be looked at.
const PATIENCE: Duration = Duration::from_millis(500);
/// Surveys of a gateway at a time.
const SURVEYS_MAX: usize = 4;
/// Streams of a user that a gateway tells of, and topics of each: what gateways tell each other goes into one message.
const STREAMS_MAX: usize = 100;
const TOPICS_MAX: usize = 20;
/// Channels whose listeners are counted at once.
pub(crate) const CHANNELS_MAX: usize = 100;

/// What is asked.
#[derive(Debug)]
pub(crate) enum Question {
    /// The streams of a user: those with their token, and those that hear their channel by its name.
    User {
        subject: String,
        /// The user's channel, if the subject can have one.
        own: Option<Channel>,
        /// What is asked of each.
        sought: Option<Sought>,
    },
    /// How many streams hear each of these.
    Listeners(Vec<Channel>),
}

/// An event, and whether streams were sent it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sought {
    pub(crate) channel: String,
    pub(crate) event_type: Option<String>,
    pub(crate) shard: u8,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    /// Microseconds since 1970.
    pub(crate) time: i64,
}

/// What a stream was seen to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SeenStream {
    pub(crate) connection: String,
    pub(crate) user: Option<String>,
    /// What it hears, as far as there is room.
    channels: Vec<String>,
    more_channels: usize,
    /// The types that it hears; empty for all.
    events: Vec<String>,
    opened_at: String,
    /// Whether it has been written everything that is there for it.
    level: bool,
    /// Where it is, where that is known: `shard:epoch:seq`.
    positions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<Verdict>,
}

/// Whether a stream was sent an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Verdict {
    /// It was written to its socket.
    Delivered,
    /// It is to be, and has not been yet.
    Behind,
    /// It doesn't hear the channel.
    NotSubscribed,
    /// It hears the channel, but not this type.
    Filtered,
    /// It was opened after the event.
    ConnectedAfter,
    /// It is in another epoch of the journal: it was reset.
    Reset,
}

/// What a gateway has found.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Found {
    pub(crate) streams: Vec<SeenStream>,
    /// By the order in which channels were asked for.
    pub(crate) listeners: Vec<usize>,
    /// Whether there are streams that were not looked at, or are not listed.
    pub(crate) partial: bool,
}

/// A survey under way.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) number: u64,
    pub(crate) question: Question,
    found: Mutex<Found>,
    looked_at: AtomicUsize,
    looked: Notify,
}

/// The surveys of a gateway that are under way.
#[derive(Debug, Default)]
pub(crate) struct Surveys {
    under_way: Mutex<Vec<Arc<Survey>>>,
    made: AtomicUsize,
}

impl Surveys {
    /// How many there have been.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst) as u64
    }

    /// Those after the first `seen` that are still under way.
    pub(crate) fn after(&self, seen: u64) -> Vec<Arc<Survey>> {
        self.under_way.lock().iter().filter(|survey| survey.number > seen).cloned().collect()
    }

    /// Those of users that who has seen so many is to look at; it has seen them then.
    pub(crate) fn of_users_since(&self, seen: &mut u64) -> Vec<Arc<Survey>> {
        let made = self.made();
        let before = std::mem::replace(seen, made);
        if before == made {
            return Vec::new();
        }
        self.after(before).into_iter().filter(|survey| survey.is_of_users()).collect()
    }

    /// None when there are enough.
    fn begin(&self, question: Question) -> Option<Arc<Survey>> {
        let mut under_way = self.under_way.lock();
        if under_way.len() >= SURVEYS_MAX {
            return None;
        }
        let listeners = match &question {
            Question::Listeners(channels) => vec![0; channels.len()],
            Question::User { .. } => Vec::new(),
        };
        let survey = Arc::new(Survey {
            number: self.made() + 1,
            question,
            found: Mutex::new(Found { listeners, ..Found::default() }),
            looked_at: AtomicUsize::new(0),
            looked: Notify::new(),
        });
        under_way.push(survey.clone());
        self.made.fetch_add(1, Ordering::SeqCst);
        Some(survey)
    }

    fn end(&self, survey: &Survey) {
        self.under_way.lock().retain(|other| other.number != survey.number);
    }
}

/// Takes a survey off the list, also where whoever asked is gone.
struct UnderWay<'a>(&'a Surveys, Arc<Survey>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.end(&self.1);
    }
}

impl Hub {
    /// Has everybody who serves streams look at them. None when too many surveys are under way.
    pub(crate) async fn survey(&self, question: Question) -> Option<Found> {
        let survey = UnderWay(&self.surveys, self.surveys.begin(question)?);
        // Those of a user are known to who serves them; listeners of a channel to reactors, and of tasks to the hub.
        let expected = if survey.1.is_of_users() { self.connections() } else { self.reactors() };
        if let Question::Listeners(channels) = &survey.1.question {
            let counts = channels.iter().map(|channel| self.listeners_in_tasks(channel)).collect();
            survey.1.found.lock().listeners = counts;
        }
        self.look_at_surveys();
        let all_looked = async {
            while survey.1.looked_at.load(Ordering::SeqCst) < expected {
                survey.1.looked.notified().await;
            }
        };
        let in_time = timeout(PATIENCE, all_looked).await.is_ok();
        let mut found = std::mem::take(&mut *survey.1.found.lock());
        found.partial |= !in_time;
        Some(found)
    }
}

impl Survey {
    /// So many more have been looked at: streams, or those who serve them where it is about channels.
    pub(crate) fn looked_at(&self, more: usize) {
        self.looked_at.fetch_add(more, Ordering::SeqCst);
        self.looked.notify_one();
    }

    /// So many more streams hear the channel that was asked for as this one.
    pub(crate) fn hear(&self, at: usize, streams: usize) {
        if let Some(count) = self.found.lock().listeners.get_mut(at) {
            *count += streams;
        }
    }

    /// Whether it is about users, so that each stream has to be looked at.
    pub(crate) fn is_of_users(&self) -> bool {
        matches!(self.question, Question::User { .. })
    }

    /// Whether it is about a stream, which hears channels by these names.
    pub(crate) fn concerns(&self, seat: &Seat, names: impl FnOnce(&Channel) -> bool) -> bool {
        let Question::User { subject, own, .. } = &self.question else { return false };
        seat.identity().is_some_and(|identity| identity.subject == *subject)
            || own.as_ref().is_some_and(names)
    }

    /// Looks at a stream. `courses` are where it is, and `level` whether it has been written all that is there for it.
    pub(crate) fn look_at(
        &self,
        seat: &Seat,
        subscription: &Subscription,
        courses: impl FnOnce() -> Vec<Course>,
        level: bool,
    ) {
        let Question::User { sought, .. } = &self.question else { return };
        if !self.concerns(seat, |own| subscription.names(own)) {
            return;
        }
        let (connection, opened) = (seat.client_id().to_string(), seat.opened());
        let mut found = self.found.lock();
        if found.streams.len() >= STREAMS_MAX {
            found.partial = true;
            return;
        }
        let (topics, courses) = (subscription.topics().count(), courses());
        let position = |course: &Course| format!("{}:{}:{}", course.shard, course.epoch, course.at);
        let verdict = |sought: &Sought| verdict(sought, opened, subscription, &courses, level);
        found.streams.push(SeenStream {
            connection,
            user: seat.identity().map(|identity| identity.subject.clone()),
            channels: subscription.topics().take(TOPICS_MAX).map(|topic| topic.to_string()).collect(),
            more_channels: topics.saturating_sub(TOPICS_MAX),
            events: subscription.types.iter().take(TOPICS_MAX).cloned().collect(),
            opened_at: opened.to_string(),
            level,
            positions: courses.iter().map(position).collect(),
            verdict: sought.as_ref().map(verdict),
        });
    }
}

fn verdict(
    sought: &Sought,
    opened: Timestamp,
    subscription: &Subscription,
    courses: &[Course],
    level: bool,
) -> Verdict {
    let of_shard = |shard: u8| move |course: &&Course| course.shard.get() == shard;
    if !subscription.shards.iter().any(|(_, topics)| topics.want(&sought.channel)) {
        return Verdict::NotSubscribed;
    }
    if !subscription.wants_type_named(sought.event_type.as_deref()) {
        return Verdict::Filtered;
    }
    match courses.iter().find(of_shard(sought.shard)) {
        Some(course) if course.epoch.get() != sought.epoch => Verdict::Reset,
        Some(course) if course.at < sought.seq => Verdict::Behind,
        None if !level => Verdict::Behind,
        _ if opened.as_micros() > sought.time => Verdict::ConnectedAfter,
        _ => Verdict::Delivered,
    }
}

/// When a stream was opened, in the room that its seat has: 48 bits of microseconds since its gateway began, which are
/// nine years.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened([u8; 6]);

impl Opened {
    const MICROS_MAX: u64 = (1 << 48) - 1;

    pub(crate) fn after(began: Duration) -> Self {
        let micros = u64::try_from(began.as_micros()).unwrap_or(u64::MAX).min(Self::MICROS_MAX);
        let [_, _, bytes @ ..] = micros.to_be_bytes();
        Opened(bytes)
    }

    /// The time of day, where the gateway began at `began`.
    pub(crate) fn at(self, began: Timestamp) -> Timestamp {
        let mut micros = [0; 8];
        micros[2..].copy_from_slice(&self.0);
        began.plus(Duration::from_micros(u64::from_be_bytes(micros)))
    }
}

impl SeenStream {
    /// Which gateway's it is.
    pub(crate) fn instance(&self) -> String {
        ClientId::parse(&self.connection).map(|id| id.gateway().to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use foghorn_core::pattern::Pattern;
    use foghorn_core::position::Epoch;
    use foghorn_core::shard::{Shard, ShardCount};

    use super::*;

    #[test]
    fn a_stream_was_sent_what_it_hears_once_it_is_past_it() {
        let time = Timestamp::from_micros(1_000_000);
        let sought = |event_type: Option<&str>| Sought {
            channel: "a.b".to_owned(),
            event_type: event_type.map(str::to_owned),
            shard: 0,
            epoch: 7,
            seq: 10,
            time: time.as_micros(),
        };
        let hearing = |topic: &str, types: &[&str]| Subscription {
            types: types.iter().map(|name| (*name).to_owned()).collect(),
            ..Subscription::new(&[Pattern::parse(topic.to_owned()).unwrap()], ShardCount::ONE)
        };
        let at = |epoch: u64, seq: u64| vec![Course::level(Shard::ZERO, Epoch::new(epoch), seq)];
        let (before, after) = (Timestamp::from_micros(0), Timestamp::from_micros(2_000_000));
        let cases = [
            (before, hearing("a.*", &[]), at(7, 10), true, Verdict::Delivered),
            (before, hearing("a.b", &["message"]), at(7, 12), true, Verdict::Delivered),
            (before, hearing("a.b", &["x"]), at(7, 12), true, Verdict::Filtered),
            (before, hearing("a.c", &[]), at(7, 12), true, Verdict::NotSubscribed),
            (before, hearing("a.b", &[]), at(7, 9), true, Verdict::Behind),
            (before, hearing("a.b", &[]), vec![], false, Verdict::Behind),
            (before, hearing("a.b", &[]), at(8, 99), true, Verdict::Reset),
            (after, hearing("a.b", &[]), at(7, 12), true, Verdict::ConnectedAfter),
        ];
        for (opened, subscription, courses, level, expected) in cases {
            let found = verdict(&sought(None), opened, &subscription, &courses, level);
            assert_eq!(found, expected, "{subscription:?} {courses:?}");
        }
        let found = verdict(&sought(Some("x")), before, &hearing("a.b", &["x"]), &at(7, 10), true);
        assert_eq!(found, Verdict::Delivered);
    }

    #[test]
    fn there_are_so_many_surveys_at_a_time_and_each_is_seen_once() {
        let surveys = Surveys::default();
        let begin = || surveys.begin(Question::Listeners(Vec::new()));
        let all: Vec<_> = (0..SURVEYS_MAX).map(|_| begin().unwrap()).collect();
        assert!(begin().is_none());
        assert_eq!((surveys.after(0).len(), surveys.after(surveys.made()).len()), (SURVEYS_MAX, 0));
        surveys.end(&all[0]);
        assert!(begin().is_some_and(|survey| survey.number == SURVEYS_MAX as u64 + 1));
    }

    #[test]
    fn when_a_stream_was_opened_is_known_to_the_microsecond() {
        let began = Timestamp::from_micros(1_000_000);
        let opened = |micros| Opened::after(Duration::from_micros(micros)).at(began).as_micros();
        assert_eq!([opened(0), opened(1), opened(1 << 40)], [1_000_000, 1_000_001, 1_000_000 + (1 << 40)]);
    }
}
