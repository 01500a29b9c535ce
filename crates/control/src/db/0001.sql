-- Times are microseconds since 1970-01-01 UTC. Secrets are never stored here.

CREATE TABLE settings (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE projects (
    uid             TEXT PRIMARY KEY,
    id              TEXT NOT NULL,
    display_name    TEXT NOT NULL,
    owner           TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleted')),
    server          TEXT NOT NULL, -- JSON
    compute         TEXT NOT NULL, -- JSON
    history_seconds REAL NOT NULL,
    default_branch  TEXT NOT NULL,
    create_time     INTEGER NOT NULL,
    update_time     INTEGER NOT NULL,
    delete_time     INTEGER,
    purge_time      INTEGER,
    CHECK ((state = 'deleted') = (delete_time IS NOT NULL)),
    CHECK ((delete_time IS NULL) = (purge_time IS NULL))
) STRICT;
CREATE UNIQUE INDEX projects_live_id ON projects (id) WHERE delete_time IS NULL;

CREATE TABLE branches (
    uid               TEXT PRIMARY KEY,
    project           TEXT NOT NULL REFERENCES projects (uid),
    id                TEXT NOT NULL,
    given_name        TEXT,
    -- No reference: a branch outlives its parent.
    source            TEXT,
    source_id         TEXT,
    source_lsn        TEXT,
    source_time       INTEGER,
    source_fate       TEXT CHECK (source_fate IN ('expired', 'deleted')),
    state             TEXT NOT NULL CHECK (state IN ('creating', 'ready', 'deleted')),
    state_change_time INTEGER NOT NULL,
    prepared          INTEGER NOT NULL CHECK (prepared IN (0, 1)),
    is_protected      INTEGER NOT NULL CHECK (is_protected IN (0, 1)),
    expire_time       INTEGER,
    create_time       INTEGER NOT NULL,
    update_time       INTEGER NOT NULL,
    delete_time       INTEGER,
    purge_time        INTEGER,
    CHECK ((source IS NULL) = (source_id IS NULL)),
    CHECK ((state = 'deleted') = (delete_time IS NOT NULL)),
    CHECK ((delete_time IS NULL) = (purge_time IS NULL)),
    CHECK (expire_time IS NULL OR is_protected = 0)
) STRICT;
CREATE UNIQUE INDEX branches_live_id ON branches (project, id) WHERE delete_time IS NULL;
CREATE INDEX branches_source ON branches (source);
CREATE INDEX branches_expire_time ON branches (expire_time) WHERE expire_time IS NOT NULL;

CREATE TABLE endpoints (
    uid         TEXT PRIMARY KEY,
    branch      TEXT NOT NULL REFERENCES branches (uid) ON DELETE CASCADE,
    id          TEXT NOT NULL,
    compute     TEXT NOT NULL, -- JSON
    disabled    INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    host        TEXT,
    port        INTEGER,
    create_time INTEGER NOT NULL,
    update_time INTEGER NOT NULL,
    UNIQUE (branch, id),
    UNIQUE (host, port),
    CHECK ((host IS NULL) = (port IS NULL))
) STRICT;

CREATE TABLE operations (
    uid            TEXT PRIMARY KEY,
    resource       TEXT NOT NULL,
    kind           TEXT NOT NULL,
    target         TEXT NOT NULL,
    verb           TEXT NOT NULL,
    principal      TEXT NOT NULL,
    principal_kind TEXT NOT NULL,
    done           INTEGER NOT NULL CHECK (done IN (0, 1)),
    error_code     TEXT,
    error_message  TEXT,
    create_time    INTEGER NOT NULL,
    update_time    INTEGER NOT NULL,
    CHECK ((error_code IS NULL) = (error_message IS NULL))
) STRICT;
CREATE INDEX operations_running ON operations (target) WHERE done = 0;

CREATE TABLE audit (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    time           INTEGER NOT NULL,
    principal      TEXT NOT NULL,
    principal_kind TEXT NOT NULL CHECK (principal_kind IN ('human', 'service', 'agent')),
    action         TEXT NOT NULL,
    target         TEXT NOT NULL,
    result         TEXT NOT NULL CHECK (result IN ('done', 'refused', 'failed')),
    detail         TEXT NOT NULL
) STRICT;
CREATE TRIGGER audit_keeps_rows BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_keeps_values BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
