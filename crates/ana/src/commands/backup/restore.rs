use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::time::Instant;

use compute::run_as::{self, User};
use jiff::Timestamp;

use crate::context::Global;
use crate::failure::Failure;
use crate::output::{self, Progress};
use crate::system;

/// Make a home of a backup, on this machine or another one
///
/// The home (--home) must not be there yet, or be empty. No daemon is needed; start one on it
/// afterwards.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the backup
    dir: PathBuf,
    /// As root: the user that PostgreSQL will run as [default: anabranch or postgres]
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    system::make_files_private();
    let begin = Instant::now();
    let home = global.home()?;
    let choice = run_as::choose(args.run_as.as_deref())?;
    let mut progress = Progress::new();
    let manifest = control::backup::restore(&args.dir, &home, Timestamp::now(), &mut |done, total| {
        progress.show(&format!("restoring {} of {}", output::bytes(done), output::bytes(total)));
    })?;
    if let Some(choice) = choice {
        give_away(&home, &choice.user)
            .map_err(|error| Failure::io(format!("cannot give {} away", home.display()), &error))?;
    }
    drop(progress);
    output::talk(format!(
        "restored {} branches as of {} to {} in {}",
        manifest.branches.len(),
        output::absolute(&manifest.begin_time),
        home.display(),
        output::took(begin.elapsed())
    ));
    output::talk(format!("start it with: ana up --home {}", home.display()));
    Ok(())
}

/// What root restored belongs to the user that the daemon becomes.
fn give_away(path: &Path, user: &User) -> std::io::Result<()> {
    lchown(path, Some(user.uid), Some(user.gid))?;
    if fs::symlink_metadata(path)?.is_dir() {
        for entry in fs::read_dir(path)? {
            give_away(&entry?.path(), user)?;
        }
    }
    Ok(())
}
