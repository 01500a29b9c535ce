//! Verifying everything that lies in the home, with the names that people know branches by.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use compute::engine::{self, ScrubEvent, ScrubTotals};
pub use compute::engine::{Grade, ScrubFinding};

use super::branches::branch_name;
use super::{Control, key_of};
use crate::db::{branches, projects};
use crate::error::{Error, Refusal};

/// What a scrub tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrubNews {
    /// How far it is, in bytes of content.
    Progress {
        /// Bytes verified.
        done: u64,
        /// Bytes in all, as far as known at the begin.
        total: u64,
    },
    /// Something was found, with the resource names of the branches that read it (`uid` where a branch
    /// has no row).
    Found(ScrubFinding, Vec<String>),
}

/// The right to scrub: one at a time, the disk has other work.
pub struct ScrubTurn(Arc<Control>);

impl Drop for ScrubTurn {
    fn drop(&mut self) {
        self.0.scrubbing.store(false, Ordering::Release);
    }
}

impl Control {
    /// Claims the turn to scrub.
    ///
    /// # Errors
    /// Somebody else is at it.
    pub fn scrub_turn(self: &Arc<Self>) -> Result<ScrubTurn, Error> {
        if self.scrubbing.swap(true, Ordering::AcqRel) {
            return Err(Error::refused(Refusal::Busy, "the home is being scrubbed already")
                .with_hint("wait until that scrub is done"));
        }
        Ok(ScrubTurn(Arc::clone(self)))
    }

    /// Verifies the home; `listener` hears of it and says whether to go on.
    ///
    /// # Errors
    /// The home cannot be listed at all. Everything else is a finding.
    pub async fn scrub(
        self: &Arc<Self>,
        turn: ScrubTurn,
        mut listener: impl FnMut(ScrubNews) -> bool + Send + 'static,
    ) -> Result<ScrubTotals, Error> {
        self.blocking(move |control| {
            let _turn = turn;
            let mut names = HashMap::new();
            let totals = control.engine.scrub(&mut |event| {
                listener(match event {
                    ScrubEvent::Progress { done, total } => ScrubNews::Progress { done, total },
                    ScrubEvent::Found(finding) => {
                        let uids = finding.branches.iter().map(|key| key.as_str());
                        let readers = uids.map(|uid| control.name_of(uid, &mut names)).collect();
                        ScrubNews::Found(finding, readers)
                    }
                })
            })?;
            Ok(totals)
        })
        .await
    }

    fn name_of(&self, uid: &str, known: &mut HashMap<String, String>) -> String {
        let name = known.entry(uid.to_owned()).or_insert_with(|| {
            let found = self.db.read(|c| {
                let Some(branch) = branches::by_uid(c, uid)? else { return Ok(None) };
                Ok(projects::by_uid(c, &branch.project)?.map(|project| branch_name(&project.id, &branch.id)))
            });
            found.ok().flatten().unwrap_or_else(|| uid.to_owned())
        });
        name.clone()
    }

    /// What is known to be wrong with the data of a branch, in a line; none where it can be used.
    pub(crate) fn damage_of(&self, uid: &str) -> Option<String> {
        let text = self.engine.damage(&key_of(uid).ok()?)?;
        Some(text.strip_prefix(&format!("branch {uid}: ")).unwrap_or(&text).to_owned())
    }

    /// Refuses what needs the data of a branch that is known to be damaged, unless it was put right.
    pub(crate) fn check_whole(&self, uid: &str, name: &str) -> Result<(), Error> {
        let key = key_of(uid)?;
        if self.engine.damage(&key).is_none() {
            return Ok(());
        }
        match self.engine.check(&key) {
            Err(engine::Error::Damaged(text)) => {
                let text =
                    text.replacen(&format!("branch {uid}"), &format!("branch \"{name}\" is damaged"), 1);
                Err(engine::Error::Damaged(text).into())
            }
            other => Ok(other?),
        }
    }
}
