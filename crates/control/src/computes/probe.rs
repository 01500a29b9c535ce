//! Whether a compute is in use, as PostgreSQL itself sees it.
//!
//! What keeps a compute awake: a running statement or open transaction, replication in either
//! direction, an autovacuum worker. A connection that does nothing does not, and neither does a
//! prepared transaction: that survives the shutdown. The daemon's own connections count only while
//! they do something.

use std::time::Duration;

use compute::engine::BOOTSTRAP_ROLE;
use jiff::Timestamp;

use crate::app::{Control, key_of};
use crate::error::Error;
use crate::prepare;

/// A server that does not answer within this time is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where statistics of activities are switched off for a session, nobody can tell whether it does
/// something, so it counts as busy.
const QUESTION: &str = "SELECT \
    count(*) FILTER (WHERE backend_type = 'client backend' AND state IS DISTINCT FROM 'idle'), \
    count(*) FILTER (WHERE backend_type = 'walsender' OR backend_type LIKE 'logical replication%worker') \
      + (SELECT count(*) FROM pg_replication_slots WHERE active), \
    count(*) FILTER (WHERE backend_type = 'autovacuum worker'), \
    (extract(epoch FROM max(state_change) FILTER (WHERE backend_type = 'client backend' \
      AND (usename IS DISTINCT FROM $1 OR application_name <> $2))) * 1000000)::bigint \
  FROM pg_stat_activity WHERE pid <> pg_backend_pid()";

/// What a compute does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activity {
    /// What keeps it awake, in words.
    pub busy: Option<&'static str>,
    /// When a session that is still open last began or ended something.
    pub last_change: Option<Timestamp>,
}

impl Control {
    /// Asks the running compute of a branch.
    pub(crate) async fn probe(&self, branch: &str) -> Result<Activity, Error> {
        match tokio::time::timeout(PATIENCE, self.ask(branch)).await {
            Ok(answer) => answer,
            Err(_) => Ok(Activity { busy: Some("a server too busy to answer"), last_change: None }),
        }
    }

    async fn ask(&self, branch: &str) -> Result<Activity, Error> {
        let failed = |error| Error::postgres("cannot ask what the branch's server does", error);
        let secrets = self.keys.read(branch)?;
        let client = prepare::connect_admin(&self.engine.socket_dir(&key_of(branch)?), &secrets).await?;
        let row =
            client.query_one(QUESTION, &[&BOOTSTRAP_ROLE, &prepare::APPLICATION]).await.map_err(failed)?;
        let count = |column: usize| row.try_get::<_, i64>(column).map_err(failed);
        let kinds =
            [(count(0)?, "an open transaction"), (count(1)?, "replication"), (count(2)?, "autovacuum")];
        let micros: Option<i64> = row.try_get(3).map_err(failed)?;
        Ok(Activity {
            busy: kinds.iter().find(|(count, _)| *count > 0).map(|(_, word)| *word),
            last_change: micros.and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        })
    }
}
