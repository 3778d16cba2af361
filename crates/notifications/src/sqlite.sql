-- The same as migrations/notifications has for PostgreSQL, in standalone's one database, so that a notification
-- and its event are one transaction.
CREATE TABLE IF NOT EXISTS notifications (
    user_id    TEXT NOT NULL,
    serial     INTEGER NOT NULL,
    id         TEXT NOT NULL,
    type       TEXT NOT NULL,
    title      TEXT NOT NULL,
    message    TEXT NOT NULL,
    link       TEXT,
    read       BOOLEAN NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (user_id, serial),
    UNIQUE (user_id, id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS notifications_unread ON notifications (user_id, serial) WHERE NOT read;
CREATE INDEX IF NOT EXISTS notifications_by_time ON notifications (created_us);
