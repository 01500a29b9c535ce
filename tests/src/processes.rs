//! Processes of a compute, seen and hurt from outside; and helper processes that a test may kill.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use compute::os;
use compute::process::{ProcessInfo, processes_of};

use crate::lab::Lab;

/// Live server processes of a branch.
pub fn servers(lab: &Lab, branch: &str) -> Vec<ProcessInfo> {
    let mut found = processes_of(&lab.data_directory(branch)).unwrap();
    found.retain(|process| process.is_server);
    found
}

/// What a server process calls itself, e.g. `postgres: checkpointer`; empty once it is gone.
pub fn title(pid: i32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
}

/// Sends a signal; no error if the process is gone.
pub fn signal(pid: i32, number: i32) {
    os::kill(pid, number).unwrap();
}

/// Stops a process and returns once it stands still; whether it is still there.
pub fn freeze(pid: i32) -> bool {
    signal(pid, libc::SIGSTOP);
    loop {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        match stat.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
            Some('T' | 't') => return true,
            Some('Z' | 'X') | None => return false,
            Some(_) => std::thread::sleep(Duration::from_micros(50)),
        }
    }
}

/// Lets a stopped process go on.
pub fn thaw(pid: i32) {
    signal(pid, libc::SIGCONT);
}

/// Kills every process of a branch, in an order of `random`'s choice, until none is left.
pub fn kill_everything(lab: &Lab, branch: &str, random: &mut Random) {
    loop {
        let mut found = servers(lab, branch);
        if found.is_empty() {
            return;
        }
        for left in (1..=found.len()).rev() {
            let process = found.swap_remove(random.below(left as u64) as usize);
            signal(process.pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How many calls `pid` has inside the gate of a branch now, by the gate's file: a header page, then
/// 64 bytes per process that begin with its id and, in the lower half of a word, this number.
pub fn calls_inside(lab: &Lab, branch: &str, pid: i32) -> u32 {
    let bytes = std::fs::read(lab.branch_directory(branch).join("gate")).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let slots = (4096..bytes.len()).step_by(64).filter(|at| number(*at) == pid.cast_unsigned());
    slots.map(|at| number(at + 4) & 0xFFFF).sum()
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, limit: Duration, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < limit, "in vain for {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Random numbers from a seed that is printed: `E2E_SEED` repeats a run's choices.
pub struct Random(u64);

impl Random {
    pub fn new() -> Random {
        let given = std::env::var("E2E_SEED").ok().map(|text| text.parse().expect("E2E_SEED is a number"));
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_nanos() as u64 % 1_000_000_007
        });
        println!("E2E_SEED={seed}");
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % limit.max(1)
    }
}

impl Default for Random {
    fn default() -> Random {
        Random::new()
    }
}

/// This test program once more, running its ignored test `helper`, to be killed at will. It ends by
/// itself when the test does.
pub struct Helper {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Names the job of a helper, and what it works on.
pub const JOB: &str = "E2E_HELPER_JOB";

impl Helper {
    pub fn start(job: &str) -> Helper {
        // By this name the program is found even where its directory is closed to the user we became.
        let mut process = Command::new("/proc/self/exe")
            .args(["--ignored", "--exact", "helper", "--nocapture"])
            .env(JOB, job)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = process.stdin.take().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Helper { process, input, output }
    }

    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Tells the helper something: one line.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").unwrap();
    }

    /// The next line that the helper said with [`say`]; `None` when it has ended.
    pub fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.trim_end().strip_prefix(MARK) {
                return Some(said.to_owned());
            }
            line.clear();
        }
        None
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const MARK: &str = "helper says ";

/// For the helper: tells its test one line.
pub fn say(line: &str) {
    println!("\n{MARK}{line}");
}

/// For the helper: the next line from its test; ends the program when the test is gone.
pub fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap() == 0 {
        std::process::exit(0);
    }
    line.trim_end().to_owned()
}
