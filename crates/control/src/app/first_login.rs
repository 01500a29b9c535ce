//! The role of whoever logs in to a branch for the first time.

use std::sync::Arc;

use super::catalog::{Touched, identity_of, login_of};
use super::{Control, NewRole, RoleLogin, TokenIdentity, branches};
use crate::catalog;
use crate::db;
use crate::error::Error;
use crate::model::{Attributes, AuthMethod, Identity, IdentityType};
use crate::prepare::identity_role_id;

impl Control {
    /// Makes the role of somebody whose token was accepted for this branch, where there is none of its
    /// name, and says how one logs in as it. The role gets nothing but the right to log in. The
    /// compute runs.
    ///
    /// # Errors
    /// The branch is gone, or its server does not do it.
    pub async fn make_own_role(
        self: &Arc<Self>,
        branch_uid: &str,
        who: &TokenIdentity,
    ) -> Result<RoleLogin, Error> {
        let (control, branch, who) = (Arc::clone(self), branch_uid.to_owned(), who.clone());
        // A task of its own: a client that hangs up must not leave a change half-way.
        tokio::spawn(async move { control.make_own_role_in_turn(&branch, &who).await })
            .await
            .map_err(|error| Error::Internal(format!("a task ended early: {error}")))?
    }

    async fn make_own_role_in_turn(
        self: &Arc<Self>,
        branch: &str,
        who: &TokenIdentity,
    ) -> Result<RoleLogin, Error> {
        let _claim = self.claim_in_turn(&format!("{branch}/catalog")).await;
        let mut client = self.admin(branch).await?;
        let live = catalog::read(&client).await?;
        let identity = own_identity(who);
        if !live.roles.iter().any(|role| role.name == identity.name) {
            let id = match identity_role_id(&identity.name).filter(|id| live.role(id).is_none()) {
                Some(id) => id,
                None => self.new_short_id("role")?,
            };
            let outcome = self.make_bare_role(branch, &id, &identity, &mut client).await;
            self.note_first_login(branch, id, who, outcome).await?;
        }
        let live = self.look(branch, &mut client, Touched::Nothing).await?;
        let own = live.roles.iter().find(|role| role.name == identity.name);
        Ok(own.map_or(RoleLogin::Unknown, login_of))
    }

    async fn make_bare_role(
        &self,
        branch: &str,
        id: &str,
        identity: &Identity,
        client: &mut tokio_postgres::Client,
    ) -> Result<(), Error> {
        let request = NewRole {
            project: String::new(),
            branch: String::new(),
            id: Some(id.to_owned()),
            name: identity.name.clone(),
            identity_type: Some(identity.kind),
            auth_method: Some(AuthMethod::Identity),
            attributes: Attributes::default(),
            superuser_member: false,
            replace_existing: false,
        };
        self.make_role(branch, id, &request, AuthMethod::Identity, &identity.name, client).await
    }

    async fn note_first_login(
        self: &Arc<Self>,
        branch: &str,
        id: String,
        who: &TokenIdentity,
        outcome: Result<(), Error>,
    ) -> Result<(), Error> {
        let (branch, principal) = (branch.to_owned(), who.principal.clone());
        self.blocking(move |control| {
            let row = control.db.read(|c| {
                let branch = db::branches::by_uid(c, &branch)?;
                let project = match &branch {
                    Some(branch) => db::projects::by_uid(c, &branch.project)?,
                    None => None,
                };
                Ok(project.zip(branch))
            })?;
            let (project, branch) = row.ok_or_else(|| Error::Internal(format!("no branch {branch}")))?;
            let target = format!("{}/roles/{id}", branches::branch_name(&project.id, &branch.id));
            control.note_refusal(&principal, "role.create", &target, outcome)?;
            control
                .db
                .write_soon(|tx| control.note(tx, &principal, "role.create", &target, "done", "first login"))
        })
        .await
    }
}

/// Whose role somebody with such a token logs in as: their own, or that of their group.
fn own_identity(who: &TokenIdentity) -> Identity {
    match &who.group {
        Some(group) => Identity { name: group.clone(), kind: IdentityType::Group },
        None => identity_of(&who.principal),
    }
}
