//! What gateways want published: events of who listens. They have no other way into the journal.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;

use foghorn_bus::Future;
use foghorn_bus::announce::{AnnounceError, Announcer};
use foghorn_bus::nats::{NatsRequest, Requests};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, EventType};

use crate::error::PublishError;
use crate::nats::answer_all;
use crate::publish::{Ack, Door, Publisher};

/// Those that are published at a time.
const PARALLEL: usize = 64;

/// Answers gateways.
pub(crate) async fn serve(publisher: Arc<Publisher>, requests: Requests) {
    answer_all(&publisher, requests, PARALLEL, |request| handle(&publisher, request)).await;
}

async fn handle(publisher: &Publisher, request: NatsRequest) {
    let announced = match (Channel::parse(request.channel.as_str()), std::str::from_utf8(&request.data)) {
        (Ok(channel), Ok(data)) => publisher.announce(channel, data.to_owned()).await,
        _ => Err(AnnounceError::Refused("not an event of who listens".to_owned())),
    };
    request.announced(&announced).await;
}

impl Announcer for Publisher {
    fn announce(&self, channel: Channel, data: String) -> Future<'_, Result<(), AnnounceError>> {
        async move {
            let began = Instant::now();
            let announced = self.append_presence(channel, data).await;
            let outcome = announced.as_ref().map_or_else(PublishError::outcome, |()| "stored");
            self.metrics.answered(Door::Presence, Ack::Accepted, outcome, began.elapsed());
            announced.map_err(|error| {
                let why = error.to_string();
                if error.retryable { AnnounceError::Unavailable(why) } else { AnnounceError::Refused(why) }
            })
        }
        .boxed()
    }
}

impl Publisher {
    async fn append_presence(&self, channel: Channel, data: String) -> Result<(), PublishError> {
        // Whatever a gateway says: a policy alone has users told of.
        if !self.policies.tells_presence(channel.as_str()) {
            let why = format!("{channel}: its policy doesn't say presence = \"events\"");
            return Err(PublishError::invalid("bad-event", why));
        }
        let mut event = Event::new(channel, data);
        event.event_type = Some(EventType::presence());
        event.check_size(self.journal.frame_bytes()).map_err(PublishError::from)?;
        let _room = self.room(1, event.data.len()).await?;
        let entry = NewEntry { event, key: Key::invented(rand::random()), traceparent: None };
        self.journal.append(entry).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
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
}
