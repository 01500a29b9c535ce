//! Branches: cut from a parent, kept until deleted or expired.

mod create;
mod delete;

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;

pub use super::expiry::Expiry;
use super::projects::live_project;
use super::{Control, Usage, key_of, not_found};
use crate::db::branches;
use crate::error::Error;
use crate::model::{Branch, Kind, Operation, Principal, Project, State, Verb};

/// What a caller wants of a new branch.
#[derive(Debug, Clone)]
pub struct NewBranch {
    /// Identifier of the project.
    pub project: String,
    /// Identifier of the branch.
    pub id: String,
    /// What a person wrote, where that differs from the identifier.
    pub given_name: Option<String>,
    /// Identifier of the parent; the default branch where absent.
    pub source: Option<String>,
    /// When it vanishes. Must be said of a new branch; where one is replaced, its expiry stays if
    /// nothing is said.
    pub expiry: Option<Expiry>,
    /// Whether delete and reset are refused.
    pub is_protected: bool,
    /// Whether a branch that exists already is changed instead.
    pub replace_existing: bool,
}

/// What a caller wants changed of a branch; what is absent stays.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpdateBranch {
    /// When it vanishes.
    pub expiry: Option<Expiry>,
    /// Whether delete and reset are refused.
    pub is_protected: Option<bool>,
}

/// How a branch is to be deleted.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveBranch {
    /// Frees the data at once; it cannot come back.
    pub purge: bool,
    /// Deletes the branches made from it as well.
    pub cascade: bool,
    /// A branch that is not there is no error.
    pub allow_missing: bool,
}

/// A branch with what its row does not say.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchView {
    /// The row.
    pub branch: Branch,
    /// Identifier of the project.
    pub project_id: String,
    /// Whether it is its project's default branch.
    pub is_default: bool,
    /// Its space; none where that cannot be looked at.
    pub usage: Option<Usage>,
    /// What is wrong with its data, where it cannot be used.
    pub damage: Option<String>,
}

impl Control {
    /// One branch.
    ///
    /// # Errors
    /// There is none with these identifiers.
    pub async fn branch(self: &Arc<Self>, project: String, id: String) -> Result<BranchView, Error> {
        self.blocking(move |control| {
            let (project, branch) = control.db.read(|c| live_branch(c, &project, &id))?;
            Ok(control.branch_view(&project, branch))
        })
        .await
    }

    /// At most `limit` branches of a project in order of creation, from the first one after the place `after`;
    /// deleted ones that still hold data where asked for.
    ///
    /// # Errors
    /// There is no such project.
    pub async fn branches(
        self: &Arc<Self>,
        project: String,
        with_deleted: bool,
        after: Option<(Timestamp, String)>,
        limit: usize,
    ) -> Result<Vec<BranchView>, Error> {
        self.blocking(move |control| {
            let (project, rows) = control.db.read(|c| {
                let project = live_project(c, &project)?;
                let rows = branches::page(c, &project.uid, with_deleted, after.as_ref(), limit)?;
                Ok((project, rows))
            })?;
            Ok(rows.into_iter().map(|branch| control.branch_view(&project, branch)).collect())
        })
        .await
    }

    pub(crate) fn branch_view(&self, project: &Project, branch: Branch) -> BranchView {
        // One that is just being made or freed has none.
        let usage = key_of(&branch.uid).and_then(|key| Ok(self.engine.usage(&key)?)).ok();
        BranchView {
            project_id: project.id.clone(),
            is_default: project.default_branch == branch.uid,
            usage,
            damage: self.damage_of(&branch.uid),
            branch,
        }
    }

    /// Changes expiry or protection.
    ///
    /// # Errors
    /// There is no such branch, or the change is not allowed.
    pub async fn update_branch(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        id: String,
        update: UpdateBranch,
    ) -> Result<Operation, Error> {
        self.blocking(move |control| {
            let target = branch_name(&project, &id);
            let outcome = control.db.write(|tx| {
                let (project, mut branch) = live_branch(tx, &project, &id)?;
                let now = control.clock.now();
                if let Some(is_protected) = update.is_protected {
                    branch.is_protected = is_protected;
                }
                if let Some(expiry) = update.expiry {
                    branch.expire_time = expiry.resolve(now)?;
                }
                check_expiry_allowed(&project, &branch)?;
                branch.update_time = now;
                branches::update(tx, &branch)?;
                let operation =
                    control.new_operation(&principal, Verb::Update, Kind::Branch, &target, &branch.uid)?;
                let operation = control.insert_done(tx, operation)?;
                control.note(tx, &principal, "branch.update", &target, "done", "")?;
                Ok(operation)
            });
            control.note_refusal(&principal, "branch.update", &target, outcome)
        })
        .await
    }
}

/// Resource name of a branch.
pub(crate) fn branch_name(project: &str, branch: &str) -> String {
    format!("projects/{project}/branches/{branch}")
}

/// The live branch with these identifiers, and its project.
pub(crate) fn live_branch(
    connection: &Connection,
    project: &str,
    id: &str,
) -> Result<(Project, Branch), Error> {
    let project = live_project(connection, project)?;
    let branch = branches::by_id(connection, &project.uid, id)?
        .filter(|branch| branch.state == State::Ready)
        .ok_or_else(|| not_found("branch"))?;
    Ok((project, branch))
}

fn check_expiry_allowed(project: &Project, branch: &Branch) -> Result<(), Error> {
    if branch.expire_time.is_none() {
        return Ok(());
    }
    if branch.is_protected {
        return Err(Error::invalid("a protected branch cannot have an expiration time"));
    }
    if branch.uid == project.default_branch {
        return Err(Error::invalid("the default branch cannot have an expiration time"));
    }
    Ok(())
}
