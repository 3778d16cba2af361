-- The event log. Everything of Foghorn's lives in the schema `foghorn`, the record of these migrations too.
--
-- Times are microseconds since 1970 in UTC: what the journal's times are cut to, so that digests agree.
-- To read one: to_timestamp(time_us / 1e6).

CREATE SCHEMA IF NOT EXISTS foghorn;

-- How far the log has come in each shard's journal. A writer moves `head` and stores rows in one statement,
-- by compare-and-set on (epoch, head, head_digest, term): that is fencing, order and exactly-once together.
CREATE TABLE foghorn.shards (
    shard       smallint PRIMARY KEY,
    epoch       bigint NOT NULL, -- the incarnation of the journal; 0: none has been seen yet
    start       bigint NOT NULL, -- the seq before the first of this epoch
    head        bigint NOT NULL, -- the last seq that has been taken over, or passed over as invalid
    head_digest bigint NOT NULL, -- of the entry at head; 0: not known
    term        bigint NOT NULL  -- of the writer that may write: every takeover raises it
);

-- The events, those of one retention class together, cut by time so that retention drops whole tables.
-- No unique key: two rows of one position can't come about (see shards). Classes and times get their
-- partitions from the writer, before it needs them.
CREATE TABLE foghorn.events (
    epoch   bigint NOT NULL,
    seq     bigint NOT NULL,
    time_us bigint NOT NULL,
    class   integer NOT NULL, -- the age up to which it is kept, in seconds
    ttl     integer,          -- seconds after which it is no longer owed
    shard   smallint NOT NULL,
    channel text COLLATE "C" NOT NULL,
    type    text,
    id      text,             -- the publisher's own
    key     bytea,            -- 16 bytes, what the journal dedupes by
    data    bytea NOT NULL    -- UTF-8; not text because that can't hold a NUL. To read: convert_from(data, 'UTF8')
) PARTITION BY LIST (class);

-- A replay of patterns, and where a time begins.
CREATE INDEX events_by_position ON foghorn.events (shard, epoch, seq);
-- A replay of channels, the newest of a channel, its history.
CREATE INDEX events_by_channel ON foghorn.events (channel, epoch, seq);

-- The partitions there are, each for `[from_us, to_us)`.
CREATE TABLE foghorn.partitions (
    class   integer NOT NULL,
    from_us bigint NOT NULL,
    to_us   bigint NOT NULL,
    name    text NOT NULL,
    PRIMARY KEY (class, from_us)
);

-- The highest seq of each class that retention has dropped.
CREATE TABLE foghorn.floors (
    shard smallint NOT NULL,
    epoch bigint NOT NULL,
    class integer NOT NULL,
    seq   bigint NOT NULL,
    PRIMARY KEY (shard, epoch, class)
);

-- Ranges `(after, upto]` that the journal lost before the log had them.
CREATE TABLE foghorn.holes (
    shard    smallint NOT NULL,
    epoch    bigint NOT NULL,
    after    bigint NOT NULL,
    upto     bigint NOT NULL,
    found_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard, epoch, after)
);

-- Which policies classed the events after `since`: they say which floors count for a channel.
CREATE TABLE foghorn.eras (
    shard    smallint NOT NULL,
    epoch    bigint NOT NULL,
    since    bigint NOT NULL,
    policies text NOT NULL, -- JSON
    PRIMARY KEY (shard, epoch, since)
);
