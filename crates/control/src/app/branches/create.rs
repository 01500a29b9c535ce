//! A new branch: intent, cut, address, record.

use std::sync::Arc;
use std::time::Instant;

use compute::engine::CutInfo;
use compute::moment::{Moment, reached};
use jiff::Timestamp;
use rusqlite::Transaction;

use super::{NewBranch, UpdateBranch, branch_name};
use crate::app::projects::{failure, live_project};
use crate::app::{Claim, Control, key_of, not_found};
use crate::db::{branches, catalog, endpoints, operations};
use crate::error::{Error, Refusal};
use crate::keys::Secrets;
use crate::model::{Branch, Kind, Operation, Outcome, Principal, Project, Source, State, Verb};
use crate::names::check_id;

struct Plan {
    parent: Branch,
    branch: Branch,
    operation: Operation,
    /// Keys that the branch may answer to, the wanted ones first.
    candidates: Vec<Secrets>,
    claim: Claim,
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
        if request.replace_existing
            && let Some(branch) = self.replaceable(&request).await?
        {
            let source = branch.source.as_ref().map(|source| source.branch_id.as_str());
            if request.source.is_some() && request.source.as_deref() != source {
                return Err(Error::invalid("Field 'spec.source_branch' cannot be changed."));
            }
            let update = UpdateBranch { expiry: request.expiry, is_protected: Some(request.is_protected) };
            return self.update_branch(principal, request.project, request.id, update).await;
        }
        let plan = self
            .blocking(move |control| {
                let target = branch_name(&request.project, &request.id);
                let plan = control.plan_branch(&principal, request);
                control.note_refusal(&principal, "branch.create", &target, plan)
            })
            .await?;
        reached(Moment::CreateAsked);
        let operation = plan.operation.uid.clone();
        let resource = plan.operation.resource.clone();
        let control = Arc::clone(self);
        let work = tokio::spawn(async move { control.make_branch(plan).await });
        Control::wait_patiently(work).await;
        self.operation_row(resource, operation).await
    }

    async fn replaceable(self: &Arc<Self>, request: &NewBranch) -> Result<Option<Branch>, Error> {
        let (project, id) = (request.project.clone(), request.id.clone());
        self.blocking(move |control| {
            control.db.read(|c| {
                let project = live_project(c, &project)?;
                Ok(branches::by_id(c, &project.uid, &id)?.filter(|branch| branch.state == State::Ready))
            })
        })
        .await
    }

    fn plan_branch(self: &Arc<Self>, principal: &Principal, request: NewBranch) -> Result<Plan, Error> {
        check_id("branch_id", &request.id)?;
        let now = self.clock.now();
        let expiry = request.expiry.ok_or_else(|| {
            Error::invalid("one of 'spec.ttl', 'spec.expire_time' and 'spec.no_expiry' must be set")
        })?;
        let expire_time = expiry.resolve(now)?;
        if request.is_protected && expire_time.is_some() {
            return Err(Error::invalid("a protected branch cannot have an expiration time"));
        }
        let uid = self.new_uid("br")?;
        // Before the row is there to be seen: the reconciler takes back what nobody works on.
        let claim = self.claim_new(&uid)?;
        self.db.write_soon(|tx| {
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
            // Passwords that people know from a protected branch must not open its children, nor theirs.
            if parent.is_protected || catalog::wants_fresh_passwords(tx, &parent.uid)? {
                catalog::want_fresh_passwords(tx, &branch.uid)?;
            }
            let inherited = self.keys.read(&parent.uid)?;
            let fresh = self.new_secrets(&inherited[0].owner_role, inherited[0].owner_kind)?;
            let candidates = with_inherited(fresh, inherited);
            Ok(Plan { parent, branch, operation, candidates, claim })
        })
    }

    fn parent_of(&self, tx: &Transaction, project: &Project, id: Option<&str>) -> Result<Branch, Error> {
        let parent = match id {
            Some(id) => branches::by_id(tx, &project.uid, id)?,
            None => branches::by_uid(tx, &project.default_branch)?,
        };
        let parent =
            parent.filter(|parent| parent.state == State::Ready).ok_or_else(|| not_found("branch"))?;
        self.check_whole(&parent.uid, &parent.id)?;
        Ok(parent)
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

    /// Carries out what a `creating` row asks for, or takes it back. What must reach the disk goes
    /// there side by side; the row that says "ready" comes last.
    async fn make_branch(self: &Arc<Self>, plan: Plan) -> Result<(), Error> {
        let begin = Instant::now();
        let Plan { parent, branch, candidates, claim: _claim, .. } = plan;
        let (cut, keys, address, ()) = tokio::join!(
            self.cut(&parent.uid, &branch.uid),
            self.write_keys(&branch.uid, candidates.clone()),
            async {
                self.open_endpoints(&branch.uid).await?;
                reached(Moment::EndpointOpen);
                Ok::<(), Error>(())
            },
            // The child is listed from what is known of its parent, until it is looked at itself.
            self.look_if_awake(&parent.uid),
        );
        let made = match (cut, keys, address) {
            (Ok(cut), Ok(()), Ok(())) => Ok(cut),
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => Err(error),
        };
        let milliseconds = begin.elapsed().as_millis() as u64;
        if made.is_err() {
            self.close_endpoints(&branch.uid).await?;
        }
        self.blocking(move |control| match made {
            Ok(cut) => {
                tracing::info!(
                    branch = branch.uid,
                    name = branch.id,
                    milliseconds,
                    cut.closed_us,
                    "branch made"
                );
                reached(Moment::BranchMade);
                control.keep_later_keys(&parent.uid, &branch.uid, candidates)?;
                control.settle_branch(branch, Some(&cut))?;
                reached(Moment::CreateSettled);
                Ok(())
            }
            Err(error) => {
                tracing::error!(branch = branch.uid, %error, "branch could not be made");
                control.undo_branch(&branch, &failure(&error))
            }
        })
        .await
    }

    async fn cut(self: &Arc<Self>, parent: &str, branch: &str) -> Result<CutInfo, Error> {
        let (key, child, uid) = (key_of(parent)?, key_of(branch)?, parent.to_owned());
        let cut = self
            .blocking(move |control| {
                control.size_before_cut(&uid)?;
                Ok(control.engine.create_child(&key, &child)?)
            })
            .await;
        let (control, parent) = (Arc::clone(self), parent.to_owned());
        tokio::spawn(async move { control.rest_after_cut(&parent).await });
        cut
    }

    async fn write_keys(self: &Arc<Self>, branch: &str, candidates: Vec<Secrets>) -> Result<(), Error> {
        let branch = branch.to_owned();
        self.blocking(move |control| control.keys.write(&branch, &candidates)).await
    }

    /// The parent may have changed its keys between our reading them and the cut: the child's data
    /// then answers to the later ones.
    fn keep_later_keys(&self, parent: &str, branch: &str, mut candidates: Vec<Secrets>) -> Result<(), Error> {
        let before = candidates.len();
        for later in self.keys.read(parent)? {
            if !candidates.contains(&later) {
                candidates.push(later);
            }
        }
        if candidates.len() > before { self.keys.write(branch, &candidates) } else { Ok(()) }
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
            if let Some(source) = &branch.source {
                catalog::inherit(tx, &source.branch, &branch.uid)?;
            }
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
        reached(Moment::DataRemoved);
        self.catalogs.forget(uid);
        self.note_asleep(uid);
        self.computes.forget(uid);
        self.keys.remove(uid)?;
        reached(Moment::KeysRemoved);
        Ok(())
    }
}

/// The wanted secrets first, then what the parent's data may answer to.
fn with_inherited(fresh: Secrets, inherited: Vec<Secrets>) -> Vec<Secrets> {
    std::iter::once(fresh).chain(inherited).collect()
}
