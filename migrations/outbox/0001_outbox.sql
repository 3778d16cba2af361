-- The outbox, in an application's own database: what its transactions publish, until a publisher has put it
-- into the journal. Applications call foghorn.publish and see no table; `foghorn outbox` drains them.

DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE EXCEPTION 'the outbox needs a database in UTF8, this one is in %', getdatabaseencoding();
    END IF;
END
$$;

-- What waits. Of one channel the serials are in the order in which the transactions commit (see publish), so
-- whatever is visible of a channel is all of it up to there.
CREATE TABLE foghorn.outbox (
    serial  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel text COLLATE "C" NOT NULL,
    type    text,
    data    text NOT NULL,
    id      text NOT NULL,    -- the application's, or one made by publish: what the journal dedupes by
    ttl     integer,          -- seconds after `at` from which it is no longer owed
    at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
    -- Rows are read from the beginning, where the dead ones are.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 1000
);

-- What is no event, and why: moved here so that its channel goes on.
CREATE TABLE foghorn.outbox_rejected (
    serial      bigint PRIMARY KEY,
    channel     text COLLATE "C" NOT NULL,
    type        text,
    data        text NOT NULL,
    id          text NOT NULL,
    ttl         integer,
    at          timestamptz NOT NULL,
    rejected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason      text NOT NULL
);

-- One row: who drains, what was tried without word of how it ended, and what applications may put in.
CREATE TABLE foghorn.outbox_state (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    term           bigint NOT NULL DEFAULT 0,           -- raised by every takeover; every statement is fenced by it
    holder         text NOT NULL DEFAULT '',
    until          timestamptz NOT NULL DEFAULT '-infinity', -- by this server's clock alone
    asleep         boolean NOT NULL DEFAULT false,      -- whether the holder waits to be notified
    attempted      bigint[] NOT NULL DEFAULT '{}',      -- serials that may be in the journal already
    epochs         bigint[] NOT NULL DEFAULT '{}',      -- where the shards' journals ended before that
    seqs           bigint[] NOT NULL DEFAULT '{}',
    drained        bigint NOT NULL DEFAULT 0,           -- the highest serial that has left
    rows_max       bigint NOT NULL DEFAULT 1000000,     -- beyond about so many that wait, publish fails
    data_bytes_max integer NOT NULL DEFAULT 262144      -- of one event
) WITH (fillfactor = 10); -- Updated all the time, in place.
INSERT INTO foghorn.outbox_state DEFAULT VALUES;

-- What is wrong with an event type or an id; null: nothing.
CREATE FUNCTION foghorn.outbox_fault(text, bytes_max integer) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN $1 = '' THEN 'can''t be empty; give null instead'
        WHEN octet_length($1) > $2 THEN format('has %s bytes, at most %s are allowed', octet_length($1), $2)
        WHEN $1 ~ '[\r\n]' THEN 'has a line break, which would forge an SSE field'
        WHEN $1 <> btrim($1, E' \t') THEN 'begins or ends with white space, which doesn''t survive the way'
    END
$$;

-- Publishes an event if, and when, the calling transaction commits. Answers the event's id.
--
-- Transactions that publish on one channel do so one after the other, from the first call to the end: only so
-- is the order of their rows the order of their commits. The lock is of the transaction, so it needs no
-- session, and a savepoint that is rolled back gives it up together with the row.
CREATE FUNCTION foghorn.publish(channel text, event text, data text, id text DEFAULT NULL, ttl integer DEFAULT NULL)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    state foghorn.outbox_state;
    fault text;
    put   bigint;
BEGIN
    fault := CASE
        WHEN channel IS NULL OR channel = '' THEN 'a channel can''t be empty'
        WHEN octet_length(channel) > 200
            THEN format('a channel has at most 200 bytes; this one has %s', octet_length(channel))
        WHEN channel ~ '[*>]' THEN format('%L is a pattern; a channel has no wildcards', channel)
        WHEN channel ~ '[^A-Za-z0-9_~.-]' THEN format(
            '%L can''t be in a channel: tokens are made of A-Z a-z 0-9 _ ~ -',
            substring(channel from '[^A-Za-z0-9_~.-]'))
        WHEN channel ~ '(^|\.)(\.|$)'
            THEN 'a token is empty: a channel neither begins nor ends with a dot, nor has two in a row'
        WHEN array_length(string_to_array(channel, '.'), 1) > 16 THEN format(
            'a channel has at most 16 dot-separated tokens; this one has %s',
            array_length(string_to_array(channel, '.'), 1))
    END;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'foghorn.publish: channel: %', fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    fault := foghorn.outbox_fault(event, 128);
    IF fault IS NULL AND strpos(event, ',') > 0 THEN
        fault := 'has a comma, so no listener could ask for it: `events=` separates types with commas';
    ELSIF fault IS NULL
        AND (event IN ('connected', 'batch', 'heartbeat', 'presence') OR starts_with(event, 'stream-')) THEN
        fault := format('%L is reserved (connected, batch, heartbeat, presence and stream-* are Foghorn''s own)', event);
    END IF;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'foghorn.publish: event: %', fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    fault := foghorn.outbox_fault(id, 256);
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'foghorn.publish: id: %', fault USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF ttl NOT BETWEEN 1 AND 31622400 THEN
        RAISE EXCEPTION 'foghorn.publish: ttl: must be from 1 to 31622400 seconds, not %', ttl
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF data IS NULL THEN
        RAISE EXCEPTION 'foghorn.publish: data: can''t be null; an event without any has the empty string'
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT * INTO STRICT state FROM foghorn.outbox_state;
    IF octet_length(data) > state.data_bytes_max THEN
        RAISE EXCEPTION 'foghorn.publish: data: % bytes, % are allowed', octet_length(data), state.data_bytes_max
            USING ERRCODE = 'program_limit_exceeded',
                HINT = 'The bound is foghorn.outbox_state.data_bytes_max; the cluster has one of its own, limits.event_bytes.';
    END IF;

    PERFORM pg_advisory_xact_lock(1179600712, hashtext(channel));
    -- Drawn under the lock, by a statement of its own: that is the order.
    INSERT INTO foghorn.outbox (channel, type, data, id, ttl)
        VALUES (channel, event, data, coalesce(id, gen_random_uuid()::text), ttl)
        RETURNING outbox.serial, outbox.id INTO put, id;
    -- Serials of calls that failed count too, until there is a look at what really waits.
    IF put - state.drained > state.rows_max
        AND put - (SELECT min(serial) FROM foghorn.outbox) >= state.rows_max THEN
        RAISE EXCEPTION 'foghorn.publish: the outbox is full: about % events wait, % may', put - state.drained, state.rows_max
            USING ERRCODE = 'configuration_limit_exceeded',
                HINT = 'Is `foghorn outbox` running, and its journal there? The bound is foghorn.outbox_state.rows_max.';
    END IF;
    -- A notification has its transaction take one lock of the whole server's at its commit. So it is sent only
    -- to a publisher that has run out of work and waits, which no busy one does.
    IF state.asleep AND state.until > clock_timestamp() THEN
        PERFORM pg_notify('foghorn_outbox', '');
    END IF;
    RETURN id;
END
$$;

REVOKE ALL ON FUNCTION foghorn.outbox_fault(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION foghorn.publish(text, text, text, text, integer) FROM PUBLIC;
