//! Operations: what became of a change that was asked for.

use std::sync::Arc;

use rusqlite::Connection;

use super::branches::BranchView;
use super::catalog::split_target;
use super::databases::{DatabaseView, database_view};
use super::endpoints::EndpointView;
use super::projects::ProjectView;
use super::roles::RoleView;
use super::{Control, not_found};
use crate::db::{branches, catalog, endpoints, operations, projects};
use crate::error::Error;
use crate::model::{Kind, Operation, Outcome, Verb};

/// An operation and, where it left something behind, that thing as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct OperationView {
    /// The row.
    pub operation: Operation,
    /// What it made or changed; none after a delete, or where that is gone by now.
    pub target: Option<Target>,
}

/// What an operation made or changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A project.
    Project(ProjectView),
    /// A branch.
    Branch(BranchView),
    /// An endpoint.
    Endpoint(EndpointView),
    /// A role.
    Role(RoleView),
    /// A database.
    Database(DatabaseView),
}

impl Control {
    /// An operation under its resource's name, e.g. `projects/p/branches/b`.
    ///
    /// # Errors
    /// There is none.
    pub async fn operation(self: &Arc<Self>, resource: String, uid: String) -> Result<OperationView, Error> {
        let operation = self.operation_row(resource, uid).await?;
        self.view_operation(operation).await
    }

    /// The operation with what it left behind.
    ///
    /// # Errors
    /// The database or the engine failed.
    pub async fn view_operation(self: &Arc<Self>, operation: Operation) -> Result<OperationView, Error> {
        self.blocking(move |control| {
            let target = match (&operation.outcome, operation.verb) {
                (Outcome::Done, Verb::Create | Verb::Update) => control.target_of(&operation)?,
                _ => None,
            };
            Ok(OperationView { operation, target })
        })
        .await
    }

    pub(crate) async fn operation_row(
        self: &Arc<Self>,
        resource: String,
        uid: String,
    ) -> Result<Operation, Error> {
        self.blocking(move |control| {
            control.db.read(|c| operations::get(c, &resource, &uid))?.ok_or_else(|| not_found("operation"))
        })
        .await
    }

    fn target_of(&self, operation: &Operation) -> Result<Option<Target>, Error> {
        let uid = &operation.target;
        match operation.kind {
            Kind::Project => self.db.read(|c| {
                let project = projects::by_uid(c, uid)?;
                Ok(project.map(|project| self.project_view(c, project)).transpose()?.map(Target::Project))
            }),
            Kind::Branch => {
                let found = self.db.read(|c| {
                    let Some(branch) = branches::by_uid(c, uid)? else { return Ok(None) };
                    Ok(projects::by_uid(c, &branch.project)?.map(|project| (project, branch)))
                })?;
                Ok(found.map(|(project, branch)| Target::Branch(self.branch_view(&project, branch))))
            }
            Kind::Endpoint => {
                let found = self.db.read(|c| {
                    let Some(endpoint) = endpoints::by_uid(c, uid)? else { return Ok(None) };
                    let Some(branch) = branches::by_uid(c, &endpoint.branch)? else { return Ok(None) };
                    Ok(projects::by_uid(c, &branch.project)?.map(|project| (project, branch, endpoint)))
                })?;
                found
                    .map(|(project, branch, endpoint)| {
                        Ok(Target::Endpoint(self.endpoint_view(&project.id, &branch.id, endpoint)?))
                    })
                    .transpose()
            }
            Kind::Role | Kind::Database => match split_target(uid) {
                Some((branch, id)) => self.catalog_target(operation.kind, branch, id),
                None => Ok(None),
            },
        }
    }

    fn catalog_target(&self, kind: Kind, branch: &str, id: &str) -> Result<Option<Target>, Error> {
        self.db.read(|c| {
            let Some(branch) = branches::by_uid(c, branch)? else { return Ok(None) };
            let Some(project) = projects::by_uid(c, &branch.project)? else { return Ok(None) };
            let roles = catalog::roles(c, &branch.uid)?;
            if kind == Kind::Role {
                let role = roles.into_iter().find(|role| role.id == id);
                let view = |role| RoleView { role, project_id: project.id, branch_id: branch.id };
                return Ok(role.map(view).map(Target::Role));
            }
            let database = catalog::databases(c, &branch.uid)?.into_iter().find(|database| database.id == id);
            let view = |database| database_view(&project.id, &branch.id, database, &roles);
            Ok(database.map(view).map(Target::Database))
        })
    }

    /// Notes an operation that was done as soon as it was asked for.
    pub(crate) fn insert_done(
        &self,
        connection: &Connection,
        operation: Operation,
    ) -> Result<Operation, Error> {
        let operation = Operation { outcome: Outcome::Done, ..operation };
        operations::insert(connection, &operation)?;
        self.count_operation(&operation, &operation.outcome);
        Ok(operation)
    }

    /// Ends one operation.
    pub(crate) fn finish_operation(
        &self,
        connection: &Connection,
        operation: &Operation,
        outcome: &Outcome,
    ) -> Result<(), Error> {
        operations::finish(connection, &operation.uid, outcome, self.clock.now())?;
        self.count_operation(operation, outcome);
        Ok(())
    }

    fn count_operation(&self, operation: &Operation, outcome: &Outcome) {
        let outcome = if matches!(outcome, Outcome::Failed { .. }) { "failed" } else { "done" };
        let (kind, verb) = (operation.kind.as_str(), operation.verb.as_str());
        self.metrics.operations.count([("kind", kind), ("verb", verb), ("outcome", outcome)]);
    }

    /// Ends every running operation on a target, and writes it to the audit log.
    pub(crate) fn finish_operations(
        &self,
        connection: &Connection,
        target: &str,
        outcome: &Outcome,
    ) -> Result<(), Error> {
        let (result, detail) = match outcome {
            Outcome::Failed { message, .. } => ("failed", message.as_str()),
            Outcome::Done | Outcome::Running => ("done", ""),
        };
        for operation in operations::running(connection, target)? {
            self.finish_operation(connection, &operation, outcome)?;
            let action = format!("{}.{}", operation.kind.as_str(), operation.verb.as_str());
            self.note(connection, &operation.principal, &action, &operation.resource, result, detail)?;
        }
        Ok(())
    }
}
