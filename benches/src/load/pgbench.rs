//! pgbench as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use compute::machine::Machine;

use super::{Job, Kind, Outcome, write_private};
use crate::failure::{Context, Failure, Result};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// The program and what it says its version is.
pub fn find(server_dir: &Path) -> Option<(PathBuf, String)> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut places: Vec<PathBuf> = debian.map(|entry| entry.path().join("bin/pgbench")).collect();
    // The newest first.
    places.sort();
    places.reverse();
    places.insert(0, server_dir.join("pgbench"));
    let on_path = Machine::this().program("pgbench");
    places.into_iter().chain(on_path).find_map(|program| {
        let output = Command::new(&program).arg("--version").output().ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some((program, version))
    })
}

/// A running pgbench.
pub struct Running {
    child: Child,
    /// Password, output and latencies of this one; removed with it.
    scratch: PathBuf,
    latencies: bool,
}

impl Running {
    pub fn start(program: &Path, scratch: &Path, job: &Job<'_>) -> Result<Running> {
        let scratch = scratch.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir_all(&scratch).context(format!("making {}", scratch.display()))?;
        let password = scratch.join("password");
        write_private(&password, &format!("*:*:*:*:{}\n", escaped(&job.target.password)))?;
        let output = |name: &str| {
            let path = scratch.join(name);
            std::fs::File::create(&path).context(format!("making {}", path.display()))
        };
        let script = match job.kind {
            Kind::Tpcb => "tpcb-like",
            Kind::Select => "select-only",
        };
        // A day is for ever here: the caller ends it.
        let seconds = job.length.map_or(86_400, |length| length.as_secs().max(1));
        let mut command = Command::new(program);
        command
            .args(["--no-vacuum", "--protocol=prepared", "--builtin", script])
            .arg(format!("--client={}", job.clients))
            .arg(format!("--jobs={}", job.clients.min(2)))
            .arg(format!("--time={seconds}"))
            .args(["--host", &job.target.host, "--username", &job.target.role])
            .arg(format!("--port={}", job.target.port));
        if job.latencies {
            command.arg("--log").arg("--log-prefix").arg(scratch.join("latency"));
        }
        let child = command
            .arg(&job.target.database)
            .env("PGPASSFILE", &password)
            .env("PGSSLMODE", if job.target.is_socket() { "disable" } else { "require" })
            .stdin(Stdio::null())
            .stdout(output("out")?)
            .stderr(output("err")?)
            .spawn()
            .context(format!("starting {}", program.display()))?;
        Ok(Running { child, scratch, latencies: job.latencies })
    }

    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("waiting for pgbench")? {
            None => Ok(()),
            Some(status) => Err(self.failed(&status.to_string())),
        }
    }

    pub fn finish(mut self) -> Result<Outcome> {
        let status = self.child.wait().context("waiting for pgbench")?;
        if !status.success() {
            return Err(self.failed(&status.to_string()));
        }
        let out = self.scratch.join("out");
        let text = std::fs::read_to_string(&out).context(format!("reading {}", out.display()))?;
        let mut outcome = parse(&text)?;
        if self.latencies {
            outcome.latencies = self.read_latencies()?;
        }
        Ok(outcome)
    }

    fn failed(&self, status: &str) -> Failure {
        let complaint = std::fs::read_to_string(self.scratch.join("err")).unwrap_or_default();
        let last: Vec<&str> = complaint.lines().rev().take(3).collect();
        Failure(format!("pgbench ended early ({status}): {}", last.join(" | ")))
    }

    fn read_latencies(&self) -> Result<Vec<f64>> {
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.scratch).context("listing pgbench's files")?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("latency") {
                let text = std::fs::read_to_string(entry.path()).context("reading pgbench's log")?;
                all.extend(text.lines().filter_map(latency));
            }
        }
        Ok(all)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not yet waited for: a load without end, or a failure elsewhere.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// Third field of a line of pgbench's log, microseconds, as milliseconds.
fn latency(line: &str) -> Option<f64> {
    line.split(' ').nth(2)?.parse::<f64>().ok().map(|us| us / 1000.0)
}

fn parse(text: &str) -> Result<Outcome> {
    let value = |name: &str| {
        let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
        rest.split(['/', ' ', '(']).find(|word| !word.is_empty()).map(str::to_owned)
    };
    let missing = |name: &str| Failure(format!("pgbench did not print \"{name}\": {}", text.trim()));
    let done = "number of transactions actually processed: ";
    let failed = value("number of failed transactions: ").unwrap_or_default();
    if !failed.is_empty() && failed != "0" {
        return Err(Failure(format!("{failed} transactions of pgbench failed")));
    }
    let transactions = value(done).and_then(|count| count.parse().ok()).ok_or_else(|| missing(done))?;
    let per_second = value("tps = ").and_then(|rate| rate.parse().ok()).ok_or_else(|| missing("tps = "))?;
    Ok(Outcome { transactions, per_second, latencies: Vec::new() })
}

/// As the password file wants it.
fn escaped(password: &str) -> String {
    password.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pgbench (15.18 (Debian 15.18-0+deb12u1), server 17.10)
transaction type: <builtin: TPC-B (sort of)>
scaling factor: 3
query mode: prepared
number of clients: 4
number of threads: 2
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 5521
number of failed transactions: 0 (0.000%)
latency average = 2.173 ms
initial connection time = 12.614 ms
tps = 1846.872501 (without initial connection time)
";

    #[test]
    fn what_pgbench_prints_is_understood() {
        let outcome = parse(OUTPUT).unwrap();
        assert_eq!((outcome.transactions, outcome.per_second), (5521, 1_846.872_501));
        assert_eq!(parse(&OUTPUT.replace("5521\n", "55/60\n")).unwrap().transactions, 55);
        assert!(parse(&OUTPUT.replace("failed transactions: 0", "failed transactions: 2")).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn latencies_and_passwords() {
        assert_eq!(latency("0 199 2241 0 1175850568 995598"), Some(2.241));
        assert_eq!(latency(""), None);
        assert_eq!(escaped("a:b\\c"), "a\\:b\\\\c");
    }
}
