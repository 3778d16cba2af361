//! What gateways want published: events of who listens, and their canaries. They have no other way into the journal.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;

use foghorn_bus::Future as Boxed;
use foghorn_bus::announce::{AnnounceError, Announcer, Canary};
use foghorn_bus::nats::{NatsRequest, Requests};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, EventType};

use crate::error::PublishError;
use crate::nats::answer_all;
use crate::publish::{Ack, Door, Publisher};

/// Those that are published at a time.
const PARALLEL: usize = 64;

/// Answers gateways that want listeners told.
pub(crate) async fn serve(publisher: Arc<Publisher>, requests: Requests) {
    answer_all(&publisher, requests, PARALLEL, |request| handle(&publisher, request)).await;
}

/// Answers gateways that want to hear themselves.
pub(crate) async fn serve_canaries(publisher: Arc<Publisher>, requests: Requests) {
    answer_all(&publisher, requests, PARALLEL, |request| handle_canary(&publisher, request)).await;
}

async fn handle_canary(publisher: &Publisher, request: NatsRequest) {
    let announced = match request.canary() {
        Some(canary) => publisher.canary(canary).await,
        None => Err(AnnounceError::Refused("not a canary".to_owned())),
    };
    request.announced(&announced).await;
}

async fn handle(publisher: &Publisher, request: NatsRequest) {
    let announced = match (Channel::parse(request.channel.as_str()), std::str::from_utf8(&request.data)) {
        (Ok(channel), Ok(data)) => publisher.announce(channel, data.to_owned()).await,
        _ => Err(AnnounceError::Refused("not an event of who listens".to_owned())),
    };
    request.announced(&announced).await;
}

impl Announcer for Publisher {
    fn announce(&self, channel: Channel, data: String) -> Boxed<'_, Result<(), AnnounceError>> {
        self.announced(Door::Presence, self.append_presence(channel, data)).boxed()
    }

    fn canary(&self, canary: Canary) -> Boxed<'_, Result<(), AnnounceError>> {
        // Its channel and its data are made here: nothing else gets to be Foghorn's own.
        let event = Event::new(canary.channel(), canary.number.to_string());
        self.announced(Door::Canary, self.append_own(event)).boxed()
    }
}

impl Publisher {
    /// Counts what becomes of it, and says that.
    async fn announced(
        &self,
        door: Door,
        appending: impl Future<Output = Result<(), PublishError>>,
    ) -> Result<(), AnnounceError> {
        let began = Instant::now();
        let appended = appending.await;
        let outcome = appended.as_ref().map_or_else(PublishError::outcome, |()| "stored");
        self.metrics.answered(door, Ack::Accepted, outcome, began.elapsed());
        appended.map_err(|error| {
            let why = error.to_string();
            if error.retryable { AnnounceError::Unavailable(why) } else { AnnounceError::Refused(why) }
        })
    }

    async fn append_presence(&self, channel: Channel, data: String) -> Result<(), PublishError> {
        // Whatever a gateway says: a policy alone has users told of.
        if !self.policies.get().tells_presence(channel.as_str()) {
            let why = format!("{channel}: its policy doesn't say presence = \"events\"");
            return Err(PublishError::invalid("bad-event", why));
        }
        let mut event = Event::new(channel, data);
        event.event_type = Some(EventType::presence());
        event.check_size(self.journal.frame_bytes()).map_err(PublishError::from)?;
        self.append_own(event).await
    }

    async fn append_own(&self, event: Event) -> Result<(), PublishError> {
        let _room = self.room(1, event.data.len()).await?;
        let entry = NewEntry { event, key: Key::invented(rand::random()), traceparent: None };
        self.journal.append(entry).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use foghorn_auth::{Caller, Requester};
    use foghorn_bus::gateways::GatewayName;

    use super::*;
    use crate::config::Config;
    use crate::publish::{PublishInput, Target};
    use crate::testing::bench;

    #[tokio::test(start_paused = true)]
    async fn gateways_publish_who_listens_where_a_policy_says_so_and_nothing_else() {
        let bench = bench(Config::default());
        let announce =
            |channel: &str, data: String| bench.publisher.announce(Channel::parse(channel).unwrap(), data);
        announce("told.a", r#"{"action":"join"}"#.to_owned()).await.unwrap();
        let stored = [("told.a".to_owned(), r#"{"action":"join"}"#.to_owned())];
        assert_eq!(bench.journal.stored(), stored);
        let refused = announce("other", "{}".to_owned()).await.unwrap_err();
        assert!(matches!(&refused, AnnounceError::Refused(why) if why.contains("presence = ")), "{refused}");
        assert!(matches!(announce("told.a", "x".repeat(1 << 20)).await, Err(AnnounceError::Refused(_))));
        assert_eq!(bench.journal.stored(), stored);
        for (outcome, count) in [("stored", 1), ("invalid", 2)] {
            let line = format!(r#"door="presence",ack="accepted",outcome="{outcome}"}} {count}"#);
            assert!(bench.metrics().contains(&line), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_is_published_on_its_gateways_own_channel_where_nobody_else_may() {
        let bench = bench(Config::default());
        let canary = Canary { gateway: GatewayName::new(7), lane: 3, number: 41 };
        bench.publisher.canary(canary).await.unwrap();
        let own = "~foghorn.canary.000000000007.3";
        assert_eq!(bench.journal.stored(), [(own.to_owned(), "41".to_owned())]);
        let line = r#"door="canary",ack="accepted",outcome="stored"} 1"#;
        assert!(bench.metrics().contains(line), "{line}");
        let input = PublishInput {
            target: Target::Channel(own.into()),
            event: None,
            data: "42".into(),
            id: None,
            ttl: None,
            ack: Ack::Accepted,
            traceparent: None,
        };
        for door in [Door::Http, Door::Grpc, Door::Nats] {
            let by = Requester::from(Caller::Unchecked);
            let refused = bench.publisher.publish(door, &by, input.clone()).await.unwrap_err();
            assert_eq!(refused.code, "bad-channel");
            assert!(refused.message.contains("is reserved"), "{refused}");
        }
        assert_eq!(bench.journal.stored().len(), 1);
    }
}
