//! How a branch is reached by people and programs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use compute::engine::DEFAULT_DATABASE;

use super::branches::{branch_name, live_branch};
use super::{Control, key_of};
use crate::db::endpoints;
use crate::error::Error;
use crate::model::{Address, Principal};
use crate::prepare;

/// What a client needs to connect.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Address of the branch's endpoint.
    pub address: Address,
    /// Role to log in as.
    pub role: String,
    /// Database to use.
    pub database: String,
    /// The role's password on this branch, where it was asked for.
    pub password: Option<String>,
}

/// How long it took until a branch answered a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wake {
    /// From the call to the answer.
    pub took: Duration,
}

impl Control {
    /// How to connect to a branch. Handing out the password is recorded.
    ///
    /// # Errors
    /// There is no such branch, or its endpoint has no address yet.
    pub async fn connection_info(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        with_password: bool,
    ) -> Result<ConnectionInfo, Error> {
        self.blocking(move |control| {
            let (row, address) = control.db.read(|c| {
                let (_, row) = live_branch(c, &project, &branch)?;
                let address = endpoints::list(c, &row.uid)?.into_iter().find_map(|endpoint| endpoint.address);
                Ok((row, address))
            })?;
            let address =
                address.ok_or_else(|| Error::Internal(format!("branch {} has no address yet", row.uid)))?;
            let secrets = control.keys.wanted(&row.uid)?;
            if with_password {
                let target = branch_name(&project, &branch);
                control.db.write(|tx| {
                    control.note(
                        tx,
                        &principal,
                        "branch.reveal-password",
                        &target,
                        "done",
                        &secrets.owner_role,
                    )
                })?;
            }
            Ok(ConnectionInfo {
                address,
                role: secrets.owner_role,
                database: DEFAULT_DATABASE.to_owned(),
                password: with_password.then_some(secrets.owner_password),
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

    pub(crate) async fn answers(self: &Arc<Self>, branch: &str) -> Result<(), Error> {
        // As any connection: what was just woken for somebody is not suspended for the next one.
        let _guard = self.computes.guard(branch);
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
