use std::path::PathBuf;
use std::time::Instant;

use super::branch::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output::{self, Progress};
use crate::system;

/// Write a branch as a plain data directory that PostgreSQL starts without us
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Directory; must not exist or be empty
    dir: PathBuf,
}

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let begin = Instant::now();
    let client = global.client()?;
    let project = global.project(&client).await?;
    let dir = std::path::absolute(&args.dir)
        .map_err(|error| Failure::io(format!("cannot resolve {}", args.dir.display()), &error))?;
    make_writable_for_daemon(global, &dir)?;
    let id = branch_id(&args.branch);
    let mut progress = Progress::new();
    let mut size = 0;
    client
        .export(&project, &id, &dir, |done, total| {
            size = total;
            progress.show(&format!("exporting {} of {}", output::bytes(done), output::bytes(total)));
        })
        .await
        .map_err(|error| about(error, &project, &id))?;
    drop(progress);
    output::talk(format!(
        "exported {} to {} in {}",
        output::bytes(size),
        dir.display(),
        output::took(begin.elapsed())
    ));
    output::talk(format!("start it with: postgres -D {}", dir.display()));
    Ok(())
}

/// The daemon writes the directory. Where root calls, it runs as another user and could not make
/// it in most places.
pub(super) fn make_writable_for_daemon(global: &Global, dir: &std::path::Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if system::effective_uid() != 0 || dir.exists() {
        return Ok(());
    }
    let home = global.home()?;
    let facts = std::fs::metadata(&home)
        .map_err(|error| Failure::io(format!("cannot look at {}", home.display()), &error))?;
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::os::unix::fs::chown(dir, Some(facts.uid()), Some(facts.gid())))
        .map_err(|error| Failure::io(format!("cannot make {}", dir.display()), &error))
}
