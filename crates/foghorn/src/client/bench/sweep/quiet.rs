//! A channel on which little happens, beside one on which much does.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::asks::Asks;
use super::audience::{Audience, Heard};
use super::publisher::Publisher;
use super::stage::Stage;
use super::{PATIENCE, Variant};
use crate::client::bench::publisher::seconds;

/// Who listen to it.
pub(super) const LISTENERS: usize = 100;
const CHANNEL: &str = "quiet";
/// Events a second.
const RATE: f64 = 10.0;

/// Its listeners and its publisher.
pub(super) struct Quiet {
    audience: Audience,
    publisher: Publisher,
}

/// What its listeners heard.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) heard: Heard,
    pub(super) missing: u64,
}

impl Quiet {
    /// They listen, as those of the other channel do.
    pub(super) fn open(stage: &Stage, size: usize, began: Instant) -> anyhow::Result<Self> {
        let Asks { variant, tokens, tls, .. } = &stage.asks;
        let variant = Variant { channels: 1, ..variant.clone() };
        let asks = Asks { variant, channel: Some(CHANNEL), tokens: tokens.clone(), tls: tls.clone() };
        let mut audience = Audience::open_with(stage.server.address, &asks, LISTENERS, began)?;
        let mut publisher = stage.publisher(size, began)?.on(vec![CHANNEL.to_owned()]);
        // The first makes what is made once.
        publisher.publish(0, began.elapsed())?;
        audience.hear(1, PATIENCE)?;
        audience.forget();
        Ok(Quiet { audience, publisher })
    }

    /// Has events come for so long, in threads of their own.
    pub(super) fn run_for(self, lasts: Duration) -> JoinHandle<anyhow::Result<Row>> {
        thread::spawn(move || {
            let Quiet { mut audience, mut publisher } = self;
            let events = events(lasts);
            thread::scope(|scope| {
                let publishing = scope.spawn(|| publisher.publish_at(1, RATE, events));
                audience.hear(events, seconds(events as u64, RATE) + PATIENCE)?;
                publishing.join().map_err(|_| anyhow::anyhow!("the quiet channel's publisher broke"))?
            })?;
            let heard = audience.heard();
            Ok(Row { missing: ((events * LISTENERS) as u64).saturating_sub(heard.deliveries), heard })
        })
    }
}

/// How many there are in this time, one at least.
fn events(lasts: Duration) -> usize {
    (1..).take_while(|count| seconds(*count, RATE) <= lasts).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_events_as_the_time_has_room_for() {
        let counts = [0, 100, 1999, 2000].map(|millis| events(Duration::from_millis(millis)));
        assert_eq!(counts, [1, 1, 19, 20]);
    }
}
