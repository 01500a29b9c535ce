use std::path::PathBuf;
use std::time::Instant;

use crate::commands::export::make_writable_for_daemon;
use crate::context::Global;
use crate::failure::Failure;
use crate::output::{self, Progress};

pub async fn run(global: &Global, dir: PathBuf, json: bool) -> Result<(), Failure> {
    let begin = Instant::now();
    let client = global.local_client()?;
    // Whether it runs comes before a directory is made for it.
    client.status().await?;
    let dir = std::path::absolute(&dir)
        .map_err(|error| Failure::io(format!("cannot resolve {}", dir.display()), &error))?;
    make_writable_for_daemon(global, &dir)?;
    let mut progress = Progress::new();
    progress.show("cutting all branches …");
    let report = client
        .backup(&dir, |done, total| {
            progress.show(&format!("copying {} of {}", output::bytes(done), output::bytes(total)));
        })
        .await?;
    drop(progress);
    output::talk(format!(
        "backed up {} branches to {} in {}: {} of {} layers copied, {} written, {} in all",
        report.branches,
        dir.display(),
        output::took(begin.elapsed()),
        report.layers_copied,
        report.layers,
        output::bytes(report.bytes_copied),
        output::bytes(report.bytes),
    ));
    output::talk("it contains the keys and passwords of this home: keep it as safe as the home");
    if json { output::json(&report) } else { Ok(()) }
}
