//! Processor time of a server and of the machine.

use std::path::Path;
use std::time::{Duration, Instant};

use compute::process::processes_of;

use crate::failure::{Context, Failure, Result};

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

/// Processor time of the whole machine since it started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineTime {
    all: u64,
    stolen: u64,
}

impl MachineTime {
    /// Now.
    pub fn now() -> Result<MachineTime> {
        let text = std::fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        parse(&text).ok_or_else(|| Failure("/proc/stat has no line of all processors".to_owned()))
    }

    /// Share, 0 to 1, that the host gave to others since `before`.
    pub fn stolen_since(self, before: MachineTime) -> f64 {
        let all = self.all.saturating_sub(before.all);
        if all == 0 { 0.0 } else { self.stolen.saturating_sub(before.stolen) as f64 / all as f64 }
    }
}

/// The line of all processors: user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)); the
/// two fields of guests are part of the first two.
fn parse(text: &str) -> Option<MachineTime> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    Some(MachineTime { all: ticks.iter().sum(), stolen: *ticks.get(7)? })
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

    #[test]
    fn what_the_host_takes_is_the_eighth_field() {
        let before = parse("cpu  10 0 10 60 0 0 0 20 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!(before, MachineTime { all: 100, stolen: 20 });
        let after = parse("cpu  60 0 10 60 0 0 0 70 5 0\n").unwrap();
        assert!((after.stolen_since(before) - 0.5).abs() < 1e-9);
        assert!(after.stolen_since(after).abs() < 1e-9);
        assert_eq!(parse("cpu  1 2 3\n"), None);
    }
}
