-- Why:  a catch-up reads the rows since a mark. Where retention has dropped some of them since, only
--       a rebuild, which reads retired members too, brings all: so each drop leaves its own mark.
-- Lock: ACCESS EXCLUSIVE on rollcall_projection for a moment: it holds one row a key prefix, and
--       nothing is rewritten.
-- Undo: ALTER TABLE rollcall_projection DROP COLUMN dropped_txid;

SET LOCAL lock_timeout = '5s';

ALTER TABLE rollcall_projection ADD COLUMN dropped_txid bigint;

COMMENT ON COLUMN rollcall_projection.dropped_txid IS
    'Rows with txid below this may have been dropped by retention; NULL: none were';
