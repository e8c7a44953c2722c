-- Why:  erasure takes events out of Postgres first and their members out of Redis after that. What
--       was in between must outlive a kill: the members of deleted events are kept here, from the
--       transaction that deletes them until Redis is right.
-- Lock: none that anyone can wait for; everything here is new.
-- Undo: DROP TABLE rollcall_forgetting;   -- when it is empty: else Redis keeps what was deleted

SET LOCAL lock_timeout = '5s';

CREATE TABLE rollcall_forgetting (
    source     text  NOT NULL,
    suffix     text  NOT NULL,
    member     text  NOT NULL,
    digest     bytea NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (source, digest)
);

COMMENT ON TABLE rollcall_forgetting IS
    'Members of events that were erased, until Redis is rid of those that nothing supports';
COMMENT ON COLUMN rollcall_forgetting.source IS 'This and the others as in retired_members';
