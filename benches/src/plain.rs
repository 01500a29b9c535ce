//! Plain PostgreSQL of the same build on the same disk: what branches are compared with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use compute::engine::BOOTSTRAP_ROLE;
use compute::initdb::WAL_SEGMENT_MIB;
use compute::process::{self, SpawnSpec};
use compute::server::Server;
use compute::settings::{self, Settings};

use crate::failure::{Context, Failure, Result};
use crate::ground::Ground;
use crate::home::PASSWORD;
use crate::session::{Session, Target};

const LIMIT: Duration = Duration::from_secs(120);

/// Where encrypted servers listen.
pub const LOOPBACK: &str = "127.0.0.1";

/// How a plain server is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setup {
    /// PostgreSQL's own defaults for WAL recycling, zeroing and segment size.
    Defaults,
    /// As [`Setup::Defaults`], with PostgreSQL's own default for `max_wal_size` too.
    Stock,
    /// Everything that the branch with this data directory was started with, but no preload library:
    /// shows what part of a difference the settings make.
    As(PathBuf),
}

/// How a plain server takes clients over TCP: encrypted, on the loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub port: u16,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// A free port, and a certificate that vouches for itself, in files below `directory`.
    pub fn make(directory: &Path) -> Result<Tls> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])
            .context("making a certificate")?;
        let tls = Tls {
            port: free_port()?,
            certificate: directory.join("server.pem"),
            key: directory.join("server.key"),
        };
        crate::load::write_private(&tls.certificate, &made.cert.pem())?;
        crate::load::write_private(&tls.key, &made.signing_key.serialize_pem())?;
        Ok(tls)
    }

    fn settings(&self) -> Settings {
        let pairs = [
            ("listen_addresses", LOOPBACK.to_owned()),
            ("port", self.port.to_string()),
            ("ssl", "on".to_owned()),
            ("ssl_cert_file", self.certificate.to_string_lossy().into_owned()),
            ("ssl_key_file", self.key.to_string_lossy().into_owned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

/// A TCP port that nobody uses at the moment.
pub fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind((LOOPBACK, 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}

/// Settings that every side must have alike, as a running branch has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared(Vec<(&'static str, String)>);

const MAX_WAL_SIZE: &str = "max_wal_size";

/// These decide how much work there is; the first two are handed to the plain side.
const SHARED: [&str; 7] = [
    MAX_WAL_SIZE,
    "shared_buffers",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "checkpoint_timeout",
];

impl Shared {
    /// What a running server has.
    pub fn of(session: &Session) -> Result<Shared> {
        let shown = |name| Ok((name, session.text(&format!("SHOW {name}"))?));
        SHARED.into_iter().map(shown).collect::<Result<_>>().map(Shared)
    }

    /// What a plain server of this setup is told.
    fn given(&self, setup: &Setup) -> Settings {
        let told = self.0.iter().take(2).filter(|(name, _)| *setup != Setup::Stock || *name != MAX_WAL_SIZE);
        told.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn without_wal_size(&self) -> Vec<&(&'static str, String)> {
        self.0.iter().filter(|(name, _)| *name != MAX_WAL_SIZE).collect()
    }
}

/// A cluster with its server; both go when it is dropped.
pub struct Plain {
    spec: SpawnSpec,
    sockets: PathBuf,
    directory: PathBuf,
    tls: Option<Tls>,
}

impl Plain {
    /// A new cluster, running. `shared` is what the branches it is compared with have.
    pub fn new(
        ground: &Ground,
        name: &str,
        server: &Server,
        setup: &Setup,
        shared: &Shared,
    ) -> Result<Plain> {
        Plain::make(ground, name, server, setup, shared, None)
    }

    /// As [`Plain::new`], also reached over TCP with TLS.
    pub fn encrypted(
        ground: &Ground,
        name: &str,
        server: &Server,
        setup: &Setup,
        shared: &Shared,
    ) -> Result<Plain> {
        let tls = Tls::make(&ground.make(name)?)?;
        Plain::make(ground, name, server, setup, shared, Some(tls))
    }

    fn make(
        ground: &Ground,
        name: &str,
        server: &Server,
        setup: &Setup,
        shared: &Shared,
        tls: Option<Tls>,
    ) -> Result<Plain> {
        let directory = ground.make(name)?;
        let data_dir = directory.join("data");
        initdb(server, &data_dir, setup)?;
        let sockets = ground.make(&format!("{name}/s"))?;
        let mut settings: Settings = match setup {
            Setup::Defaults | Setup::Stock => {
                let quiet = [
                    ("listen_addresses", String::new()),
                    ("unix_socket_directories", sockets.to_string_lossy().into_owned()),
                ];
                let quiet = quiet.into_iter().map(|(name, value)| (name.to_owned(), value));
                shared.given(setup).into_iter().chain(quiet).collect()
            }
            Setup::As(branch) => settings_of(branch, &sockets)?,
        };
        // What comes later on the command line counts.
        settings.extend(tls.iter().flat_map(Tls::settings));
        let spec = SpawnSpec {
            server: server.clone(),
            data_dir,
            settings,
            env: Vec::new(),
            log: directory.join("postgres.log"),
            run_as: None,
            confinement: None,
            limit: LIMIT,
        };
        let plain = Plain { spec, sockets, directory, tls };
        plain.start()?;
        Ok(plain)
    }

    /// Starts the server.
    pub fn start(&self) -> Result<()> {
        process::spawn(&self.spec).context("starting a plain server").map(drop)
    }

    /// Stops the server cleanly.
    pub fn stop(&self) -> Result<()> {
        process::stop_fast(&self.spec.data_dir, LIMIT).context("stopping a plain server")
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.spec.data_dir.clone()
    }

    /// How to connect.
    pub fn target(&self) -> Target {
        Target {
            host: self.sockets.to_string_lossy().into_owned(),
            port: self.tls.as_ref().map_or(settings::SOCKET_PORT, |tls| tls.port),
            role: BOOTSTRAP_ROLE.to_owned(),
            password: PASSWORD.to_owned(),
            database: "postgres".to_owned(),
        }
    }

    /// How to connect over TCP, encrypted.
    pub fn tls_target(&self) -> Target {
        Target { host: LOOPBACK.to_owned(), ..self.target() }
    }

    /// The certificate that it shows, with its key.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Fails where the server differs from `expected` in what must be alike, or where a default was
    /// not kept.
    pub fn verify(&self, session: &Session, setup: &Setup, expected: &Shared) -> Result<()> {
        let found = Shared::of(session)?;
        let alike = match setup {
            Setup::Stock => found.without_wal_size() == expected.without_wal_size(),
            _ => found == *expected,
        };
        if !alike {
            return Err(Failure(format!("the sides are not alike: {found:?} against {expected:?}")));
        }
        let wal = ["wal_recycle", "wal_init_zero", "wal_segment_size"];
        let wal: Vec<String> =
            wal.iter().map(|name| session.text(&format!("SHOW {name}"))).collect::<Result<_>>()?;
        let wanted = match setup {
            Setup::Defaults | Setup::Stock => ["on", "on", "16MB"].map(str::to_owned),
            Setup::As(_) => ["off".to_owned(), "off".to_owned(), format!("{WAL_SEGMENT_MIB}MB")],
        };
        if wal == wanted { Ok(()) } else { Err(Failure(format!("a plain server has {wal:?} for its WAL"))) }
    }
}

/// The settings that the branch with this data directory was started with, for another place.
fn settings_of(branch: &Path, sockets: &Path) -> Result<Settings> {
    let path = branch.join("postmaster.opts");
    let text = std::fs::read_to_string(&path).context(format!("reading {}", path.display()))?;
    let mut settings = parse_options(&text);
    settings.retain(|(name, _)| !["data_directory", "hba_file", "ident_file"].contains(&name.as_str()));
    settings.push(("unix_socket_directories".to_owned(), sockets.to_string_lossy().into_owned()));
    // Nobody removes old WAL here but PostgreSQL itself.
    settings.push(("wal_keep_size".to_owned(), "0".to_owned()));
    Ok(settings)
}

/// A line such as `/bin/postgres "-D" "/data" "-c" "fsync=on"`.
fn parse_options(line: &str) -> Settings {
    let words = line.trim().split("\" \"").map(|word| word.trim_matches('"'));
    let pairs = words.filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// As the engine makes its clusters, but for the segment size where that stays the default.
fn initdb(server: &Server, directory: &Path, setup: &Setup) -> Result<()> {
    let parent = directory.parent().unwrap_or(directory);
    let password = parent.join("password");
    crate::load::write_private(&password, PASSWORD)?;
    let mut command = Command::new(server.program("initdb"));
    command
        .arg("--pgdata")
        .arg(directory)
        .args(["--username", BOOTSTRAP_ROLE, "--encoding", "UTF8", "--locale", "C"])
        .args(["--data-checksums", "--no-sync", "--no-instructions", "--auth", "scram-sha-256"])
        .arg("--pwfile")
        .arg(&password);
    if server.major >= 17 {
        command.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
    }
    if matches!(setup, Setup::As(_)) {
        command.arg(format!("--wal-segsize={WAL_SEGMENT_MIB}"));
    }
    command.env_clear().envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"), ("TZ", "UTC")]);
    let output = command.output().context("starting initdb")?;
    let _ = std::fs::remove_file(&password);
    if output.status.success() {
        return Ok(());
    }
    Err(Failure(format!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

impl Drop for Plain {
    fn drop(&mut self) {
        // A killed server would leave its dynamic shared memory behind.
        let ended = process::stop_fast(&self.spec.data_dir, LIMIT)
            .or_else(|_| process::kill_all(&self.spec.data_dir))
            .and_then(|()| process::remove_stale_shared_memory(&self.spec.data_dir));
        if let Err(error) = ended {
            eprintln!("warning: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_postmaster_are_read() {
        let line = "/pg/bin/postgres \"-D\" \"/d a\" \"-c\" \"fsync=on\" \"-c\" \"archive_command=\"\n";
        let expected = [("fsync", "on"), ("archive_command", "")];
        assert_eq!(parse_options(line), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
