-- Why:  what Redis is known to lack must outlive every process: the mark from which to catch up is
--       committed here before the first ack that Redis has not seen. And what was checked and
--       rebuilt when, for whoever asks.
-- Lock: none that anyone can wait for; everything here is new.
-- Undo: DROP TABLE rollcall_projection;

SET LOCAL lock_timeout = '5s';

-- One row for each key prefix that is kept from this table of events.
CREATE TABLE rollcall_projection (
    prefix            text PRIMARY KEY,
    version           bigint NOT NULL DEFAULT 0,
    catch_up_from     bigint,
    rebuild           boolean NOT NULL DEFAULT false,
    reason            text,
    noted_at          timestamptz,
    removed_txid      bigint,
    system_identifier bigint,
    timeline          integer,
    rebuilt_at        timestamptz,
    verified_at       timestamptz,
    verified_missing  bigint,
    verified_phantom  bigint
);

COMMENT ON TABLE rollcall_projection IS 'What the sets in Redis are known to lack, by key prefix';
COMMENT ON COLUMN rollcall_projection.version IS
    'Grows with each note, so that a repair settles only what it has seen';
COMMENT ON COLUMN rollcall_projection.catch_up_from IS
    'Rows with txid >= this may be missing in Redis; NULL: none is known to be';
COMMENT ON COLUMN rollcall_projection.rebuild IS 'Only a rebuild mends it';
COMMENT ON COLUMN rollcall_projection.removed_txid IS
    'txid of the last removal of members: a Redis that went back behind it has phantoms';
COMMENT ON COLUMN rollcall_projection.system_identifier IS
    'The Postgres that the sets were made from; on another, or another timeline, txids say nothing';
