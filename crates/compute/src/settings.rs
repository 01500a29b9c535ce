//! Settings a compute is started with.
//!
//! They are given on the command line, where neither `ALTER SYSTEM` nor a configuration file can
//! change them; the last one of a name counts.

use std::path::Path;

use pgdata::control_file::ControlFile;

use crate::guarded;

/// Names and values, in the order in which they are given to the server.
pub type Settings = Vec<(String, String)>;

/// What the forced settings depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForcedInput<'a> {
    /// The data directory.
    pub data_dir: &'a Path,
    /// Directory of the unix socket.
    pub socket_dir: &'a Path,
    /// Whether the WAL carries what logical decoding needs.
    pub logical: bool,
    /// The branch was cut from another one and has not been made long-lived: it must not rewrite
    /// pages that it shares without being asked to.
    pub child: bool,
    /// First start of a child: subscriptions that came with the data must not start to work.
    pub first_start: bool,
}

/// The port in the name of the socket; there is no other listener.
pub const SOCKET_PORT: u16 = 5432;

/// Not in the list of forced settings, but it decides where that list is looked at.
const RESERVED: &str = "config_file";

/// Settings without which branches lose data, meet each other or open a door. They come last on the
/// command line and override everything else.
pub fn forced_settings(major: u32, input: &ForcedInput<'_>) -> Settings {
    let in_data = |name: &str| input.data_dir.join(name).to_string_lossy().into_owned();
    let mut list = vec![
        ("data_directory", input.data_dir.to_string_lossy().into_owned()),
        ("hba_file", in_data("pg_hba.conf")),
        ("ident_file", in_data("pg_ident.conf")),
        ("external_pid_file", String::new()),
        // No open door.
        ("listen_addresses", String::new()),
        ("port", SOCKET_PORT.to_string()),
        ("unix_socket_directories", directory_list_entry(input.socket_dir)),
        ("unix_socket_permissions", "0700".to_owned()),
        ("unix_socket_group", String::new()),
        // What was acknowledged is durable, and every page can be rebuilt from the WAL.
        ("fsync", "on".to_owned()),
        ("full_page_writes", "on".to_owned()),
        ("wal_level", if input.logical { "logical" } else { "replica" }.to_owned()),
        ("wal_sync_method", "fdatasync".to_owned()),
        // Complete WAL segments are shared by hard links: they are never written again. The daemon
        // alone removes them.
        ("wal_recycle", "off".to_owned()),
        ("wal_init_zero", "off".to_owned()),
        ("wal_keep_size", "2147483647MB".to_owned()),
        // A start must not open every file.
        ("recovery_init_sync_method", "syncfs".to_owned()),
        // A child must not meet its parent's archive, primary or standbys.
        ("archive_mode", "off".to_owned()),
        ("archive_command", String::new()),
        ("archive_library", String::new()),
        ("restore_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("synchronous_standby_names", String::new()),
        // Memory that dies with the compute, and a log that the daemon reads.
        ("dynamic_shared_memory_type", "mmap".to_owned()),
        ("logging_collector", "off".to_owned()),
        ("log_destination", "stderr".to_owned()),
    ];
    if major >= 17 {
        // Summaries of two histories must not be mixed up.
        list.push(("summarize_wal", "off".to_owned()));
    }
    if major >= 18 {
        // io_uring would go around the preload library.
        list.push(("io_method", "worker".to_owned()));
    }
    if input.child {
        // A parent past the usual age would make every child freeze all its pages at once.
        list.push(("autovacuum_freeze_max_age", "1500000000".to_owned()));
        list.push(("autovacuum_multixact_freeze_max_age", "1500000000".to_owned()));
    }
    if input.first_start {
        list.push(("max_logical_replication_workers", "0".to_owned()));
    }
    list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A directory as an entry of a comma-separated list.
fn directory_list_entry(directory: &Path) -> String {
    let text = directory.to_string_lossy();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if plain { text.into_owned() } else { format!("\"{}\"", text.replace('"', "\"\"")) }
}

/// Splits `wanted` into what may be given besides `forced`, and the names of what may not, in any
/// spelling that the server would take.
pub fn filter_settings(forced: &Settings, wanted: &Settings) -> (Settings, Vec<String>) {
    let allowed = |(name, _): &(String, String)| {
        let name = canonical(name);
        is_name(&name) && name != RESERVED && !forced.iter().any(|(other, _)| *other == name)
    };
    let (kept, refused): (Settings, Settings) = wanted.iter().cloned().partition(allowed);
    (kept, refused.into_iter().map(|(name, _)| name).collect())
}

/// PostgreSQL takes upper and lower case, and on the command line `-` for `_`.
fn canonical(name: &str) -> String {
    name.trim().to_ascii_lowercase().replace('-', "_")
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte))
}

/// Everything to put on the command line: `defaults`, then `wanted` without what is forced, then what
/// must not be lowered, then the forced settings. Also the names in `wanted` that were refused.
/// `recorded` is what the cut recorded, merged with [`Recorded::configured`].
pub fn command_line(
    major: u32,
    input: &ForcedInput<'_>,
    recorded: &Recorded,
    defaults: &Settings,
    wanted: &Settings,
) -> (Settings, Vec<String>) {
    let forced = forced_settings(major, input);
    let (kept, refused) = filter_settings(&forced, wanted);
    let mut floor = recorded.clone();
    let free = kept.into_iter().filter(|(name, value)| !floor.raise(name, value));
    let mut settings: Settings = defaults.iter().cloned().chain(free).collect();
    settings.extend(floor.settings(major));
    settings.extend(forced);
    (settings, refused)
}

/// Settings that a child must not have lower than its parent had: recovery of what the parent wrote
/// would stop. 0 and empty mean: not known, or not needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Recorded {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `max_replication_slots`.
    pub max_replication_slots: u32,
    /// `max_active_replication_origins`, from version 18 on; before, the slots' limit is also theirs.
    pub max_active_replication_origins: u32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// `shared_preload_libraries`, in their order.
    pub shared_preload_libraries: Vec<String>,
}

impl Recorded {
    /// What the control file tells of the last start; slots, origins and libraries do not stand there.
    pub fn of_control_file(control: &ControlFile) -> Recorded {
        Recorded {
            max_connections: control.max_connections,
            max_worker_processes: control.max_worker_processes,
            max_wal_senders: control.max_wal_senders,
            max_prepared_transactions: control.max_prepared_xacts,
            max_locks_per_transaction: control.max_locks_per_xact,
            track_commit_timestamp: control.track_commit_timestamp,
            ..Recorded::default()
        }
    }

    /// What `postgresql.conf` and `postgresql.auto.conf` in `data_dir` say; files that they include are
    /// not read. Without this, a floor on the command line would lower what a user has set since.
    ///
    /// # Errors
    /// A file cannot be read; a missing one is no error.
    pub fn configured(data_dir: &Path) -> std::io::Result<Recorded> {
        let mut values = std::collections::BTreeMap::new();
        for name in ["postgresql.conf", "postgresql.auto.conf"] {
            match guarded::read(&data_dir.join(name)) {
                // The last line that sets a name counts.
                Ok(text) => values.extend(String::from_utf8_lossy(&text).lines().filter_map(assignment)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let mut found = Recorded::default();
        for (name, value) in values {
            found.raise(&name, &value);
        }
        Ok(found)
    }

    /// What the server in `data_dir` was last started with on its command line, by its own note in
    /// `postmaster.opts`. That ranks above all configuration, and the control file tells only part of it.
    ///
    /// # Errors
    /// The file cannot be read; a missing one is no error.
    pub fn last_started(data_dir: &Path) -> std::io::Result<Recorded> {
        let text = match guarded::read(&data_dir.join("postmaster.opts")) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Recorded::default()),
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&text);
        // The program, then each argument in double quotes; the last of a name counts.
        let arguments = text.trim_end().trim_end_matches('"').split("\" \"");
        let values: std::collections::BTreeMap<String, &str> = arguments
            .filter_map(|argument| argument.split_once('='))
            .map(|(name, value)| (canonical(name), value))
            .collect();
        let mut found = Recorded::default();
        for (name, value) in values {
            found.raise(&name, value);
        }
        Ok(found)
    }

    /// The higher of both in every respect.
    #[must_use]
    pub fn max(&self, other: &Recorded) -> Recorded {
        let mut merged = self.clone();
        for (name, value) in other.settings(u32::MAX) {
            merged.raise(&name, &value);
        }
        merged
    }

    /// Takes the value where it is higher. `false` when `name` is none of these settings or the value
    /// cannot be understood.
    pub fn raise(&mut self, name: &str, value: &str) -> bool {
        let name = canonical(name);
        if let Some(field) = self.number(&name) {
            return value.trim().parse().map(|value: u32| *field = value.max(*field)).is_ok();
        }
        match name.as_str() {
            "track_commit_timestamp" => {
                let on = boolean(value);
                self.track_commit_timestamp |= on == Some(true);
                on.is_some()
            }
            "shared_preload_libraries" => {
                for library in value.split(',').map(|name| name.trim().trim_matches('"')) {
                    let known = self.shared_preload_libraries.iter().any(|other| other == library);
                    if !known && !library.is_empty() {
                        self.shared_preload_libraries.push(library.to_owned());
                    }
                }
                true
            }
            _ => false,
        }
    }

    fn number(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "max_connections" => &mut self.max_connections,
            "max_worker_processes" => &mut self.max_worker_processes,
            "max_wal_senders" => &mut self.max_wal_senders,
            "max_prepared_transactions" => &mut self.max_prepared_transactions,
            "max_locks_per_transaction" => &mut self.max_locks_per_transaction,
            "max_replication_slots" => &mut self.max_replication_slots,
            "max_active_replication_origins" => &mut self.max_active_replication_origins,
            _ => return None,
        })
    }

    /// As settings for the command line of a server of version `major`; what is not known is left out.
    pub fn settings(&self, major: u32) -> Settings {
        let origins = if major >= 18 { self.max_active_replication_origins } else { 0 };
        let numbers = [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
            ("max_replication_slots", self.max_replication_slots),
            ("max_active_replication_origins", origins),
        ];
        let known = numbers.into_iter().filter(|(_, value)| *value > 0);
        let mut list: Settings = known.map(|(name, value)| (name.to_owned(), value.to_string())).collect();
        if self.track_commit_timestamp {
            list.push(("track_commit_timestamp".to_owned(), "on".to_owned()));
        }
        if !self.shared_preload_libraries.is_empty() {
            list.push(("shared_preload_libraries".to_owned(), self.shared_preload_libraries.join(",")));
        }
        list
    }
}

/// PostgreSQL accepts any unambiguous beginning of these words.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim().to_ascii_lowercase();
    let begins = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if text == "1" || begins("on", 2) || begins("true", 1) || begins("yes", 1) {
        Some(true)
    } else if text == "0" || begins("off", 2) || begins("false", 1) || begins("no", 1) {
        Some(false)
    } else {
        None
    }
}

/// One line of a configuration file: `name = value`, `name value`, `name = 'it''s'  # comment`.
fn assignment(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.".contains(c)))?;
    let (name, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => quoted_value(quoted)?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    (!name.is_empty()).then(|| (canonical(name), value))
}

/// Up to the closing quote; `''` and `\'` are a quote in it.
fn quoted_value(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut rest = text.chars().peekable();
    loop {
        match rest.next()? {
            '\'' if rest.next_if_eq(&'\'').is_some() => value.push('\''),
            '\'' => return Some(value),
            '\\' => value.push(rest.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Directory;

    fn input() -> ForcedInput<'static> {
        ForcedInput {
            data_dir: Path::new("/home/b/pgdata"),
            socket_dir: Path::new("/run/b"),
            logical: false,
            child: false,
            first_start: false,
        }
    }

    fn value<'a>(settings: &'a Settings, name: &str) -> Option<&'a str> {
        // As in the server, the last one counts.
        settings.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn list(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn what_is_forced_depends_on_version_and_kind() {
        let plain = forced_settings(17, &input());
        assert_eq!(value(&plain, "listen_addresses"), Some(""));
        assert_eq!(value(&plain, "hba_file"), Some("/home/b/pgdata/pg_hba.conf"));
        assert_eq!(value(&plain, "wal_level"), Some("replica"));
        assert_eq!(value(&plain, "summarize_wal"), Some("off"));
        let more = ["io_method", "autovacuum_freeze_max_age", "max_logical_replication_workers"];
        for absent in more {
            assert_eq!(value(&plain, absent), None, "{absent}");
        }
        assert_eq!(value(&forced_settings(15, &input()), "summarize_wal"), None);
        assert_eq!(value(&forced_settings(18, &input()), "io_method"), Some("worker"));
        let child = ForcedInput { child: true, first_start: true, logical: true, ..input() };
        let child = forced_settings(17, &child);
        assert_eq!(value(&child, "wal_level"), Some("logical"));
        assert_eq!(value(&child, "autovacuum_multixact_freeze_max_age"), Some("1500000000"));
        assert_eq!(value(&child, "max_logical_replication_workers"), Some("0"));
    }

    #[test]
    fn a_directory_with_odd_characters_stays_one_entry() {
        assert_eq!(directory_list_entry(Path::new("/run/br-1.d")), "/run/br-1.d");
        assert_eq!(directory_list_entry(Path::new("/my, \"run\"")), "\"/my, \"\"run\"\"\"");
    }

    #[test]
    fn forced_settings_cannot_be_overridden_in_any_spelling() {
        let wanted = list(&[
            ("work_mem", "8MB"),
            ("FSYNC", "off"),
            ("listen-addresses", "*"),
            (" Config_File ", "/tmp/x"),
            ("auto_explain.log_min_duration", "1s"),
            ("work_mem=1 -c fsync", "off"),
            ("", "x"),
        ]);
        let nothing = Settings::new();
        let (settings, refused) = command_line(17, &input(), &Recorded::default(), &nothing, &wanted);
        let names = ["FSYNC", "listen-addresses", " Config_File ", "work_mem=1 -c fsync", ""];
        assert_eq!(refused, names);
        let kept = list(&[("work_mem", "8MB"), ("auto_explain.log_min_duration", "1s")]);
        assert_eq!(settings[..2], kept[..]);
        assert_eq!(settings[2..], forced_settings(17, &input())[..]);
    }

    #[test]
    fn recorded_settings_are_only_raised() {
        let recorded = Recorded {
            max_connections: 200,
            max_prepared_transactions: 5,
            track_commit_timestamp: true,
            shared_preload_libraries: vec!["pg_stat_statements".to_owned()],
            ..Recorded::default()
        };
        let defaults = list(&[("max_wal_size", "256MB"), ("min_wal_size", "16MB")]);
        let wanted = list(&[
            ("max_connections", "50"),
            ("Max_Prepared_Transactions", "9"),
            ("track_commit_timestamp", "off"),
            ("shared_preload_libraries", "auto_explain, pg_stat_statements"),
            ("max_wal_size", "512MB"),
        ]);
        let expected = list(&[
            ("max_wal_size", "256MB"),
            ("min_wal_size", "16MB"),
            ("max_wal_size", "512MB"),
            ("max_connections", "200"),
            ("max_prepared_transactions", "9"),
            ("track_commit_timestamp", "on"),
            ("shared_preload_libraries", "pg_stat_statements,auto_explain"),
        ]);
        let (settings, refused) = command_line(17, &input(), &recorded, &defaults, &wanted);
        assert_eq!(refused, [""; 0]);
        assert_eq!(settings[..expected.len()], expected[..]);
    }

    #[test]
    fn merging_takes_the_higher_of_each() {
        let one = Recorded {
            max_connections: 10,
            max_wal_senders: 7,
            max_active_replication_origins: 3,
            ..Recorded::default()
        };
        let two = Recorded {
            max_connections: 20,
            max_wal_senders: 1,
            track_commit_timestamp: true,
            ..Recorded::default()
        };
        let both = Recorded {
            max_connections: 20,
            max_wal_senders: 7,
            max_active_replication_origins: 3,
            track_commit_timestamp: true,
            ..Recorded::default()
        };
        assert_eq!(one.max(&two), both);
        assert_eq!(two.max(&one), both);
        assert_eq!(value(&both.settings(17), "max_active_replication_origins"), None);
        assert_eq!(value(&both.settings(18), "max_active_replication_origins"), Some("3"));
        let mut raised = both.clone();
        assert!(!raised.raise("max_connections", "many"));
        assert!(!raised.raise("work_mem", "1"));
        assert_eq!(raised, both);
    }

    #[test]
    fn configuration_files_are_read_as_the_server_reads_them() {
        let directory = Directory::new("settings");
        let conf = "#max_connections = 1\nmax_connections = 100\t\t\t# (change requires restart)\n\
                    Max_Worker_Processes 12\nshared_preload_libraries = 'a, \"b\"'\nmax_connections=150#x\n\
                    search_path = '\"$user\", public'\n track_commit_timestamp = tr\nbroken 'line\n";
        let auto =
            "# Do not edit this file manually!\nmax_prepared_transactions = '7'\nmax_connections = '120'\n";
        std::fs::write(directory.path().join("postgresql.conf"), conf).unwrap();
        std::fs::write(directory.path().join("postgresql.auto.conf"), auto).unwrap();
        let expected = Recorded {
            max_connections: 120,
            max_worker_processes: 12,
            max_prepared_transactions: 7,
            track_commit_timestamp: true,
            shared_preload_libraries: vec!["a".to_owned(), "b".to_owned()],
            ..Recorded::default()
        };
        assert_eq!(Recorded::configured(directory.path()).unwrap(), expected);
        assert_eq!(Recorded::configured(&directory.path().join("none")).unwrap(), Recorded::default());
        assert_eq!(assignment("a = 'it''s \\'x\\\\'"), Some(("a".to_owned(), "it's 'x\\".to_owned())));
        assert_eq!(assignment("= 1"), None);
    }

    #[test]
    fn the_note_of_the_last_start_is_read() {
        let directory = Directory::new("settings");
        assert_eq!(Recorded::last_started(directory.path()).unwrap(), Recorded::default());
        let note = "/opt/bin/postgres \"-D\" \"/a b/c=d\" \"-c\" \"max_replication_slots=30\" \"-c\" \"port=1\" \
                    \"-c\" \"max_replication_slots=20\" \"-c\" \"shared_preload_libraries=a, b\"\n";
        std::fs::write(directory.path().join("postmaster.opts"), note).unwrap();
        let expected = Recorded {
            max_replication_slots: 20,
            shared_preload_libraries: vec!["a".to_owned(), "b".to_owned()],
            ..Recorded::default()
        };
        assert_eq!(Recorded::last_started(directory.path()).unwrap(), expected);
    }
}

#[cfg(test)]
mod with_a_server {
    use super::*;
    use crate::process::{spawn, stop_fast};
    use crate::testing::{self, Cluster};
    use std::time::Duration;

    /// Every forced setting is known to the server, is in force, and no `ALTER SYSTEM` changes it.
    #[test]
    fn forced_settings_hold_against_alter_system() {
        for server in testing::servers() {
            let cluster = Cluster::on(server.clone(), "settings");
            let data_dir = cluster.data_dir();
            spawn(&cluster.spec()).unwrap();
            cluster.query("ALTER SYSTEM SET fsync = off");
            cluster.query("ALTER SYSTEM SET listen_addresses = '*'");
            cluster.query("ALTER SYSTEM SET archive_mode = on");
            cluster.query("ALTER SYSTEM SET max_connections = 31");
            stop_fast(&data_dir, Duration::from_secs(30)).unwrap();

            let input = ForcedInput { child: true, first_start: true, ..cluster.input(&data_dir) };
            let recorded = Recorded::configured(&data_dir).unwrap();
            assert_eq!(recorded.max_connections, 31);
            let recorded = recorded.max(&Recorded { max_prepared_transactions: 3, ..Recorded::default() });
            let defaults = vec![("max_wal_size".to_owned(), "64MB".to_owned())];
            let mut spec = cluster.spec();
            let refused;
            (spec.settings, refused) = command_line(
                server.major,
                &input,
                &recorded,
                &defaults,
                &vec![("port".to_owned(), "1".to_owned())],
            );
            assert_eq!(refused, ["port"]);
            spawn(&spec).unwrap();
            for (name, _) in &spec.settings {
                let source = cluster.query(&format!("SELECT source FROM pg_settings WHERE name = '{name}'"));
                // The server makes these paths absolute and notes itself as their source.
                let path = ["data_directory", "hba_file", "ident_file"].contains(&name.as_str());
                let expected = if path { "override" } else { "command line" };
                assert_eq!(source, [expected], "{name} on {}", server.version());
            }
            let show = |name: &str| cluster.query(&format!("SHOW {name}")).remove(0);
            assert_eq!(show("hba_file"), data_dir.join("pg_hba.conf").to_str().unwrap());
            assert_eq!(show("fsync"), "on");
            assert_eq!(show("listen_addresses"), "");
            assert_eq!(show("archive_mode"), "off");
            assert_eq!(show("max_connections"), "31");
            assert_eq!(show("max_prepared_transactions"), "3");
            assert_eq!(show("max_wal_size"), "64MB");
            assert_eq!(show("recovery_init_sync_method"), "syncfs");
        }
    }
}
