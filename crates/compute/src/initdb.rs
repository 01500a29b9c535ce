//! A new cluster.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::os::{self, User};
use crate::server::Server;

/// Size of the WAL segment files of our clusters, in MiB: a fresh branch owns at least one.
pub const WAL_SEGMENT_MIB: u32 = 4;

/// Nobody gets in without a password, from nowhere but the compute's own socket.
const HBA: &str = "\
# Written by ana. Connections come over the unix socket only; the daemon stands in front of it.
# TYPE  DATABASE     USER  METHOD
local   all          all   scram-sha-256
local   replication  all   scram-sha-256
";

/// Why there is no new cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `initdb` said no.
    #[error("initdb failed ({status}): {reason}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// The line in which it says why.
        reason: String,
        /// All it printed.
        output: String,
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

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}

/// Makes a cluster in `directory`, which must be missing or empty: UTF-8, sorted by code point
/// (`C.UTF-8` of the built-in provider from version 17 on, `C` before), time zone UTC, checksums on,
/// small WAL segments. Every login needs a password. Nothing is synced: that is the caller's.
///
/// `run_as` is for a caller that is still root; `directory`'s parent must be that user's.
///
/// # Errors
/// What `initdb` says; the password stands in no error, argument, variable or named file.
pub fn initdb(
    server: &Server,
    directory: &Path,
    superuser: &str,
    password: &str,
    run_as: Option<&User>,
) -> Result<(), Error> {
    let program = server.program("initdb");
    let mut command = Command::new(&program);
    command
        .arg("--pgdata")
        .arg(directory)
        .args(["--username", superuser, "--encoding", "UTF8", "--locale", "C"])
        .args(["--data-checksums", "--no-sync", "--no-instructions", "--auth", "scram-sha-256"])
        .args(["--pwfile", "/proc/self/fd/0"])
        .arg(format!("--wal-segsize={WAL_SEGMENT_MIB}"));
    if server.major >= 17 {
        command.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
    } else {
        command.args(["--locale-provider", "libc"]);
    }
    if server.major >= 16 {
        // A killed initdb would leave its segments in /dev/shm for ever.
        command.args(["--set", "dynamic_shared_memory_type=mmap"]);
    }
    command.env_clear().envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"), ("TZ", "UTC")]);
    if let Some(user) = run_as {
        command.uid(user.uid).gid(user.gid);
    }
    let parent = directory.parent().unwrap_or(Path::new("/"));
    if directory.is_absolute() {
        // The caller's own directory may be closed to the user.
        command.current_dir("/");
    }
    os::end_with_parent(&mut command);
    command.stdin(secret_file(parent, password, run_as).map_err(io("writing into", parent))?);
    let output = command.output().map_err(io("starting", &program))?;
    if !output.status.success() {
        return Err(failure(output));
    }
    let hba = directory.join("pg_hba.conf");
    std::fs::write(&hba, HBA).map_err(io("writing", &hba))?;
    let conf = directory.join("postgresql.conf");
    let text = std::fs::read_to_string(&conf).map_err(io("reading", &conf))?;
    std::fs::write(&conf, without_comments(&text)).map_err(io("writing", &conf))
}

/// The sample's 30 KiB of comments would be copied into every branch.
fn without_comments(text: &str) -> String {
    let set = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let set: Vec<&str> = set.map(|line| line.split('#').next().unwrap_or(line).trim_end()).collect();
    format!("# Settings of this branch. Every setting: SELECT * FROM pg_settings.\n{}\n", set.join("\n"))
}

/// A file that holds the password and has no name, so that even a crash leaves nothing to read.
fn secret_file(directory: &Path, password: &str, owner: Option<&User>) -> std::io::Result<Stdio> {
    let mut file =
        File::options().read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(directory)?;
    file.write_all(password.as_bytes())?;
    file.rewind()?;
    if let Some(user) = owner {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
    }
    Ok(Stdio::from(file))
}

fn failure(output: std::process::Output) -> Error {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let telling = |line: &&str| ["error:", "FATAL:", "PANIC:"].iter().any(|mark| line.contains(mark));
    let line = text.lines().find(telling).or_else(|| text.lines().last()).unwrap_or("it printed nothing");
    Error::Failed { status: output.status, reason: line.trim().to_owned(), output: text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{self, spawn};
    use crate::testing::{self, Cluster, PASSWORD};
    use pgdata::control_file::{ControlFile, State};

    #[test]
    fn a_new_cluster_is_as_promised_on_every_server_at_hand() {
        for server in testing::servers() {
            let cluster = Cluster::on(server.clone(), "initdb");
            let bytes = std::fs::read(cluster.data_dir().join("global/pg_control")).unwrap();
            let control = ControlFile::parse(&bytes).unwrap();
            assert_eq!(control.state, State::ShutDown);
            assert_eq!(control.wal_segment_size, WAL_SEGMENT_MIB << 20);
            assert_eq!(control.data_checksum_version, 1);
            assert_eq!((control.block_size, control.blocks_per_segment), (8192, 131_072));

            spawn(&cluster.spec()).unwrap();
            let show = |name: &str| cluster.query(&format!("SHOW {name}")).remove(0);
            assert_eq!(show("server_encoding"), "UTF8");
            assert_eq!(show("data_checksums"), "on");
            assert!(["UTC", "Etc/UTC"].contains(&show("TimeZone").as_str()));
            assert!(["UTC", "Etc/UTC"].contains(&show("log_timezone").as_str()));
            let provider = cluster.query("SELECT datlocprovider FROM pg_database WHERE datname = 'postgres'");
            assert_eq!(provider, [if server.major >= 17 { "b" } else { "c" }]);
            // By code point, whatever the provider.
            assert_eq!(
                cluster.query("SELECT x FROM (VALUES ('a'), ('B'), ('ä')) v(x) ORDER BY x"),
                ["B", "a", "ä"]
            );
            if server.major >= 17 {
                assert_eq!(cluster.query("SELECT upper('ä')"), ["Ä"]);
            }
            let identifier = cluster.query("SELECT system_identifier FROM pg_control_system()");
            assert_eq!(identifier, [control.system_identifier.to_string()]);

            let refused = cluster.try_query("wrong", "SELECT 1").unwrap_err();
            assert_eq!(refused, "password authentication failed for user \"anabranch\"");
            let methods = cluster.query("SELECT DISTINCT type || ' ' || auth_method FROM pg_hba_file_rules");
            assert_eq!(methods, ["local scram-sha-256"]);
            assert_eq!(cluster.query("SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL"), [""; 0]);
            process::kill_all(&cluster.data_dir()).unwrap();
        }
    }

    #[test]
    fn a_failure_tells_why_and_never_the_password() {
        let cluster = Cluster::new("initdb");
        let user = testing::user();
        let again = || initdb(&testing::server(), &cluster.data_dir(), "anabranch", PASSWORD, user.as_ref());
        let error = again().unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("initdb failed (exit status: 1): initdb: error: directory "), "{text}");
        assert!(text.ends_with("exists but is not empty"), "{text}");
        assert!(!format!("{error:?}").contains(PASSWORD));

        let reserved = cluster.data_dir().with_file_name("other");
        let error =
            initdb(&testing::server(), &reserved, "pg_reserved", PASSWORD, user.as_ref()).unwrap_err();
        assert!(error.to_string().contains("pg_reserved"), "{error}");
        assert!(!reserved.exists());
        let left = std::fs::read_dir(cluster.data_dir().parent().unwrap()).unwrap().count();
        assert_eq!(left, 1, "the data directory only: no file with the password");
    }
}
