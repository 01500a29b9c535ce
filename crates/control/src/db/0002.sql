-- Who may act, with what, on what. Of secrets only digests stand here; private keys are files.

CREATE TABLE principals (
    uid          TEXT PRIMARY KEY,
    -- E-mail address of a user, application id of a service principal, name of a group.
    name         TEXT NOT NULL UNIQUE,
    kind         TEXT NOT NULL CHECK (kind IN ('user', 'service_principal', 'group')),
    display_name TEXT NOT NULL,
    is_owner     INTEGER NOT NULL CHECK (is_owner IN (0, 1)),
    create_time  INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX principals_one_owner ON principals (is_owner) WHERE is_owner = 1;

CREATE TABLE members (
    group_uid TEXT NOT NULL REFERENCES principals (uid) ON DELETE CASCADE,
    member    TEXT NOT NULL REFERENCES principals (uid) ON DELETE CASCADE,
    PRIMARY KEY (group_uid, member)
) STRICT;

CREATE TABLE tokens (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('personal', 'client_secret')),
    principal   TEXT NOT NULL REFERENCES principals (uid) ON DELETE CASCADE,
    name        TEXT NOT NULL,
    digest      TEXT NOT NULL UNIQUE, -- SHA-256, hexadecimal
    scopes      TEXT NOT NULL, -- JSON
    projects    TEXT, -- JSON, uids; none means all
    create_time INTEGER NOT NULL,
    expire_time INTEGER
) STRICT;

-- Signed tokens that were taken back, until they would have expired.
CREATE TABLE revoked_tokens (
    id          TEXT PRIMARY KEY,
    expire_time INTEGER NOT NULL
) STRICT;

CREATE TABLE grants (
    project   TEXT NOT NULL REFERENCES projects (uid) ON DELETE CASCADE,
    principal TEXT NOT NULL REFERENCES principals (uid) ON DELETE CASCADE,
    level     TEXT NOT NULL CHECK (level IN ('CAN_USE', 'CAN_MANAGE')),
    PRIMARY KEY (project, principal)
) STRICT;

CREATE TABLE signing_keys (
    kid         TEXT PRIMARY KEY,
    public_key  TEXT NOT NULL, -- JSON
    create_time INTEGER NOT NULL,
    -- Since when it signs no more.
    retire_time INTEGER
) STRICT;

-- Foreign issuers: whose tokens stand for which principal.
CREATE TABLE federation (
    id          TEXT PRIMARY KEY,
    issuer      TEXT NOT NULL,
    audience    TEXT NOT NULL,
    algorithms  TEXT NOT NULL, -- JSON
    jwks_uri    TEXT,
    conditions  TEXT NOT NULL, -- JSON
    principal   TEXT NOT NULL REFERENCES principals (uid) ON DELETE CASCADE,
    create_time INTEGER NOT NULL
) STRICT;
