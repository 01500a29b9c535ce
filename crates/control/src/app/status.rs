//! What runs, and what it occupies.

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
use crate::model::Principal;

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

/// Disk space that single branches use together, as last counted, bytes; none before.
#[derive(Default)]
pub(crate) struct OwnSpace(Mutex<Option<u64>>);

impl OwnSpace {
    pub fn last_counted(&self) -> Option<u64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, bytes: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes);
    }
}

/// From this age on (in transactions) people are told to freeze: children inherit the age, and past that at
/// which PostgreSQL does it by itself each of them writes all its pages again.
const FREEZE_AGE: u32 = 100_000_000;

fn freeze_warning(project: &str, branch: &str, age: u32) -> Option<String> {
    (age > FREEZE_AGE).then(|| {
        format!(
            "freeze age of branch {branch} of project {project} is {} million transactions",
            age / 1_000_000
        )
    })
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
        let old = computes.iter().filter(|line| line.pid.is_some()).filter_map(|line| {
            let age = self.engine.freeze_age(&key_of(&line.uid).ok()?).ok()?;
            freeze_warning(&line.project, &line.branch, age)
        });
        let damaged = computes.iter().filter_map(|line| {
            let what = self.damage_of(&line.uid)?;
            Some(format!("damaged branch {} of project {}: {what}", line.branch, line.project))
        });
        moved.into_iter().chain(open).chain(old).chain(damaged).collect()
    }

    /// Space of a branch.
    ///
    /// # Errors
    /// There is no such branch, or it cannot be looked at.
    pub async fn usage(self: &Arc<Self>, project: String, branch: String) -> Result<Usage, Error> {
        self.blocking(move |control| {
            let (_, branch) = control.db.read(|c| live_branch(c, &project, &branch))?;
            Ok(control.engine.usage(&key_of(&branch.uid)?)?)
        })
        .await
    }

    /// Counts what branches use together.
    pub(crate) fn count_own_space(&self) -> Result<(), Error> {
        let mut sum = 0;
        for uid in self.db.read(branches::all_uids)? {
            match self.engine.usage(&key_of(&uid)?) {
                Ok(usage) => sum += usage.own_bytes,
                // It may have been deleted in between.
                Err(error) => tracing::debug!(branch = uid, %error, "the space of a branch is not known"),
            }
        }
        self.own_space.set(sum);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_age_is_told() {
        assert_eq!(freeze_warning("shop", "dev", 100_000_000), None);
        let told = freeze_warning("shop", "dev", 123_456_789).unwrap();
        assert_eq!(told, "freeze age of branch dev of project shop is 123 million transactions");
    }
}
