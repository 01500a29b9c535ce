//! What the daemon itself takes of the machine, from `/proc/self`.

use std::io::{Error, ErrorKind, Result};

/// One look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessFacts {
    pub resident_bytes: u64,
    pub threads: u64,
    pub descriptors: u64,
    /// Most descriptors that there may be.
    pub most_descriptors: u64,
}

impl ProcessFacts {
    /// Now.
    ///
    /// # Errors
    /// There is no `/proc`, or it tells something else.
    pub fn read() -> Result<ProcessFacts> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let limits = std::fs::read_to_string("/proc/self/limits")?;
        // The directory is open itself while it is being read.
        let descriptors = std::fs::read_dir("/proc/self/fd")?.count() as u64 - 1;
        ProcessFacts::parse(&status, &limits, descriptors)
            .ok_or_else(|| Error::new(ErrorKind::InvalidData, "/proc/self does not tell enough"))
    }

    fn parse(status: &str, limits: &str, descriptors: u64) -> Option<ProcessFacts> {
        fn number(text: &str, key: &str) -> Option<u64> {
            text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
        }
        Some(ProcessFacts {
            resident_bytes: number(status, "VmRSS:")? * 1024,
            threads: number(status, "Threads:")?,
            descriptors,
            most_descriptors: number(limits, "Max open files")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tana\nVmRSS:\t    2048 kB\nThreads:\t9\n";
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            20000   20000   files\n";
        let facts = ProcessFacts::parse(status, limits, 5).unwrap();
        assert_eq!((facts.resident_bytes, facts.threads), (2 << 20, 9));
        assert_eq!((facts.descriptors, facts.most_descriptors), (5, 20_000));
        assert_eq!(ProcessFacts::parse("", limits, 5), None);
        assert!(ProcessFacts::read().unwrap().descriptors > 2);
    }
}
