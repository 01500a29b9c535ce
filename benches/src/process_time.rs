//! Processor time of a server.

use std::path::Path;
use std::time::{Duration, Instant};

use compute::process::processes_of;

use crate::failure::{Context, Result};

/// Clock ticks in a second: fixed in Linux's interface to programs.
const TICKS: f64 = 100.0;
const LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);

/// What a server has used so far, its ended processes included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerTime {
    pub processes: usize,
    pub seconds: f64,
}

impl ServerTime {
    /// Now.
    pub fn of(data_dir: &Path) -> Result<ServerTime> {
        let processes = processes_of(data_dir).context("looking for the server's processes")?;
        let mut ticks = 0;
        for process in &processes {
            // One that has just ended is counted by the postmaster.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap_or_default();
            ticks += ticks_in(&stat, process.is_postmaster).unwrap_or(0);
        }
        Ok(ServerTime { processes: processes.len(), seconds: ticks as f64 / TICKS })
    }

    /// Once the server has no more than `processes` processes: those of a load that is over have
    /// ended and are counted.
    pub fn settled(data_dir: &Path, processes: usize) -> Result<ServerTime> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let now = ServerTime::of(data_dir)?;
            if now.processes <= processes || Instant::now() > deadline {
                return Ok(now);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// User and system time in a line of `/proc/PID/stat` (fields 14 and 15), with the children's that
/// were waited for (16 and 17) if `with_children`.
fn ticks_in(stat: &str, with_children: bool) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let count = if with_children { 4 } else { 2 };
    fields.split_whitespace().skip(11).take(count).map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 200 0 0 11 22 33 44 20 0 1 0 99 1 2";
        assert_eq!(ticks_in(stat, false), Some(33));
        assert_eq!(ticks_in(stat, true), Some(110));
        assert_eq!(ticks_in("", true), None);
    }
}
