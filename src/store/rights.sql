-- What a worker and a reader may do with what is Rollcall's, and nothing else. `rollcall manage
-- migrate` runs it each time, as the owner; deploy/postgres/roles.sql made the two roles and left
-- their names in settings of the owner's.
--
-- Lock: none that a worker waits for; GRANT writes catalogs alone. One statement, so a worker that
--       runs meanwhile never misses a right.
DO $$
DECLARE
    worker CONSTANT text := current_setting('rollcall.worker');
    reader CONSTANT text := current_setting('rollcall.reader');
    own record;
BEGIN
    FOR own IN
        SELECT c.oid::regclass AS name,
               CASE c.relname
                   -- SELECT tells a duplicate from a conflict, and catches Redis up.
                   WHEN 'events'              THEN 'SELECT, INSERT'
                   WHEN '_sqlx_migrations'    THEN 'SELECT'
                   WHEN 'rollcall_partitions' THEN 'SELECT'
                   WHEN 'retired_members'     THEN 'SELECT'
                   WHEN 'rollcall_projection' THEN 'SELECT, INSERT, UPDATE'
               END AS of_worker
          FROM pg_class c
         WHERE c.relnamespace = quote_ident(current_schema())::regnamespace
           AND c.relkind IN ('r', 'p', 'v') AND pg_get_userbyid(c.relowner) = current_user
         ORDER BY c.relname
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I, %I', own.name, worker, reader);
        -- Partitions by themselves too: it rebuilds from a replica.
        EXECUTE format('GRANT SELECT ON %s TO %I', own.name, reader);
        IF own.of_worker IS NOT NULL THEN
            EXECUTE format('GRANT %s ON %s TO %I', own.of_worker, own.name, worker);
        END IF;
    END LOOP;
    FOR own IN
        SELECT p.oid::regprocedure AS name, p.proname = 'rollcall_ensure_partition' AS of_worker
          FROM pg_proc p
         WHERE p.pronamespace = quote_ident(current_schema())::regnamespace
           AND pg_get_userbyid(p.proowner) = current_user
         ORDER BY p.proname
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %I, %I', own.name, worker, reader);
        IF own.of_worker THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', own.name, worker);
        END IF;
    END LOOP;
END
$$
