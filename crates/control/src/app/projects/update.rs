//! Changes to a project.

use std::sync::Arc;

use rusqlite::Connection;

use super::{live_project, settings};
use crate::app::endpoints::UpdateCompute;
use crate::app::{Change, Control, not_found};
use crate::db::{branches, projects};
use crate::error::Error;
use crate::model::{ComputeSettings, Kind, Operation, Principal, Project, State, Tag, Verb};

/// Changes to a project.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateProject {
    /// What people see; the identifier where reset.
    pub display_name: Change<String>,
    /// Identifier of the default branch; cannot be reset.
    pub default_branch: Change<String>,
    /// How far back the past is kept, seconds.
    pub history_seconds: Change<f64>,
    /// What new endpoints begin with; those that exist stay as they are.
    pub compute: UpdateCompute,
    /// Whether PostgreSQL roles may log in with passwords of their own.
    pub native_login: Change<bool>,
    /// Labels; taken as a whole.
    pub custom_tags: Change<Vec<Tag>>,
    /// Kept and shown.
    pub budget_policy_id: Change<String>,
    /// Kept and shown.
    pub compute_provisioner: Change<String>,
    /// PostgreSQL major version as the caller believes it to be; must be what it is.
    pub pg_version: Option<u32>,
}

impl Control {
    /// Changes a project.
    ///
    /// # Errors
    /// There is none with this identifier, or a value is not allowed.
    pub async fn update_project(
        self: &Arc<Self>,
        principal: Principal,
        id: String,
        update: UpdateProject,
    ) -> Result<Operation, Error> {
        self.blocking(move |control| {
            let target = format!("projects/{id}");
            let outcome = control.check_pg_settings(&update.compute.pg_settings).and_then(|()| {
                control.db.write(|tx| {
                    let project = changed(tx, live_project(tx, &id)?, update)?;
                    let project = Project { update_time: control.clock.now(), ..project };
                    projects::update(tx, &project)?;
                    let operation = control.new_operation(
                        &principal,
                        Verb::Update,
                        Kind::Project,
                        &target,
                        &project.uid,
                    )?;
                    let operation = control.insert_done(tx, operation)?;
                    control.note(tx, &principal, "project.update", &target, "done", "")?;
                    Ok(operation)
                })
            });
            control.note_refusal(&principal, "project.update", &target, outcome)
        })
        .await
    }
}

fn changed(connection: &Connection, mut project: Project, update: UpdateProject) -> Result<Project, Error> {
    if update.pg_version.is_some_and(|version| version != project.server.major) {
        return Err(Error::invalid("Field 'spec.pg_version' cannot be changed."));
    }
    project.display_name = update.display_name.applied(project.display_name, project.id.clone());
    settings::check_display_name(&project.display_name)?;
    project.history_seconds =
        update.history_seconds.applied(project.history_seconds, settings::USUAL_HISTORY);
    settings::check_history(project.history_seconds)?;
    project.compute = update.compute.change(project.compute, &ComputeSettings::default())?;
    let options = &mut project.options;
    options.native_login = update.native_login.applied(options.native_login, false);
    options.custom_tags = update.custom_tags.applied(std::mem::take(&mut options.custom_tags), Vec::new());
    settings::check_tags(&options.custom_tags)?;
    optional(&mut options.budget_policy_id, update.budget_policy_id);
    optional(&mut options.compute_provisioner, update.compute_provisioner);
    match update.default_branch {
        Change::Keep => {}
        Change::Set(id) => project.default_branch = default_branch(connection, &project, &id)?,
        Change::Reset => {
            return Err(Error::invalid(
                "Field 'spec.default_branch' is required, expected non-default value (not \"\")!",
            ));
        }
    }
    Ok(project)
}

fn optional(field: &mut Option<String>, change: Change<String>) {
    match change {
        Change::Keep => {}
        Change::Set(value) => *field = Some(value),
        Change::Reset => *field = None,
    }
}

fn default_branch(connection: &Connection, project: &Project, id: &str) -> Result<String, Error> {
    let branch = branches::by_id(connection, &project.uid, id)?
        .filter(|branch| branch.state == State::Ready)
        .ok_or_else(|| not_found("branch"))?;
    if branch.expire_time.is_some() {
        return Err(Error::invalid(format!("branch '{id}' expires, so it cannot be the default branch"))
            .with_hint("remove its expiration first"));
    }
    Ok(branch.uid)
}
