//! A deleted project comes back.

use std::sync::Arc;

use crate::app::{Control, not_found};
use crate::db::{branches, grants, projects};
use crate::error::{Error, Refusal};
use crate::model::{Branch, Kind, Operation, Principal, Project, State, Verb};

impl Control {
    /// Takes back the deletion of a project with the branches that it had then. Branches that were
    /// deleted before stay deleted; one whose time is up by now expires again.
    ///
    /// # Errors
    /// There is no such deleted project whose data is still there, or its name was taken meanwhile.
    pub async fn undelete_project(
        self: &Arc<Self>,
        principal: Principal,
        id: String,
    ) -> Result<Operation, Error> {
        let (operation, back) = self
            .blocking(move |control| {
                let target = format!("projects/{id}");
                let outcome = control.mark_project_live(&principal, &id);
                control.note_refusal(&principal, "project.undelete", &target, outcome)
            })
            .await?;
        for branch in back {
            self.open_endpoints(&branch).await?;
        }
        Ok(operation)
    }

    fn mark_project_live(&self, principal: &Principal, id: &str) -> Result<(Operation, Vec<String>), Error> {
        let resource = format!("projects/{id}");
        let now = self.clock.now();
        self.db.write(|tx| {
            let may_return =
                |project: &Project| project.id == id && project.purge_time.is_some_and(|due| due > now);
            if projects::by_id(tx, id)?.is_some() {
                return Err(if projects::list(tx, true)?.iter().any(may_return) {
                    let message = "project with such id already exists in the workspace";
                    Error::refused(Refusal::AlreadyExists, message)
                } else {
                    Error::refused(Refusal::BadRequest, format!("project '{id}' is not deleted"))
                });
            }
            // Of several of that name the one that the caller's rights were looked up for.
            let meant = grants::subject(tx, id)?.map(|(uid, _)| projects::by_uid(tx, &uid)).transpose()?;
            let project = meant.flatten().filter(may_return).ok_or_else(|| not_found("project"))?;
            let gone_with_it =
                |branch: &Branch| branch.state == State::Deleted && branch.delete_time == project.delete_time;
            let rows = branches::list(tx, &project.uid, true)?;
            let mut back = Vec::new();
            for branch in rows.into_iter().filter(gone_with_it) {
                // Its data may be gone already: branches meant to live briefly are kept briefly.
                if branch.purge_time.is_none_or(|due| due <= now) {
                    continue;
                }
                back.push(branch.uid.clone());
                branches::update(
                    tx,
                    &Branch {
                        state: State::Ready,
                        state_change_time: now,
                        update_time: now,
                        delete_time: None,
                        purge_time: None,
                        ..branch
                    },
                )?;
            }
            let project = Project {
                state: State::Ready,
                update_time: now,
                delete_time: None,
                purge_time: None,
                ..project
            };
            projects::update(tx, &project)?;
            let operation =
                self.new_operation(principal, Verb::Undelete, Kind::Project, &resource, &project.uid)?;
            let operation = self.insert_done(tx, operation)?;
            self.note(tx, principal, "project.undelete", &resource, "done", "")?;
            Ok((operation, back))
        })
    }
}
