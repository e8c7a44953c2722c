-- Why:  one payload that jsonb will not have (a NUL escape, a lone surrogate, a number too large)
--       fails the whole statement. Halving finds it in some twenty statements, ten of them in over
--       a hundred; this finds all of them in one, each in a subtransaction that writes nothing.
-- Lock: none that anyone can wait for; it reads no table.
-- Undo: DROP FUNCTION rollcall_bad_payloads(text[]);
--
-- PUBLIC may run it: it does what `'…'::jsonb` does.

SET LOCAL lock_timeout = '5s';

-- Places from 1. Only what is the value's own fault is caught; a server out of memory is not.
CREATE FUNCTION rollcall_bad_payloads(payloads text[])
RETURNS TABLE (place integer, code text, message text)
LANGUAGE plpgsql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parsed jsonb;
BEGIN
    FOR n IN 1..cardinality(payloads) LOOP
        BEGIN
            parsed := payloads[n]::jsonb;
        EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
            place := n;
            code := SQLSTATE;
            message := SQLERRM;
            RETURN NEXT;
        END;
    END LOOP;
END
$$;
