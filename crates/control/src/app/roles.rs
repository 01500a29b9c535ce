//! Roles of a branch: kept by its PostgreSQL, remembered here.

use std::sync::Arc;

use auth::Secret;
use tokio_postgres::Client;

use super::branches::{branch_name, live_branch};
use super::catalog::{Change, Touched, Work, identity_of};
use super::{Action, Caller, Control, key_of, not_found};
use crate::catalog::names::{check_name, check_role_id};
use crate::catalog::{Catalog, LiveRole, passwords, roles};
use crate::db::catalog as rows;
use crate::error::{Error, Refusal};
use crate::model::{Attributes, AuthMethod, Identity, IdentityType, Operation, Principal, Role, Verb};
use crate::prepare::{self, identity_role_id};

pub use crate::catalog::roles::RoleChange;

/// What a caller wants of a new role.
#[derive(Debug, Clone)]
pub struct NewRole {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub branch: String,
    /// Identifier of the role; one is made where absent.
    pub id: Option<String>,
    /// Its name in PostgreSQL; of an identity, the principal's name.
    pub name: String,
    /// What kind of principal it belongs to; none for a plain role.
    pub identity_type: Option<IdentityType>,
    /// How somebody logs in; follows from the kind where absent.
    pub auth_method: Option<AuthMethod>,
    /// What it may do.
    pub attributes: Attributes,
    /// Whether it is a member of `databricks_superuser`.
    pub superuser_member: bool,
    /// Whether a role that exists already is changed instead; all of `attributes` and the
    /// membership are then as given here.
    pub replace_existing: bool,
}

/// A role with what its row does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleView {
    /// The row.
    pub role: Role,
    /// Identifier of the project.
    pub project_id: String,
    /// Identifier of the branch.
    pub branch_id: String,
}

/// A change of one role.
pub(crate) enum RoleWork {
    Create { id: String, request: NewRole, auth_method: AuthMethod, manager: String, may_manage: bool },
    Update { id: String, change: RoleChange },
    Delete { id: String, heir: Option<String> },
}

impl Control {
    /// Roles of a branch, oldest first. A branch that sleeps is not woken: its roles are then shown as
    /// they were when it was last looked at.
    ///
    /// # Errors
    /// There is no such branch.
    pub async fn roles(self: &Arc<Self>, project: String, branch: String) -> Result<Vec<RoleView>, Error> {
        let (project, branch) = self.find_branch(project, branch).await?;
        self.look_if_awake(&branch.uid).await;
        self.blocking(move |control| {
            let roles = control.db.read(|c| rows::roles(c, &branch.uid))?;
            let view = |role| RoleView { role, project_id: project.id.clone(), branch_id: branch.id.clone() };
            Ok(roles.into_iter().map(view).collect())
        })
        .await
    }

    /// One role.
    ///
    /// # Errors
    /// There is none with these identifiers.
    pub async fn role(
        self: &Arc<Self>,
        project: String,
        branch: String,
        id: String,
    ) -> Result<RoleView, Error> {
        let all = self.roles(project, branch).await?;
        all.into_iter().find(|view| view.role.id == id).ok_or_else(|| not_found("role"))
    }

    pub(crate) async fn find_branch(
        self: &Arc<Self>,
        project: String,
        branch: String,
    ) -> Result<(crate::model::Project, crate::model::Branch), Error> {
        self.blocking(move |control| control.db.read(|c| live_branch(c, &project, &branch))).await
    }

    /// Makes a role; wakes the branch. Who may not manage the project makes roles without power, and
    /// changes none that exists.
    ///
    /// # Errors
    /// The request is wrong, goes beyond the caller's rights, or the name is taken.
    pub async fn create_role(
        self: &Arc<Self>,
        caller: &Caller,
        request: NewRole,
    ) -> Result<Operation, Error> {
        let right = self.authorise(caller, Action::Manage, Some(request.project.clone())).await;
        let principal = caller.principal.clone();
        let change = self
            .blocking(move |control| {
                let roles = format!("{}/roles", branch_name(&request.project, &request.branch));
                let target = format!("{roles}/{}", request.id.as_deref().unwrap_or(&request.name));
                let change = control.plan_role(&principal, &roles, request, right);
                control.note_refusal(&principal, "role.create", &target, change)
            })
            .await?;
        self.change_catalog(change).await
    }

    /// `right` is that to manage the project, or why the caller does not have it.
    fn plan_role(
        &self,
        principal: &Principal,
        roles: &str,
        request: NewRole,
        right: Result<(), Error>,
    ) -> Result<Change, Error> {
        let may_manage = right.is_ok();
        if is_powerful(&request) {
            right?;
        }
        let (_, branch) = self.db.read(|c| live_branch(c, &request.project, &request.branch))?;
        check_name("role.spec.postgres_role", &request.name)?;
        if let Some(id) = &request.id {
            check_role_id(id, request.identity_type.is_some())?;
        }
        let auth_method = auth_method(request.identity_type, request.auth_method)?;
        let id = match &request.id {
            Some(id) => id.clone(),
            None => self.choose_role_id(&branch.uid, &request)?,
        };
        let manager = identity_of(principal).name;
        Ok(Change {
            principal: principal.clone(),
            branch: branch.uid,
            verb: Verb::Create,
            resource: format!("{roles}/{id}"),
            id: id.clone(),
            work: Work::Role(RoleWork::Create { id, request, auth_method, manager, may_manage }),
        })
    }

    fn choose_role_id(&self, branch: &str, request: &NewRole) -> Result<String, Error> {
        let known = self.db.read(|c| rows::roles(c, branch))?;
        let same_name = known.iter().find(|role| role.name == request.name);
        if let Some(role) = same_name.filter(|_| request.replace_existing) {
            return Ok(role.id.clone());
        }
        let derived = request.identity_type.and_then(|_| identity_role_id(&request.name));
        match derived.filter(|id| known.iter().all(|role| role.id != *id)) {
            Some(id) => Ok(id),
            None => self.new_short_id("role"),
        }
    }

    /// Changes a role; wakes the branch.
    ///
    /// # Errors
    /// There is no such role, or PostgreSQL does not allow the change.
    pub async fn update_role(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
        change: RoleChange,
    ) -> Result<Operation, Error> {
        let work = RoleWork::Update { id: id.clone(), change };
        self.change_role(principal, project, branch, id, Verb::Update, work).await
    }

    /// Deletes a role and ends its sessions; wakes the branch. What it owns goes to the role with the
    /// identifier `heir`; without one, a role that owns anything stays.
    ///
    /// # Errors
    /// There is no such role, or it owns something and nobody is to have that.
    pub async fn delete_role(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
        heir: Option<String>,
    ) -> Result<Operation, Error> {
        let work = RoleWork::Delete { id: id.clone(), heir };
        self.change_role(principal, project, branch, id, Verb::Delete, work).await
    }

    async fn change_role(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
        verb: Verb,
        work: RoleWork,
    ) -> Result<Operation, Error> {
        let change = self
            .blocking(move |control| {
                let resource = format!("{}/roles/{id}", branch_name(&project, &branch));
                let found = control.db.read(|c| live_branch(c, &project, &branch));
                let action = format!("role.{}", verb.as_str());
                let (_, branch) = control.note_refusal(&principal, &action, &resource, found)?;
                Ok(Change { principal, branch: branch.uid, verb, resource, id, work: Work::Role(work) })
            })
            .await?;
        self.change_catalog(change).await
    }

    /// Gives a role with a password of its own a new one, which is shown this once; wakes the branch.
    ///
    /// # Errors
    /// There is no such role, or nobody logs in to it with a password.
    pub async fn reset_role_password(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        id: String,
    ) -> Result<Secret, Error> {
        let target = format!("{}/roles/{id}", branch_name(&project, &branch));
        let outcome = self.new_role_password(project, branch, &id).await;
        self.blocking(move |control| {
            let action = "role.reset-password";
            let password = control.note_refusal(&principal, action, &target, outcome)?;
            control.db.write(|tx| control.note(tx, &principal, action, &target, "done", ""))?;
            Ok(password)
        })
        .await
    }

    async fn new_role_password(
        self: &Arc<Self>,
        project: String,
        branch: String,
        id: &str,
    ) -> Result<Secret, Error> {
        let (_, branch) = self.find_branch(project, branch).await?;
        let mut client = self.admin(&branch.uid).await?;
        let live = self.look(&branch.uid, &mut client, Touched::Nothing).await?;
        let role = live.role(id).ok_or_else(|| not_found("role"))?;
        if role.auth_method != AuthMethod::Password || role.is_superuser {
            return Err(Error::refused(
                Refusal::BadRequest,
                format!("nobody logs in to role \"{}\" with a password", role.name),
            ));
        }
        let (password, verifier) = passwords::new_password(&*self.random)?;
        roles::set_verifier(&mut client, role.oid, verifier).await?;
        Ok(password)
    }

    pub(crate) async fn work_on_role(
        &self,
        branch: &str,
        work: RoleWork,
        client: &mut Client,
        live: &Catalog,
    ) -> Result<Touched, Error> {
        match work {
            RoleWork::Create { id, request, auth_method, manager, may_manage } => match live.role(&id) {
                Some(_) if request.replace_existing && !may_manage => Err(replacing_is_managing()),
                Some(role) if request.replace_existing => {
                    check_same(role, &request)?;
                    roles::change(client, &role.name, &whole(&request)).await?;
                    Ok(Touched::Role(role.oid))
                }
                Some(_) => Err(roles::duplicate()),
                None => {
                    self.make_role(branch, &id, &request, auth_method, &manager, client).await?;
                    Ok(Touched::Nothing)
                }
            },
            RoleWork::Update { id, change } => {
                let role = live.role(&id).ok_or_else(|| not_found("role"))?;
                roles::change(client, &role.name, &change).await?;
                Ok(Touched::Role(role.oid))
            }
            RoleWork::Delete { id, heir } => {
                let role = live.role(&id).ok_or_else(|| not_found("role"))?;
                if let Some(heir) = heir {
                    let heir = live.role(&heir).ok_or_else(|| role_not_found(&heir))?;
                    self.hand_over(branch, role, heir, client).await?;
                }
                roles::delete(client, role).await?;
                Ok(Touched::Nothing)
            }
        }
    }

    pub(crate) async fn make_role(
        &self,
        branch: &str,
        id: &str,
        request: &NewRole,
        auth_method: AuthMethod,
        manager: &str,
        client: &mut Client,
    ) -> Result<(), Error> {
        let verifier = match auth_method {
            AuthMethod::Identity => {
                let secrets = self.keys.wanted(branch)?;
                Some(passwords::backend_verifier(&secrets, &request.name, &*self.random)?)
            }
            AuthMethod::Password => Some(passwords::new_password(&*self.random)?.1),
            AuthMethod::NoLogin => None,
        };
        let identity = request.identity_type.map(|kind| Identity { name: request.name.clone(), kind });
        let role = roles::NewRole {
            id,
            name: &request.name,
            identity: identity.as_ref(),
            can_login: auth_method != AuthMethod::NoLogin,
            attributes: request.attributes,
            superuser_member: request.superuser_member,
            verifier: verifier.as_deref(),
            manager: Some(manager).filter(|manager| *manager != request.name),
        };
        roles::create(client, &role).await
    }

    /// Gives what a role owns anywhere to another. May be repeated.
    async fn hand_over(
        &self,
        branch: &str,
        role: &LiveRole,
        heir: &LiveRole,
        client: &Client,
    ) -> Result<(), Error> {
        if role.oid == heir.oid {
            return Err(Error::invalid("Field 'reassign_owned_to' must name another role."));
        }
        let sockets = self.engine.socket_dir(&key_of(branch)?);
        for database in roles::databases_to_clear(client).await? {
            let keys = self.keys.read(branch)?;
            let mut client = prepare::connect_admin_to(&sockets, &keys, &database).await?;
            roles::reassign(&mut client, &role.name, &heir.name).await?;
        }
        Ok(())
    }
}

/// The refusal where a role that something else names is not there.
pub(crate) fn role_not_found(id: &str) -> Error {
    Error::refused(Refusal::NotFound, format!("role not found; role_id:\"{id}\""))
}

/// Whether a role can do more than log in and make databases: what lets it reach beyond what it is
/// granted must come from somebody who manages the project.
fn is_powerful(request: &NewRole) -> bool {
    request.superuser_member || request.attributes.createrole || request.attributes.bypassrls
}

/// The refusal where a caller would change what exists, in the guise of making it.
pub(crate) fn replacing_is_managing() -> Error {
    let text = "it exists, and replacing it needs CAN_MANAGE on the project; its owner can grant that";
    Error::refused(Refusal::PermissionDenied, text)
}

/// How somebody logs in: as asked for, if that goes with the kind of role.
pub(super) fn auth_method(
    kind: Option<IdentityType>,
    asked: Option<AuthMethod>,
) -> Result<AuthMethod, Error> {
    match (kind, asked) {
        (Some(_), None) => Ok(AuthMethod::Identity),
        (None, None) => Ok(AuthMethod::Password),
        (_, Some(AuthMethod::NoLogin)) => Ok(AuthMethod::NoLogin),
        (Some(_), Some(AuthMethod::Identity)) => Ok(AuthMethod::Identity),
        (None, Some(AuthMethod::Password)) => Ok(AuthMethod::Password),
        (None, Some(AuthMethod::Identity)) => {
            Err(Error::invalid("Field 'spec.auth_method' LAKEBASE_OAUTH_V1 needs 'spec.identity_type'."))
        }
        (Some(_), Some(AuthMethod::Password)) => Err(Error::invalid(
            "Field 'spec.auth_method' PG_PASSWORD_SCRAM_SHA_256 does not go with 'spec.identity_type'.",
        )),
    }
}

/// What cannot be changed must be as it is, where it is given.
fn check_same(role: &LiveRole, request: &NewRole) -> Result<(), Error> {
    let differs = [
        ("spec.postgres_role", request.name != role.name),
        (
            "spec.identity_type",
            request.identity_type.is_some()
                && request.identity_type != role.identity.as_ref().map(|identity| identity.kind),
        ),
        ("spec.auth_method", request.auth_method.is_some_and(|method| method != role.auth_method)),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((field, _)) => Err(Error::invalid(format!("Field '{field}' cannot be changed."))
            .with_hint("delete the role and make it again")),
        None => Ok(()),
    }
}

fn whole(request: &NewRole) -> RoleChange {
    RoleChange {
        bypassrls: Some(request.attributes.bypassrls),
        createdb: Some(request.attributes.createdb),
        createrole: Some(request.attributes.createrole),
        superuser_member: Some(request.superuser_member),
    }
}
