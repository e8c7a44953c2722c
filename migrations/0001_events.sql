-- Why:  the one table that is the truth. A unique key of a partitioned table must hold the
--       partition column, hence the identity (occurred_at, id). There is no default partition: it
--       would have to be locked and scanned whenever another one is attached, and rows that
--       have landed in it block the partition they belong in.
-- Lock: none that anyone can wait for; everything here is new.
-- Undo: DROP TABLE events;   -- with every event in it
--
-- Later, when roles are told apart:
--   GRANT INSERT, SELECT ON events TO <worker>;   -- SELECT: to tell a duplicate from a conflict
--   GRANT SELECT ON _sqlx_migrations TO <worker>; -- to see that the schema is there

SET LOCAL lock_timeout = '5s';

CREATE TABLE events (
    occurred_at timestamptz NOT NULL,
    id          uuid        NOT NULL,
    payload     jsonb       NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    txid        bigint      NOT NULL DEFAULT txid_current(),
    PRIMARY KEY (occurred_at, id)
) PARTITION BY RANGE (occurred_at);

-- Catch-up reads "txid >= the xmin of an earlier snapshot". Rows come in the order of their txid,
-- so a BRIN finds them at a thousandth of the size of a B-tree and next to nothing per insert. The
-- bigint is on purpose: xid8 has no BRIN operator class. No autosummarize: at full rate it fills
-- the work queue of autovacuum, and the vacuum that inserts trigger summarizes anyway.
CREATE INDEX events_txid_idx ON events USING brin (txid);

COMMENT ON TABLE events IS 'Every event once; identity is (occurred_at, id)';
COMMENT ON COLUMN events.payload IS 'The whole object, as the producer sent it';
COMMENT ON COLUMN events.txid IS 'The transaction that stored it; what catch-up reads by';
