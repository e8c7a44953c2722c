-- Who may do what in Rollcall's database. Run it with psql 14 or newer, as a superuser, with
-- MANAGER_PASSWORD, WORKER_PASSWORD and READER_PASSWORD in the environment:
--
--   psql "$ADMIN_URL" -f roles.sql
--
-- before the first `rollcall manage migrate`, and not again with each version: migrate, run as the
-- manager, grants worker and reader what they need on what there is (src/store/rights.sql). In a
-- database that another role has migrated: this, and then migrate as the manager, though there be
-- nothing to apply. Any number of times. Other names: -v manager=… -v worker=… -v reader=…
-- -v schema=…. A role whose variable is not set keeps the password it has.
--
--   manager   owns the tables and runs every `rollcall manage …`
--   worker    stores events and keeps note of what Redis lacks; deletes and changes no event
--   reader    reads: a rebuild from a replica, and people
--
-- Lock: none that a worker waits for; GRANT writes catalogs alone. Once, where another role has made
--       the tables, ACCESS EXCLUSIVE for a moment, to give them to the manager.

\set ON_ERROR_STOP 1
\if :{?manager} \else \set manager rollcall_manager \endif
\if :{?worker}  \else \set worker  rollcall_worker  \endif
\if :{?reader}  \else \set reader  rollcall_reader  \endif
\if :{?schema}  \else \set schema  public           \endif

-- Not from the command line, which every user of the host can see.
\getenv manager_password MANAGER_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv reader_password READER_PASSWORD

SET client_min_messages = warning;

-- Passwords must not end up in the server's log, whatever it logs.
SET log_statement = 'none';
SET log_min_duration_statement = -1;

SELECT format('CREATE ROLE %I LOGIN', role)
  FROM unnest(ARRAY[:'manager', :'worker', :'reader']) AS role
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) \gexec

\if :{?manager_password}
ALTER ROLE :"manager" PASSWORD :'manager_password';
\endif
\if :{?worker_password}
ALTER ROLE :"worker" PASSWORD :'worker_password';
\endif
\if :{?reader_password}
ALTER ROLE :"reader" PASSWORD :'reader_password';
\endif

-- One transaction from here on: a worker that runs meanwhile never misses a right.
BEGIN;
SET LOCAL lock_timeout = '5s';

-- Nobody makes tables here but the manager. (Before Postgres 15 everybody may.)
REVOKE CREATE ON SCHEMA :"schema" FROM PUBLIC;
REVOKE ALL ON SCHEMA :"schema" FROM :"worker", :"reader";
GRANT USAGE ON SCHEMA :"schema" TO :"worker", :"reader";
GRANT USAGE, CREATE ON SCHEMA :"schema" TO :"manager";
SELECT format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO %I', current_database(), :'manager'),
       format('GRANT CONNECT ON DATABASE %I TO %I, %I', current_database(), :'worker', :'reader'),
       format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database()) \gexec

-- Which history a mark belongs to. PUBLIC has these unless somebody took them away.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', function, role)
  FROM unnest(ARRAY['pg_catalog.pg_control_system()', 'pg_catalog.pg_walfile_name(pg_lsn)',
                    'pg_catalog.pg_current_wal_insert_lsn()']) AS function,
       unnest(ARRAY[:'manager', :'worker', :'reader']) AS role
 WHERE NOT has_function_privilege(role, function, 'EXECUTE') \gexec

-- A database that another role has migrated: what is Rollcall's becomes the manager's.
SELECT format('ALTER %s %s OWNER TO %I',
              CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, c.oid::regclass, :'manager')
  FROM pg_class c
 WHERE c.relnamespace = :'schema'::regnamespace AND c.relkind IN ('r', 'p', 'v')
   AND (c.relname IN ('events', '_sqlx_migrations', 'retired_members')
        OR starts_with(c.relname::text, 'rollcall_')
        OR EXISTS (SELECT FROM pg_inherits i JOIN pg_class parent ON parent.oid = i.inhparent
                    WHERE i.inhrelid = c.oid AND parent.relname = 'events'
                      AND parent.relnamespace = c.relnamespace))
   AND pg_get_userbyid(c.relowner) <> :'manager' \gexec
SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, :'manager')
  FROM pg_proc p
 WHERE p.pronamespace = :'schema'::regnamespace AND starts_with(p.proname::text, 'rollcall_')
   AND pg_get_userbyid(p.proowner) <> :'manager' \gexec

-- What is not Rollcall's is no business of theirs.
SELECT format('REVOKE ALL ON %s FROM %I, %I', c.oid::regclass, :'worker', :'reader')
  FROM pg_class c
 WHERE c.relnamespace = :'schema'::regnamespace AND c.relkind IN ('r', 'p', 'v')
   AND pg_get_userbyid(c.relowner) <> :'manager' \gexec

-- To whom `rollcall manage migrate` grants what is needed. The manager's own settings, in this
-- database: nobody else can put another name there.
SELECT format('ALTER ROLE %I IN DATABASE %I SET rollcall.%s = %L',
              :'manager', current_database(), setting, role)
  FROM (VALUES ('worker', :'worker'), ('reader', :'reader')) AS names (setting, role) \gexec

-- Partitions to come, whoever makes them: a worker does it by a function of the manager's.
SELECT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I GRANT SELECT ON TABLES TO %I',
              :'manager', :'schema', :'reader') \gexec

COMMIT;
