//! Projects: made with a root branch, an endpoint, a role and a database; deleted with all they hold.

mod settings;
mod undelete;
mod update;

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;

use super::catalog::identity_of;
use super::endpoints::UpdateCompute;
use super::first::{First, FirstRole};
use super::{Claim, Control, check_role_name, key_of, not_found};
use crate::db::{branches, endpoints, operations, projects};
use crate::error::{Error, Refusal};
use crate::keys::{OwnerKind, Secrets};
use crate::model::{
    Branch, ComputeSettings, Endpoint, IdentityType, Kind, Operation, Outcome, PRIMARY, PRODUCTION,
    Principal, Project, ProjectOptions, ServerRecord, State, Verb,
};
use crate::names::check_id;

pub use update::UpdateProject;

/// What a caller wants of a new project.
#[derive(Debug, Clone, Default)]
pub struct NewProject {
    /// Identifier.
    pub id: String,
    /// What people see; the identifier where absent.
    pub display_name: Option<String>,
    /// PostgreSQL major version; the daemon's where absent.
    pub pg_version: Option<u32>,
    /// How far back the past is kept, seconds.
    pub history_seconds: Option<f64>,
    /// What endpoints begin with.
    pub compute: UpdateCompute,
    /// Logins, labels and what else is set.
    pub options: ProjectOptions,
    /// Whether the root branch is protected.
    pub protect_root: bool,
    /// Where the first endpoint differs from those that come later.
    pub first_endpoint: UpdateCompute,
    /// Whether secondaries of the first endpoint serve reads.
    pub readable_secondaries: bool,
    /// The first role, where it is not the creator's as usual.
    pub first_role: Option<FirstRole>,
    /// Name of the first database.
    pub first_database: Option<String>,
}

/// A project with what its row does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct ProjectView {
    /// The row.
    pub project: Project,
    /// Identifier of the default branch.
    pub default_branch_id: String,
    /// When somebody last connected to one of its branches, since the daemon started.
    pub last_active: Option<Timestamp>,
}

/// Everything that a new project begins with.
struct Plan {
    project: Project,
    branch: Branch,
    operation: Operation,
    claim: Claim,
}

impl Control {
    /// Makes a project.
    ///
    /// # Errors
    /// The request is wrong, or the name is taken. What goes wrong later is in the operation.
    pub async fn create_project(
        self: &Arc<Self>,
        principal: Principal,
        request: NewProject,
    ) -> Result<Operation, Error> {
        let plan = self
            .blocking(move |control| {
                let target = format!("projects/{}", request.id);
                let plan = control.plan_project(&principal, request);
                control.note_refusal(&principal, "project.create", &target, plan)
            })
            .await?;
        let operation = plan.operation.uid.clone();
        let resource = plan.operation.resource.clone();
        let control = Arc::clone(self);
        let work = tokio::spawn(async move {
            let _claim = plan.claim;
            control.make_project(&plan.project, &plan.branch).await
        });
        Control::wait_patiently(work).await;
        self.operation_row(resource, operation).await
    }

    /// Carries out what a `creating` row asks for, or takes it back. May be repeated.
    pub(crate) async fn make_project(
        self: &Arc<Self>,
        project: &Project,
        branch: &Branch,
    ) -> Result<(), Error> {
        let made = self.make_root(project, branch).await;
        if made.is_err() {
            self.close_endpoints(&branch.uid).await?;
        }
        let (project, branch) = (project.clone(), branch.clone());
        self.blocking(move |control| match made {
            Ok(()) => control.db.write(|tx| {
                let now = control.clock.now();
                let project = Project { state: State::Ready, ..project };
                projects::update(tx, &project)?;
                let branch = Branch { state: State::Ready, prepared: true, state_change_time: now, ..branch };
                branches::update(tx, &branch)?;
                control.finish_operations(tx, &project.uid, &Outcome::Done)
            }),
            Err(error) => {
                tracing::error!(project = project.id, %error, "project could not be made");
                control.undo_branch_files(&branch.uid)?;
                control.db.write(|tx| {
                    control.finish_operations(tx, &project.uid, &failure(&error))?;
                    branches::remove(tx, &branch.uid)?;
                    projects::remove(tx, &project.uid)
                })
            }
        })
        .await
    }

    async fn make_root(self: &Arc<Self>, project: &Project, branch: &Branch) -> Result<(), Error> {
        let server = self.server_of(project)?;
        let key = key_of(&branch.uid)?;
        self.blocking(move |control| {
            let secrets = control.keys.wanted(key.as_str())?;
            Ok(control.engine.create_root(&key, &server, &secrets.admin_password)?)
        })
        .await?;
        self.start_root(project, branch).await?;
        self.open_endpoints(&branch.uid).await
    }

    fn plan_project(self: &Arc<Self>, principal: &Principal, request: NewProject) -> Result<Plan, Error> {
        check_id("project_id", &request.id)?;
        let compute = request.compute.clone().begin(&ComputeSettings::default())?;
        let first_compute = request.first_endpoint.begin(&compute)?;
        let display_name = request.display_name.unwrap_or_else(|| request.id.clone());
        settings::check_display_name(&display_name)?;
        if request.pg_version.is_some_and(|version| version != self.server.major) {
            return Err(Error::invalid(format!("Field 'pg_version' must be {}.", self.server.major))
                .with_hint(format!("the server on this host is PostgreSQL {}", self.server.major)));
        }
        let history_seconds = request.history_seconds.unwrap_or(settings::USUAL_HISTORY);
        settings::check_history(history_seconds)?;
        settings::check_tags(&request.options.custom_tags)?;
        self.check_pg_settings(&request.compute.pg_settings)?;
        // Whoever makes a project gets a role in it, or says who else does.
        let creator = identity_of(principal);
        check_role_name(&creator.name)?;
        let first = First::wished(&creator, request.first_role, request.first_database)?;
        let creator_kind = match creator.kind {
            IdentityType::ServicePrincipal => OwnerKind::ServicePrincipal,
            IdentityType::User | IdentityType::Group => OwnerKind::User,
        };
        let now = self.clock.now();
        let branch = Branch {
            uid: self.new_uid("br")?,
            project: self.new_uuid()?,
            id: PRODUCTION.to_owned(),
            given_name: None,
            source: None,
            state: State::Creating,
            state_change_time: now,
            prepared: false,
            is_protected: request.protect_root,
            expire_time: None,
            create_time: now,
            update_time: now,
            delete_time: None,
            purge_time: None,
        };
        let project = Project {
            uid: branch.project.clone(),
            id: request.id,
            display_name,
            owner: principal.on_behalf_of().to_owned(),
            state: State::Creating,
            server: ServerRecord {
                bin_dir: self.server.bin_dir.clone(),
                major: self.server.major,
                minor: self.server.minor,
            },
            compute,
            history_seconds,
            options: request.options,
            default_branch: branch.uid.clone(),
            create_time: now,
            update_time: now,
            delete_time: None,
            purge_time: None,
        };
        let endpoint = Endpoint {
            compute: first_compute,
            readable_secondaries: request.readable_secondaries,
            ..self.new_primary(&project, &branch)?
        };
        let resource = format!("projects/{}", project.id);
        let operation =
            self.new_operation(principal, Verb::Create, Kind::Project, &resource, &project.uid)?;
        // Before the row is there to be seen: the reconciler takes up what nobody works on.
        let claim = self.claim_new(&project.uid)?;
        // Keys before rows: a key without a row is swept up, a row without a key would be lost.
        let secrets = self.new_secrets(&creator.name, creator_kind)?;
        self.keys.write_with(&branch.uid, &[secrets], Some(&first))?;
        self.db.write(|tx| {
            if let Some(other) = projects::by_id(tx, &project.id)? {
                self.check_settled(&other.uid, other.state)?;
                return Err(Error::refused(
                    Refusal::AlreadyExists,
                    "project with such id already exists in the workspace",
                ));
            }
            projects::insert(tx, &project)?;
            branches::insert(tx, &branch)?;
            endpoints::insert(tx, &endpoint)?;
            operations::insert(tx, &operation)
        })?;
        Ok(Plan { project, branch, operation, claim })
    }

    /// The endpoint that every branch begins with.
    pub(crate) fn new_primary(&self, project: &Project, branch: &Branch) -> Result<Endpoint, Error> {
        Ok(Endpoint {
            uid: self.new_uid("ep")?,
            branch: branch.uid.clone(),
            id: PRIMARY.to_owned(),
            compute: project.compute.clone(),
            disabled: false,
            readable_secondaries: false,
            address: None,
            create_time: branch.create_time,
            update_time: branch.create_time,
        })
    }

    /// Secrets of a new branch whose owner logs in as `owner_role`.
    pub(crate) fn new_secrets(&self, owner_role: &str, owner_kind: OwnerKind) -> Result<Secrets, Error> {
        Ok(Secrets::new(self.new_secret()?, owner_role.to_owned(), owner_kind))
    }

    /// A thing that is half made or half deleted is not there yet, or no more.
    pub(crate) fn check_settled(&self, _uid: &str, state: State) -> Result<(), Error> {
        match state {
            State::Creating => Err(Error::refused(
                Refusal::Busy,
                "a create with this id is running; reconciliation is in progress",
            )),
            State::Ready | State::Deleted => Ok(()),
        }
    }

    /// One project.
    ///
    /// # Errors
    /// There is none with this identifier.
    pub async fn project(self: &Arc<Self>, id: String) -> Result<ProjectView, Error> {
        self.blocking(move |control| control.db.read(|c| control.project_view(c, live_project(c, &id)?)))
            .await
    }

    /// All projects, oldest first; deleted ones that still hold data where asked for.
    ///
    /// # Errors
    /// The database failed.
    pub async fn projects(self: &Arc<Self>, with_deleted: bool) -> Result<Vec<ProjectView>, Error> {
        self.blocking(move |control| {
            control.db.read(|c| {
                let rows = projects::list(c, with_deleted)?;
                rows.into_iter()
                    .filter(|project| project.state != State::Creating)
                    .map(|project| control.project_view(c, project))
                    .collect()
            })
        })
        .await
    }

    pub(crate) fn project_view(
        &self,
        connection: &Connection,
        project: Project,
    ) -> Result<ProjectView, Error> {
        let default = branches::by_uid(connection, &project.default_branch)?;
        let mut last_active = None;
        // Most branches of a large project have no compute that anybody ever wanted.
        for (branch, _) in self.computes.all() {
            let used = self.computes.times(&branch).last_active;
            if used > last_active && branches::is_of(connection, &branch, &project.uid)? {
                last_active = used;
            }
        }
        Ok(ProjectView {
            default_branch_id: default.map_or_else(String::new, |branch| branch.id),
            last_active,
            project,
        })
    }

    /// Deletes a project and all its branches. Their data is kept for the grace time, or freed at
    /// once with `purge`.
    ///
    /// # Errors
    /// There is none, or one of its branches is protected.
    pub async fn delete_project(
        self: &Arc<Self>,
        principal: Principal,
        id: String,
        purge: bool,
    ) -> Result<Operation, Error> {
        let (operation, doomed) = self
            .blocking(move |control| {
                let target = format!("projects/{id}");
                let outcome = control.mark_project_deleted(&principal, &id, purge);
                control.note_refusal(&principal, "project.delete", &target, outcome)
            })
            .await?;
        self.carry_out_delete(operation, doomed).await
    }

    fn mark_project_deleted(
        &self,
        principal: &Principal,
        id: &str,
        purge: bool,
    ) -> Result<(Operation, Vec<String>), Error> {
        let resource = format!("projects/{id}");
        self.db.write(|tx| {
            let mut project = live_project(tx, id)?;
            let rows = branches::list(tx, &project.uid, true)?;
            if let Some(protected) =
                rows.iter().find(|branch| branch.is_protected && branch.state != State::Deleted)
            {
                return Err(Error::refused(
                    Refusal::BadRequest,
                    format!("cannot delete project '{id}': branch '{}' is protected", protected.id),
                )
                .with_hint("remove the protection first"));
            }
            if rows.iter().any(|branch| branch.state == State::Creating) {
                return Err(Error::refused(
                    Refusal::Busy,
                    "a branch of this project is being made; reconciliation is in progress",
                ));
            }
            let now = self.clock.now();
            let mut last = now;
            let mut doomed = Vec::new();
            for branch in rows {
                let due = self.mark_deleted(tx, branch.clone(), now, purge, None)?;
                last = last.max(due);
                doomed.push(branch.uid);
            }
            project.state = State::Deleted;
            project.delete_time = Some(now);
            project.purge_time = Some(last);
            project.update_time = now;
            projects::update(tx, &project)?;
            let operation =
                self.new_operation(principal, Verb::Delete, Kind::Project, &resource, &project.uid)?;
            operations::insert(tx, &operation)?;
            Ok((operation, doomed))
        })
    }

    /// The server to run a project's branches with.
    pub(crate) fn server_of(&self, project: &Project) -> Result<compute::server::Server, Error> {
        if project.server.major == self.server.major {
            return Ok(self.server.clone());
        }
        Err(Error::refused(
            Refusal::BadRequest,
            format!(
                "project '{}' needs PostgreSQL {}, this daemon runs {}",
                project.id, project.server.major, self.server.major
            ),
        )
        .with_hint("start the daemon with --pg-bin of that version"))
    }
}

/// The live project with this identifier.
pub(crate) fn live_project(connection: &Connection, id: &str) -> Result<Project, Error> {
    projects::by_id(connection, id)?
        .filter(|project| project.state == State::Ready)
        .ok_or_else(|| not_found("project"))
}

/// How an error ends an operation.
pub(crate) fn failure(error: &Error) -> Outcome {
    let code = match error {
        Error::Refused { refusal, .. } => match refusal {
            Refusal::InvalidParameter => "INVALID_PARAMETER_VALUE",
            Refusal::BadRequest | Refusal::ManagedByParent => "BAD_REQUEST",
            Refusal::NotFound => "NOT_FOUND",
            Refusal::AlreadyExists => "ALREADY_EXISTS",
            Refusal::Busy => "RESOURCE_CONFLICT",
            Refusal::NotImplemented => "NOT_IMPLEMENTED",
            Refusal::Unauthenticated => "UNAUTHENTICATED",
            Refusal::PermissionDenied => "PERMISSION_DENIED",
            Refusal::InvalidState => "INVALID_STATE",
            Refusal::Exhausted => "TEMPORARILY_UNAVAILABLE",
        },
        error if error.is_damage() => "DATA_LOSS",
        _ => "INTERNAL_ERROR",
    };
    Outcome::Failed { code: code.to_owned(), message: error.to_string() }
}
