use std::time::Duration;

use crate::commands::branch::branch_id;
use crate::context::Global;
use crate::failure::{Failure, about};
use crate::output;

/// Show what a branch's PostgreSQL wrote into its log
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Branch
    branch: String,
    /// Begin so many lines before the end
    #[arg(short = 'n', long, default_value_t = 100, value_name = "NUMBER")]
    lines: usize,
    /// Go on as the log grows
    #[arg(short, long)]
    follow: bool,
}

/// Pause between two looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(500);

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let client = global.client()?;
    let project = global.project(&client).await?;
    let branch = branch_id(&args.branch);
    let failed = |error| about(error, &project, &branch);
    let mut piece = client.log(&project, &branch, args.lines).await.map_err(failed)?;
    loop {
        if !piece.text.is_empty() {
            output::data(piece.text.trim_end_matches('\n'));
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
        piece = client.log_after(&project, &branch, piece.next_offset).await.map_err(failed)?;
    }
}
