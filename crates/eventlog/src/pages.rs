//! How pages, newest events and history are put together, on whichever database.

use std::collections::{BTreeSet, HashMap};

use foghorn_bus::log::{HistoryPage, HistoryQuery, LogError};
use foghorn_core::batch::Batch;
use foghorn_core::pattern::Pattern;
use foghorn_core::policy::Policies;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_core::time::Timestamp;

use crate::record::Record;
use crate::source::{Limit, Order, Rows, SEQ_MAX, Source, Span};
use crate::standing::Standing;
use crate::topics::Topics;

/// Up to this many channels are each looked up in the index on channels; beyond, or with patterns, the
/// range is read and matched.
const CHANNELS_LOOKED_UP: usize = 64;
/// Most seqs that a page covers when its range is read and matched, so that a page's cost is bounded
/// however few events match.
const SEQS_MATCHED: u64 = 50_000;
/// The newest events of a pattern are first looked for among this many newest of all.
const SEQS_NEWEST: u64 = 20_000;
/// Most channels under a pattern whose newest events are then looked up one by one.
const CHANNELS_NEWEST: usize = 1024;

/// Everything owed in `(span.after, to]`.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    pub(crate) to: u64,
}

/// A channel's history: events in the order asked for, whether there are more, and how far they reach.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) records: Vec<Record>,
    pub(crate) more: bool,
    pub(crate) reached: u64,
}

/// About the most bytes in a page of history, as it is sent.
pub(crate) const HISTORY_BYTES: usize = 2 * 1024 * 1024;

/// What every reader of one request shares.
pub(crate) struct Reader<'a> {
    pub(crate) policies: &'a Policies,
    pub(crate) now: Timestamp,
}

impl Reader<'_> {
    /// The first page of `span` for `topics`.
    pub(crate) async fn page(
        &self,
        source: &mut impl Source,
        mut span: Span,
        topics: &Topics,
        limit: Limit,
    ) -> Result<Page, LogError> {
        let rows = if topics.is_exact() && topics.channels.len() <= CHANNELS_LOOKED_UP {
            let channels = self.within_count(source, span, &topics.channels).await?;
            source.of_channels(span, &channels, limit).await?
        } else {
            span.upto = span.upto.min(span.after.saturating_add(SEQS_MATCHED));
            source.of_range(span, topics, Order::Oldest, limit).await?
        };
        let to = match rows.records.last() {
            Some(last) if rows.cut => last.seq,
            _ => span.upto,
        };
        let mut records = rows.records;
        records
            .retain(|record| topics.matches(record.event.channel.as_str()) && !record.is_expired(self.now));
        if !topics.is_exact() || topics.channels.len() > CHANNELS_LOOKED_UP {
            self.drop_beyond_count(source, span, &mut records).await?;
        }
        Ok(Page { records, to })
    }

    /// The newest `each` events per channel of `topics` and at most `total`, oldest first.
    pub(crate) async fn newest(
        &self,
        source: &mut impl Source,
        span: Span,
        topics: &Topics,
        each: usize,
        limit: Limit,
    ) -> Result<Vec<Record>, LogError> {
        let mut found = Vec::new();
        for channel in &topics.channels {
            found.extend(self.newest_of(source, span, channel, each, limit).await?);
            self.keep_newest(&mut found, each, limit);
        }
        for pattern in &topics.patterns {
            let only = Topics::new(&[pattern.clone()].into());
            let recent = Span { after: span.after.max(span.upto.saturating_sub(SEQS_NEWEST)), ..span };
            let mut rows =
                source.of_range(recent, &only, Order::Newest, Limit::new(usize::MAX, limit.bytes)).await?;
            rows.records.retain(|record| pattern.matches(record.event.channel.as_str()));
            let complete = recent.after == span.after && !rows.cut;
            self.keep_newest(&mut rows.records, each, limit);
            if !complete && rows.records.len() < limit.events {
                for channel in self.channels_under(source, span, pattern).await? {
                    rows.records.retain(|record| record.event.channel.as_str() != channel);
                    rows.records.extend(self.newest_of(source, span, &channel, each, limit).await?);
                    self.keep_newest(&mut rows.records, each, limit);
                }
            }
            found.extend(rows.records);
        }
        self.keep_newest(&mut found, each, limit);
        found.reverse();
        Ok(found)
    }

    /// Sorts newest first, and keeps what is among the newest `each` of its channel, its policy's count
    /// and the limit.
    pub(crate) fn keep_newest(&self, records: &mut Vec<Record>, each: usize, limit: Limit) {
        records.sort_unstable_by_key(|record| std::cmp::Reverse(record.seq));
        records.dedup_by_key(|record| record.seq);
        let mut seen: HashMap<String, usize> = HashMap::new();
        let (mut events, mut bytes) = (0, 0);
        records.retain(|record| {
            let channel = record.event.channel.as_str();
            let nth = seen.entry(channel.to_owned()).or_default();
            *nth += 1;
            let wanted = *nth <= self.count_of(channel, each) && !record.is_expired(self.now);
            if !wanted || events >= limit.events || (events > 0 && bytes + record.bytes() > limit.bytes) {
                // What is older than the first that didn't fit isn't the newest either.
                events = if wanted { limit.events } else { events };
                return false;
            }
            events += 1;
            bytes += record.bytes();
            true
        });
    }

    /// Drops what is not owed by ttl.
    pub(crate) fn keep_fresh(&self, records: &mut Vec<Record>) {
        records.retain(|record| !record.is_expired(self.now));
    }

    /// Drops what is not owed by ttl, or by count given what else is among the records, oldest first.
    pub(crate) fn keep_owed(&self, records: &mut Vec<Record>) {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut owed: Vec<bool> = Vec::with_capacity(records.len());
        for record in records.iter().rev() {
            let channel = record.event.channel.as_str();
            let nth = seen.entry(channel.to_owned()).or_default();
            *nth += 1;
            owed.push(*nth <= self.count_of(channel, usize::MAX) && !record.is_expired(self.now));
        }
        records.retain(|_| owed.pop().unwrap_or(true));
    }

    /// A channel's history in the span.
    pub(crate) async fn history(
        &self,
        source: &mut impl Source,
        mut span: Span,
        channel: &str,
        order: Order,
        limit: Limit,
    ) -> Result<Past, LogError> {
        let whole = Span { after: 0, upto: SEQ_MAX, ..span };
        let counted = self.within_count(source, whole, &[channel.to_owned()]).await?;
        span.after = counted.iter().fold(span.after, |after, (_, from)| after.max(*from));
        let Rows { mut records, cut } = source.of_channel(span, channel, order, limit).await?;
        let reached = match (records.last().filter(|_| cut), order) {
            // Before those that have expired are dropped: a page may be empty, and there may be more.
            (Some(last), _) => last.seq,
            (None, Order::Oldest) => span.upto,
            (None, Order::Newest) => span.after + 1,
        };
        self.keep_fresh(&mut records);
        Ok(Past { records, more: cut, reached })
    }

    fn count_of(&self, channel: &str, most: usize) -> usize {
        let count = self.policies.of(channel).retention_count;
        count.map_or(most, |count| most.min(usize::try_from(count).unwrap_or(usize::MAX)))
    }

    async fn newest_of(
        &self,
        source: &mut impl Source,
        span: Span,
        channel: &str,
        each: usize,
        limit: Limit,
    ) -> Result<Vec<Record>, LogError> {
        let limit = Limit::new(self.count_of(channel, each), limit.bytes);
        Ok(source.of_channel(span, channel, Order::Newest, limit).await?.records)
    }

    /// The channels, each with the seq after which its events are owed: those beyond its policy's count
    /// are not.
    async fn within_count(
        &self,
        source: &mut impl Source,
        span: Span,
        channels: &[String],
    ) -> Result<Vec<(String, u64)>, LogError> {
        let beyond = self.beyond_count(source, span, channels.iter().map(String::as_str)).await?;
        let after = |channel: &String| beyond.get(channel).map_or(span.after, |from| span.after.max(*from));
        Ok(channels.iter().map(|channel| (channel.clone(), after(channel))).collect())
    }

    async fn drop_beyond_count(
        &self,
        source: &mut impl Source,
        span: Span,
        records: &mut Vec<Record>,
    ) -> Result<(), LogError> {
        let channels: BTreeSet<String> =
            records.iter().map(|record| record.event.channel.as_str().to_owned()).collect();
        let beyond = self.beyond_count(source, span, channels.iter().map(String::as_str)).await?;
        records.retain(|record| {
            beyond.get(record.event.channel.as_str()).is_none_or(|through| record.seq > *through)
        });
        Ok(())
    }

    /// Of those channels whose policy has a count: the seq up to which events are beyond it.
    async fn beyond_count(
        &self,
        source: &mut impl Source,
        span: Span,
        channels: impl Iterator<Item = &str>,
    ) -> Result<HashMap<String, u64>, LogError> {
        let counted: Vec<(String, u32)> = channels
            .filter_map(|channel| Some((channel.to_owned(), self.policies.of(channel).retention_count?)))
            .collect();
        if counted.is_empty() {
            return Ok(HashMap::new());
        }
        let whole = Span { after: 0, upto: SEQ_MAX, ..span };
        let nth = source.nth_newest(whole, &counted).await?;
        Ok(counted.into_iter().zip(nth).map(|((channel, _), seq)| (channel, seq.saturating_sub(1))).collect())
    }

    async fn channels_under(
        &self,
        source: &mut impl Source,
        span: Span,
        pattern: &Pattern,
    ) -> Result<Vec<String>, LogError> {
        let wildcard = pattern.as_str().find(['*', '>']).unwrap_or(0);
        let prefix = &pattern.as_str()[..wildcard];
        // Names are ASCII below DEL.
        let mut channels =
            source.channels_between(span, prefix, &format!("{prefix}\u{7f}"), CHANNELS_NEWEST).await?;
        if channels.len() == CHANNELS_NEWEST {
            tracing::debug!(%pattern, "the newest events of a pattern leave out quiet channels: it has too many");
        }
        channels.retain(|channel| pattern.matches(channel));
        Ok(channels)
    }
}

/// One batch per shard out of each shard's newest: of all of them the newest that the limit allows.
pub(crate) fn newest_batches(found: Vec<(Span, Vec<Record>)>, limit: Limit) -> Vec<Batch> {
    let mut all: Vec<(Timestamp, usize, usize)> = Vec::new();
    for (at, (_, records)) in found.iter().enumerate() {
        all.extend(records.iter().map(|record| (record.time, at, record.bytes())));
    }
    // The end of what a shard has is its newest: how many to keep of each says which.
    all.sort_by_key(|(time, ..)| std::cmp::Reverse(*time));
    let (mut kept, mut bytes) = (vec![0; found.len()], 0);
    for (nth, (_, at, weight)) in all.into_iter().enumerate() {
        bytes += weight;
        if nth >= limit.events || (nth > 0 && bytes > limit.bytes) {
            break;
        }
        kept[at] += 1;
    }
    let batches = found.into_iter().zip(kept).map(|((span, records), kept)| {
        let records = &records[records.len() - kept..];
        let from = records.first().map_or(span.upto, |first| first.seq - 1);
        let mut batch = Batch::empty(span.shard, span.epoch, from, span.upto);
        batch.events = records.iter().map(|record| record.feed(span.shard, span.epoch)).collect();
        batch
    });
    batches.collect()
}

/// Which part of a shard a history query is about, and from which end it is read.
pub(crate) fn history_span(shard: Shard, standing: &Standing, query: &HistoryQuery) -> (Order, Span) {
    let order = if query.after.is_some() { Order::Oldest } else { Order::Newest };
    let upto = query.before.map_or(standing.tip, |before| standing.tip.min(before.saturating_sub(1)));
    let after = query.after.unwrap_or(0).max(standing.start);
    (order, Span { shard, epoch: standing.epoch, after, upto: upto.max(after) })
}

/// As much of a channel's history as fits a page.
pub(crate) fn history_page(epoch: Epoch, mut past: Past, limit: Limit) -> HistoryPage {
    let (mut kept, mut bytes) = (0, 0);
    for record in &past.records {
        bytes += record.json_bytes();
        if kept >= limit.events || (kept > 0 && bytes > limit.bytes) {
            break;
        }
        kept += 1;
    }
    if kept < past.records.len() {
        past.records.truncate(kept);
        past.more = true;
        past.reached = past.records.last().map_or(past.reached, |last| last.seq);
    }
    let events = past.records.into_iter().map(Record::history).collect();
    HistoryPage { epoch, events, more: past.more, reached: past.reached }
}

/// The seq before the first event of the span at `time` or later; `span.upto` when there is none.
/// Times don't decrease with seqs, so a search by halves finds it without an index on time.
pub(crate) async fn locate(source: &mut impl Source, span: Span, time: Timestamp) -> Result<u64, LogError> {
    // Everything up to `low` is earlier; the first event after `high`, if any, is at `time` or later.
    let (mut low, mut high) = (span.after, span.upto);
    while low < high {
        let middle = low + (high - low) / 2;
        match source.first(Span { after: middle, ..span }).await? {
            Some((seq, at)) if at < time => low = seq,
            _ => high = middle,
        }
    }
    let none = source.first(Span { after: low, ..span }).await?.is_none();
    Ok(if none { span.upto } else { low })
}

#[cfg(test)]
mod tests {
    use foghorn_core::channel::Channel;
    use foghorn_core::event::Event;
    use foghorn_core::policy::Policy;

    use super::*;

    fn record(seq: u64, channel: &str) -> Record {
        let event = Event::new(Channel::parse(channel.to_owned()).unwrap(), "x");
        Record { seq, time: Timestamp::default(), key: None, event }
    }

    #[test]
    fn the_newest_of_each_channel_within_count_and_total() {
        let counted = Policy { retention_count: Some(1), ..Policy::new(Pattern::parse("one.*").unwrap()) };
        let policies = Policies::new(vec![counted]).unwrap();
        let reader = Reader { policies: &policies, now: Timestamp::default() };
        let all =
            || vec![record(1, "a"), record(2, "one.x"), record(3, "a"), record(4, "one.x"), record(5, "a")];
        let newest = |each, events| {
            let mut records = all();
            reader.keep_newest(&mut records, each, Limit::new(events, 1 << 20));
            records.iter().map(|record| record.seq).collect::<Vec<_>>()
        };
        assert_eq!(newest(2, 10), [5, 4, 3]);
        assert_eq!(newest(9, 10), [5, 4, 3, 1]);
        assert_eq!(newest(9, 2), [5, 4]);
    }
}
