//! PostgreSQL settings that users of the API ask for.
//!
//! The server itself is asked what it knows of them, so that every version and build is judged by
//! its own rules. Which *groups* of settings are open is decided here: those that move memory, plans
//! and limits, not those that name files, programs, libraries or doors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::server::Server;
use crate::settings::{self, ForcedInput};

/// Groups of `postgres --describe-config` that users may set, by the beginning of their names.
const OPEN_GROUPS: &[&str] = &[
    "Autovacuum",
    "Client Connection Defaults / Locale and Formatting",
    "Client Connection Defaults / Statement Behavior",
    "Lock Management",
    "Query Tuning",
    "Reporting and Logging / What to Log",
    "Reporting and Logging / When to Log",
    "Resource Usage",
    "Statistics",
    "Vacuuming",
    "Version and Platform Compatibility",
    "Write-Ahead Log / Checkpoints",
];

/// Settings that are open although their groups are not.
const OPEN: &[&str] = &["max_connections", "idle_session_timeout", "password_encryption"];

/// Extensions whose settings are open. Others may run code (`plperl.on_init`), or are our own.
const OPEN_EXTENSIONS: &[&str] =
    &["auto_explain", "hnsw", "ivfflat", "pg_prewarm", "pg_stat_statements", "pg_trgm", "pgaudit", "postgis"];

/// Why settings are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of them is not open, or has a value that the server does not take.
    #[error("{0}")]
    Wrong(String),
    /// The server could not be asked.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Checks settings before they are written down. `scratch` is a directory for a moment's file.
///
/// # Errors
/// [`Error::Wrong`] with one line that names the setting.
pub fn check(server: &Server, wanted: &[(String, String)], scratch: &Path) -> Result<(), Error> {
    let Some((first, _)) = wanted.first() else { return Ok(()) };
    let groups = describe(server)?;
    for (name, value) in wanted {
        check_name(server.major, &groups, name)?;
        if value.contains('\0') {
            return Err(Error::Wrong(format!("the value of \"{name}\" has a zero byte in it")));
        }
    }
    let dir = EmptyConfiguration::new(scratch)?;
    let mut command = Command::new(server.program("postgres"));
    command.arg("-C").arg(first).arg("-D").arg(&dir.0);
    for (name, value) in wanted {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let output = run(&mut command)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().find_map(|line| line.split_once("FATAL:")).map(|(_, why)| why.trim());
    Err(Error::Wrong(line.unwrap_or("the server does not take these settings").to_owned()))
}

fn check_name(major: u32, groups: &HashMap<String, String>, name: &str) -> Result<(), Error> {
    let plain =
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_.".contains(&byte));
    if name.is_empty() || !plain {
        return Err(Error::Wrong(format!("\"{name}\" is no name of a setting; write it in lower case")));
    }
    let closed = || Error::Wrong(format!("\"{name}\" is decided by the service and cannot be set"));
    let forced = settings::forced_settings(
        major,
        &ForcedInput {
            data_dir: Path::new("/"),
            socket_dir: Path::new("/"),
            logical: true,
            child: false,
            first_start: false,
        },
    );
    if forced.iter().any(|(other, _)| other == name) {
        return Err(closed());
    }
    // What an extension takes is known only once it is loaded.
    if let Some((extension, _)) = name.split_once('.') {
        return if OPEN_EXTENSIONS.contains(&extension) { Ok(()) } else { Err(closed()) };
    }
    if OPEN.contains(&name) {
        return Ok(());
    }
    match groups.get(name) {
        Some(group) if OPEN_GROUPS.iter().any(|open| group.starts_with(open)) => Ok(()),
        Some(_) => Err(closed()),
        None => Err(Error::Wrong(format!("there is no setting \"{name}\""))),
    }
}

/// Name and group of every setting that the server speaks of.
fn describe(server: &Server) -> Result<HashMap<String, String>, Error> {
    let output = run(Command::new(server.program("postgres")).arg("--describe-config"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Name, context, group, type, …, separated by tabs.
    let entry = |line: &str| {
        let mut fields = line.split('\t');
        Some((fields.next()?.to_ascii_lowercase(), fields.nth(1)?.to_owned()))
    };
    Ok(text.lines().filter_map(entry).collect())
}

fn run(command: &mut Command) -> std::io::Result<Output> {
    command.env_clear().envs([("LANG", "C.UTF-8"), ("LC_ALL", "C")]).stdin(Stdio::null()).output()
}

/// A directory with nothing but an empty `postgresql.conf`: what `postgres -C` wants to see.
struct EmptyConfiguration(PathBuf);

impl EmptyConfiguration {
    fn new(scratch: &Path) -> std::io::Result<EmptyConfiguration> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = EmptyConfiguration(scratch.join(format!("settings-{}-{number}", std::process::id())));
        std::fs::create_dir(&dir.0)?;
        std::fs::write(dir.0.join("postgresql.conf"), "")?;
        Ok(dir)
    }
}

impl Drop for EmptyConfiguration {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    fn judge(pairs: &[(&str, &str)]) -> Result<(), String> {
        let scratch = Directory::new("user-settings");
        let wanted: Vec<(String, String)> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let outcome =
            check(&crate::testing::server(), &wanted, scratch.path()).map_err(|error| error.to_string());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0, "something was left behind");
        outcome
    }

    #[test]
    fn what_moves_memory_plans_and_limits_is_taken() {
        for pair in [
            ("work_mem", "64MB"),
            ("statement_timeout", "30s"),
            ("max_connections", "300"),
            ("random_page_cost", "1.1"),
            ("log_min_duration_statement", "250ms"),
            ("autovacuum_vacuum_scale_factor", "0.05"),
            ("max_wal_size", "1GB"),
            ("pg_stat_statements.max", "100"),
        ] {
            assert_eq!(judge(&[pair]), Ok(()), "{pair:?}");
        }
        assert_eq!(judge(&[("work_mem", "64MB"), ("jit", "off")]), Ok(()));
        assert_eq!(judge(&[]), Ok(()));
    }

    #[test]
    fn what_opens_doors_or_takes_safety_away_is_not() {
        for name in [
            "fsync",
            "listen_addresses",
            "shared_preload_libraries",
            "session_preload_libraries",
            "dynamic_library_path",
            "ssl_passphrase_command",
            "archive_cleanup_command",
            "data_directory",
            "log_directory",
            "zero_damaged_pages",
            "config_file",
            "anabranch.role_id",
            "plperl.on_init",
        ] {
            let text = judge(&[(name, "x")]).unwrap_err();
            assert!(text.contains(name), "{name}: {text}");
        }
    }

    #[test]
    fn the_server_judges_names_and_values() {
        assert!(judge(&[("no_such_setting", "1")]).unwrap_err().contains("no_such_setting"));
        assert!(judge(&[("work_mem", "a lot")]).unwrap_err().contains("work_mem"));
        assert!(judge(&[("jit", "off"), ("max_connections", "-1")]).unwrap_err().contains("max_connections"));
        assert!(judge(&[("WORK_MEM", "1MB")]).is_err());
        assert!(judge(&[("work_mem=1MB -c fsync", "off")]).is_err());
        assert!(judge(&[("work_mem", "1MB\0")]).is_err());
    }
}
