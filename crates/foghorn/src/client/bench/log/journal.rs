//! A journal in memory that is full from the beginning: reading it costs next to nothing, so that what is
//! measured is the writer.

use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use foghorn_bus::Future;
use foghorn_bus::journal::{AppendError, Appended, Bounds, Journal, JournalError, JournalPage};
use foghorn_core::channel::Channel;
use foghorn_core::entry::{Entry, Key, NewEntry, digest};
use foghorn_core::event::{Event, FRAME_BYTES_DEFAULT, parse_data};
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

const EPOCH: Epoch = Epoch::new(1);

/// The entries of a shard: seqs from 1, a microsecond between them.
pub(super) fn entries(
    count: usize,
    size: usize,
    channels: usize,
    begin: Timestamp,
) -> anyhow::Result<Arc<[Entry]>> {
    let names: Result<Vec<Channel>, _> =
        (0..channels).map(|at| Channel::parse(format!("bench.{at}"))).collect();
    let names = names.context("a channel's name")?;
    let data = parse_data(Bytes::from(vec![b'x'; size])).context("the data")?;
    let entry = |(seq, channel): (u64, &Channel)| {
        let time = Timestamp::from_micros(begin.as_micros().saturating_add_unsigned(seq));
        let key = Key::invented(rand::random());
        Entry {
            seq,
            time,
            key: Some(key),
            digest: digest(time, Some(&key), channel.as_str(), None, data.as_bytes()),
            traceparent: None,
            event: Ok(Event::new(channel.clone(), data.clone())),
        }
    };
    Ok((1..).zip(names.iter().cycle()).take(count).map(entry).collect())
}

/// A journal of one shard that holds all it ever will. Its tails give nothing before it is opened.
pub(super) struct Prefilled {
    entries: Arc<[Entry]>,
    opened: watch::Sender<bool>,
    tailed: watch::Sender<bool>,
}

impl Prefilled {
    /// Of these entries, closed.
    pub(super) fn new(entries: Arc<[Entry]>) -> Self {
        Prefilled { entries, opened: watch::Sender::new(false), tailed: watch::Sender::new(false) }
    }

    /// Lets tails give what they have.
    pub(super) fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until somebody tails it.
    pub(super) async fn until_tailed(&self) {
        // The sender is ours, so this ends with `true` alone.
        let _tailed = self.tailed.subscribe().wait_for(|tailed| *tailed).await.is_ok();
    }

    /// The last entry's position and key.
    pub(super) fn last(&self) -> Option<(Position, Key)> {
        let entry = self.entries.last()?;
        Some((Position { shard: Shard::ZERO, epoch: EPOCH, seq: entry.seq }, entry.key?))
    }

    fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    fn page(&self, after: u64, events: usize, bytes: usize) -> JournalPage {
        let tip = self.len();
        let from = after.min(tip);
        let mut left = bytes;
        let rest = self.entries.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)).take(events.max(1));
        let fits = |entry: &&Entry| {
            let first = entry.seq == from + 1;
            let size = entry.event.as_ref().map_or(0, |event| event.data.len());
            let fits = first || size <= left;
            left = left.saturating_sub(size);
            fits
        };
        let entries: Vec<Entry> = rest.take_while(fits).cloned().collect();
        JournalPage { epoch: EPOCH, from, to: from + entries.len() as u64, tip, entries }
    }
}

impl Journal for Prefilled {
    fn shards(&self) -> ShardCount {
        ShardCount::ONE
    }

    fn frame_bytes(&self) -> usize {
        FRAME_BYTES_DEFAULT
    }

    fn append_in_order(&self, _: Vec<NewEntry>) -> BoxStream<'static, Result<Appended, AppendError>> {
        stream::iter([Err(AppendError::Refused("this journal is full already".to_owned()))]).boxed()
    }

    fn tail(&self, after: Position) -> BoxStream<'static, Result<Entry, JournalError>> {
        let entries = self.entries.clone();
        let mut opened = self.opened.subscribe();
        self.tailed.send_replace(true);
        let all = async move {
            let closed = opened.wait_for(|opened| *opened).await.is_err();
            let begin = if closed { usize::MAX } else { usize::try_from(after.seq).unwrap_or(usize::MAX) };
            stream::iter(begin..entries.len()).map(move |at| Ok(entries[at].clone()))
        };
        all.flatten_stream().chain(stream::pending()).boxed()
    }

    fn read(
        &self,
        _: Shard,
        after: u64,
        events: usize,
        bytes: usize,
    ) -> Future<'_, Result<JournalPage, JournalError>> {
        futures::future::ready(Ok(self.page(after, events, bytes))).boxed()
    }

    fn bounds(&self, _: Shard) -> Future<'_, Result<Bounds, JournalError>> {
        futures::future::ready(Ok(bounds(self.len()))).boxed()
    }

    fn seek(&self, _: Shard, time: Timestamp) -> Future<'_, Result<u64, JournalError>> {
        let before = self.entries.partition_point(|entry| entry.time < time);
        futures::future::ready(Ok(before as u64)).boxed()
    }

    /// Nothing is forgotten: each turn reads it from the beginning.
    fn trim(&self, _: Position) -> Future<'_, Result<(), JournalError>> {
        futures::future::ready(Ok(())).boxed()
    }
}

fn bounds(last: u64) -> Bounds {
    Bounds { epoch: EPOCH, first_seq: 1, continues: None, first: 1, last }
}

/// A position of the journal.
pub(super) fn at(seq: u64) -> Position {
    Position { shard: Shard::ZERO, epoch: EPOCH, seq }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(count: usize) -> Prefilled {
        Prefilled::new(entries(count, 10, 3, Timestamp::from_micros(1_000)).unwrap())
    }

    #[tokio::test]
    async fn a_tail_gives_everything_once_it_is_opened() {
        let journal = journal(5);
        let mut tail = journal.tail(at(2));
        journal.until_tailed().await;
        assert!(tail.next().now_or_never().is_none(), "not opened yet");
        journal.open();
        let entries: Vec<Entry> = tail.by_ref().take(3).map(Result::unwrap).collect().await;
        assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(tail.next().now_or_never().is_none(), "a tail doesn't end");
        assert_eq!(journal.tail(at(9)).next().now_or_never().map(drop), None);
        let (last, key) = journal.last().unwrap();
        assert_eq!((last.seq, Some(key)), (5, entries[2].key));
    }

    #[test]
    fn pages_keep_to_their_limits() {
        let journal = journal(5);
        let page = |after, events, bytes| {
            let page = journal.page(after, events, bytes);
            assert_eq!(page.entries.len() as u64, page.to - page.from);
            (page.from, page.to, page.tip)
        };
        assert_eq!(page(0, 100, 1000), (0, 5, 5));
        assert_eq!(page(1, 2, 1000), (1, 3, 5));
        assert_eq!(page(1, 100, 25), (1, 3, 5));
        assert_eq!(page(1, 1, 1), (1, 2, 5), "one at least");
        assert_eq!(page(9, 1, 1), (5, 5, 5));
    }

    #[tokio::test]
    async fn times_are_those_of_the_seqs() {
        let journal = journal(5);
        assert_eq!(journal.seek(Shard::ZERO, Timestamp::from_micros(0)).await, Ok(0));
        assert_eq!(journal.seek(Shard::ZERO, Timestamp::from_micros(1_003)).await, Ok(2));
        assert_eq!(journal.bounds(Shard::ZERO).await, Ok(bounds(5)));
    }
}
