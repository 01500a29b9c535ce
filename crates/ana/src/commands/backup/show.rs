use std::path::PathBuf;

use control::backup::Manifest;

use crate::failure::Failure;
use crate::output;

/// Show which branches a backup holds, and as of when
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the backup
    dir: PathBuf,
    /// Print the backup's own description, as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<(), Failure> {
    let manifest = Manifest::read(&args.dir)?;
    if args.json {
        return output::json(&manifest);
    }
    let rows: Vec<Vec<String>> = manifest
        .branches
        .iter()
        .map(|one| {
            let deleted = if one.state == "deleted" { "deleted" } else { "" };
            vec![
                one.project.clone(),
                one.branch.clone(),
                output::absolute(&one.time),
                one.lsn.clone(),
                deleted.to_owned(),
            ]
        })
        .collect();
    output::table(&["PROJECT", "BRANCH", "AS OF", "LSN", ""], &rows);
    output::talk(format!(
        "backup {} of {}, {}",
        manifest.number,
        output::absolute(&manifest.end_time),
        output::bytes(manifest.bytes())
    ));
    Ok(())
}
