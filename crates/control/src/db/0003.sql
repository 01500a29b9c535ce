-- What the PostgreSQL of a branch held when it was last looked at, so that listing does not wake it.

CREATE TABLE roles (
    branch           TEXT NOT NULL REFERENCES branches (uid) ON DELETE CASCADE,
    oid              INTEGER NOT NULL,
    id               TEXT NOT NULL,
    name             TEXT NOT NULL,
    identity_type    TEXT CHECK (identity_type IN ('USER', 'SERVICE_PRINCIPAL', 'GROUP')),
    identity_name    TEXT,
    auth_method      TEXT NOT NULL CHECK (auth_method IN ('identity', 'password', 'no_login')),
    superuser_member INTEGER NOT NULL CHECK (superuser_member IN (0, 1)),
    bypassrls        INTEGER NOT NULL CHECK (bypassrls IN (0, 1)),
    createdb         INTEGER NOT NULL CHECK (createdb IN (0, 1)),
    createrole       INTEGER NOT NULL CHECK (createrole IN (0, 1)),
    create_time      INTEGER NOT NULL,
    update_time      INTEGER NOT NULL,
    PRIMARY KEY (branch, oid),
    UNIQUE (branch, id),
    CHECK ((identity_type IS NULL) = (identity_name IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE databases (
    branch      TEXT NOT NULL REFERENCES branches (uid) ON DELETE CASCADE,
    oid         INTEGER NOT NULL,
    id          TEXT NOT NULL,
    name        TEXT NOT NULL,
    owner       INTEGER NOT NULL, -- oid of a role; not of one that is listed where the system owns it
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    PRIMARY KEY (branch, oid),
    UNIQUE (branch, id)
) STRICT, WITHOUT ROWID;

-- Branches whose passwords must be replaced before the first client comes: children of protected ones.
CREATE TABLE fresh_passwords (
    branch TEXT PRIMARY KEY REFERENCES branches (uid) ON DELETE CASCADE
) STRICT;
