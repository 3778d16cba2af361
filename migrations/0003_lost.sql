-- What the journal lost and the log has: it is appended to the journal again, so that it is heard.

-- Rows of `epoch` in `(after, upto]` that no later epoch has. The writer appends them anew, oldest first, moves
-- `after` behind what the log has got back, and deletes the row at its end.
CREATE TABLE foghorn.lost (
    shard    smallint NOT NULL,
    epoch    bigint NOT NULL,
    after    bigint NOT NULL,
    upto     bigint NOT NULL,
    since_us bigint NOT NULL, -- older events stay where they are: whoever listened had heard them
    PRIMARY KEY (shard, epoch, after)
);
