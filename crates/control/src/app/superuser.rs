//! The way around the front door: the real superuser, for the owner on this host.

use std::path::PathBuf;
use std::sync::Arc;

use auth::Secret;
use compute::engine::BOOTSTRAP_ROLE;

use super::branches::{branch_name, live_branch};
use super::{Control, key_of};
use crate::error::{Error, Refusal};
use crate::model::{Principal, PrincipalKind};
use crate::prepare::ADMIN_DATABASE;

/// How the superuser of a branch is reached.
pub struct SuperuserAccess {
    /// Directory of the server's socket; open to the daemon's own user and root.
    pub socket_dir: PathBuf,
    /// The role.
    pub role: String,
    /// A database that is always there.
    pub database: String,
    /// The role's password on this branch.
    pub password: Secret,
}

impl Control {
    /// Wakes a branch and hands out its superuser, which is recorded first.
    ///
    /// # Errors
    /// The principal is not the owner in person, there is no such branch, or it does not start.
    pub async fn superuser(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
    ) -> Result<SuperuserAccess, Error> {
        let uid = self
            .blocking(move |control| {
                let target = branch_name(&project, &branch);
                let allowed = if principal.kind == PrincipalKind::Human && principal.name == control.owner {
                    control.db.read(|c| Ok(live_branch(c, &project, &branch)?.1.uid))
                } else {
                    Err(Error::refused(
                        Refusal::PermissionDenied,
                        "only the owner of this home may be superuser, in person",
                    ))
                };
                let uid = control.note_refusal(&principal, "branch.superuser", &target, allowed)?;
                control.db.write(|tx| {
                    control.note(tx, &principal, "branch.superuser", &target, "done", BOOTSTRAP_ROLE)
                })?;
                Ok(uid)
            })
            .await?;
        // A task of its own: a caller that hangs up must not leave a start half-way.
        let (control, branch) = (Arc::clone(self), uid.clone());
        tokio::spawn(async move { control.awake(&branch).await })
            .await
            .map_err(|error| Error::Internal(format!("a task ended early: {error}")))??;
        Ok(SuperuserAccess {
            socket_dir: self.engine.socket_dir(&key_of(&uid)?),
            role: BOOTSTRAP_ROLE.to_owned(),
            database: ADMIN_DATABASE.to_owned(),
            password: Secret::new(self.keys.wanted(&uid)?.admin_password),
        })
    }
}
