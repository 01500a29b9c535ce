//! A home, a server and an engine for one test. Root becomes an ordinary user first.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use compute::engine::{BOOTSTRAP_ROLE, BranchKey, Engine, StartOptions, StopMode};
use compute::install::{self, Request};
use compute::machine::Machine;
use compute::run_as;
use compute::server::{DEFAULT_MAJOR, Server};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

pub const PASSWORD: &str = "only-for-tests";

/// For what takes no time at all on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory of its own for one test.
pub(crate) fn place() -> PathBuf {
    let path = ground().join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Everything of one test; stops and removes it all when dropped.
pub struct Lab {
    pub path: PathBuf,
    pub engine: Engine,
    pub server: Server,
}

/// Where tests keep what they need more than once. As root: a directory of the user we become.
pub(crate) fn ground() -> &'static Path {
    static GROUND: OnceLock<PathBuf> = OnceLock::new();
    GROUND.get_or_init(|| {
        let choice = run_as::choose(None).expect("a user to run PostgreSQL as");
        let path = std::env::temp_dir().join(format!("ana-e2e-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        if let Some(choice) = choice {
            std::os::unix::fs::chown(&path, Some(choice.user.uid), Some(choice.user.gid)).unwrap();
            become_user(choice.user.uid, choice.user.gid);
        }
        path
    })
}

/// The test harness has threads already, so this is the libc call that changes all of them.
#[allow(unsafe_code)]
fn become_user(uid: u32, gid: u32) {
    // SAFETY: plain system calls without pointers to anything but an empty list.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) | libc::setgid(gid) | libc::setuid(uid) };
    assert_eq!(done, 0, "could not become user {uid}");
}

/// A server of the default version, fetched once for all tests of this user.
pub fn server() -> Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER
        .get_or_init(|| {
            ground();
            let uid = compute::os::effective_uid();
            let home = std::env::temp_dir().join(format!("ana-e2e-servers-{uid}"));
            std::fs::create_dir_all(&home).unwrap();
            let request = Request { major: DEFAULT_MAJOR, bin_dir: None, home, archive: None };
            install::find_or_install(&Machine::this(), &request, &mut |note| eprintln!("{note}"))
                .unwrap_or_else(|error| panic!("{error}"))
        })
        .clone()
}

pub fn key(name: &str) -> BranchKey {
    BranchKey::new(name).unwrap()
}

impl Lab {
    /// An empty home.
    pub fn new() -> Lab {
        let server = server();
        let path = place();
        let engine = open_engine(&path);
        Lab { path, engine, server }
    }

    /// An empty home whose computes get this preload library.
    pub fn with_library(shim: &Path) -> Lab {
        let server = server();
        let path = place();
        let engine = Engine::open(&path.join("home"), shim, &path.join("s")).unwrap();
        Lab { path, engine, server }
    }

    /// A home with a running root branch `main`.
    pub fn with_main() -> Lab {
        let lab = Lab::new();
        lab.engine.create_root(&key("main"), &lab.server, PASSWORD).unwrap();
        lab.start("main");
        lab
    }

    pub fn start(&self, name: &str) -> i32 {
        self.start_with(name, &[])
    }

    pub fn start_with(&self, name: &str, settings: &[(&str, &str)]) -> i32 {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = StartOptions { first_start: false, settings };
        self.engine.start(&key(name), &self.server, &options).unwrap_or_else(|error| {
            let log = std::fs::read_to_string(self.engine.log_path(&key(name))).unwrap_or_default();
            panic!("{error}\n{log}")
        })
    }

    pub fn stop(&self, name: &str) {
        self.engine.stop(&key(name), StopMode::Fast).unwrap();
    }

    /// Cuts `parent` into `child` and starts the child.
    pub fn branch(&self, parent: &str, child: &str) {
        self.engine.create_child(&key(parent), &key(child)).unwrap();
        self.start(child);
    }

    pub async fn connect(&self, branch: &str) -> Client {
        self.connect_to(branch, "postgres").await
    }

    pub async fn connect_to(&self, branch: &str, database: &str) -> Client {
        connect_at(&self.engine.socket_dir(&key(branch)), database).await
    }

    /// Connects as soon as the server takes connections again.
    pub async fn reconnect(&self, branch: &str) -> Client {
        let begin = Instant::now();
        loop {
            match try_connect_with(&self.engine.socket_dir(&key(branch)), "postgres", PASSWORD).await {
                Ok(client) => return client,
                Err(error) => assert!(begin.elapsed() < PATIENCE, "{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens the home again, as the next daemon would.
    pub fn reopen(&mut self) {
        self.engine = open_engine(&self.path);
    }
}

pub fn open_engine(path: &Path) -> Engine {
    let shim = shim_image::install(&path.join("run")).unwrap();
    Engine::open(&path.join("home"), &shim, &path.join("s")).unwrap()
}

pub async fn connect_at(socket_dir: &Path, database: &str) -> Client {
    connect_with(socket_dir, database, PASSWORD).await
}

/// As the bootstrap superuser, behind the back of whatever runs the compute.
pub async fn connect_with(socket_dir: &Path, database: &str, password: &str) -> Client {
    try_connect_with(socket_dir, database, password).await.unwrap()
}

/// As [`connect_with`], for a server that may not take connections.
pub async fn try_connect_with(
    socket_dir: &Path,
    database: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(socket_dir).port(5432).user(BOOTSTRAP_ROLE).password(password).dbname(database);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// First column of the first row, as text.
pub async fn text(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    messages
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
        .unwrap_or_default()
}

pub async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

impl Drop for Lab {
    fn drop(&mut self) {
        for key in self.engine.keys().unwrap_or_default() {
            let _ = self.engine.delete(&key);
        }
        let _ = std::fs::remove_dir_all(&self.path);
        if let Some(ground) = self.path.parent() {
            // Only the last test of the process finds it empty.
            let _ = std::fs::remove_dir(ground);
        }
    }
}
