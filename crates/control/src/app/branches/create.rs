//! A new branch: intent, cut, address, record.

use std::sync::Arc;

use compute::engine::CutInfo;
use jiff::Timestamp;
use rusqlite::Transaction;

use super::{NewBranch, UpdateBranch, branch_name};
use crate::app::projects::{failure, live_project};
use crate::app::{Control, PATIENCE, key_of, not_found};
use crate::db::{branches, endpoints, operations};
use crate::error::{Error, Refusal};
use crate::keys::Secrets;
use crate::model::{Branch, Kind, Operation, Outcome, Principal, Project, Source, State, Verb};
use crate::names::check_id;

struct Plan {
    parent: Branch,
    branch: Branch,
    operation: Operation,
}

impl Control {
    /// Makes a branch. When the operation is done, the branch is durable; its compute starts with
    /// the first connection.
    ///
    /// # Errors
    /// The request is wrong, the parent is missing, or the name is taken.
    pub async fn create_branch(
        self: &Arc<Self>,
        principal: Principal,
        request: NewBranch,
    ) -> Result<Operation, Error> {
        if request.replace_existing && self.has_branch(&request).await? {
            let update =
                UpdateBranch { expiry: Some(request.expiry), is_protected: Some(request.is_protected) };
            return self.update_branch(principal, request.project, request.id, update).await;
        }
        let plan = self
            .blocking(move |control| {
                let target = branch_name(&request.project, &request.id);
                let plan = control.plan_branch(&principal, request);
                control.note_refusal(&principal, "branch.create", &target, plan)
            })
            .await?;
        let operation = plan.operation.uid.clone();
        let resource = plan.operation.resource.clone();
        let control = Arc::clone(self);
        let claim = self.claim(&plan.branch.uid);
        let work = tokio::spawn(async move {
            let _claim = claim;
            control.make_branch(plan.parent, plan.branch).await
        });
        let _ = tokio::time::timeout(PATIENCE, work).await;
        self.operation_row(resource, operation).await
    }

    async fn has_branch(self: &Arc<Self>, request: &NewBranch) -> Result<bool, Error> {
        let (project, id) = (request.project.clone(), request.id.clone());
        self.blocking(move |control| {
            control.db.read(|c| {
                let project = live_project(c, &project)?;
                Ok(branches::by_id(c, &project.uid, &id)?.is_some_and(|branch| branch.state == State::Ready))
            })
        })
        .await
    }

    fn plan_branch(&self, principal: &Principal, request: NewBranch) -> Result<Plan, Error> {
        check_id("branch_id", &request.id)?;
        let now = self.clock.now();
        let expire_time = request.expiry.resolve(now)?;
        if request.is_protected && expire_time.is_some() {
            return Err(Error::invalid("a protected branch cannot have an expiration time"));
        }
        let uid = self.new_uid("br")?;
        let fresh = self.new_secrets(self.owner())?;
        let plan = self.db.write(|tx| {
            let project = live_project(tx, &request.project)?;
            let parent = self.parent_of(tx, &project, request.source.as_deref())?;
            self.check_name_is_free(tx, &project, &request)?;
            let branch = Branch {
                uid,
                project: project.uid.clone(),
                id: request.id,
                given_name: request.given_name,
                source: Some(Source {
                    branch: parent.uid.clone(),
                    branch_id: parent.id.clone(),
                    lsn: None,
                    time: None,
                    fate: None,
                }),
                state: State::Creating,
                state_change_time: now,
                prepared: false,
                is_protected: request.is_protected,
                expire_time,
                create_time: now,
                update_time: now,
                delete_time: None,
                purge_time: None,
            };
            let resource = branch_name(&project.id, &branch.id);
            let operation =
                self.new_operation(principal, Verb::Create, Kind::Branch, &resource, &branch.uid)?;
            branches::insert(tx, &branch)?;
            endpoints::insert(tx, &self.new_primary(&project, &branch)?)?;
            operations::insert(tx, &operation)?;
            // Inside the transaction: without keys there is no row, and a key alone is swept up.
            let inherited = self.keys.read(&parent.uid)?;
            self.keys.write(&branch.uid, &with_inherited(fresh, inherited))?;
            Ok(Plan { parent, branch, operation })
        })?;
        Ok(plan)
    }

    fn parent_of(&self, tx: &Transaction, project: &Project, id: Option<&str>) -> Result<Branch, Error> {
        let parent = match id {
            Some(id) => branches::by_id(tx, &project.uid, id)?,
            None => branches::by_uid(tx, &project.default_branch)?,
        };
        parent.filter(|parent| parent.state == State::Ready).ok_or_else(|| not_found("branch"))
    }

    fn check_name_is_free(
        &self,
        tx: &Transaction,
        project: &Project,
        request: &NewBranch,
    ) -> Result<(), Error> {
        let Some(other) = branches::by_id(tx, &project.uid, &request.id)? else { return Ok(()) };
        self.check_settled(&other.uid, other.state)?;
        let error = Error::refused(Refusal::AlreadyExists, "branch with such id already exists");
        let (mine, theirs) = (request.given_name.as_ref(), other.given_name.as_ref());
        if mine == theirs {
            return Err(error);
        }
        Err(error.with_hint(format!(
            "\"{}\" and \"{}\" are both written {} here; choose another name for one of them",
            mine.unwrap_or(&request.id),
            theirs.unwrap_or(&other.id),
            other.id
        )))
    }

    /// Carries out what a `creating` row asks for, or takes it back.
    async fn make_branch(self: &Arc<Self>, parent: Branch, branch: Branch) -> Result<(), Error> {
        let parent_key = key_of(&parent.uid)?;
        let child_key = key_of(&branch.uid)?;
        let cut = {
            let branch = branch.uid.clone();
            self.blocking(move |control| {
                let cut = control.engine.create_child(&parent_key, &child_key)?;
                control.keep_later_keys(parent_key.as_str(), &branch)?;
                Ok(cut)
            })
            .await
        };
        let made = match cut {
            Ok(cut) => self.open_endpoints(&branch.uid).await.map(|()| cut),
            Err(error) => Err(error),
        };
        self.blocking(move |control| match made {
            Ok(cut) => control.settle_branch(branch, Some(&cut)),
            Err(error) => {
                tracing::error!(branch = branch.uid, %error, "branch could not be made");
                control.undo_branch(&branch, &failure(&error))
            }
        })
        .await
    }

    /// The parent may have changed its keys between our reading them and the cut: the child's data
    /// then answers to the later ones.
    fn keep_later_keys(&self, parent: &str, branch: &str) -> Result<(), Error> {
        let mut candidates = self.keys.read(branch)?;
        let before = candidates.len();
        for later in self.keys.read(parent)? {
            if !candidates.contains(&later) {
                candidates.push(later);
            }
        }
        if candidates.len() > before {
            self.keys.write(branch, &candidates)?;
        }
        Ok(())
    }

    /// Notes that a branch is whole.
    pub(crate) fn settle_branch(&self, mut branch: Branch, cut: Option<&CutInfo>) -> Result<(), Error> {
        let now = self.clock.now();
        branch.state = State::Ready;
        branch.state_change_time = now;
        if let (Some(source), Some(cut)) = (branch.source.as_mut(), cut) {
            source.lsn = Some(cut.end_lsn.to_string());
            source.time = Timestamp::from_microsecond(cut.time_us).ok();
        }
        self.db.write(|tx| {
            branches::update(tx, &branch)?;
            self.finish_operations(tx, &branch.uid, &Outcome::Done)
        })
    }

    /// Takes a half-made branch back.
    pub(crate) fn undo_branch(&self, branch: &Branch, outcome: &Outcome) -> Result<(), Error> {
        self.undo_branch_files(&branch.uid)?;
        self.db.write(|tx| {
            self.finish_operations(tx, &branch.uid, outcome)?;
            branches::remove(tx, &branch.uid)
        })
    }

    /// Frees what a branch has on disk.
    pub(crate) fn undo_branch_files(&self, uid: &str) -> Result<(), Error> {
        self.engine.delete(&key_of(uid)?)?;
        self.keys.remove(uid)
    }
}

/// The wanted secrets first, then what the parent's data may answer to.
fn with_inherited(fresh: Secrets, inherited: Vec<Secrets>) -> Vec<Secrets> {
    std::iter::once(fresh).chain(inherited).collect()
}
