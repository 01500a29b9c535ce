use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::context::Global;
use crate::daemon::{self, Options};
use crate::failure::{Exit, Failure};
use crate::output;

/// Start the daemon in the background
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
}

/// Whether a daemon had to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It was started now.
    Now,
    /// One was there already.
    Before,
}

const POLL: Duration = Duration::from_millis(20);

pub async fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let started = start(global, args.options).await?;
    let status = global.local_client()?.status().await?;
    let word = match started {
        Started::Now => "daemon started",
        Started::Before => "the daemon runs already",
    };
    output::talk(format!("{word} (pid {}, home {})", status.pid, status.home));
    Ok(())
}

/// Starts the daemon unless it runs, and waits until it answers. What it says while starting is
/// passed on.
pub async fn start(global: &Global, mut options: Options) -> Result<Started, Failure> {
    match global.local_client()?.status().await {
        Ok(_) => return Ok(Started::Before),
        // One that ends in the middle of its answer is as good as gone.
        Err(client::Error::NotRunning { .. } | client::Error::Transport(_)) => {}
        Err(error) => return Err(error.into()),
    }
    // Asked here and not there: after giving up root the daemon does not see the caller's git.
    options.owner.get_or_insert_with(daemon::usual_owner);
    let mut child = spawn(global, &options)?;
    let complaint = relay(&mut child);
    loop {
        // The place of the socket may only be known once the home exists: asked for anew each time.
        if global.local_client()?.status().await.is_ok() {
            return Ok(Started::Now);
        }
        let ended = child.try_wait().map_err(|error| Failure::io("cannot wait for the daemon", &error))?;
        if let Some(status) = ended {
            return Err(ended_early(status.code(), &complaint));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn spawn(global: &Global, options: &Options) -> Result<Child, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::io("cannot find this program", &error))?;
    Command::new(program)
        .arg("--home")
        .arg(global.home()?)
        .arg("serve")
        .arg("--background")
        .args(options.to_arguments())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| Failure::io("cannot start the daemon", &error))
}

/// What the daemon complained of last.
type Complaint = Arc<Mutex<Vec<String>>>;

/// Shows the child's lines as they come; complaints are kept for the end.
fn relay(child: &mut Child) -> Option<(std::thread::JoinHandle<()>, Complaint)> {
    let lines = BufReader::new(child.stderr.take()?).lines();
    let complaint = Complaint::default();
    let kept = Arc::clone(&complaint);
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.starts_with("error: ") || line.starts_with("hint: ") {
                kept.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            } else {
                output::talk(line);
            }
        }
    });
    Some((reader, complaint))
}

fn ended_early(code: Option<i32>, complaint: &Option<(std::thread::JoinHandle<()>, Complaint)>) -> Failure {
    let lines = match complaint {
        Some((reader, lines)) => {
            // The pipe is closed; what is left in it is read in no time.
            for _ in 0..100 {
                if reader.is_finished() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
        None => Vec::new(),
    };
    let find =
        |prefix: &str| lines.iter().rev().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
    let exit = match code {
        Some(2) => Exit::Refused,
        Some(3) => Exit::Outside,
        _ => Exit::Failed,
    };
    let message = find("error: ").unwrap_or_else(|| "the daemon ended while starting".to_owned());
    Failure { exit, message, hint: find("hint: ") }
}
