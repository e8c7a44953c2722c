-- Why:  rows go by retention, and a set that says "ever" stays true: their distinct members are
--       folded into this table before the partition is dropped.
-- Lock: none that anyone can wait for; everything here is new.
-- Undo: DROP TABLE retired_members;   -- with the members of all that was dropped

SET LOCAL lock_timeout = '5s';

-- By what a set is made from and not by its name, so that renaming a set loses nothing. The key
-- holds a hash: a member can be longer than an index takes.
CREATE TABLE retired_members (
    source     text  NOT NULL,
    suffix     text  NOT NULL,
    member     text  NOT NULL,
    digest     bytea NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (source, digest)
);

COMMENT ON TABLE retired_members IS 'Distinct members of events that retention has dropped';
COMMENT ON COLUMN retired_members.source IS
    'What the set is made from: the definition without its name and ~, e.g. username@state+city';
COMMENT ON COLUMN retired_members.suffix IS 'What follows <prefix>:<name> in the key';
COMMENT ON COLUMN retired_members.digest IS 'sha256 of suffix, a zero byte and member';
COMMENT ON COLUMN retired_members.expires_at IS 'Of a window: when Redis drops the key';
