\echo Use "CREATE EXTENSION databricks_auth" to load this file. \quit

-- Runs as the bootstrap superuser, who alone may set the settings that make a role somebody's. So it
-- looks at the caller itself, makes new roles only, and gives them nothing.
CREATE FUNCTION databricks_create_role(identity_name text, identity_type text) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    kind constant text := upper(identity_type);
    -- Whoever the session acts as: SET ROLE counts, the owner of this function does not.
    caller constant name := coalesce(nullif(current_setting('role'), 'none'), session_user::text);
    creates_roles boolean;
BEGIN
    SELECT rolsuper OR rolcreaterole INTO STRICT creates_roles FROM pg_roles WHERE rolname = caller;
    IF NOT creates_roles AND NOT EXISTS (
        SELECT FROM pg_roles WHERE rolname = 'databricks_superuser' AND pg_has_role(caller, oid, 'USAGE')
    ) THEN
        RAISE insufficient_privilege USING
            MESSAGE = 'permission denied to create role',
            DETAIL = 'Only members of databricks_superuser and roles with the CREATEROLE attribute may.';
    END IF;
    IF kind NOT IN ('USER', 'SERVICE_PRINCIPAL', 'GROUP') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('identity type "%s" is unknown', identity_type),
            HINT = 'Use USER, SERVICE_PRINCIPAL or GROUP.';
    END IF;
    IF octet_length(identity_name) NOT BETWEEN 1 AND 63 OR identity_name ~ '[[:cntrl:]]' THEN
        -- A longer name would be cut, and the role would be somebody else's.
        RAISE invalid_name USING
            MESSAGE = format('"%s" cannot be the name of a role', identity_name),
            HINT = 'A name has 1 to 63 bytes and no control characters.';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN', identity_name);
    EXECUTE format('ALTER ROLE %I SET anabranch.identity_type = %L', identity_name, kind);
    EXECUTE format('ALTER ROLE %I SET anabranch.identity_name = %L', identity_name, identity_name);
    -- As after CREATE ROLE: who made a role may manage it.
    IF creates_roles AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = caller) THEN
        EXECUTE format('GRANT %I TO %I WITH ADMIN OPTION%s', identity_name, caller,
            CASE WHEN current_setting('server_version_num')::int >= 160000
            THEN ', INHERIT FALSE, SET FALSE' ELSE '' END);
    END IF;
END
$function$;

COMMENT ON FUNCTION databricks_create_role(text, text) IS
    'makes a role that a USER, SERVICE_PRINCIPAL or GROUP logs in to with a token';
