-- Live notifications: what users were told, until retention or erasure ends it. `foghorn notifications` changes
-- it and publishes, through the outbox of the same database, in one transaction.

-- A user's rows are changed under the user's lock (pg_advisory_xact_lock), so serials and counts are those of one
-- transaction after the other. crates/notifications/src/sqlite.sql has the same for standalone.
CREATE TABLE foghorn.notifications (
    user_id    text COLLATE "C" NOT NULL,
    serial     bigint NOT NULL,  -- the user's own numbering: newest highest
    id         text COLLATE "C" NOT NULL, -- the producer's, or one made; a retry is known by it
    type       text NOT NULL,
    title      text NOT NULL,
    message    text NOT NULL,
    link       text,
    read       boolean NOT NULL,
    created_us bigint NOT NULL,  -- microseconds since 1970
    PRIMARY KEY (user_id, serial),
    UNIQUE (user_id, id)
);
-- What is counted, at each change.
CREATE INDEX notifications_unread ON foghorn.notifications (user_id, serial) WHERE NOT read;
-- What retention by age goes by.
CREATE INDEX notifications_by_time ON foghorn.notifications (created_us);
