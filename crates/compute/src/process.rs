//! The processes of a compute: start, watch, stop, kill, find again.
//!
//! A server process belongs to a data directory when that directory is its working directory: Postgres
//! goes there at its start, every child inherits it, and it outlives a daemon that forgot everything.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::confinement::Confinement;
use crate::fault::{Fault, planted};
use crate::guarded;
use crate::limits::Placement;
use crate::os::{self, User};
use crate::server::Server;
use crate::settings::Settings;

/// More than this gains nothing; fewer and the preload library runs out on deep stacks.
const OPEN_FILES: u64 = 65_536;
const POLL: Duration = Duration::from_millis(1);
/// A killed process that is still there after this hangs in the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const LOG_LINES: usize = 10;
const LOG_BYTES: u64 = 64 << 10;

/// What to start.
#[derive(Debug, Clone)]
pub struct SpawnSpec {
    /// The installation.
    pub server: Server,
    /// The data directory, also the working directory.
    pub data_dir: PathBuf,
    /// Everything for the command line, in order; see [`crate::settings::command_line`]. No secrets.
    pub settings: Settings,
    /// Variables besides `PATH`, `LANG` and `TZ`, e.g. the preload library's.
    pub env: Vec<(OsString, OsString)>,
    /// The file that standard output and standard error are appended to; made (0600) where missing.
    pub log: PathBuf,
    /// For a caller that is still root.
    pub run_as: Option<User>,
    /// What all processes of the server are confined to.
    pub confinement: Option<Arc<Confinement>>,
    /// How long recovery and start may take until connections are accepted.
    pub limit: Duration,
}

/// A compute that accepts connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spawned {
    /// The postmaster.
    pub pid: i32,
    /// From the start of the program until it accepted connections.
    pub elapsed: Duration,
}

/// One live process of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its id.
    pub pid: i32,
    /// Whether `postmaster.pid` names it.
    pub is_postmaster: bool,
    /// Whether it is a server process; else it is a program that one started, or somebody's shell.
    pub is_server: bool,
    /// Start in clock ticks since boot; with the id it names the process for the life of the machine.
    pub start_time: u64,
}

/// What went wrong with the processes of a compute.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Server processes live in the data directory already.
    #[error("processes of an earlier start are still alive in {data_dir}: {}", list(pids))]
    Alive {
        /// The data directory.
        data_dir: PathBuf,
        /// The processes.
        pids: Vec<i32>,
    },
    /// Somebody who is not seen in the data directory has the memory of an earlier start attached.
    #[error("the shared memory of an earlier start in {0} is still in use")]
    Attached(PathBuf),
    /// The server ended while it was starting.
    #[error("PostgreSQL ended while starting ({status}): {}", telling(log))]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last lines it logged.
        log: Vec<String>,
    },
    /// The server did not accept connections in time; it was killed.
    #[error("PostgreSQL did not accept connections within {} s: {}", limit.as_secs(), telling(log))]
    NotReady {
        /// The time it had.
        limit: Duration,
        /// The last lines it logged.
        log: Vec<String>,
    },
    /// Processes did not end in time.
    #[error("processes did not end within {} s: {}", limit.as_secs(), list(pids))]
    Lingering {
        /// The time they had.
        limit: Duration,
        /// Those that are left.
        pids: Vec<i32>,
    },
    /// The operating system said no.
    #[error("{what} {path} failed: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// The last lines that the server logged before it failed to start.
    pub fn log(&self) -> &[String] {
        match self {
            Error::Ended { log, .. } | Error::NotReady { log, .. } => log,
            _ => &[],
        }
    }
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

fn list(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(", ")
}

/// Why, in the words of the last line of the gravest kind.
fn telling(log: &[String]) -> &str {
    let last_with = |mark: &str| log.iter().rev().find_map(|line| line.find(mark).map(|at| &line[at..]));
    let why = ["PANIC:", "FATAL:", "ERROR:"].into_iter().find_map(last_with);
    why.or(log.last().map(String::as_str)).map_or("it logged nothing", str::trim)
}

/// Starts `postgres` and waits until it accepts connections. On an error no process of it is left.
///
/// # Errors
/// It ended or did not get ready, with the end of its log; processes of an earlier start live on.
pub fn spawn(spec: &SpawnSpec) -> Result<Spawned, Error> {
    spawn_placed(spec, &Placement::default())
}

/// As [`spawn`], held to a size from its first instruction on.
///
/// # Errors
/// As for [`spawn`].
pub fn spawn_placed(spec: &SpawnSpec, placement: &Placement) -> Result<Spawned, Error> {
    clear_stale_locks(spec)?;
    let log = File::options()
        .append(true)
        .read(true)
        .create(true)
        .mode(0o600)
        .open(&spec.log)
        .map_err(io("opening", &spec.log))?;
    let log_begin = log.metadata().map_err(io("looking at", &spec.log))?.len();
    let begin = Instant::now();
    let mut child = start(spec, &log, placement)?;
    let outcome = await_ready(&mut child, &spec.data_dir, begin + spec.limit);
    if let Ok(Waited::Ready) = outcome {
        let pid = child.id().cast_signed();
        reap(child);
        return Ok(Spawned { pid, elapsed: begin.elapsed() });
    }
    let _ = child.kill();
    let _ = child.wait();
    kill_all(&spec.data_dir)?;
    let log = log_tail(&log, log_begin);
    Err(match outcome? {
        Waited::Ended(status) => Error::Ended { status, log },
        Waited::Ready | Waited::TimeIsUp => Error::NotReady { limit: spec.limit, log },
    })
}

fn start(spec: &SpawnSpec, log: &File, placement: &Placement) -> Result<Child, Error> {
    let program = spec.server.program("postgres");
    let copy = || log.try_clone().map_err(io("opening", &spec.log));
    let mut command = Command::new(&program);
    command.arg("-D").arg(&spec.data_dir);
    for (name, value) in &spec.settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
        .env_clear()
        .envs([("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("TZ", "UTC")])
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&spec.data_dir)
        .stdin(Stdio::null())
        .stdout(copy()?)
        .stderr(copy()?);
    if let Some(user) = &spec.run_as {
        command.uid(user.uid).gid(user.gid);
    }
    placement.apply(&mut command);
    os::detach(&mut command, OPEN_FILES);
    // Last: what comes before may need what it takes away.
    spec.confinement.iter().for_each(|confinement| confinement.apply(&mut command));
    command.spawn().map_err(io("starting", &program))
}

enum Waited {
    Ready,
    Ended(ExitStatus),
    TimeIsUp,
}

fn await_ready(child: &mut Child, data_directory: &Path, deadline: Instant) -> Result<Waited, Error> {
    let pid = child.id().cast_signed();
    loop {
        let file =
            PostmasterFile::read(data_directory).map_err(io("reading postmaster.pid in", data_directory))?;
        if file.is_some_and(|file| file.pid == pid && file.ready) {
            return Ok(Waited::Ready);
        }
        if let Some(status) = child.try_wait().map_err(io("waiting for", data_directory))? {
            return Ok(Waited::Ended(status));
        }
        if Instant::now() > deadline {
            return Ok(Waited::TimeIsUp);
        }
        std::thread::sleep(POLL);
    }
}

/// Takes the exit status whenever it comes, so that no zombie stays while the daemon lives.
fn reap(mut child: Child) {
    let pid = child.id();
    let waiter = std::thread::Builder::new().name(format!("reap-{pid}")).stack_size(64 << 10);
    let spawned = waiter.spawn(move || match child.wait() {
        Ok(status) => tracing::info!(pid, %status, "postmaster ended"),
        Err(error) => tracing::warn!(pid, %error, "postmaster cannot be waited for"),
    });
    if let Err(error) = spawned {
        tracing::warn!(pid, %error, "no thread to wait for the postmaster; it will stay as a zombie");
    }
}

/// Removes the lock files of a start that is over. Postgres would take any process that has got the
/// old number since for a living postmaster; we know better, by the working directory.
fn clear_stale_locks(spec: &SpawnSpec) -> Result<(), Error> {
    let data_directory = &spec.data_dir;
    let pids = pids_of(data_directory)?;
    if !pids.is_empty() && !planted(Fault::OrphanOverlooked) {
        return Err(Error::Alive { data_dir: data_directory.to_owned(), pids });
    }
    remove_stale_shared_memory(data_directory)?;
    let setting = |name: &str| {
        spec.settings.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    };
    let mut stale = vec![data_directory.join("postmaster.pid")];
    if let Some(directory) = setting("unix_socket_directories") {
        let socket = format!(".s.PGSQL.{}", setting("port").unwrap_or("5432"));
        stale.push(Path::new(directory).join(format!("{socket}.lock")));
        stale.push(Path::new(directory).join(socket));
    }
    for path in stale {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(io("removing", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The last lines written to the log since `begin`.
fn log_tail(mut log: &File, begin: u64) -> Vec<String> {
    let mut read = || {
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(begin.max(end.saturating_sub(LOG_BYTES))))?;
        let mut bytes = Vec::new();
        log.take(LOG_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes: Vec<u8> =
        read().unwrap_or_else(|error: std::io::Error| format!("its log: {error}").into_bytes());
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|line| (*line).to_owned()).collect()
}

/// What `postmaster.pid` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostmasterFile {
    /// The postmaster that wrote it; it may be gone.
    pub pid: i32,
    /// Key and id of its System V shared memory segment.
    pub shared_memory: Option<(i32, i32)>,
    /// Whether it accepts connections.
    pub ready: bool,
    /// When it was started, seconds since 1970.
    pub started: Option<i64>,
}

impl PostmasterFile {
    /// Reads the file of a data directory; `None` where there is none, or only its beginning.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(data_directory: &Path) -> std::io::Result<Option<PostmasterFile>> {
        match guarded::read(&data_directory.join("postmaster.pid")) {
            Ok(bytes) => Ok(PostmasterFile::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lines: process id, data directory, start, port, socket directory, address, segment, status.
    fn parse(text: &str) -> Option<PostmasterFile> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // A negative number stands there for a server in single-user mode.
        let pid = lines.first()?.parse::<i32>().ok()?.checked_abs()?;
        let shared_memory = lines.get(6).and_then(|line| {
            let mut parts = line.split_whitespace();
            // The key is printed unsigned.
            let key = parts.next()?.parse::<u32>().ok()?.cast_signed();
            Some((key, parts.next()?.parse().ok()?))
        });
        let started = lines.get(2).and_then(|line| line.parse().ok());
        Some(PostmasterFile { pid, shared_memory, ready: lines.get(7) == Some(&"ready"), started })
    }
}

/// All live processes whose working directory is `data_directory`, in the order of their ids. Zombies
/// are not alive. A process of another user is seen by root only.
///
/// # Errors
/// `/proc` or the data directory cannot be read; a missing data directory has no processes.
pub fn processes_of(data_directory: &Path) -> Result<Vec<ProcessInfo>, Error> {
    list_processes(data_directory).map_err(io("looking for processes of", data_directory))
}

/// The live postmaster of a data directory. Costs the same however many processes the machine has.
///
/// # Errors
/// The data directory or its `postmaster.pid` cannot be read.
pub fn postmaster_of(data_directory: &Path) -> Result<Option<i32>, Error> {
    let look = || {
        let Some(file) = PostmasterFile::read(data_directory)? else { return Ok(None) };
        let wanted = std::fs::metadata(data_directory)?;
        let place = Path::new("/proc").join(file.pid.to_string());
        let here = std::fs::metadata(place.join("cwd"))
            .is_ok_and(|facts| (facts.dev(), facts.ino()) == (wanted.dev(), wanted.ino()));
        let alive = here
            && is_postgres(&place.join("exe"))
            && store::sys::process_start(file.pid.cast_unsigned()).is_some();
        Ok(alive.then_some(file.pid))
    };
    look().map_err(io("looking for the postmaster of", data_directory))
}

/// Whether a server takes a connection at `socket` and says a first word within `limit`. What it was
/// told before it has heard by then: a postmaster obeys signals before it accepts
/// (`ServerLoop` in its `postmaster.c`).
pub fn answers(socket: &Path, limit: Duration) -> bool {
    // SSLRequest, the shortest message that is answered (manual, 53.7): the answer is one letter, and
    // who leaves after it is not logged.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let ask = || {
        let mut stream = os::connect_at_once(socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(&SSL_REQUEST)?;
        stream.read_exact(&mut [0])
    };
    ask().is_ok()
}

/// Memory of a postmaster and its processes, bytes. What several processes share is divided among
/// them, so the sums of several servers add up.
pub fn memory_of(postmaster: i32) -> u64 {
    let children = format!("/proc/{postmaster}/task/{postmaster}/children");
    let children = std::fs::read_to_string(children).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    std::iter::once(postmaster).chain(children).map(proportional_memory).sum()
}

fn proportional_memory(pid: i32) -> u64 {
    // One that has just ended takes nothing.
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Directories in which server processes run, whosever they are, with device and inode: one pass over the
/// process table.
///
/// # Errors
/// `/proc` cannot be read.
pub fn server_directories() -> Result<BTreeMap<PathBuf, (u64, u64)>, Error> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").map_err(io("listing", Path::new("/proc")))?.flatten() {
        if entry.file_name().to_str().is_none_or(|name| name.parse::<i32>().is_err()) {
            continue;
        }
        let (place, cwd) = (entry.path(), entry.path().join("cwd"));
        // Gone by now, or another user's and so not ours.
        let Ok(directory) = std::fs::read_link(&cwd) else { continue };
        if !found.contains_key(&directory)
            && is_postgres(&place.join("exe"))
            && let Ok(facts) = std::fs::metadata(&cwd)
        {
            found.insert(directory, (facts.dev(), facts.ino()));
        }
    }
    Ok(found)
}

fn list_processes(data_directory: &Path) -> std::io::Result<Vec<ProcessInfo>> {
    let wanted = match std::fs::metadata(data_directory) {
        Ok(facts) => (facts.dev(), facts.ino()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let postmaster = PostmasterFile::read(data_directory)?.map(|file| file.pid);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let place = entry.path();
        // Gone by now, or another user's and so not ours.
        let Ok(facts) = std::fs::metadata(place.join("cwd")) else { continue };
        if (facts.dev(), facts.ino()) != wanted {
            continue;
        }
        let is_server = is_postgres(&place.join("exe"));
        let is_postmaster = is_server && postmaster == Some(pid);
        if let Some(start_time) = store::sys::process_start(pid.cast_unsigned()) {
            found.push(ProcessInfo { pid, is_postmaster, is_server, start_time });
        }
    }
    found.sort_by_key(|process| process.pid);
    Ok(found)
}

/// Some packages wrap the program, so its name only has to hold the word. A process that is just
/// ending has no program any more; it counts until it is gone.
fn is_postgres(exe: &Path) -> bool {
    let Ok(target) = std::fs::read_link(exe) else { return true };
    target.file_name().is_some_and(|name| name.to_string_lossy().contains("postgres"))
}

fn servers_of(data_directory: &Path) -> Result<Vec<ProcessInfo>, Error> {
    let mut processes = processes_of(data_directory)?;
    processes.retain(|process| process.is_server);
    Ok(processes)
}

fn pids_of(data_directory: &Path) -> Result<Vec<i32>, Error> {
    Ok(servers_of(data_directory)?.iter().map(|process| process.pid).collect())
}

/// Ends a compute in order: sessions are disconnected, a shutdown checkpoint is written. Nothing to do
/// where nothing runs.
///
/// # Errors
/// Processes are left when the time is up, or live on without a postmaster.
pub fn stop_fast(data_directory: &Path, limit: Duration) -> Result<(), Error> {
    let begin = Instant::now();
    let processes = servers_of(data_directory)?;
    let Some(postmaster) = processes.iter().find(|process| process.is_postmaster) else {
        if processes.is_empty() {
            return Ok(());
        }
        let pids = processes.iter().map(|process| process.pid).collect();
        return Err(Error::Alive { data_dir: data_directory.to_owned(), pids });
    };
    signal(postmaster.pid, libc::SIGINT, data_directory)?;
    let is_there = || {
        let now = store::sys::process_start(postmaster.pid.cast_unsigned());
        now == Some(postmaster.start_time)
    };
    while is_there() && begin.elapsed() < limit {
        std::thread::sleep(POLL);
    }
    // Its children end before it; one that hangs is still there.
    loop {
        let pids = pids_of(data_directory)?;
        if pids.is_empty() {
            return Ok(());
        }
        if begin.elapsed() >= limit {
            return Err(Error::Lingering { limit, pids });
        }
        std::thread::sleep(POLL);
    }
}

/// Kills every server process of the data directory and returns when none is left. Programs that they
/// started are left alone: they hold none of our files and end with their pipes.
///
/// # Errors
/// Not permitted, or a process hangs in the kernel.
pub fn kill_all(data_directory: &Path) -> Result<(), Error> {
    let begin = Instant::now();
    let mut empty_rounds = 0;
    // A process forked while /proc was being listed may be missed; it is in the next listing.
    while empty_rounds < 2 {
        let mut servers = servers_of(data_directory)?;
        if servers.is_empty() {
            empty_rounds += 1;
            continue;
        }
        empty_rounds = 0;
        if begin.elapsed() > KILL_LIMIT {
            let pids = servers.iter().map(|process| process.pid).collect();
            return Err(Error::Lingering { limit: KILL_LIMIT, pids });
        }
        // First the one that would start others. SIGKILL also ends stopped processes.
        servers.sort_by_key(|process| !process.is_postmaster);
        for process in servers {
            signal(process.pid, libc::SIGKILL, data_directory)?;
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

fn signal(pid: i32, signal: i32, data_directory: &Path) -> Result<(), Error> {
    os::kill(pid, signal).map(drop).map_err(io("signalling a process of", data_directory))
}

/// Removes the System V shared memory segment that a killed postmaster left behind. `true` when there
/// was one. Only for a data directory without live server processes.
///
/// # Errors
/// Somebody has it attached; it is not ours to remove.
pub fn remove_stale_shared_memory(data_directory: &Path) -> Result<bool, Error> {
    let file =
        PostmasterFile::read(data_directory).map_err(io("reading postmaster.pid in", data_directory))?;
    let Some((key, id)) = file.and_then(|file| file.shared_memory) else { return Ok(false) };
    // After a restart of the machine the id may be another's; the key says whose it is.
    match os::shared_memory(id).filter(|segment| segment.key == key) {
        None => Ok(false),
        Some(segment) if segment.attached > 0 && !planted(Fault::OrphanOverlooked) => {
            Err(Error::Attached(data_directory.to_owned()))
        }
        Some(_) => {
            os::remove_shared_memory(id).map_err(io("removing the shared memory of", data_directory))?;
            Ok(true)
        }
    }
}

/// As [`remove_stale_shared_memory`], for processes that have just been killed: whoever looks at the memory of
/// one that dies (`/proc/PID/smaps_rollup`) keeps it attached for a moment.
///
/// # Errors
/// Somebody has it attached still after a second.
pub fn remove_left_shared_memory(data_directory: &Path) -> Result<bool, Error> {
    let begin = Instant::now();
    loop {
        match remove_stale_shared_memory(data_directory) {
            Err(Error::Attached(_)) if begin.elapsed() < Duration::from_secs(1) => std::thread::sleep(POLL),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Cluster};
    use pgdata::control_file::{ControlFile, State};

    fn state_of(cluster: &Cluster) -> State {
        let bytes = std::fs::read(cluster.data_dir().join("global/pg_control")).unwrap();
        ControlFile::parse(&bytes).unwrap().state
    }

    fn await_that(what: &str, condition: impl Fn() -> bool) {
        let begin = Instant::now();
        while !condition() {
            assert!(begin.elapsed() < Duration::from_secs(30), "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_compute_starts_answers_and_stops() {
        let cluster = Cluster::new("process");
        let spawned = spawn(&cluster.spec()).unwrap();
        assert!(spawned.elapsed < Duration::from_secs(60));
        assert_eq!(cluster.query("SELECT 41 + 1"), ["42"]);

        let processes = processes_of(&cluster.data_dir()).unwrap();
        let postmasters: Vec<i32> =
            processes.iter().filter(|process| process.is_postmaster).map(|process| process.pid).collect();
        assert_eq!(postmasters, [spawned.pid]);
        assert!(processes.len() > 3, "{processes:?}");
        assert!(processes.iter().all(|process| process.is_server), "{processes:?}");

        // What belongs to the process and not to the database.
        let proc = PathBuf::from(format!("/proc/{}", spawned.pid));
        let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
        let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
        assert_eq!(session, spawned.pid.to_string());
        let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
        let files: Vec<&str> = limits
            .lines()
            .find(|line| line.starts_with("Max open files"))
            .unwrap()
            .split_whitespace()
            .collect();
        let hard: u64 = files[4].parse().unwrap();
        assert_eq!(files[3].parse::<u64>().unwrap(), hard.min(OPEN_FILES));
        let environment = std::fs::read(proc.join("environ")).unwrap();
        let names: Vec<&[u8]> = environment
            .split(|&byte| byte == 0)
            .filter_map(|entry| entry.split(|&byte| byte == b'=').next())
            .collect();
        for name in names.into_iter().filter(|name| !name.is_empty()) {
            let name = String::from_utf8_lossy(name);
            assert!(["PATH", "LANG", "TZ"].contains(&&*name), "{name}");
        }
        let mode =
            std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(cluster.log()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);

        let second = spawn(&cluster.spec()).unwrap_err();
        assert!(matches!(&second, Error::Alive { pids, .. } if pids.contains(&spawned.pid)), "{second}");
        assert_eq!(cluster.query("SELECT 1"), ["1"], "the refused start has not disturbed it");

        stop_fast(&cluster.data_dir(), Duration::from_secs(30)).unwrap();
        assert_eq!(state_of(&cluster), State::ShutDown);
        assert_eq!(processes_of(&cluster.data_dir()).unwrap(), []);
        stop_fast(&cluster.data_dir(), Duration::ZERO).unwrap();
        await_that("the postmaster is reaped", || !proc.exists());
    }

    #[test]
    fn a_failed_start_says_why_and_leaves_nothing() {
        let cluster = Cluster::new("process");
        let mut spec = cluster.spec();
        std::fs::write(&spec.log, "FATAL:  of an earlier start\n").unwrap();
        spec.settings.push(("shared_buffers".to_owned(), "plenty".to_owned()));
        let error = spawn(&spec).unwrap_err();
        assert!(matches!(error, Error::Ended { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            "PostgreSQL ended while starting (exit status: 1): FATAL:  invalid value for parameter \"shared_buffers\": \"plenty\""
        );
        assert!(error.log().iter().all(|line| !line.contains("earlier")), "{:?}", error.log());

        let mut spec = cluster.spec();
        spec.limit = Duration::ZERO;
        let error = spawn(&spec).unwrap_err();
        assert!(matches!(error, Error::NotReady { .. }), "{error}");
        assert_eq!(processes_of(&cluster.data_dir()).unwrap(), []);

        spec.server.bin_dir = PathBuf::from("/nonexistent");
        let error = spawn(&spec).unwrap_err();
        assert!(error.to_string().starts_with("starting /nonexistent/postgres failed: "), "{error}");

        spawn(&cluster.spec()).unwrap();
    }

    /// A backend in a busy loop notices the death of its postmaster only when it is done.
    #[test]
    fn a_living_orphan_is_found_and_refuses_the_next_start() {
        let cluster = Cluster::new("process");
        let postmaster = spawn(&cluster.spec()).unwrap().pid;
        let data_dir = cluster.data_dir();
        std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                cluster.try_query(
                    testing::PASSWORD,
                    "SET application_name = 'busy'; DO $$ BEGIN LOOP NULL; END LOOP; END $$",
                )
            });
            let find =
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'busy' AND query LIKE 'SET%'";
            await_that("the backend is busy", || !cluster.query(find).is_empty());
            let backend: i32 = cluster.query(find)[0].parse().unwrap();
            assert!(os::kill(postmaster, libc::SIGKILL).unwrap());
            await_that("only the busy backend is left", || {
                let pids: Vec<i32> =
                    processes_of(&data_dir).unwrap().iter().map(|process| process.pid).collect();
                pids == [backend]
            });
            assert!(!processes_of(&data_dir).unwrap()[0].is_postmaster);
            let second = spawn(&cluster.spec());
            let stopped = stop_fast(&data_dir, Duration::from_secs(1));
            // The thread that waits for the backend's answer must end, whatever is found.
            kill_all(&data_dir).unwrap();
            assert!(busy.join().unwrap().is_err());
            let refused = |error: Error| matches!(error, Error::Alive { pids, .. } if pids == [backend]);
            assert!(refused(second.expect_err("a second postmaster ran beside the orphan")));
            assert!(refused(stopped.unwrap_err()));
        });
        assert_eq!(state_of(&cluster), State::InProduction);
        spawn(&cluster.spec()).unwrap();
        assert_eq!(cluster.query("SELECT 1"), ["1"]);
    }

    #[cfg(debug_assertions)]
    #[test]
    fn planted_an_orphan_that_is_overlooked() {
        let test = "process::tests::a_living_orphan_is_found_and_refuses_the_next_start";
        let why = "a second postmaster ran beside the orphan";
        crate::fault::must_be_noticed(Fault::OrphanOverlooked, test, why);
    }

    #[test]
    fn everything_is_killed_stopped_processes_too_but_no_bystander() {
        let cluster = Cluster::new("process");
        let data_dir = cluster.data_dir();
        let postmaster = spawn(&cluster.spec()).unwrap().pid;
        let segment = PostmasterFile::read(&data_dir).unwrap().unwrap().shared_memory.unwrap();
        let mut bystander = Command::new("sleep").arg("600").current_dir(&data_dir).spawn().unwrap();
        let bystander_pid = bystander.id().cast_signed();
        let listed = processes_of(&data_dir).unwrap();
        let listed = listed.iter().find(|process| process.pid == bystander_pid).unwrap();
        assert!(!listed.is_server && !listed.is_postmaster);

        assert!(os::kill(postmaster, libc::SIGSTOP).unwrap());
        kill_all(&data_dir).unwrap();
        let left: Vec<i32> = processes_of(&data_dir).unwrap().iter().map(|process| process.pid).collect();
        assert_eq!(left, [bystander_pid]);
        kill_all(&data_dir).unwrap();

        assert_eq!(os::shared_memory(segment.1).map(|segment| segment.attached), Some(0));
        assert!(remove_stale_shared_memory(&data_dir).unwrap());
        assert_eq!(os::shared_memory(segment.1), None);
        assert!(!remove_stale_shared_memory(&data_dir).unwrap());

        bystander.kill().unwrap();
        bystander.wait().unwrap();
    }

    /// Process numbers come round again, in containers within minutes.
    #[test]
    fn a_stranger_with_the_old_number_does_not_stop_the_start() {
        let cluster = Cluster::new("process");
        spawn(&cluster.spec()).unwrap();
        kill_all(&cluster.data_dir()).unwrap();
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        if let Some(user) = testing::user() {
            sleep.uid(user.uid).gid(user.gid);
        }
        let mut stranger = sleep.spawn().unwrap();
        let path = cluster.data_dir().join("postmaster.pid");
        let old = std::fs::read_to_string(&path).unwrap();
        let (_, rest) = old.split_once('\n').unwrap();
        std::fs::write(&path, format!("{}\n{rest}", stranger.id())).unwrap();
        let socket_lock = cluster.log().with_file_name(".s.PGSQL.5432.lock");
        std::fs::write(&socket_lock, format!("{}\n{rest}", stranger.id())).unwrap();
        spawn(&cluster.spec()).unwrap();
        assert_eq!(cluster.query("SELECT 1"), ["1"]);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_stop_that_takes_too_long_names_who_is_left() {
        let cluster = Cluster::new("process");
        let postmaster = spawn(&cluster.spec()).unwrap().pid;
        assert!(os::kill(postmaster, libc::SIGSTOP).unwrap());
        let error = stop_fast(&cluster.data_dir(), Duration::from_millis(50)).unwrap_err();
        assert!(matches!(&error, Error::Lingering { pids, .. } if pids.contains(&postmaster)), "{error}");
        assert!(os::kill(postmaster, libc::SIGCONT).unwrap());
        stop_fast(&cluster.data_dir(), Duration::from_secs(30)).unwrap();
    }

    #[test]
    fn the_pid_file_is_read_at_every_stage() {
        let full = "4711\n/data\n1700000000\n5432\n/run\n\n  5432001  65538\nready   \n";
        let expected = PostmasterFile {
            pid: 4711,
            shared_memory: Some((5432001, 65538)),
            ready: true,
            started: Some(1_700_000_000),
        };
        assert_eq!(PostmasterFile::parse(full), Some(expected));
        let starting = full.replace("ready   ", "starting");
        assert_eq!(PostmasterFile::parse(&starting), Some(PostmasterFile { ready: false, ..expected }));
        let early = "4711\n/data\n1700000000\n5432\n/run\n\n";
        let early_facts = PostmasterFile { shared_memory: None, ready: false, ..expected };
        assert_eq!(PostmasterFile::parse(early), Some(early_facts));
        assert_eq!(
            PostmasterFile::parse(&full.replace("5432001", "4294967295")).unwrap().shared_memory,
            Some((-1, 65538))
        );
        assert_eq!(PostmasterFile::parse("-4711\n/data\n").unwrap().pid, 4711);
        assert_eq!(PostmasterFile::parse(""), None);
        assert_eq!(PostmasterFile::parse("x\n"), None);
        assert_eq!(PostmasterFile::read(Path::new("/nonexistent")).unwrap(), None);
        assert_eq!(processes_of(Path::new("/nonexistent")).unwrap(), []);
    }
}
