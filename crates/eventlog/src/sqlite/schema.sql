-- Version 1 of the standalone database. What `PRAGMA user_version` says decides what is run; see open.rs.

-- One row per shard that ever was. `last` outlives the rows: a seq is never given out twice.
CREATE TABLE shards (
    shard    INTEGER PRIMARY KEY,
    epoch    INTEGER NOT NULL,
    start    INTEGER NOT NULL, -- the seq before the first of this epoch
    last     INTEGER NOT NULL, -- the last seq given out
    time_us  INTEGER NOT NULL  -- the time of that one: times never go back
);

-- What the database was made for: how many shards the epochs are of.
CREATE TABLE layout (shards INTEGER NOT NULL);

-- Journal and log at once. `position` is shard << 56 | seq: one B-tree, appended to at its shards' ends,
-- without a second index for the order.
CREATE TABLE events (
    position    INTEGER PRIMARY KEY,
    time_us     INTEGER NOT NULL, -- microseconds since 1970
    class       INTEGER NOT NULL, -- seconds that it is kept; 0: never replayed
    channel     TEXT NOT NULL,
    type        TEXT,
    id          TEXT,
    ttl         INTEGER,          -- seconds
    key         BLOB,             -- 16 bytes, what it is deduped by
    traceparent TEXT,
    data        BLOB NOT NULL     -- UTF-8; a blob because text ends at a NUL for some of SQLite's functions
);
CREATE INDEX events_by_channel ON events (channel, position);

-- What was published with an id lately, and where it is.
CREATE TABLE keys (
    key      BLOB PRIMARY KEY,
    position INTEGER NOT NULL,
    time_us  INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_by_time ON keys (time_us);

-- Per class: the highest seq that retention has deleted, and how far it has looked.
CREATE TABLE floors (
    shard INTEGER NOT NULL,
    class INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    swept INTEGER NOT NULL,
    PRIMARY KEY (shard, class)
) WITHOUT ROWID;

-- Which policies classed the events after `since`.
CREATE TABLE eras (
    shard    INTEGER NOT NULL,
    since    INTEGER NOT NULL,
    policies TEXT NOT NULL,
    PRIMARY KEY (shard, since)
) WITHOUT ROWID;

PRAGMA user_version = 1;
