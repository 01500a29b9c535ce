//! The tables of the TPC-B load, as pgbench makes them.

use crate::failure::Result;
use crate::session::Session;

/// Rows of `pgbench_accounts` for each unit of scale.
pub const ACCOUNTS: i32 = 100_000;

/// Makes, fills and vacuums the tables; ends with a checkpoint.
pub fn fill(session: &Session, scale: i32) -> Result<()> {
    session.run(&format!(
        "CREATE TABLE pgbench_branches (bid int NOT NULL, bbalance int, filler char(88))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_tellers (tid int NOT NULL, bid int, tbalance int, filler char(84))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_accounts (aid int NOT NULL, bid int, abalance int, filler char(84))
             WITH (fillfactor = 100);
         CREATE TABLE pgbench_history
             (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
         INSERT INTO pgbench_branches SELECT i, 0, '' FROM generate_series(1, {scale}) i;
         INSERT INTO pgbench_tellers
             SELECT i, (i - 1) / 10 + 1, 0, '' FROM generate_series(1, {scale} * 10) i;
         INSERT INTO pgbench_accounts
             SELECT i, (i - 1) / {ACCOUNTS} + 1, 0, '' FROM generate_series(1, {scale} * {ACCOUNTS}) i;
         ALTER TABLE pgbench_branches ADD PRIMARY KEY (bid);
         ALTER TABLE pgbench_tellers ADD PRIMARY KEY (tid);
         ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid);"
    ))?;
    for table in ["branches", "tellers", "accounts", "history"] {
        session.run(&format!("VACUUM (FREEZE, ANALYZE) pgbench_{table}"))?;
    }
    session.run("CHECKPOINT")
}

/// Rows of a kilobyte, seven to a page, until they take about `bytes`.
pub fn fill_ballast(session: &Session, bytes: u64) -> Result<()> {
    let rows = bytes / 8192 * 7;
    session.run("CREATE TABLE ballast (id bigint, body text)")?;
    session
        .run(&format!("INSERT INTO ballast SELECT i, repeat('x', 1000) FROM generate_series(1, {rows}) i"))?;
    session.run("VACUUM (FREEZE, ANALYZE) ballast")?;
    session.run("CHECKPOINT")
}
