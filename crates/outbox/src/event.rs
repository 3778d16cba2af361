//! What a row of the outbox is in the journal.

use std::time::Duration;

use foghorn_core::channel::Channel;
use foghorn_core::entry::{Key, NewEntry};
use foghorn_core::event::{Event, EventError, EventId, EventType, Ttl};
use foghorn_core::policy::Policies;

use crate::table::Row;

/// What becomes of a row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// It is to be appended.
    Entry(Box<NewEntry>),
    /// Its ttl is over: it is owed to nobody.
    Expired,
}

/// The entry of a row that has waited so long since it was read, or why there can't be one: the same now and
/// ever after, with these policies. `frame_bytes` is the cluster's bound on an encoded frame.
pub(crate) fn make(
    row: &Row,
    waited: Duration,
    policies: &Policies,
    frame_bytes: usize,
) -> Result<Made, EventError> {
    let channel = Channel::parse(row.channel.as_str())?;
    let id = EventId::parse(row.id.as_str())?;
    let key = Key::of(&channel, &id);
    let ttl = match row.ttl {
        None => None,
        Some(seconds) => {
            let ttl = Ttl::new(u64::try_from(seconds).unwrap_or(0))?;
            // It counts from the call, and what waits for longer is owed to nobody any more.
            let left = u64::from(ttl.seconds()).saturating_sub((row.age + waited).as_secs());
            if left == 0 {
                return Ok(Made::Expired);
            }
            Some(Ttl::new(left)?)
        }
    };
    let event = Event {
        event_type: row.event_type.as_deref().map(EventType::parse).transpose()?,
        data: row.data.as_str().into(),
        id: Some(id),
        ttl,
        channel,
    };
    event.check_size(policies.event_bytes(event.channel.as_str(), frame_bytes))?;
    Ok(Made::Entry(Box::new(NewEntry { event, key, traceparent: None })))
}

#[cfg(test)]
mod tests {
    use foghorn_core::pattern::Pattern;
    use foghorn_core::policy::Policy;

    use super::*;

    fn row(channel: &str) -> Row {
        Row {
            serial: 1,
            channel: channel.to_owned(),
            event_type: None,
            data: "x".repeat(50),
            id: "7".to_owned(),
            ttl: Some(60),
            age: Duration::from_secs(20),
        }
    }

    fn policies() -> Policies {
        let small = Pattern::parse("small.>").unwrap();
        let small = Policy { event_bytes: Some(64), ..Policy::new(small) };
        Policies::new(vec![small]).unwrap()
    }

    #[test]
    fn a_ttl_counts_from_the_call() {
        let made = |seconds| make(&row("a"), Duration::from_secs(seconds), &policies(), 100);
        let Ok(Made::Entry(entry)) = made(5) else { panic!("an event") };
        assert_eq!(entry.event.ttl.map(Ttl::seconds), Some(35));
        assert_eq!(made(40), Ok(Made::Expired));
    }

    #[test]
    fn what_is_foghorns_own_is_nobodys_to_publish() {
        let made = make(&row("~foghorn.canary.000000000001.0"), Duration::ZERO, &policies(), 100);
        assert!(matches!(made, Err(EventError::Channel(_))), "{made:?}");
    }

    #[test]
    fn what_is_too_large_for_the_cluster_or_its_channel_is_no_event() {
        let limit = |channel: &str, frame_bytes| match make(
            &Row { data: "x".repeat(90), ..row(channel) },
            Duration::ZERO,
            &policies(),
            frame_bytes,
        ) {
            Err(EventError::TooLarge { limit, .. }) => Some(limit),
            _ => None,
        };
        assert_eq!((limit("small.a", 200), limit("a", 200), limit("a", 80)), (Some(64), None, Some(80)));
    }
}
