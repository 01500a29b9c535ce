//! What runs, and what it occupies.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use compute::confinement;
use compute::engine::Usage;
use compute::limits::Means;

use super::branches::{branch_name, live_branch};
use super::{ComputeLine, Control, key_of};
use crate::admission::Room;
use crate::db::branches;
use crate::error::Error;
use crate::model::{Principal, State};

/// The daemon at a glance.
#[derive(Debug, Clone)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its home directory.
    pub home: PathBuf,
    /// Owner of the home.
    pub owner: String,
    /// PostgreSQL version, e.g. `17.10`.
    pub postgres: String,
    /// Where that PostgreSQL lies.
    pub postgres_dir: PathBuf,
    /// Number of projects.
    pub projects: usize,
    /// Every branch with its compute.
    pub computes: Vec<ComputeLine>,
    /// Room on the host.
    pub room: Room,
    /// What holds computes to their size.
    pub sizes: Means,
    /// Whether computes are confined to the files of their branch.
    pub confined: bool,
    /// What people should know, e.g. that the usual port was taken.
    pub warnings: Vec<String>,
}

/// Space of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageView {
    /// Bytes that only this branch uses.
    pub own_bytes: u64,
    /// Bytes of layers shared with other branches.
    pub shared_bytes: u64,
}

/// Sizes of branches as last counted: counting walks over files, which no listing may wait for.
#[derive(Default)]
pub(crate) struct Sizes {
    bytes: Mutex<HashMap<String, u64>>,
}

impl Sizes {
    pub fn last_known(&self, branch: &str) -> u64 {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).get(branch).copied().unwrap_or_default()
    }

    /// Sizes of all branches together.
    pub fn total(&self) -> u64 {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    fn set(&self, branch: &str, usage: &Usage) {
        let total = usage.own_bytes + usage.shared_bytes;
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).insert(branch.to_owned(), total);
    }

    pub fn forget(&self, branch: &str) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).remove(branch);
    }
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        UsageView { own_bytes: usage.own_bytes, shared_bytes: usage.shared_bytes }
    }
}

impl Control {
    /// What runs.
    ///
    /// # Errors
    /// The database or the engine failed.
    pub async fn status(self: &Arc<Self>) -> Result<Status, Error> {
        self.blocking(|control| {
            let (projects, computes) = control.picture()?;
            Ok(Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                pid: std::process::id(),
                home: control.settings.home.clone(),
                owner: control.owner().to_owned(),
                postgres: format!("{}.{}", control.server.major, control.server.minor),
                postgres_dir: control.server.bin_dir.clone(),
                projects,
                warnings: control.warnings(&computes),
                computes,
                room: control.room(),
                sizes: control.engine.means(),
                confined: confinement::available(),
            })
        })
        .await
    }

    fn warnings(&self, computes: &[ComputeLine]) -> Vec<String> {
        let wanted = self.settings.pg_port;
        let open = (!confinement::available()).then(|| {
            "this kernel has no Landlock (5.13 to 6.1 have too little of it): programs that a superuser of one \
             branch starts can reach the files of the others"
                .to_owned()
        });
        let moved = computes.iter().filter_map(|line| line.address).find(|address| address.port != wanted);
        let moved = moved.filter(|_| wanted != 0).map(|address| {
            format!(
                "port {wanted} was taken, some branches listen on others (e.g. {}:{}); \
                 programs that assume {wanted} do not find them",
                address.host, address.port
            )
        });
        moved.into_iter().chain(open).collect()
    }

    /// Space of a branch.
    ///
    /// # Errors
    /// There is no such branch.
    pub async fn usage(self: &Arc<Self>, project: String, branch: String) -> Result<UsageView, Error> {
        self.blocking(move |control| {
            let (_, branch) = control.db.read(|c| live_branch(c, &project, &branch))?;
            Ok(control.count_bytes(&branch.uid)?.into())
        })
        .await
    }

    fn count_bytes(&self, branch: &str) -> Result<Usage, Error> {
        let usage = self.engine.usage(&key_of(branch)?)?;
        self.sizes.set(branch, &usage);
        Ok(usage)
    }

    /// Counts the bytes of every live branch.
    pub(crate) fn count_all_bytes(&self) -> Result<(), Error> {
        for branch in self.db.read(|c| branches::in_state(c, State::Ready))? {
            if let Err(error) = self.count_bytes(&branch.uid) {
                // It may have been deleted in between.
                tracing::debug!(branch = branch.uid, %error, "the size of a branch is not known");
            }
        }
        Ok(())
    }

    /// Writes a branch as a plain data directory that any PostgreSQL of its version starts.
    /// `progress` gets bytes done and bytes in all.
    ///
    /// # Errors
    /// There is no such branch, or the directory cannot be written or is not empty.
    pub async fn export(
        self: &Arc<Self>,
        principal: Principal,
        project: String,
        branch: String,
        dir: PathBuf,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<(), Error> {
        self.blocking(move |control| {
            let target = branch_name(&project, &branch);
            let (_, row) = control.db.read(|c| live_branch(c, &project, &branch))?;
            let outcome = control.engine.export(&key_of(&row.uid)?, &dir, &mut progress).map_err(Error::from);
            let outcome = control.note_refusal(&principal, "branch.export", &target, outcome);
            if outcome.is_ok() {
                let detail = dir.display().to_string();
                control
                    .db
                    .write(|tx| control.note(tx, &principal, "branch.export", &target, "done", &detail))?;
            }
            outcome
        })
        .await
    }
}
