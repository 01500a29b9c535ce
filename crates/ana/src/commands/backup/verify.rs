use std::path::PathBuf;

use crate::failure::Failure;
use crate::output::{self, Progress};

/// Read all of a backup and compare checksums
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the backup
    dir: PathBuf,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let manifest = control::backup::verify(&args.dir, &mut |done, total| {
        progress.show(&format!("reading {} of {}", output::bytes(done), output::bytes(total)));
    })?;
    drop(progress);
    output::talk(format!(
        "backup {} of {} is whole: {} files, {}",
        manifest.number,
        output::absolute(&manifest.end_time),
        manifest.files.len(),
        output::bytes(manifest.bytes())
    ));
    Ok(())
}
