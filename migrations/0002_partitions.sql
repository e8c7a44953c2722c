-- Why:  partitions are made ahead and on demand, by workers that must not own the table: one
--       function that may do only that, and one view that tells what is there.
-- Lock: none that anyone can wait for; everything here is new.
-- Undo: DROP FUNCTION rollcall_ensure_partition(timestamptz, text); DROP VIEW rollcall_partitions;
--
-- Later, when roles are told apart:
--   GRANT EXECUTE ON FUNCTION rollcall_ensure_partition(timestamptz, text) TO <worker>;
--   GRANT SELECT ON rollcall_partitions TO <worker>;

SET LOCAL lock_timeout = '5s';

-- One row a partition. An unbounded side is -infinity or infinity; a default partition, which we
-- never make, has NULLs. Take only the columns that are needed: `bytes` locks each one a moment.
CREATE VIEW rollcall_partitions AS
SELECT
    c.relname::text AS partition,
    CASE b.bound[1] WHEN 'MINVALUE' THEN '-infinity'::timestamptz
                    ELSE trim(BOTH '''' FROM b.bound[1])::timestamptz END AS range_from,
    CASE b.bound[2] WHEN 'MAXVALUE' THEN 'infinity'::timestamptz
                    ELSE trim(BOTH '''' FROM b.bound[2])::timestamptz END AS range_to,
    i.inhdetachpending AS detaching,
    nullif(c.reltuples, -1)::bigint AS rows_estimated,   -- NULL: never analyzed
    pg_total_relation_size(c.oid) AS bytes
FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhrelid
CROSS JOIN LATERAL
    regexp_match(pg_get_expr(c.relpartbound, c.oid), 'FROM \((.+)\) TO \((.+)\)') AS b (bound)
WHERE i.inhparent = 'events'::regclass;

-- Makes the partition that holds `at`, unless one does, and tells which one does.
--
-- CREATE and then ATTACH, not CREATE … PARTITION OF: that locks the parent ACCESS EXCLUSIVE and so
-- waits for, and holds up, every insert. ATTACH takes SHARE UPDATE EXCLUSIVE, which inserts and
-- reads do not mind. LIKE … INCLUDING ALL brings the indexes; ATTACH adopts them and builds none.
--
-- The range is the whole UTC day or month. Where a month would overlap what is there (the setting
-- was changed) it is the day; where even that would (a range made by hand) it is the gap.
CREATE FUNCTION rollcall_ensure_partition(
    at timestamptz, granularity text,
    OUT partition text, OUT range_from timestamptz, OUT range_to timestamptz, OUT created boolean
)
LANGUAGE plpgsql VOLATILE STRICT SECURITY DEFINER
SET TimeZone = 'UTC'
SET DateStyle = 'ISO'
SET lock_timeout = '3s'
AS $$
#variable_conflict use_column
DECLARE
    parent  CONSTANT regclass := 'events'::regclass;
    home    CONSTANT text := (SELECT relnamespace::regnamespace::text FROM pg_class
                              WHERE oid = parent);
    found_  rollcall_partitions%ROWTYPE;
    lower_  timestamptz;
    upper_  timestamptz;
    pattern text;
    stem    text;
    tries   integer := 1;
BEGIN
    IF granularity NOT IN ('day', 'month') THEN
        RAISE EXCEPTION 'a partition holds a day or a month, not "%"', granularity
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT isfinite(at) THEN
        RAISE EXCEPTION 'no partition holds an infinite time'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    -- Twice: without the lock for the common case, and again with it. Each statement of a volatile
    -- function sees what was committed before it, so the second look sees whoever was faster.
    FOR attempt IN 1..2 LOOP
        SELECT p.partition, p.range_from, p.range_to, p.detaching
          INTO found_.partition, found_.range_from, found_.range_to, found_.detaching
          FROM rollcall_partitions p
         WHERE p.range_from <= at AND at < p.range_to;
        IF found_.partition IS NOT NULL THEN
            IF found_.detaching THEN
                RAISE EXCEPTION 'partition "%" is being detached', found_.partition
                    USING ERRCODE = 'object_in_use';
            END IF;
            partition := found_.partition;
            range_from := found_.range_from;
            range_to := found_.range_to;
            created := false;
            RETURN;
        END IF;
        -- 1919904876 is 'roll'; 1 stands for partitions. Held until the caller's commit.
        IF attempt = 1 THEN
            PERFORM pg_advisory_xact_lock(1919904876, 1);
        END IF;
    END LOOP;

    lower_ := date_trunc(granularity, at);
    upper_ := lower_ + ('1 ' || granularity)::interval;
    pattern := CASE granularity WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY_MM_DD' END;
    IF granularity = 'month' AND EXISTS (
        SELECT FROM rollcall_partitions p WHERE p.range_from < upper_ AND p.range_to > lower_
    ) THEN
        lower_ := date_trunc('day', at);
        upper_ := lower_ + '1 day'::interval;
        pattern := 'YYYY_MM_DD';
    END IF;

    SELECT greatest(lower_, max(p.range_to) FILTER (WHERE p.range_to <= at)),
           least(upper_, min(p.range_from) FILTER (WHERE p.range_from > at))
      INTO range_from, range_to
      FROM rollcall_partitions p;
    IF (range_from, range_to) <> (lower_, upper_) THEN
        pattern := 'YYYY_MM_DD"t"HH24MISSUS';
    END IF;

    -- The name may be taken by a partition that was detached and is kept: leave that alone.
    stem := 'events_' || to_char(range_from, pattern);
    partition := stem;
    WHILE to_regclass(format('%s.%I', home, partition)) IS NOT NULL LOOP
        tries := tries + 1;
        IF tries > 99 THEN
            RAISE EXCEPTION 'no name is left for partition "%"', stem
                USING ERRCODE = 'duplicate_table';
        END IF;
        partition := stem || '_x' || tries;
    END LOOP;

    EXECUTE format('CREATE TABLE %s.%I (LIKE %s INCLUDING ALL)', home, partition, parent);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s.%I FOR VALUES FROM (%L) TO (%L)',
                   parent, home, partition, range_from, range_to);
    created := true;
END
$$;

-- A definer's function must not look names up where its caller says. The schema is that of the
-- migration; pg_temp goes last, else it is searched first.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION rollcall_ensure_partition(timestamptz, text) '
                   'SET search_path = %I, pg_temp', current_schema());
END
$$;

REVOKE EXECUTE ON FUNCTION rollcall_ensure_partition(timestamptz, text) FROM PUBLIC;
