//! `GET /api/channels/{channel}/presence`: who listens to a channel, at all gateways.
//!
//! Each gateway counts its own streams, on channels whose policy says so, and asks the others when it is asked. So a
//! stream costs nothing elsewhere, and a gateway that is gone takes its streams along. Where the policy says that
//! listeners are told who comes and goes, it tells what changes to two gateways that look after the channel (`tell.rs`,
//! `roster.rs`).

mod answers;
mod message;
mod roster;
pub(crate) mod tell;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use foghorn_bus::gateways::{About, GatewayName, Gateways, Question};
use foghorn_core::channel::Channel;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_http::Response;
use foghorn_http::body::json as json_response;
use foghorn_http::problem::Problem;
use foghorn_http::query::Query;

use crate::client_id::ClientId;
use crate::connection::Shared;
use crate::http::{Api, TOKEN};
use crate::subscription::Subscription;
use answers::Answers;
use message::part_of_sum;
pub(crate) use roster::Action;
use roster::Roster;

/// How long the other gateways may take.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// Users of one channel that a gateway tells of; about 300 KiB of them.
const USERS_MAX: usize = 5000;

/// The streams of a gateway on channels whose policy counts them.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    present: Mutex<Present>,
    /// What other gateways have said too, where this one looks after a channel; none where no listeners are told.
    roster: Mutex<Option<Roster>>,
    /// There is something to say to those that look after channels.
    changed: Notify,
    /// There is something to tell listeners.
    heard: Notify,
    answers: Answers,
}

#[derive(Debug, Default)]
struct Present {
    /// By the keys of their ids.
    streams: HashMap<u64, Stream>,
    channels: HashMap<Channel, Listeners>,
    /// What those that look after channels haven't been told of yet.
    unsaid: HashSet<(Channel, Option<Arc<str>>)>,
}

#[derive(Debug)]
struct Stream {
    user: Option<Arc<str>>,
    channels: Vec<Channel>,
}

#[derive(Debug, Default)]
struct Listeners {
    users: HashMap<Arc<str>, usize>,
    anonymous: usize,
    /// Whether they are told who comes and goes.
    told: bool,
    /// What they add up to, where they are.
    sum: u64,
}

/// Who listens to a channel at one gateway, or at several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Counted {
    /// Streams, by their users.
    users: BTreeMap<String, usize>,
    /// Streams of nobody in particular.
    anonymous: usize,
    /// All of them, of users that are not named too.
    connections: usize,
    /// Whether there are users that are not named, or gateways that didn't answer.
    partial: bool,
}

impl Presence {
    /// A stream of a user hears this from now on, and nothing else. By name: who hears a pattern is nowhere in particular.
    pub(crate) fn hears(
        &self,
        stream: ClientId,
        user: Option<&str>,
        subscription: &Subscription,
        policies: &Policies,
    ) {
        let named = subscription.shards.iter().flat_map(|(_, topics)| topics.channels());
        let channels: Vec<_> = named
            .filter(|channel| policies.counts_presence(channel.as_str()))
            .map(Channel::detached)
            .collect();
        let mut present = self.present.lock();
        present.leave(stream);
        if !channels.is_empty() {
            let user: Option<Arc<str>> = user.map(Arc::from);
            for channel in &channels {
                let listeners = present.channels.entry(channel.clone()).or_default();
                listeners.tell(channel, policies.tells_presence(channel.as_str()));
                present.count(channel, user.as_ref(), |streams| streams + 1);
            }
            present.streams.insert(stream.key(), Stream { user, channels });
        }
        self.wake_if_unsaid(&present);
    }

    /// A stream is over.
    pub(crate) fn closed(&self, stream: ClientId) {
        let mut present = self.present.lock();
        present.leave(stream);
        self.wake_if_unsaid(&present);
    }

    fn wake_if_unsaid(&self, present: &Present) {
        if !present.unsaid.is_empty() {
            self.changed.notify_one();
        }
    }

    fn counted(&self, channel: &Channel) -> Counted {
        let present = self.present.lock();
        let Some(listeners) = present.channels.get(channel) else { return Counted::default() };
        let named = listeners.users.iter().take(USERS_MAX);
        Counted {
            users: named.map(|(user, streams)| (user.to_string(), *streams)).collect(),
            anonymous: listeners.anonymous,
            connections: listeners.anonymous + listeners.users.values().sum::<usize>(),
            partial: listeners.users.len() > USERS_MAX,
        }
    }
}

impl Present {
    fn leave(&mut self, stream: ClientId) {
        let Some(Stream { user, channels }) = self.streams.remove(&stream.key()) else { return };
        for channel in channels {
            self.count(&channel, user.as_ref(), |streams| streams - 1);
        }
    }

    /// Counts the streams of a user on a channel, or of nobody in particular.
    fn count(&mut self, channel: &Channel, user: Option<&Arc<str>>, counted: impl FnOnce(usize) -> usize) {
        let Some(listeners) = self.channels.get_mut(channel) else { return };
        let before = listeners.said(user);
        match user {
            None => listeners.anonymous = counted(listeners.anonymous),
            Some(user) => {
                let streams = listeners.users.entry(user.clone()).or_default();
                *streams = counted(*streams);
                if *streams == 0 {
                    listeners.users.remove(user);
                }
            }
        }
        let after = listeners.said(user);
        if listeners.told && before != after {
            let name = user.map(|user| &**user);
            listeners.sum ^= part_of_sum(channel, name, before) ^ part_of_sum(channel, name, after);
            self.unsaid.insert((channel.clone(), user.cloned()));
        }
        if listeners.users.is_empty() && listeners.anonymous == 0 {
            self.channels.remove(channel);
        }
    }
}

impl Listeners {
    /// Whether they are told who comes and goes from now on; what they add up to follows when policies change that.
    fn tell(&mut self, channel: &Channel, told: bool) {
        if std::mem::replace(&mut self.told, told) == told {
            return;
        }
        let users = self.users.keys().map(|user| part_of_sum(channel, Some(user), 1));
        let all = users.fold(part_of_sum(channel, None, self.anonymous), |sum, part| sum ^ part);
        self.sum = if told { all } else { 0 };
    }

    /// How many streams of a user are spoken of: however many they have, one.
    fn said(&self, user: Option<&Arc<str>>) -> usize {
        user.map_or(self.anonymous, |user| usize::from(self.users.contains_key(user)))
    }
}

impl Counted {
    fn add(&mut self, other: Counted) {
        for (user, streams) in other.users {
            *self.users.entry(user).or_default() += streams;
        }
        self.anonymous += other.anonymous;
        self.connections += other.connections;
        self.partial |= other.partial;
    }
}

impl Api {
    /// The answer to who listens to a channel: how many, and who to operators, and where listeners are told.
    pub(crate) async fn presence(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        channel: &str,
        address: Option<IpAddr>,
    ) -> Result<Response, Problem> {
        let query = Query::parse(query, &[TOKEN])?;
        let channel = Channel::parse(channel).map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, "bad-channel", "The channel is malformed")
                .detail(format!("channel: {error}"))
        })?;
        let caller = self.caller(headers, &query).await?;
        let by = self.requester(caller, headers, address);
        self.check_listen(&by, &Pattern::from(&channel)).await?;
        let caller = by.caller;
        if let Err(limited) = self.limits.check_subject(&caller) {
            let what = "more is asked of gateways by this subject than gateway.subject_per_minute allows";
            return Err(self.too_many(limited, what));
        }
        let hub = &self.shared.hub;
        if !hub.policies().counts_presence(channel.as_str()) {
            let title = "Nobody is counted on this channel";
            return Err(Problem::new(StatusCode::NOT_FOUND, "no-presence", title)
                .detail("its policy doesn't say presence = \"counts\" or \"events\"")
                .member("channel", channel.as_str()));
        }
        let asking = count_all(self.shared.clone(), self.gateways.clone(), channel.detached());
        let counted = hub.presence.answers.get(&channel, asking).await;
        let mut answer = json!({
            "channel": channel.as_str(), "connections": counted.connections, "users": counted.users.len(),
            "anonymous": counted.anonymous, "complete": !counted.partial,
        });
        // Where listeners are told who comes and goes, they may know who is there.
        if hub.policies().tells_presence(channel.as_str()) || caller.check_admin().is_ok() {
            let named =
                counted.users.iter().map(|(user, streams)| json!({ "user": user, "connections": streams }));
            answer["members"] = named.collect();
        }
        let mut response = json_response(StatusCode::OK, &answer);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(response)
    }

    /// What another gateway is told of a channel.
    pub(crate) fn presence_here(&self, channel: &[u8]) -> Vec<u8> {
        let channel = std::str::from_utf8(channel).ok().and_then(|name| Channel::parse(name).ok());
        let counted = channel.map(|channel| self.shared.hub.presence.counted(&channel)).unwrap_or_default();
        serde_json::to_vec(&counted).unwrap_or_default()
    }
}

/// Who listens to a channel, here and at all others.
async fn count_all(shared: Arc<Shared>, gateways: Arc<dyn Gateways>, channel: Channel) -> Counted {
    let others = shared.hub.places.members.others();
    let asked = others.into_iter().map(|gateway| count_at(&*gateways, gateway, &channel));
    let mut counted = shared.hub.presence.counted(&channel);
    join_all(asked).await.into_iter().for_each(|other| counted.add(other));
    counted
}

async fn count_at(gateways: &dyn Gateways, gateway: GatewayName, channel: &Channel) -> Counted {
    let body = channel.as_str().to_owned().into_bytes().into();
    let question = Question { about: About::Presence, token: None, context: None, body };
    let answer = timeout(ANSWERED_WITHIN, gateways.ask(gateway, question)).await;
    let answer = answer.ok().and_then(Result::ok);
    let counted = answer.and_then(|answer| serde_json::from_slice(&answer).ok());
    counted.unwrap_or_else(|| Counted { partial: true, ..Counted::default() })
}

#[cfg(test)]
mod tests {
    use foghorn_core::policy::Policy;
    use foghorn_core::shard::ShardCount;

    use super::*;

    #[test]
    fn streams_are_counted_by_user_on_channels_they_name_whose_policy_says_so_until_they_are_over() {
        let counted = Policy {
            presence: foghorn_core::policy::Presence::Counts,
            ..Policy::new(Pattern::parse("room.*").unwrap())
        };
        let policies = Policies::new(vec![counted]).unwrap();
        let presence = Presence::default();
        let channel = |name: &str| Channel::parse(name).unwrap();
        let hears = |id: u128, user: Option<&str>, names: &[&str]| {
            let topics: Vec<_> = names.iter().map(|name| Pattern::parse(*name).unwrap()).collect();
            let subscription = Subscription::new(&topics, ShardCount::new(4).unwrap());
            presence.hears(ClientId::from(id), user, &subscription, &policies);
        };
        hears(1, Some("ann"), &["room.a", "room.b", "other.a"]);
        hears(2, Some("ann"), &["room.a"]);
        hears(3, None, &["room.a"]);
        hears(4, Some("bob"), &["room.*", "other.a"]);
        let of = |name: &str| {
            let Counted { users, anonymous, connections, partial } = presence.counted(&channel(name));
            assert!(!partial);
            (users.into_iter().collect::<Vec<_>>(), anonymous, connections)
        };
        assert_eq!(of("room.a"), (vec![("ann".to_owned(), 2)], 1, 3));
        assert_eq!(of("room.b"), (vec![("ann".to_owned(), 1)], 0, 1));
        assert_eq!(of("other.a"), (vec![], 0, 0));
        hears(2, Some("ann"), &["room.b"]);
        presence.closed(ClientId::from(3));
        presence.closed(ClientId::from(4));
        assert_eq!(of("room.a"), (vec![("ann".to_owned(), 1)], 0, 1));
        assert_eq!(of("room.b"), (vec![("ann".to_owned(), 2)], 0, 2));
        presence.closed(ClientId::from(1));
        presence.closed(ClientId::from(2));
        assert!(presence.present.lock().channels.is_empty() && presence.present.lock().streams.is_empty());
        for id in 0..=USERS_MAX as u128 {
            hears(id, Some(&format!("u{id}")), &["room.a"]);
        }
        let Counted { users, connections, partial, .. } = presence.counted(&channel("room.a"));
        assert_eq!((users.len(), connections, partial), (USERS_MAX, USERS_MAX + 1, true));
    }
}
