-- When computes were in use, started and suspended, for a daemon that comes after.
CREATE TABLE computes (
    branch           TEXT PRIMARY KEY REFERENCES branches (uid) ON DELETE CASCADE,
    last_active_time INTEGER,
    start_time       INTEGER,
    suspend_time     INTEGER
) STRICT;
