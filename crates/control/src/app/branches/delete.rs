//! The end of a branch, and taking it back.

use std::sync::Arc;

use compute::fault::{Fault, planted};
use compute::moment::{Moment, reached};
use jiff::Timestamp;
use rusqlite::Connection;

use super::{RemoveBranch, branch_name};
use crate::app::expiry::purge_time;
use crate::app::projects::live_project;
use crate::app::{Control, not_found};
use crate::db::{branches, operations, projects};
use crate::error::{Error, Refusal};
use crate::model::{Branch, Kind, Operation, Outcome, Principal, Project, State, Verb};

impl Control {
    /// Deletes a branch; its data is kept for the grace time, or freed at once with `purge`.
    ///
    /// # Errors
    /// There is no such branch, or it is protected, a root, the default, or has children.
    pub async fn delete_branch(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        id: String,
        how: RemoveBranch,
    ) -> Result<Operation, Error> {
        let (operation, doomed) = self
            .blocking(move |control| {
                let target = branch_name(&project, &id);
                let outcome = control.mark_branch_deleted(&principal, &project, &id, how);
                control.note_refusal(&principal, "branch.delete", &target, outcome)
            })
            .await?;
        reached(Moment::DeleteAsked);
        self.carry_out_delete(operation, doomed).await
    }

    fn mark_branch_deleted(
        &self,
        principal: &Principal,
        project_id: &str,
        id: &str,
        how: RemoveBranch,
    ) -> Result<(Operation, Vec<String>), Error> {
        let resource = branch_name(project_id, id);
        self.db.write(|tx| {
            let project = live_project(tx, project_id)?;
            let Some(branch) = branches::by_id(tx, &project.uid, id)? else {
                if !how.allow_missing {
                    return Err(not_found("branch"));
                }
                let operation = self.new_operation(principal, Verb::Delete, Kind::Branch, &resource, "")?;
                let operation = self.insert_done(tx, operation)?;
                self.note(tx, principal, "branch.delete", &resource, "done", "there was none")?;
                return Ok((operation, Vec::new()));
            };
            let doomed = doomed_branches(tx, &project, branch.clone(), how.cascade)?;
            let now = self.clock.now();
            for other in &doomed {
                self.mark_deleted(tx, other.clone(), now, how.purge, Some("deleted"))?;
            }
            let operation =
                self.new_operation(principal, Verb::Delete, Kind::Branch, &resource, &branch.uid)?;
            operations::insert(tx, &operation)?;
            // Leaves first, so that no branch is freed under one that still reads through it.
            Ok((operation, doomed.into_iter().rev().map(|branch| branch.uid).collect()))
        })
    }

    /// Marks one row deleted and returns when its data is due to be freed. One that is marked
    /// already is only ever brought forward.
    pub(crate) fn mark_deleted(
        &self,
        connection: &Connection,
        mut branch: Branch,
        now: Timestamp,
        purge: bool,
        fate: Option<&str>,
    ) -> Result<Timestamp, Error> {
        let usual = purge_time(now, branch.create_time, branch.expire_time, self.settings.delete_grace);
        let at_once = purge || planted(Fault::GraceIgnored);
        let due = if at_once { now } else { branch.purge_time.unwrap_or(usual) };
        if branch.state != State::Deleted {
            branch.delete_time = Some(now);
            branch.state_change_time = now;
        }
        branch.state = State::Deleted;
        branch.purge_time = Some(due);
        branch.update_time = now;
        branches::update(connection, &branch)?;
        if fate.is_some() {
            branches::tell_children(connection, &branch.uid, fate)?;
        }
        Ok(due)
    }

    /// Makes the world follow rows that were just marked deleted.
    pub(crate) async fn carry_out_delete(
        self: &Arc<Self>,
        operation: Operation,
        doomed: Vec<String>,
    ) -> Result<Operation, Error> {
        if operation.outcome != Outcome::Running {
            return Ok(operation);
        }
        let control = Arc::clone(self);
        let target = operation.target.clone();
        // Keeps the reconciler from doing the same at the same time.
        let claim = self.claim(&operation.uid);
        let work = tokio::spawn(async move {
            let _claim = claim;
            for branch in &doomed {
                control.retire_branch(branch).await?;
            }
            control.finish_delete(target).await
        });
        Control::wait_patiently(work).await;
        self.operation_row(operation.resource, operation.uid).await
    }

    /// Ends the operations on a deleted target, and forgets a project that has nothing left.
    pub(crate) async fn finish_delete(self: &Arc<Self>, target: String) -> Result<(), Error> {
        self.blocking(move |control| {
            control.db.write(|tx| {
                control.finish_operations(tx, &target, &Outcome::Done)?;
                let empty = match projects::by_uid(tx, &target)? {
                    Some(project) if project.state == State::Deleted => {
                        branches::list(tx, &target, true)?.is_empty()
                    }
                    _ => false,
                };
                if empty { projects::remove(tx, &target) } else { Ok(()) }
            })?;
            reached(Moment::DeleteSettled);
            Ok(())
        })
        .await
    }

    /// Takes back a delete whose data is still there.
    ///
    /// # Errors
    /// There is no such deleted branch, or its name was taken meanwhile.
    pub async fn undelete_branch(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        id: String,
    ) -> Result<Operation, Error> {
        let operation = self
            .blocking(move |control| {
                let target = branch_name(&project, &id);
                let outcome = control.mark_branch_live(&principal, &project, &id);
                control.note_refusal(&principal, "branch.undelete", &target, outcome)
            })
            .await?;
        self.open_endpoints(&operation.target).await?;
        Ok(operation)
    }

    fn mark_branch_live(
        &self,
        principal: &Principal,
        project_id: &str,
        id: &str,
    ) -> Result<Operation, Error> {
        let resource = branch_name(project_id, id);
        self.db.write(|tx| {
            let project = live_project(tx, project_id)?;
            let live = branches::by_id(tx, &project.uid, id)?;
            let now = self.clock.now();
            let tombstone = branches::last_deleted(tx, &project.uid, id, now)?;
            let mut branch = match (live, tombstone) {
                (Some(_), Some(_)) => {
                    return Err(Error::refused(Refusal::AlreadyExists, "branch with such id already exists"));
                }
                (Some(_), None) => {
                    return Err(Error::refused(
                        Refusal::BadRequest,
                        format!("branch '{resource}' is not deleted"),
                    ));
                }
                (None, Some(branch)) => branch,
                (None, None) => return Err(not_found("branch")),
            };
            branch.state = State::Ready;
            branch.state_change_time = now;
            branch.update_time = now;
            branch.delete_time = None;
            branch.purge_time = None;
            // What expired would expire again at once.
            branch.expire_time = branch.expire_time.filter(|time| *time > now);
            branches::update(tx, &branch)?;
            branches::tell_children(tx, &branch.uid, None)?;
            let operation =
                self.new_operation(principal, Verb::Undelete, Kind::Branch, &resource, &branch.uid)?;
            let operation = self.insert_done(tx, operation)?;
            self.note(tx, principal, "branch.undelete", &resource, "done", "")?;
            Ok(operation)
        })
    }
}

/// The branch and, with `cascade`, all that descend from it, parents before children.
fn doomed_branches(
    connection: &Connection,
    project: &Project,
    branch: Branch,
    cascade: bool,
) -> Result<Vec<Branch>, Error> {
    let mut doomed = vec![branch];
    let mut next = 0;
    while next < doomed.len() {
        let branch = doomed[next].clone();
        check_deletable(project, &branch)?;
        let children = branches::children(connection, &branch.uid)?;
        if !cascade && !children.is_empty() {
            return Err(has_children(&branch, &children));
        }
        doomed.extend(children);
        next += 1;
    }
    Ok(doomed)
}

fn check_deletable(project: &Project, branch: &Branch) -> Result<(), Error> {
    let name = branch_name(&project.id, &branch.id);
    if branch.state == State::Creating {
        return Err(Error::refused(
            Refusal::Busy,
            format!("branch '{name}' is being made; reconciliation is in progress"),
        ));
    }
    if branch.is_protected {
        return Err(Error::refused(Refusal::BadRequest, "cannot delete protected branch"));
    }
    if branch.source.is_none() {
        return Err(Error::refused(
            Refusal::ManagedByParent,
            format!("Cannot delete root branch '{name}'. Root branches cannot be deleted independently."),
        ));
    }
    if branch.uid == project.default_branch {
        return Err(Error::refused(Refusal::BadRequest, format!("cannot delete default branch '{name}'")));
    }
    Ok(())
}

fn has_children(branch: &Branch, children: &[Branch]) -> Error {
    let names: Vec<&str> = children.iter().map(|child| child.id.as_str()).collect();
    let count = match children.len() {
        1 => "1 child".to_owned(),
        many => format!("{many} children"),
    };
    Error::refused(
        Refusal::BadRequest,
        format!("branch \"{}\" has {count} ({})", branch.id, names.join(", ")),
    )
    .with_hint("delete them first, or use --cascade")
}
