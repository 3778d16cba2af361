-- Epochs of one journal follow each other where it lost its end, or was restored from an older copy: what is
-- before the first entry that differs is of the new epoch too. Its rows stay as they are, and count.

-- The epochs before the current one of each shard. Rows of one after `upto` are what the journal lost: kept as
-- evidence, and read by nobody.
CREATE TABLE foghorn.ancestors (
    shard  smallint NOT NULL,
    epoch  bigint NOT NULL,
    upto   bigint NOT NULL, -- its rows up to this seq are the current epoch's
    common bigint NOT NULL, -- whatever anybody was given of it up to this seq is the current epoch's
    PRIMARY KEY (shard, epoch)
);
