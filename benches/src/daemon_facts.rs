//! What a daemon takes of the machine.

use crate::failure::{Context, Failure, Result};

/// Clock ticks in a second: fixed in Linux's interface to programs.
const TICKS: f64 = 100.0;

/// One look at a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Facts {
    pub resident_bytes: u64,
    pub threads: u64,
    pub descriptors: u64,
    /// Processor time so far.
    pub cpu_seconds: f64,
}

impl Facts {
    /// Now.
    pub fn of(pid: u32) -> Result<Facts> {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            std::fs::read_to_string(&path).context(format!("reading {path}"))
        };
        let (status, stat) = (read("status")?, read("stat")?);
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).context("counting descriptors")?;
        Facts::read(&status, &stat, descriptors.count() as u64)
            .ok_or_else(|| Failure(format!("/proc/{pid} does not tell enough")))
    }

    fn read(status: &str, stat: &str, descriptors: u64) -> Option<Facts> {
        let number = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // User and system time are fields 14 and 15 (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().ok());
        Some(Facts {
            resident_bytes: number("VmRSS:")? * 1024,
            threads: number("Threads:")?,
            descriptors,
            cpu_seconds: ticks.sum::<Option<u64>>()? as f64 / TICKS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 200 0 0 110 22 33 44 20 0 1 0 99 1 2";
        let facts = Facts::read("Name:\tana\nVmRSS:\t    2048 kB\nThreads:\t9\n", stat, 5).unwrap();
        assert_eq!((facts.resident_bytes, facts.threads, facts.descriptors), (2 << 20, 9, 5));
        assert!((facts.cpu_seconds - 1.32).abs() < 1e-9);
        assert_eq!(Facts::read("", stat, 5), None);
    }
}
