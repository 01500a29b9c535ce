//! How a branch is reached by people and programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use compute::engine::DEFAULT_DATABASE;

use super::branches::{branch_name, live_branch};
use super::{Caller, Control, key_of};
use crate::db::endpoints;
use crate::error::Error;
use crate::front::Place;
use crate::prepare;

/// What a client needs to connect, beside a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Resource name of the branch's endpoint.
    pub endpoint: String,
    /// Where it is reached.
    pub place: Place,
    /// The caller's role.
    pub role: String,
    /// Database to use.
    pub database: String,
}

/// How long it took until a branch answered a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// From the call to the answer.
    pub took: Duration,
}

impl Control {
    /// How a caller connects to a branch.
    ///
    /// # Errors
    /// There is no such branch, or its endpoint has no address yet.
    pub async fn connection_info(
        self: &Arc<Self>,
        caller: &Caller,
        project: String,
        branch: String,
    ) -> Result<ConnectionInfo, Error> {
        let role = caller.identity.name.clone();
        self.blocking(move |control| {
            let (row, endpoint) = control.db.read(|c| {
                let (_, row) = live_branch(c, &project, &branch)?;
                let endpoint = endpoints::list(c, &row.uid)?.into_iter().next();
                Ok((row, endpoint))
            })?;
            let (id, place) = endpoint
                .and_then(|endpoint| Some((endpoint.id.clone(), control.place_of(&endpoint)?)))
                .ok_or_else(|| Error::Internal(format!("branch {} has no address yet", row.uid)))?;
            Ok(ConnectionInfo {
                endpoint: format!("{}/endpoints/{id}", branch_name(&project, &branch)),
                place,
                role,
                database: DEFAULT_DATABASE.to_owned(),
            })
        })
        .await
    }

    /// Starts a branch's compute where needed and waits until it answers a query.
    ///
    /// # Errors
    /// There is no such branch, or it does not start.
    pub async fn wake(self: &Arc<Self>, project: String, branch: String) -> Result<Wake, Error> {
        let begin = Instant::now();
        let uid = self
            .blocking(move |control| control.db.read(|c| Ok(live_branch(c, &project, &branch)?.1.uid)))
            .await?;
        // A task of its own: a caller that hangs up must not leave a start half-way.
        let control = Arc::clone(self);
        tokio::spawn(async move { control.answers(&uid).await })
            .await
            .map_err(|error| Error::Internal(format!("a task ended early: {error}")))??;
        Ok(Wake { took: begin.elapsed() })
    }

    async fn answers(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        self.awake(branch).await?;
        let (key, secrets) = (key_of(branch)?, self.keys.read(branch)?);
        let client = prepare::connect_admin(&self.engine.socket_dir(&key), &secrets).await?;
        client
            .simple_query("SELECT 1")
            .await
            .map_err(|error| Error::postgres("the branch does not answer", error))?;
        Ok(())
    }
}
